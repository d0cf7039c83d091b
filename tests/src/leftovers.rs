//! What a fixture has left on the machine: processes, mounts and cgroups; and their end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Where shims listen, whatever their daemon's folders are.
pub(crate) const SOCKETS: &str = "/run/containerd/s";

/// What still belongs to a fixture.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Pids and command lines of processes that name the fixture's folder, with their descendants, or sit in its cgroups.
    pub processes: BTreeMap<i32, String>,
    /// Mount points under the fixture's folder.
    pub mounts: Vec<PathBuf>,
    /// Control groups of the fixture's containers.
    pub cgroups: Vec<PathBuf>,
}

impl Leftovers {
    /// Returns what is there now for a fixture with this folder and this containerd namespace.
    pub fn find(folder: &Path, namespace: &str) -> Leftovers {
        let cgroups = cgroups(namespace);
        Leftovers {
            processes: processes(folder, &cgroups),
            mounts: mounts(folder),
            cgroups,
        }
    }

    /// Says whether nothing is left.
    pub fn is_empty(&self) -> bool {
        *self == Leftovers::default()
    }

    /// Kills, unmounts and removes everything that is there, until nothing is, for a few seconds at most.
    pub fn remove(folder: &Path, namespace: &str) {
        for _ in 0..100 {
            let found = Leftovers::find(folder, namespace);
            if found.is_empty() {
                // Upstream's shim has runc keep its state here, whatever the daemon's folders are.
                let _ = fs::remove_dir_all(Path::new("/run/containerd/runc").join(namespace));
                return;
            }
            // A shim that is killed cannot remove its socket.
            let sockets = found.processes.keys().flat_map(|&pid| sockets(pid));
            let sockets: Vec<PathBuf> = sockets.collect();
            for &pid in found.processes.keys() {
                if let Some(pid) = Pid::from_raw(pid) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            for socket in sockets {
                let _ = fs::remove_file(socket);
            }
            for mount in found.mounts.iter().rev() {
                let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
            }
            for cgroup in found.cgroups.iter().rev() {
                remove_group(cgroup);
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }
}

/// Thaws a group and removes it.
///
/// Where no hierarchy is mounted programs make plain folders, with the files in them that they would have written to.
fn remove_group(group: &Path) {
    let freezer = fs::File::options()
        .write(true)
        .open(group.join("freezer.state"));
    if let Ok(mut freezer) = freezer {
        let _ = freezer.write_all(b"THAWED");
    }
    if fs::remove_dir(group).is_err() {
        // Of a true group nothing goes by this: its files cannot be removed.
        let _ = fs::remove_dir_all(group);
    }
}

/// Returns every group of the namespace in every hierarchy, parents before children.
fn cgroups(namespace: &str) -> Vec<PathBuf> {
    fn descend(dir: PathBuf, into: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(&dir) else {
            return;
        };
        into.push(dir);
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                descend(entry.path(), into);
            }
        }
    }
    let mut found = Vec::new();
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    for hierarchy in std::iter::once(root.to_owned()).chain(hierarchies) {
        if !hierarchy.is_symlink() {
            descend(hierarchy.join(namespace), &mut found);
        }
    }
    found
}

/// Returns the shims' sockets that a process has open, of which it has made those that it listens at.
fn sockets(pid: i32) -> Vec<PathBuf> {
    let open: BTreeSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.replace(']', "")))
        .collect();
    // A line: address, users, protocol, flags, type, state, inode, path.
    let table = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(6);
            let (inode, path) = (fields.next()?, Path::new(fields.next()?));
            (open.contains(inode) && path.starts_with(SOCKETS)).then(|| path.to_owned())
        })
        .collect()
}

fn mounts(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|mount| mount.starts_with(folder) && mount != folder)
        .collect()
}

fn processes(folder: &Path, cgroups: &[PathBuf]) -> BTreeMap<i32, String> {
    let needle = folder.as_os_str().as_encoded_bytes();
    let mut parents = BTreeMap::new();
    let mut lines = BTreeMap::new();
    let own = std::process::id() as i32;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let (Ok(line), Ok(stat)) = (
            fs::read(entry.path().join("cmdline")),
            fs::read_to_string(entry.path().join("stat")),
        ) else {
            continue;
        };
        // After the name in parentheses: state, parent.
        let after: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .collect();
        if pid == own || after.first() == Some(&"Z") {
            continue;
        }
        parents.insert(
            pid,
            after
                .get(1)
                .and_then(|parent| parent.parse().ok())
                .unwrap_or(0),
        );
        lines.insert(pid, line);
    }
    let mut ours: BTreeSet<i32> = lines
        .iter()
        .filter(|(_, line)| line.windows(needle.len()).any(|window| window == needle))
        .map(|(&pid, _)| pid)
        .collect();
    for cgroup in cgroups {
        let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        ours.extend(
            members
                .lines()
                .filter_map(|pid| pid.parse::<i32>().ok())
                .filter(|pid| lines.contains_key(pid)),
        );
    }
    loop {
        let children: Vec<i32> = parents
            .iter()
            .filter(|(pid, parent)| ours.contains(parent) && !ours.contains(pid))
            .map(|(&pid, _)| pid)
            .collect();
        if children.is_empty() {
            break;
        }
        ours.extend(children);
    }
    ours.into_iter()
        .map(|pid| {
            (
                pid,
                String::from_utf8_lossy(&lines[&pid])
                    .replace('\0', " ")
                    .trim()
                    .to_owned(),
            )
        })
        .collect()
}
