//! Parts of a configuration's process: environment and capabilities.

use serde_json::{Value, json};

/// The kernel's capabilities, as of Linux 5.9.
pub const ALL: [&str; 41] = [
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

/// Sets variables `NAME=VALUE` in the environment; a name without a value is taken out.
pub fn set_env(spec: &mut Value, variables: Vec<String>) {
    let env = spec["process"]["env"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut env: Vec<String> = env
        .iter()
        .filter_map(|value| value.as_str().map(str::to_owned))
        .collect();
    for variable in variables {
        let (name, value) = match variable.split_once('=') {
            Some((name, _)) => (name, true),
            None => (variable.as_str(), false),
        };
        let same = |known: &String| known.split('=').next() == Some(name);
        match (env.iter().position(same), value) {
            (Some(index), true) => env[index] = variable,
            (Some(index), false) => drop(env.remove(index)),
            (None, true) => env.push(variable),
            (None, false) => {}
        }
    }
    spec["process"]["env"] = json!(env);
}

/// Reads a capability's name with or without `CAP_`, in any case.
pub fn capability(text: &str) -> Result<String, String> {
    let upper = text.to_uppercase();
    let name = if upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    };
    if ALL.contains(&name.as_str()) {
        Ok(name)
    } else {
        Err(format!("no capability {text:?}"))
    }
}

/// Changes bounding, permitted and effective capabilities.
pub fn change_capabilities(spec: &mut Value, mut change: impl FnMut(&mut Vec<String>)) {
    for set in ["bounding", "permitted", "effective"] {
        let list = &mut spec["process"]["capabilities"][set];
        let names = list.as_array().cloned().unwrap_or_default();
        let mut names: Vec<String> = names
            .iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect();
        change(&mut names);
        *list = json!(names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_replaced_added_or_taken_out() {
        let mut spec = json!({"process": {"env": ["A=1", "B=2"]}});
        set_env(
            &mut spec,
            vec!["A=3".into(), "B".into(), "C=4=5".into(), "D".into()],
        );
        assert_eq!(spec["process"]["env"], json!(["A=3", "C=4=5"]));
    }

    #[test]
    fn capabilities_are_known_by_name() {
        assert_eq!(capability("net_admin").as_deref(), Ok("CAP_NET_ADMIN"));
        assert_eq!(capability("CAP_KILL").as_deref(), Ok("CAP_KILL"));
        assert!(capability("CAP_NOPE").is_err());
    }
}
