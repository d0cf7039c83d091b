//! What matters of the machine, read once.

use std::fs;
use std::path::Path;

use api_protos::oci;
use serde_json::Value;
use sys::{capability, device};

use super::spec::Host;
use crate::error::{Context, Result, invalid};

/// Reads what matters of the machine.
pub fn read() -> Result<Host> {
    let hostname = rustix::system::uname();
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    let devices = device::all();
    let devices = devices
        .iter()
        .map(|device| oci::device(device, &device.path.to_string_lossy()));
    Ok(Host {
        hostname: hostname.nodename().to_string_lossy().into_owned(),
        unified: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        swap: swap(),
        oom_score_adj: score.trim().parse().unwrap_or(0),
        capabilities: capability::named(bounding()?),
        devices: devices.collect(),
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

/// Returns the devices of the host's `path` in a container: one, or all that are in a folder.
pub fn devices(path: &Path, destination: &str, access: &str) -> Result<Vec<Value>> {
    let path = path
        .canonicalize()
        .context(|| format!("resolve device {path:?}"))?;
    let found = device::under(&path)?;
    let devices = found.iter().map(|device| {
        let rest = device.path.strip_prefix(&path).unwrap_or(&device.path);
        let mut inside = Path::new(destination).to_owned();
        if rest != Path::new("") {
            inside.push(rest);
        }
        let mut device = oci::device(device, &inside.to_string_lossy());
        device["access"] = access.into();
        device
    });
    Ok(devices.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
