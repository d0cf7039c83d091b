//! The root file system: mounted and furnished by descriptor from outside, then entered.

mod cgroups;
mod copy_up;
mod devices;
mod external;
mod idmap;
mod masks;
mod mounts;

use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use sys::attach::{self, Change};
use sys::mutant::{self, Mutant};
use sys::path::Root;
use sys::{Context, Error, Kind, Result};

pub(crate) use devices::reopen_null;
pub(crate) use external::{NULL, attach_at, external, make_mount_points, open_of_process};
pub(crate) use idmap::{BindTrees, text as map_text};
pub(crate) use masks::apply as mask;

/// Mounts everything the specification names into the root file system at `path`, which becomes a mount.
pub(crate) fn prepare(
    path: &Path,
    bundle: &Path,
    spec: &Spec,
    bind_trees: &BindTrees,
) -> Result<Root> {
    let propagation = propagation(spec)?.unwrap_or(libc_slave());
    attach::change_all(propagation)?;
    let place = attach::open_path(path).context(|| format!("open root file system {path:?}"))?;
    if propagation.intersects(MountPropagationFlags::SHARED | MountPropagationFlags::UNBINDABLE) {
        unshare_parent(path)?;
    }
    let tree = {
        use std::os::fd::AsFd;
        attach::clone_tree(place.as_fd(), c"", true)
    };
    let tree = tree.context(|| format!("clone root file system {path:?}"))?;
    if propagation.contains(MountPropagationFlags::SHARED) {
        // pivot_root(2) refuses a shared root; it becomes shared once it is the root.
        let private = Change {
            propagation: PRIVATE,
            ..Change::default()
        };
        attach::change(&tree, &private).context(|| "make the root file system private")?;
    }
    attach::attach(&tree, &place).context(|| format!("attach root file system {path:?}"))?;
    let root = Root::new(tree);
    for name in ["/proc", "/dev"] {
        refuse_symlink(&root, name)?;
    }
    for (at, mount) in spec.mounts().iter().flatten().enumerate() {
        let target = mounts::target(mount, path);
        mounts::mount(&root, bundle, mount, &target, bind_trees.get(at), spec).context(|| {
            let source = mount.source().as_deref().unwrap_or(Path::new(""));
            format!(
                "error mounting {source:?} to rootfs at {:?}",
                mount.destination()
            )
        })?;
    }
    if devices::are_ours(spec) {
        devices::create(&root, spec)?;
    }
    Ok(root)
}

const PRIVATE: u64 = MountPropagationFlags::PRIVATE.bits() as u64;

fn libc_slave() -> MountPropagationFlags {
    MountPropagationFlags::DOWNSTREAM
}

/// Returns the propagation that the specification wants for the root.
pub(crate) fn propagation(spec: &Spec) -> Result<Option<MountPropagationFlags>> {
    let linux = spec.linux().as_ref();
    let wanted = linux.and_then(|linux| linux.rootfs_propagation().as_deref());
    Ok(Some(match wanted.unwrap_or_default() {
        "" => return Ok(None),
        "shared" | "rshared" => MountPropagationFlags::SHARED,
        "slave" | "rslave" => MountPropagationFlags::DOWNSTREAM,
        "private" | "rprivate" => MountPropagationFlags::PRIVATE,
        "unbindable" | "runbindable" => MountPropagationFlags::UNBINDABLE,
        other => {
            let message = format!("rootfsPropagation={other} is not supported");
            return Err(Error::new(Kind::InvalidArgument, message));
        }
    }))
}

/// Makes the mount that `path` is on private, so that nothing attached there appears on the host.
fn unshare_parent(path: &Path) -> Result<()> {
    let path = path
        .canonicalize()
        .context(|| format!("resolve {path:?}"))?;
    for above in path.ancestors() {
        match rustix::mount::mount_change(above, MountPropagationFlags::PRIVATE) {
            Ok(()) => return Ok(()),
            // Not a mount point: its mount begins further up.
            Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno).context(|| format!("make {above:?} private")),
        }
    }
    Ok(())
}

/// Refuses a root file system in which a symlink stands where the runtime puts something of its own.
fn refuse_symlink(root: &Root, path: &str) -> Result<()> {
    let opened = root.open(Path::new(path), OFlags::PATH | OFlags::NOFOLLOW);
    let stat = match opened {
        Ok(file) => rustix::fs::fstat(file).context(|| format!("stat {path:?}"))?,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => {
            return Err(errno).context(|| format!("open {path:?} in the root file system"));
        }
    };
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if kind.is_dir() || mutant::is(Mutant::NoTargetCheck) {
        return Ok(());
    }
    let message = format!(
        "{path} of the root file system is a {kind:?}, but must be mounted on ordinary directory"
    );
    Err(Error::new(Kind::FailedPrecondition, message))
}

/// Sets what is to be so of the root once it has been entered.
pub(crate) fn finish(root: &Root, spec: &Spec) -> Result<()> {
    mounts::finish(root, spec)?;
    if let Some(propagation) = propagation(spec)? {
        let change = Change {
            propagation: u64::from(propagation.bits()),
            ..Change::default()
        };
        attach::change(root.dir(), &change).context(|| "set the propagation of the root")?;
    }
    let readonly = spec.root().as_ref().and_then(|root| root.readonly());
    if readonly == Some(true) {
        let change = Change {
            set: mounts::READ_ONLY,
            ..Change::default()
        };
        attach::change(root.dir(), &change).context(|| "make the root file system read-only")?;
    }
    Ok(())
}
