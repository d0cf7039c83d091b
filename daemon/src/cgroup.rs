//! The control group that the daemon, and so its shims, are to be in: the section `cgroup` of the configuration.

use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use crate::error::{Context, Result, invalid};

/// The settings of version 1 that a group must have before a process can be in it, and that it does not inherit.
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// Moves this process into the group `path` of all hierarchies of version 1, or, where there are none, of the one of
/// version 2. The group is made if it is missing, and stays.
pub fn join(path: &Path) -> Result<()> {
    let text = fs::read_to_string("/proc/self/mountinfo").context(|| "read mountinfo")?;
    let below = path
        .strip_prefix("/")
        .map_err(|_| invalid(format!("cgroup.path: {path:?} is not absolute")))?;
    if below
        .components()
        .any(|part| !matches!(part, Component::Normal(_)))
    {
        return Err(invalid(format!("cgroup.path: {path:?} leads elsewhere")));
    }
    for root in hierarchies(&text) {
        enter(&root, below).context(|| format!("join control group {:?}", root.join(below)))?;
    }
    Ok(())
}

/// Returns where the hierarchies are mounted that count.
fn hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    let mounted = |wanted: &str| {
        let mounts = mountinfo.lines().filter_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let matches = filesystem.split(' ').next() == Some(wanted);
            matches.then_some(PathBuf::from(mount.split(' ').nth(4)?))
        });
        mounts.collect::<Vec<PathBuf>>()
    };
    match mounted("cgroup") {
        old if old.is_empty() => mounted("cgroup2").into_iter().take(1).collect(),
        old => old,
    }
}

fn enter(root: &Path, below: &Path) -> std::io::Result<()> {
    let mut group = root.to_owned();
    for part in below.components() {
        let parent = group.clone();
        group.push(part);
        match fs::create_dir(&group) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        for name in CPUSET {
            match fs::read_to_string(group.join(name)) {
                Ok(set) if set.trim().is_empty() => {
                    fs::write(group.join(name), fs::read(parent.join(name))?)?;
                }
                // It is another hierarchy, or of version 2, where an empty set is the parent's.
                _ => {}
            }
        }
    }
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "34 24 0:31 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n";
    const V2: &str = "31 24 0:28 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn hierarchies_of_version_one_count_where_there_are_any() {
        let both = hierarchies(&format!("{V2}{V1}"));
        assert_eq!(both, [Path::new("/sys/fs/cgroup/memory")]);
        assert_eq!(hierarchies(V2), [Path::new("/sys/fs/cgroup/unified")]);
        assert!(hierarchies("").is_empty());
    }

    #[test]
    fn a_path_stays_below_the_root() {
        for bad in ["relative", "/a/../b"] {
            assert!(join(Path::new(bad)).is_err(), "{bad}");
        }
    }
}
