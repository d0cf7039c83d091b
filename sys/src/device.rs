//! Device nodes of the host.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

use crate::{Context, Error, Kind, Result};

/// What every container has its own of, or nobody has a use for.
const OWN: [&str; 8] = [
    "pts",
    "shm",
    "fd",
    "mqueue",
    "console",
    ".lxc",
    ".lxd-mounts",
    ".udev",
];
/// How deep devices are looked for.
const DEEP: usize = 4;

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it is a block device, not a character device.
    pub block: bool,
    /// The first part of its number.
    pub major: u32,
    /// The second part of its number.
    pub minor: u32,
    /// Its permissions.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Returns both parts of a device's number.
pub fn numbers(number: u64) -> (u32, u32) {
    (major(number), minor(number))
}

/// Returns the device at `path`.
pub fn at(path: &Path) -> Result<Device> {
    let found = fs::metadata(path).context(|| format!("look at device {path:?}"))?;
    let kind = found.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        let message = format!("{path:?} is no device");
        return Err(Error::new(Kind::InvalidArgument, message));
    }
    Ok(Device {
        path: path.into(),
        block: kind.is_block_device(),
        major: major(found.rdev()),
        minor: minor(found.rdev()),
        mode: found.mode() & 0o777,
        uid: found.uid(),
        gid: found.gid(),
    })
}

/// Returns the device at `path`, or all devices below it if it is a folder.
pub fn under(path: &Path) -> Result<Vec<Device>> {
    if !path.is_dir() {
        return Ok(vec![at(path)?]);
    }
    let mut devices = Vec::new();
    walk(path, DEEP, &mut devices);
    Ok(devices)
}

/// Returns the devices of the host that a container may have too.
pub fn all() -> Vec<Device> {
    let mut devices = Vec::new();
    walk(Path::new("/dev"), DEEP, &mut devices);
    devices
}

/// What is gone by the time it is looked at is left out, for devices come and go.
fn walk(dir: &Path, deep: usize, devices: &mut Vec<Device>) {
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
        } else if kind.is_char_device() || kind.is_block_device() {
            devices.extend(at(&path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_told_with_its_numbers() {
        let found = under(Path::new("/dev/null")).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].block, found[0].major, found[0].minor),
            (false, 1, 3)
        );
        assert!(at(Path::new("/proc/self/status")).is_err());
    }

    #[test]
    fn the_hosts_devices_are_without_what_containers_have_their_own_of() {
        let found = all();
        let has = |path: &str| found.iter().any(|device| device.path == Path::new(path));
        assert!(has("/dev/null"));
        assert!(!has("/dev/console") && !has("/dev/pts/ptmx"));
    }
}
