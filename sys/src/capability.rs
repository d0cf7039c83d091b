//! Capabilities by their names.

/// The kernel's capabilities as of Linux 5.9, in the order of their numbers.
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

/// Returns a name as the kernel and the OCI specification write it: in capitals and with `CAP_`.
pub fn full_name(text: &str) -> String {
    let upper = text.to_uppercase();
    match upper.starts_with("CAP_") {
        true => upper,
        false => format!("CAP_{upper}"),
    }
}

/// Returns the capabilities in a set of the kernel's.
pub fn named(set: u64) -> Vec<String> {
    let names = NAMES.iter().enumerate();
    let held = names.filter(|(number, _)| set & (1 << number) != 0);
    held.map(|(_, name)| (*name).to_owned()).collect()
}

/// Returns the number of the capability with this full name.
pub fn number(name: &str) -> Option<u32> {
    let at = NAMES.iter().position(|known| *known == name);
    at.map(|at| at as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_kernels_numbers() {
        for (text, wanted) in [
            ("chown", Some(0)),
            ("CAP_KILL", Some(5)),
            ("cap_sys_admin", Some(21)),
            ("AUDIT_WRITE", Some(29)),
            ("CAP_CHECKPOINT_RESTORE", Some(40)),
            ("CAP_NOPE", None),
            ("", None),
        ] {
            assert_eq!(number(&full_name(text)), wanted, "{text}");
        }
    }

    #[test]
    fn a_set_is_named() {
        assert_eq!(named(1 << 5 | 1), ["CAP_CHOWN", "CAP_KILL"]);
        assert_eq!(named(u64::MAX), NAMES);
    }
}
