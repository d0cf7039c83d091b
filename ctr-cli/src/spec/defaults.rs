//! containerd's default configuration of a Linux container.

use api_protos::oci::{CAPABILITIES, MASKED_PATHS, READONLY_PATHS};
use serde_json::{Value, json};

/// Returns the configuration of container `id` in `namespace`, still without a command.
pub fn linux(namespace: &str, id: &str) -> Value {
    let namespaces = ["pid", "ipc", "uts", "mount", "network"].map(|kind| json!({"type": kind}));
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": true,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "capabilities": {"bounding": CAPABILITIES, "permitted": CAPABILITIES, "effective": CAPABILITIES},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        },
        "mounts": mounts(),
        "linux": {
            "maskedPaths": MASKED_PATHS,
            "readonlyPaths": READONLY_PATHS,
            "cgroupsPath": format!("/{namespace}/{id}"),
            "resources": {"devices": devices()},
            "namespaces": namespaces,
        },
    })
}

/// Everything is denied but making device nodes and the character devices that every program expects.
fn devices() -> Value {
    let char = |major: i64, minor: Option<i64>| {
        let mut rule = json!({"type": "c", "major": major, "access": "rwm", "allow": true});
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        rule
    };
    json!([
        {"allow": false, "access": "rwm"},
        char(1, Some(3)), // null
        char(1, Some(8)), // random
        char(1, Some(7)), // full
        char(5, Some(0)), // tty
        char(1, Some(5)), // zero
        char(1, Some(9)), // urandom
        char(5, Some(1)), // console
        char(136, None),  // pts
        char(5, Some(2)), // ptmx
    ])
}

fn mounts() -> Value {
    let mount = |destination: &str, fstype: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": fstype, "source": source, "options": options});
    json!([
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"]
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5"
            ]
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]
        ),
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"]
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", "ro"]
        ),
        mount(
            "/run",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"]
        ),
    ])
}
