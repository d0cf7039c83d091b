//! The mounts of the specification, each on a target that was resolved inside the root file system.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{CWD, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags, MountPropagationFlags};
use sys::attach::{self, Change};
use sys::mount::{Options, attributes};
use sys::mutant::{self, Mutant};
use sys::path::Root;
use sys::{Context, Error, Kind, Result};

use super::cgroups;
use super::copy_up::copy_up;
use super::idmap::{Tree, set_maps};

/// The attribute of a read-only mount.
pub(super) const READ_ONLY: u64 = MountAttrFlags::MOUNT_ATTR_RDONLY.bits() as u64;

/// A mount's options, sorted by who acts on them.
pub(super) struct Wanted {
    /// The flags.
    pub flags: MountFlags,
    /// The flags that are named to be clear.
    cleared: MountFlags,
    /// The file system's own options.
    pub data: Vec<String>,
    propagation: Option<MountPropagationFlags>,
    recursive: Change<'static>,
    copy_up: bool,
}

/// Mounts one mount of the specification.
pub(super) fn mount(
    root: &Root,
    bundle: &Path,
    mount: &Mount,
    target: &Path,
    made: Option<&Tree>,
    spec: &Spec,
) -> Result<()> {
    let mut wanted = parse(mount);
    let fstype = mount.typ().as_deref().unwrap_or_default();
    if is_bind(mount) {
        match made {
            Some(Tree::Mapped(tree)) => return bind(root, target, mount, tree, &wanted),
            Some(Tree::Maps { userns, recursive }) => {
                let tree = clone_source(bundle, mount)?;
                let tree = set_maps(tree, mount, userns, *recursive)?;
                return bind(root, target, mount, &tree, &wanted);
            }
            Some(Tree::Plain(_)) | None => {}
        }
        return match (clone_source(bundle, mount), made) {
            (Err(error), Some(Tree::Plain(tree))) if error.errno() == Some(Errno::ACCESS) => {
                bind(root, target, mount, tree, &wanted)
            }
            (tree, _) => bind(root, target, mount, &tree?, &wanted),
        };
    }
    if fstype.is_empty() {
        let message = "the mount has neither a type nor the option \"bind\"";
        return Err(Error::new(Kind::InvalidArgument, message));
    }
    if fstype == "proc" || fstype == "sysfs" {
        refuse_symlink(root, target, fstype)?;
    }
    if cgroups::is_cgroup(mount) {
        return cgroups::mount(root, mount, &mut wanted, spec);
    }
    let was_there = root.open(target, OFlags::PATH).is_ok();
    let place = root.create_dir_all(target, 0o755)?;
    let has_mode = wanted.data.iter().any(|data| data.starts_with("mode="));
    if fstype == "tmpfs" && was_there && !has_mode {
        // Who may use the folder stays as it was without the mount; one that was not there gets the kernel's mode.
        let stat = rustix::fs::fstat(&place).context(|| format!("stat {target:?}"))?;
        wanted
            .data
            .insert(0, format!("mode={:04o}", stat.st_mode & 0o7777));
    }
    let lower = match wanted.copy_up && fstype == "tmpfs" {
        true => {
            Some(attach::clone_tree(place.as_fd(), c"", false).context(|| "keep what is below")?)
        }
        false => None,
    };
    if is_dev(target) || lower.is_some() {
        // Files are made in it first; it becomes read-only at the end.
        wanted.flags.remove(MountFlags::RDONLY);
    }
    mount_on(&place, fstype, mount, &wanted)?;
    if let Some(lower) = lower {
        let upper = root.open(target, OFlags::RDONLY | OFlags::DIRECTORY);
        copy_up(&lower, &upper.context(|| "open the tmpfs")?)?;
        if !is_dev(target) && parse(mount).flags.contains(MountFlags::RDONLY) {
            set_read_only(root, target)?;
        }
    }
    if wanted.propagation.is_some() || wanted.recursive.set != 0 || wanted.recursive.clear != 0 {
        let mounted = root
            .open(target, OFlags::PATH)
            .context(|| "open the mount")?;
        let plain = Wanted {
            flags: MountFlags::empty(),
            cleared: MountFlags::empty(),
            ..wanted
        };
        return change(&mounted, &plain);
    }
    Ok(())
}

/// Makes read-only what could not be so while it was furnished.
pub(super) fn finish(root: &Root, spec: &Spec) -> Result<()> {
    for mount in spec.mounts().iter().flatten() {
        let flags = parse(mount).flags;
        if is_dev(mount.destination())
            && flags.contains(MountFlags::RDONLY)
            && !flags.contains(MountFlags::BIND)
        {
            set_read_only(root, mount.destination())?;
        }
    }
    Ok(())
}

