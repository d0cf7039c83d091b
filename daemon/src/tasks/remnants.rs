//! What may be left of a container whose creation or deletion was cut short: a shim that nobody knows the address of or
//! that does not end, its socket, processes in the container's control groups, and the groups.
//!
//! An OCI runtime that is killed before it has written down its state cannot clean up after itself, nor can another run
//! of it. The groups are known from the spec.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Component, Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sys::process::Stat;

use super::bundle::Bundle;
use crate::digest::Digest;

/// Where shims listen, whatever their daemon's folders are.
const SOCKETS: &str = "/run/containerd/s";
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Kills what is in the control groups of the container of `bundle` and removes them, and the socket of its shim, which
/// was started for the daemon at `address` and is gone; it takes a second at most.
pub fn end(bundle: &Bundle, address: &str) {
    remove_socket(bundle, address);
    let Some(path) = group(bundle) else {
        return;
    };
    let groups: Vec<PathBuf> = hierarchies()
        .into_iter()
        .map(|hierarchy| hierarchy.join(&path))
        .filter(|group| group.is_dir())
        .collect();
    for _ in 0..TRIES {
        let left = groups.iter().filter(|group| !remove(group)).count();
        if left == 0 {
            return;
        }
        sleep(PAUSE);
    }
    tracing::warn!(id = bundle.id, ?groups, "control groups are still in use");
}

/// Removes the socket that the bundle's shim has listened at, unless a shim still does for others of a pod.
fn remove_socket(bundle: &Bundle, address: &str) {
    let said = bundle.endpoint().ok().flatten();
    let said = said.and_then(|endpoint| endpoint.path().map(PathBuf::from).ok());
    let path = said.unwrap_or_else(|| usual_socket(bundle, address));
    if UnixStream::connect(&path).is_err() {
        // Its executable has removed it as a rule.
        let _ = fs::remove_file(path);
    }
}

/// Returns where shims listen that have not come to say so: containerd's library for shims, and ours, know one place.
fn usual_socket(bundle: &Bundle, address: &str) -> PathBuf {
    let name = format!("{address}/{}/{}", bundle.namespace, bundle.id);
    Path::new(SOCKETS).join(Digest::of(name.as_bytes()).hex())
}

/// Kills the shim of `bundle` that was started for the daemon at `address`, and its executable if that still starts it.
pub fn end_shim(bundle: &Bundle, address: &str) {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in pids.filter_map(Pid::from_raw) {
        let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
        let line = fs::read(path).unwrap_or_default();
        if is_shim(&line, bundle, address) {
            tracing::info!(id = bundle.id, ?pid, "kill a shim that would not end");
            let _ = kill_process(pid, Signal::KILL);
            wait_for(pid);
        }
    }
}

/// Waits until a process that was killed has let go of what it has; it takes a second at most.
fn wait_for(pid: Pid) {
    let alive = || Stat::read(pid.as_raw_nonzero().get()).is_some_and(|stat| stat.is_alive());
    for _ in 0..TRIES {
        if !alive() {
            return;
        }
        sleep(PAUSE);
    }
}

/// Returns whether a command line, with null bytes between its words, is that of the shim of `bundle`.
fn is_shim(line: &[u8], bundle: &Bundle, address: &str) -> bool {
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let has = |flag: &str, value: &str| {
        let mut pairs = words.windows(2);
        pairs.any(|pair| pair[0] == flag.as_bytes() && pair[1] == value.as_bytes())
    };
    has("-namespace", &bundle.namespace) && has("-id", &bundle.id) && has("-address", address)
}

/// Returns the path of the container's own group below each hierarchy: one that ends in the container's id.
///
/// A group by any other name may be that of others too. What systemd made is left to systemd.
fn group(bundle: &Bundle) -> Option<PathBuf> {
    let spec = fs::read(bundle.path.join("config.json")).ok()?;
    let spec: serde_json::Value = serde_json::from_slice(&spec).ok()?;
    let path = Path::new(spec.pointer("/linux/cgroupsPath")?.as_str()?);
    let path = path.strip_prefix("/").ok()?;
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    (plain && path.file_name()? == bundle.id.as_str()).then(|| path.to_owned())
}

/// Returns where the hierarchies are mounted.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let hierarchy = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let kind = after.split(' ').next()?;
        let place = before.split(' ').nth(4)?;
        matches!(kind, "cgroup" | "cgroup2").then(|| PathBuf::from(place))
    };
    mounts.lines().filter_map(hierarchy).collect()
}

/// Kills what is in a group and returns whether the group is gone.
fn remove(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse().ok()) {
        if let Some(pid) = Pid::from_raw(pid) {
            // Gone already, if it fails.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    // A frozen process dies only when it is thawed; there is such a file in the version 1 hierarchy only.
    let _ = fs::write(group.join("freezer.state"), "THAWED");
    fs::remove_dir(group).is_ok() || !group.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(dir: &Path, id: &str, path: &str) -> Bundle {
        let spec = format!("{{\"linux\":{{\"cgroupsPath\":{path:?}}}}}");
        fs::write(dir.join("config.json"), spec).unwrap();
        Bundle {
            namespace: "ns".into(),
            id: id.into(),
            path: dir.to_owned(),
        }
    }

    #[test]
    fn only_a_group_of_the_containers_own_name_is_taken_for_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let own = |path| group(&bundle(dir.path(), "c1", path));
        assert_eq!(own("/ns/c1"), Some("ns/c1".into()));
        for path in ["/", "", "/ns", "/ns/../c1", "ns/c1", "a.slice:ns:c1"] {
            assert_eq!(own(path), None, "{path}");
        }
    }

    #[test]
    fn a_shim_is_known_by_all_that_it_was_told() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = bundle(dir.path(), "c1", "/");
        let line = b"/bin/shim\0-namespace\0ns\0-id\0c1\0-address\0/s\0";
        assert!(is_shim(line, &bundle, "/s"));
        assert!(!is_shim(line, &bundle, "/other"));
        let other = b"/bin/shim\0-namespace\0ns\0-id\0c2\0-address\0/s\0";
        assert!(!is_shim(other, &bundle, "/s"));
        assert!(!is_shim(b"c1", &bundle, "/s"));
    }
}
