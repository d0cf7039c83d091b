//! What matters of the machine, read once.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{major, minor};
use serde_json::{Value, json};

use super::spec::{Host, capabilities};
use crate::error::{Context, Result, invalid};

/// Folders under `/dev` that every container has its own of.
const OWN: [&str; 6] = ["pts", "shm", "fd", "mqueue", "console", ".lxd-mounts"];
/// How deep devices are looked for.
const DEEP: usize = 4;

/// Reads what matters of the machine.
pub fn read() -> Result<Host> {
    let hostname = rustix::system::uname();
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    let mut devices = Vec::new();
    walk(Path::new("/dev"), DEEP, &mut devices);
    Ok(Host {
        hostname: hostname.nodename().to_string_lossy().into_owned(),
        unified: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        swap: swap(),
        oom_score_adj: score.trim().parse().unwrap_or(0),
        capabilities: capabilities::named(bounding()?),
        devices,
    })
}

/// Returns whether swap can be limited.
fn swap() -> bool {
    Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
        || Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
            && fs::read_to_string("/proc/swaps").is_ok()
}

/// Returns the capabilities that the daemon could give away.
fn bounding() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context(|| "read own capabilities")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let set = line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.ok_or_else(|| invalid("no capabilities in /proc/self/status"))
}

fn walk(dir: &Path, deep: usize, devices: &mut Vec<Value>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let name = entry.file_name();
        if dir == Path::new("/dev") && OWN.iter().any(|own| name == *own) {
            continue;
        }
        if kind.is_dir() && deep > 0 {
            walk(&path, deep - 1, devices);
        } else if (kind.is_char_device() || kind.is_block_device())
            && let Ok(device) = device(&path, &path.to_string_lossy())
        {
            devices.push(device);
        }
    }
}

/// Returns a device of the host as a container has it at `destination`.
pub fn device(path: &Path, destination: &str) -> Result<Value> {
    let found = fs::metadata(path).context(|| format!("look at device {path:?}"))?;
    let kind = match found.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return Err(invalid(format!("{path:?} is no device"))),
    };
    Ok(json!({
        "path": destination,
        "type": kind,
        "major": major(found.rdev()),
        "minor": minor(found.rdev()),
        "fileMode": found.mode() & 0o777,
        "uid": found.uid(),
        "gid": found.gid(),
    }))
}

/// Returns the devices of the host's `path` in a container: one, or all that are in a folder.
pub fn devices(path: &Path, destination: &str, access: &str) -> Result<Vec<Value>> {
    let path = path
        .canonicalize()
        .context(|| format!("resolve device {path:?}"))?;
    let mut found = Vec::new();
    if path.is_dir() {
        walk(&path, DEEP, &mut found);
        let prefix = path.to_string_lossy().into_owned();
        for device in &mut found {
            let own = device["path"].as_str().unwrap_or_default();
            let rest = own.strip_prefix(&prefix).unwrap_or_default().to_owned();
            device["path"] = format!("{destination}{rest}").into();
        }
    } else {
        found.push(device(&path, destination)?);
    }
    for device in &mut found {
        device["access"] = access.into();
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_with_their_numbers() {
        let found = devices(Path::new("/dev/null"), "/dev/nothing", "rw").unwrap();
        assert_eq!(found.len(), 1);
        let device = &found[0];
        assert_eq!(device["path"], "/dev/nothing");
        assert_eq!((&device["major"], &device["minor"]), (&json!(1), &json!(3)));
        assert_eq!(device["access"], "rw");
        assert!(devices(Path::new("/proc/self/status"), "/x", "r").is_err());
    }

    #[test]
    fn the_machine_is_read() {
        let host = read().unwrap();
        assert!(!host.hostname.is_empty());
        assert!(
            host.devices
                .iter()
                .any(|device| device["path"] == "/dev/null")
        );
        assert!(
            host.devices
                .iter()
                .all(|device| device["path"] != "/dev/console")
        );
    }
}