fn set_read_only(root: &Root, target: &Path) -> Result<()> {
    let read_only = Change {
        set: READ_ONLY,
        ..Change::default()
    };
    root.open(target, OFlags::PATH)
        .and_then(|mounted| attach::change(&mounted, &read_only))
        .context(|| format!("make {target:?} read-only"))
}

/// Tells whether this is where devices are made.
fn is_dev(target: &Path) -> bool {
    target == Path::new("/dev") || target == Path::new("/dev/")
}

/// Mounts a file system on an open folder.
pub(super) fn mount_on(
    place: &OwnedFd,
    fstype: &str,
    mount: &Mount,
    wanted: &Wanted,
) -> Result<()> {
    let source = mount
        .source()
        .as_deref()
        .and_then(Path::to_str)
        .unwrap_or(fstype);
    let data = CString::new(wanted.data.join(","))
        .map_err(|_| Error::new(Kind::InvalidArgument, "a mount option has a NUL byte"))?;
    match attach::mount(place, fstype, source, wanted.flags, &data) {
        // A mqueue or the like that is not there to be relabelled or has an owner already.
        Ok(()) => Ok(()),
        Err(errno) => Err(errno).context(|| {
            format!(
                "mount {fstype} with flags {:?} and data {data:?}",
                wanted.flags
            )
        }),
    }
}

/// Tells whether the mount is of a file or folder that is there already.
pub(super) fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind") || parse(mount).flags.contains(MountFlags::BIND)
}

/// Tells whether the mounts below the source come along.
pub(super) fn is_recursive(mount: &Mount) -> bool {
    parse(mount).flags.contains(MountFlags::REC)
}

/// Returns where in the root file system at `rootfs` a mount goes; a destination may name that folder of the host.
pub(super) fn target(mount: &Mount, rootfs: &Path) -> PathBuf {
    let target = clean(mount.destination());
    match target.strip_prefix(rootfs) {
        Ok(inside) => Path::new("/").join(inside),
        Err(_) => target,
    }
}

/// Returns a target as an absolute path without `..`, which goes no higher than the root.
fn clean(target: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in target.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// Returns a detached copy of the mount that the source is on.
pub(super) fn clone_source(bundle: &Path, mount: &Mount) -> Result<OwnedFd> {
    let Some(source) = mount.source() else {
        return Err(Error::new(
            Kind::InvalidArgument,
            "the bind mount has no source",
        ));
    };
    let source = bundle.join(source);
    let path = CString::new(source.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::new(Kind::InvalidArgument, "the source has a NUL byte"))?;
    attach::clone_tree(CWD, &path, is_recursive(mount))
        .context(|| format!("clone mount of {source:?}"))
}

/// Attaches a detached copy of a mount.
pub(super) fn bind(
    root: &Root,
    target: &Path,
    mount: &Mount,
    tree: &OwnedFd,
    wanted: &Wanted,
) -> Result<()> {
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    let stat = rustix::fs::fstat(tree).context(|| format!("stat {source:?}"))?;
    let place = match rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
        true => root.create_dir_all(target, 0o755)?,
        false => root.create_file(target, 0o755)?,
    };
    attach::attach(tree, &place).context(|| format!("attach {source:?}"))?;
    change(tree, wanted)
}

/// Sets attributes and propagation of a mount.
fn change(mount: &OwnedFd, wanted: &Wanted) -> Result<()> {
    set_attributes(mount, wanted).context(|| format!("set mount flags {:?}", wanted.flags))?;
    if wanted.recursive.set != 0 || wanted.recursive.clear != 0 {
        attach::change(mount, &wanted.recursive).context(|| "set mount flags recursively")?;
    }
    if let Some(propagation) = wanted.propagation {
        let recursive = propagation.contains(MountPropagationFlags::REC);
        let kind = propagation.difference(MountPropagationFlags::REC);
        let propagation = u64::from(kind.bits());
        let change = Change {
            propagation,
            recursive,
            ..Change::default()
        };
        attach::change(mount, &change).context(|| format!("set propagation {kind:?}"))?;
    }
    Ok(())
}

/// Refuses to mount what the kernel trusts over a symlink, wherever that leads.
fn refuse_symlink(root: &Root, target: &Path, fstype: &str) -> Result<()> {
    let stat = match root.open(target, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(file) => rustix::fs::fstat(file).context(|| format!("stat {target:?}"))?,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno).context(|| format!("open {target:?}")),
    };
    match rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
        true => Ok(()),
        false if mutant::is(Mutant::NoTargetCheck) => Ok(()),
        false => {
            let message = format!("filesystem {fstype:?} must be mounted on ordinary directory");
            Err(Error::new(Kind::FailedPrecondition, message))
        }
    }
}

