//! Capabilities: the default set, and what is added to it and taken from it.

use api_protos::runtime::v1::Capability;

/// What a container has that asks for nothing.
const DEFAULT: [&str; 14] = [
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

/// All capabilities, in the order of their numbers.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Returns the capabilities in a set of the kernel's.
pub fn named(set: u64) -> Vec<String> {
    let names = NAMES.iter().enumerate();
    let held = names.filter(|(number, _)| set & (1 << number) != 0);
    held.map(|(_, name)| (*name).to_owned()).collect()
}

/// Returns the capabilities of sandboxes and of containers that ask for nothing.
pub fn default() -> Vec<String> {
    DEFAULT.map(str::to_owned).to_vec()
}

/// Returns the default set changed as `asked`; `ALL` stands for `all`.
pub fn apply(asked: Option<&Capability>, all: &[String]) -> Vec<String> {
    let mut set = default();
    let Some(asked) = asked else {
        return set;
    };
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    if asked.add_capabilities.iter().any(is_all) {
        set = all.to_vec();
    }
    if asked.drop_capabilities.iter().any(is_all) {
        set.clear();
    }
    for name in asked.add_capabilities.iter().filter(|name| !is_all(name)) {
        let name = full(name);
        if !set.contains(&name) {
            set.push(name);
        }
    }
    for name in asked.drop_capabilities.iter().filter(|name| !is_all(name)) {
        let name = full(name);
        set.retain(|held| *held != name);
    }
    set
}

/// CRI's names have no prefix.
fn full(name: &str) -> String {
    let name = name.to_uppercase();
    match name.starts_with("CAP_") {
        true => name,
        false => format!("CAP_{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_changed_as_asked() {
        let all = named(u64::MAX);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let without = |name: &str| {
            let kept = DEFAULT.iter().filter(|held| **held != name);
            kept.copied().collect::<Vec<_>>()
        };
        let plus = |name| [&DEFAULT[..], &[name]].concat();
        let cases: [(&[&str], &[&str], Vec<&str>); 6] = [
            (&[], &[], DEFAULT.to_vec()),
            (&["sys_time"], &[], plus("CAP_SYS_TIME")),
            (&["CHOWN"], &["KILL"], without("CAP_KILL")),
            (&["ALL"], &[], all.clone()),
            (&[], &["all"], vec![]),
            (&["NET_ADMIN"], &["ALL"], vec!["CAP_NET_ADMIN"]),
        ];
        for (add, drop, wanted) in cases {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let asked = Capability {
                add_capabilities: owned(add),
                drop_capabilities: owned(drop),
                ..Capability::default()
            };
            assert_eq!(
                apply(Some(&asked), &named(u64::MAX)),
                wanted,
                "{add:?} {drop:?}"
            );
        }
        assert_eq!(apply(None, &[]), DEFAULT);
    }
}
