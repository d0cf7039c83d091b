//! Mounts of which a checkpoint has nothing but a name, because what is mounted comes from outside the container; and
//! the root file system as it has to be for others to be mounted in it again.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Mount};
use rustix::fs::{CWD, Mode, OFlags};
use sys::attach;
use sys::path::Root;
use sys::{Context, Result};

use super::{cgroups, devices, libc_slave, mounts};
use crate::cgroup::Version;
use crate::record::Record;
use crate::spec::namespace;

/// What files are masked by.
pub(crate) const NULL: &str = "/dev/null";

/// A mount of something outside.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct External {
    /// Where in the container it is.
    pub target: PathBuf,
    /// What on the host it shows.
    pub source: PathBuf,
}

/// Returns the mounts that show something outside.
pub(crate) fn external(record: &Record) -> Result<Vec<External>> {
    let (spec, rootfs) = (&record.spec, &record.rootfs);
    let place = attach::open_path(rootfs).context(|| format!("open {rootfs:?}"))?;
    let root = Root::new(place);
    let private = namespace(spec, LinuxNamespaceType::Cgroup).is_some();
    let mut found = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let target = mounts::target(mount, rootfs);
        let target = root
            .follow(&target)
            .context(|| format!("resolve {target:?} in the root file system"))?;
        if mounts::is_bind(mount) {
            let source = mount.source().as_deref().unwrap_or(Path::new(""));
            let source = record.bundle.join(source);
            found.push(External { target, source });
        } else if cgroups::is_cgroup(mount) && !private && record.cgroup.version() == Version::V1 {
            found.extend(hierarchies(record, &target));
        }
    }
    let lent = devices::lent(spec).into_iter();
    found.extend(lent.map(|path| External {
        target: path.clone(),
        source: path,
    }));
    Ok(found)
}

/// Returns the folders of the container's group, each mounted for its hierarchy.
fn hierarchies<'a>(record: &'a Record, target: &'a Path) -> impl Iterator<Item = External> + 'a {
    let mut names = BTreeSet::new();
    let groups = record.cgroup.paths().iter();
    groups.filter_map(move |(controller, source)| {
        let name = source.strip_prefix(cgroups::HOST).ok()?.iter().next()?;
        // That of version 2 is not shown, and controllers that are mounted together have one folder.
        let shown = !controller.is_empty() && names.insert(name.to_owned());
        shown.then(|| External {
            target: target.join(name),
            source: source.clone(),
        })
    })
}

/// Makes what is missing of the folders and files that are mounted on, as the making of a container does; for a process
/// in a mount namespace of its own, which ends afterwards.
///
/// What is on a tmpfs comes back with it.
pub(crate) fn make_mount_points(record: &Record) -> Result<()> {
    let rootfs = &record.rootfs;
    attach::change_all(libc_slave())?;
    attach_at(rootfs, rootfs)?;
    let root = Root::new(attach::open_path(rootfs).context(|| format!("open {rootfs:?}"))?);
    let all = record.spec.mounts().as_deref().unwrap_or_default();
    let target = |mount: &Mount| mounts::target(mount, rootfs);
    let tmpfs = all
        .iter()
        .filter(|mount| mount.typ().as_deref() == Some("tmpfs"));
    let tmpfs: Vec<PathBuf> = tmpfs.map(target).collect();
    for mount in all {
        let target = target(mount);
        let above = |above: &PathBuf| target != *above && target.starts_with(above);
        if cgroups::is_cgroup(mount) || tmpfs.iter().any(above) {
            continue;
        }
        let made = match mounts::is_bind(mount) {
            true => mounts::clone_source(&record.bundle, mount)
                .and_then(|tree| mounts::bind(&root, &target, mount, &tree, &mounts::parse(mount))),
            false => root.create_dir_all(&target, 0o755).map(drop),
        };
        made.context(|| format!("make mount point {target:?}"))?;
    }
    Ok(())
}

/// Attaches the root file system, with what is mounted in it, at a folder.
pub(crate) fn attach_at(rootfs: &Path, place: &Path) -> Result<()> {
    let from = attach::open_path(rootfs).context(|| format!("open {rootfs:?}"))?;
    let to = attach::open_path(place).context(|| format!("open {place:?}"))?;
    attach::clone_tree(from.as_fd(), c"", true)
        .and_then(|tree| attach::attach(&tree, &to))
        .context(|| format!("attach {rootfs:?} at {place:?}"))
}

/// Opens the root of a process.
pub(crate) fn open_of_process(pid: i32) -> Result<Root> {
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, &path, flags, Mode::empty());
    root.map(Root::new).context(|| format!("open {path:?}"))
}