/// Sorts a mount's options.
pub(super) fn parse(mount: &Mount) -> Wanted {
    let options = mount.options().as_deref().unwrap_or_default();
    let parsed = Options::parse(options);
    let mut wanted = Wanted {
        flags: parsed.flags,
        cleared: parsed.cleared,
        data: Vec::new(),
        propagation: parsed.propagation,
        recursive: Change {
            recursive: true,
            ..Change::default()
        },
        copy_up: false,
    };
    for option in parsed.data {
        if option == "idmap" || option == "ridmap" {
            // The tree is mapped already.
        } else if option == "tmpcopyup" {
            wanted.copy_up = true;
        } else if let Some((set, clear)) = recursive_attribute(&option) {
            wanted.recursive.set |= set;
            wanted.recursive.clear |= clear;
        } else {
            wanted.data.push(option);
        }
    }
    wanted
}

/// Returns what an option such as `rro` sets and clears of a mount and all below it.
fn recursive_attribute(option: &str) -> Option<(u64, u64)> {
    let (name, wanted) = match option {
        "rro" => (MountAttrFlags::MOUNT_ATTR_RDONLY, true),
        "rrw" => (MountAttrFlags::MOUNT_ATTR_RDONLY, false),
        "rnosuid" => (MountAttrFlags::MOUNT_ATTR_NOSUID, true),
        "rsuid" => (MountAttrFlags::MOUNT_ATTR_NOSUID, false),
        "rnodev" => (MountAttrFlags::MOUNT_ATTR_NODEV, true),
        "rdev" => (MountAttrFlags::MOUNT_ATTR_NODEV, false),
        "rnoexec" => (MountAttrFlags::MOUNT_ATTR_NOEXEC, true),
        "rexec" => (MountAttrFlags::MOUNT_ATTR_NOEXEC, false),
        "rnodiratime" => (MountAttrFlags::MOUNT_ATTR_NODIRATIME, true),
        "rdiratime" => (MountAttrFlags::MOUNT_ATTR_NODIRATIME, false),
        "rnosymfollow" => (MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, true),
        "rsymfollow" => (MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, false),
        "rrelatime" => (MountAttrFlags::empty(), true),
        "rnoatime" => (MountAttrFlags::MOUNT_ATTR_NOATIME, true),
        "rstrictatime" => (MountAttrFlags::MOUNT_ATTR_STRICTATIME, true),
        _ => return None,
    };
    let bits = u64::from(name.bits());
    let times = ["rrelatime", "rnoatime", "rstrictatime"].contains(&option);
    let access_time = u64::from(MountAttrFlags::MOUNT_ATTR__ATIME.bits());
    Some(match (times, wanted) {
        (true, _) => (bits, access_time),
        (false, true) => (bits, 0),
        (false, false) => (0, bits),
    })
}

/// Sets the attributes of a bind mount as runc's remount does: one that names no flag keeps those of its source, one that
/// names any has those that are set and no others. Only what times are kept stays unless one of its flags is set.
fn set_attributes(mount: &OwnedFd, wanted: &Wanted) -> Result<(), Errno> {
    let what = MountFlags::BIND | MountFlags::REC;
    if wanted.flags.difference(what).is_empty() && wanted.cleared.difference(what).is_empty() {
        return Ok(());
    }
    let set = attributes(wanted.flags);
    // The kernel wants the whole field cleared before one of its values is set.
    let times = match wanted.flags.intersects(TIMES) {
        true => MountAttrFlags::MOUNT_ATTR__ATIME,
        false => MountAttrFlags::empty(),
    };
    let mut all = attributes(MountFlags::all().difference(TIMES));
    all.set(MountAttrFlags::MOUNT_ATTR_NODIRATIME, !times.is_empty());
    let change = |clear: MountAttrFlags| Change {
        set: u64::from(set.bits()),
        clear: u64::from((clear.difference(set) | times).bits()),
        ..Change::default()
    };
    match attach::change(mount, &change(all)) {
        // Some are locked, as those of a mount of another user namespace: only what was named is changed.
        Err(Errno::PERM) => {
            let named = attributes(wanted.cleared.difference(TIMES));
            // This one is never locked.
            let unlocked = MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW;
            attach::change(mount, &change(named | unlocked))
        }
        changed => changed,
    }
}

/// The flags of what times are kept.
const TIMES: MountFlags = MountFlags::NOATIME
    .union(MountFlags::NODIRATIME)
    .union(MountFlags::RELATIME)
    .union(MountFlags::STRICTATIME);
