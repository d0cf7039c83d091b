//! The configuration that `spec` writes: the same as runc's.

use serde_json::{Value, json};

use crate::state::SPEC_VERSION;

/// The number of cgroup v2 in statfs(2).
const CGROUP2_MAGIC: rustix::fs::FsWord = 0x6367_7270;

/// Returns `config.json` of a shell in a container with namespaces of its own for all but users and time.
pub fn config() -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mut namespaces = vec!["pid", "network", "ipc", "uts", "mount"];
    if is_unified() {
        // On v1 a container would lose sight of the groups that its mounts of them are named for.
        namespaces.push("cgroup");
    }
    let namespaces: Vec<Value> = namespaces
        .into_iter()
        .map(|kind| json!({ "type": kind }))
        .collect();
    json!({
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "corten",
        "mounts": mounts(),
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
                "/proc/scsi",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    })
}

/// Returns the same for the calling user, who has no rights: as root of a user namespace, in the host's network, whose
/// `/sys` can then only be bound.
pub fn rootless_config() -> Value {
    let mut config = config();
    let map = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
    let linux = &mut config["linux"];
    linux["uidMappings"] = map(rustix::process::geteuid().as_raw());
    linux["gidMappings"] = map(rustix::process::getegid().as_raw());
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "user" }));
    }
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        if mount["destination"] == "/sys" {
            *mount = json!({
                "destination": "/sys", "type": "none", "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
            });
        }
        if let Some(options) = mount["options"].as_array_mut() {
            // The map has root alone.
            options.retain(|option| option != "gid=5");
        }
    }
    config
}

/// Tells whether control groups are those of version 2 alone.
fn is_unified() -> bool {
    let stat = rustix::fs::statfs("/sys/fs/cgroup");
    stat.is_ok_and(|stat| stat.f_type == CGROUP2_MAGIC)
}

fn mounts() -> Value {
    let mount = |destination: &str, fstype: &str, source: &str, options: &[&str]| {
        json!({
            "destination": destination,
            "type": fstype,
            "source": source,
            "options": options,
        })
    };
    let quiet = ["nosuid", "noexec", "nodev"];
    let with = |more: &[&'static str]| [&quiet[..], more].concat();
    json!([
        mount("/proc", "proc", "proc", &[]),
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
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &with(&["mode=1777", "size=65536k"])
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &quiet),
        mount("/sys", "sysfs", "sysfs", &with(&["ro"])),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &with(&["relatime", "ro"])
        ),
    ])
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_default_configurations_are_valid_ones() {
        for config in [super::config(), super::rootless_config()] {
            let spec = serde_json::from_value(config).unwrap();
            crate::spec::validate(&spec).unwrap();
        }
    }
}
