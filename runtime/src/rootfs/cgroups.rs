//! The control groups as a container sees them: the unified hierarchy, or a folder of version 1's.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::MountFlags;
use sys::attach::{self, Change};
use sys::mutant::{self, Mutant};
use sys::path::Root;
use sys::{Context, Error, Kind, Result};

use super::mounts::{Wanted, mount_on};
use crate::spec::namespace;

/// Where the host has its hierarchies.
pub(super) const HOST: &str = "/sys/fs/cgroup";

/// The type that statfs(2) reports for the unified hierarchy.
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// A hierarchy of version 1, and the group of it that the calling process is in.
struct Hierarchy {
    /// Its controllers as the kernel lists them, or `name=` and a name.
    controllers: String,
    group: PathBuf,
}

/// Tells whether a mount is that of the control groups.
pub(super) fn is_cgroup(mount: &Mount) -> bool {
    matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
}

/// Mounts the control groups.
pub(super) fn mount(root: &Root, mount: &Mount, wanted: &mut Wanted, spec: &Spec) -> Result<()> {
    if mutant::is(Mutant::WritableCgroups) {
        wanted.flags.remove(MountFlags::RDONLY);
    }
    let target = mount.destination();
    let place = root.create_dir_all(target, 0o755)?;
    let private = namespace(spec, LinuxNamespaceType::Cgroup).is_some();
    let host = rustix::fs::statfs(HOST).context(|| format!("stat file system {HOST:?}"))?;
    let own = std::fs::read_to_string("/proc/self/cgroup").context(|| "read own control groups")?;
    if host.f_type as u64 == CGROUP2_SUPER_MAGIC {
        if private {
            return mount_on(&place, "cgroup2", mount, wanted);
        }
        let group = own.lines().find_map(|line| line.strip_prefix("0::"));
        let group = PathBuf::from(group.unwrap_or("/"));
        return bind(&place, Path::new(HOST), &group, wanted.flags);
    }
    mount_v1(root, mount, wanted, &parse(&own), private)
}

fn mount_v1(
    root: &Root,
    mount: &Mount,
    wanted: &Wanted,
    hierarchies: &[Hierarchy],
    private: bool,
) -> Result<()> {
    let target = mount.destination();
    let place = root.create_dir_all(target, 0o755)?;
    let writable = wanted.flags.difference(MountFlags::RDONLY);
    attach::mount(&place, "tmpfs", "tmpfs", writable, c"mode=755")
        .context(|| "mount tmpfs for the hierarchies")?;
    let tmpfs = root.open(target, OFlags::PATH | OFlags::DIRECTORY);
    let tmpfs = tmpfs.context(|| format!("open {target:?}"))?;
    for hierarchy in hierarchies {
        let name = hierarchy.controllers.strip_prefix("name=");
        let name = name.unwrap_or(&hierarchy.controllers);
        let host = Path::new(HOST).join(name);
        if host.symlink_metadata().is_err() {
            continue;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = rustix::fs::mkdirat(&tmpfs, name, Mode::from_raw_mode(0o755))
            .and_then(|()| rustix::fs::openat(&tmpfs, name, flags, Mode::empty()))
            .context(|| format!("make folder for hierarchy {name:?}"))?;
        if private {
            let data = CString::new(hierarchy.controllers.as_str())
                .map_err(|_| Error::new(Kind::Internal, "a controller's name has a NUL byte"))?;
            attach::mount(&place, "cgroup", "cgroup", wanted.flags, &data)
                .context(|| format!("mount hierarchy {name:?}"))?;
        } else {
            bind(&place, &host, &hierarchy.group, wanted.flags)?;
        }
        for controller in name.split(',').filter(|controller| *controller != name) {
            rustix::fs::symlinkat(name, &tmpfs, controller)
                .context(|| format!("link {controller:?} to {name:?}"))?;
        }
    }
    if wanted.flags.contains(MountFlags::RDONLY) {
        let change = Change {
            set: super::mounts::READ_ONLY,
            ..Change::default()
        };
        attach::change(&tmpfs, &change).context(|| format!("make {target:?} read-only"))?;
    }
    Ok(())
}

/// Attaches a group of the host's hierarchy, for a container without a namespace of its own.
fn bind(place: &std::os::fd::OwnedFd, host: &Path, group: &Path, flags: MountFlags) -> Result<()> {
    let source = host.join(group.strip_prefix("/").unwrap_or(group));
    let path = CString::new(source.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::new(Kind::Internal, "a control group's path has a NUL byte"))?;
    let tree =
        attach::clone_tree(CWD, &path, false).context(|| format!("clone mount of {source:?}"))?;
    let mut set = 0;
    // The attributes of version 1's flags have the same bits.
    let same = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    set |= u64::from(flags.intersection(same).bits());
    let change = Change {
        set,
        ..Change::default()
    };
    attach::change(tree.as_fd(), &change)
        .and_then(|()| attach::attach(&tree, place))
        .context(|| format!("attach {source:?}"))
}

/// Parses `/proc/<pid>/cgroup`, without the unified hierarchy.
fn parse(text: &str) -> Vec<Hierarchy> {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?.to_string();
        let group = PathBuf::from(fields.next()?);
        Some(Hierarchy { controllers, group })
    });
    lines
        .filter(|hierarchy| !hierarchy.controllers.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_left_out() {
        let text = "4:cpu,cpuacct:/a:b\n1:name=systemd:/\n0::/user\n";
        let parsed = parse(text);
        let names: Vec<&str> = parsed.iter().map(|one| one.controllers.as_str()).collect();
        assert_eq!(names, ["cpu,cpuacct", "name=systemd"]);
        assert_eq!(parsed[0].group, Path::new("/a:b"));
    }
}
