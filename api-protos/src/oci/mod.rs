//! Parts of OCI runtime specifications that CRI and the command line both write.

pub mod cdi;
pub mod seccomp;

use std::path::{Component, Path};

use serde_json::{Value, json};
use sys::device::Device;

/// The capabilities of a container that asks for nothing else.
pub const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// What of the kernel is hidden from a container that asks for nothing else.
pub const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];

/// What of it such a container cannot change.
pub const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Returns a value as a list, which it becomes if it is none.
pub fn list(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = json!([]);
    }
    value.as_array_mut().expect("made a list above")
}

/// Orders mounts so that one that is mounted into another comes after it, and leaves the rest of their order.
pub fn sort_mounts(mounts: &mut [Value]) {
    mounts.sort_by_key(|mount| depth(mount["destination"].as_str().unwrap_or_default()));
}

/// Returns how many folders deep a path is.
fn depth(path: &str) -> usize {
    let mut depth = 0_usize;
    for part in Path::new(path).components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    depth.max(1)
}

/// Returns a device of the host as a container has it at `destination`.
pub fn device(device: &Device, destination: &str) -> Value {
    json!({
        "path": destination,
        "type": if device.block { "b" } else { "c" },
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    })
}

/// Returns the rule that lets a container use one of its devices; `access` is of `rwm`.
pub fn device_rule(device: &Value, access: &str) -> Value {
    json!({
        "allow": true,
        "type": device["type"],
        "major": device["major"],
        "minor": device["minor"],
        "access": access,
    })
}
