//! The configuration of a container: read from its bundle, and checked before anything is made.

pub mod defaults;
mod repair;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capability, LinuxMemoryPolicy, LinuxNamespaceType, MemoryPolicyModeType, Process, Spec,
};
use sys::{Context, Error, Kind, Result};

use crate::rootless;

/// The highest number of a processor or a memory node.
pub(crate) const NUMBER_MAX: usize = 1023;

/// Reads `config.json` of a bundle.
pub fn load(bundle: &Path) -> Result<Spec> {
    let path = bundle.join("config.json");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let message =
                format!("JSON specification file {path:?} not found: no such file or directory");
            return Err(Error::new(Kind::NotFound, message));
        }
        Err(error) => return Err(error).context(|| format!("read {path:?}")),
    };
    repair::parse(&text, &["process"]).map_err(|error| {
        Error::other(format!("parse {path:?}"), error).with_kind(Kind::InvalidArgument)
    })
}

/// Reads a process as `exec --process` has it.
pub fn load_process(path: &Path) -> Result<Process> {
    let text = std::fs::read(path).context(|| format!("read {path:?}"))?;
    repair::parse(&text, &[]).map_err(|error| {
        Error::other(format!("parse {path:?}"), error).with_kind(Kind::InvalidArgument)
    })
}

/// Returns what of a process will not be as it says, for who asked for it to know.
pub fn warnings(process: &Process) -> Vec<String> {
    let Some(sets) = process.capabilities() else {
        return Vec::new();
    };
    let has =
        |set: &Option<HashSet<Capability>>, one| set.as_ref().is_some_and(|set| set.contains(one));
    let ambient = sets.ambient().iter().flatten();
    let mut missing: Vec<String> = ambient
        .filter(|one| !has(sets.inheritable(), one) || !has(sets.permitted(), one))
        .map(|one| {
            let why = "it is not both permitted and inheritable";
            format!("can't raise ambient capability CAP_{one}: {why}")
        })
        .collect();
    missing.sort();
    missing
}

/// Checks what can be known to be wrong before anything is made.
pub(crate) fn validate(spec: &Spec) -> Result<()> {
    if !spec.version().starts_with("1.") {
        return invalid(format!(
            "unsupported version {:?} of the specification",
            spec.version()
        ));
    }
    if spec.root().is_none() {
        return invalid("root must be specified");
    }
    match spec.process() {
        Some(process) => validate_process(process)?,
        None => return invalid("process property must not be empty"),
    }
    if namespace(spec, LinuxNamespaceType::Mount).is_none() {
        return invalid("a container without a mount namespace of its own is not supported");
    }
    let uts = namespace(spec, LinuxNamespaceType::Uts).is_some();
    if spec
        .hostname()
        .as_ref()
        .is_some_and(|name| !name.is_empty())
        && !uts
    {
        return invalid("unable to set hostname without a private UTS namespace");
    }
    if spec
        .domainname()
        .as_ref()
        .is_some_and(|name| !name.is_empty())
        && !uts
    {
        return invalid("unable to set domainname without a private UTS namespace");
    }
    validate_namespaces(spec)?;
    validate_sysctls(spec)?;
    validate_memory_policy(spec)?;
    refuse_unsupported(spec)?;
    if rootless::is_user() {
        rootless::validate(spec)?;
    }
    for mount in spec.mounts().iter().flatten() {
        if mount.destination().as_os_str().is_empty() {
            return invalid("mount destination must not be empty");
        }
    }
    Ok(())
}

/// Checks a process.
pub(crate) fn validate_process(process: &Process) -> Result<()> {
    if !process.cwd().is_absolute() {
        return invalid("Cwd must be an absolute path");
    }
    let args = process.args().as_deref().unwrap_or_default();
    if args.is_empty() {
        return invalid("args must not be empty");
    }
    let env = process.env().as_deref().unwrap_or_default();
    let env = env.iter().filter(|variable| !variable.contains('='));
    if let Some(variable) = env.into_iter().next() {
        return invalid(format!("environment variable {variable:?} has no value"));
    }
    match rootless::is_user() {
        true => rootless::validate_process(process),
        false => Ok(()),
    }
}

fn validate_namespaces(spec: &Spec) -> Result<()> {
    let namespaces = namespaces(spec);
    for (at, (kind, path)) in namespaces.iter().enumerate() {
        if namespaces[..at].iter().any(|(other, _)| other == kind) {
            return invalid(format!("namespace {kind} is there twice"));
        }
        if path.as_ref().is_some_and(|path| !path.is_absolute()) {
            return invalid(format!("path of namespace {kind} must be absolute"));
        }
    }
    let linux = spec.linux().as_ref();
    let mapped = linux.is_some_and(|linux| {
        let uids = linux.uid_mappings().iter().flatten();
        uids.chain(linux.gid_mappings().iter().flatten())
            .next()
            .is_some()
    });
    match namespace(spec, LinuxNamespaceType::User) {
        Some(None) if !mapped => {
            return invalid("user namespaces enabled, but no uid or gid mappings found");
        }
        None if mapped => {
            return invalid(
                "user namespace mappings specified, but user namespace isn't enabled in the config",
            );
        }
        _ => {}
    }
    if has_clocks(spec) && namespace(spec, LinuxNamespaceType::Time) != Some(None) {
        return invalid("time namespace offsets need a time namespace of the container's own");
    }
    Ok(())
}

/// Refuses what would else be left out without a word.
fn refuse_unsupported(spec: &Spec) -> Result<()> {
    let Some(linux) = spec.linux() else {
        return Ok(());
    };
    let devices = linux.net_devices().as_ref();
    let label = linux.mount_label().as_deref();
    for (there, name) in [
        (linux.intel_rdt().is_some(), "linux.intelRdt"),
        (
            devices.is_some_and(|all| !all.is_empty()),
            "linux.netDevices",
        ),
        (
            label.is_some_and(|label| !label.is_empty()),
            "linux.mountLabel",
        ),
    ] {
        if there {
            let message = format!("{name} of the configuration is not supported");
            return Err(Error::new(Kind::Unimplemented, message));
        }
    }
    Ok(())
}

/// Checks that a memory policy has as many nodes as it can do with, and what is said of it here only for runc's words.
fn validate_memory_policy(spec: &Spec) -> Result<()> {
    let linux = spec.linux().as_ref();
    let Some(policy) = linux.and_then(|linux| linux.memory_policy().as_ref()) else {
        return Ok(());
    };
    let nodes = memory_nodes(policy)?.len();
    match policy.mode() {
        MemoryPolicyModeType::MpolDefault | MemoryPolicyModeType::MpolLocal if nodes > 0 => {
            invalid(format!(
                "memory policy mode requires 0 nodes but got {nodes}"
            ))
        }
        MemoryPolicyModeType::MpolBind
        | MemoryPolicyModeType::MpolInterleave
        | MemoryPolicyModeType::MpolPreferredMany
        | MemoryPolicyModeType::MpolWeightedInterleave
            if nodes == 0 =>
        {
            invalid("memory policy mode requires at least one node but got 0")
        }
        _ => Ok(()),
    }
}

/// Returns the nodes that a memory policy is about.
pub(crate) fn memory_nodes(policy: &LinuxMemoryPolicy) -> Result<Vec<usize>> {
    let list = policy.nodes().as_deref().unwrap_or_default();
    match list.is_empty() {
        true => Ok(Vec::new()),
        false => numbers(list).ok_or_else(|| {
            Error::new(
                Kind::InvalidArgument,
                format!("invalid memory policy nodes {list:?}"),
            )
        }),
    }
}

/// Returns the numbers of a list such as `0-3,7`.
pub(crate) fn numbers(list: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for part in list.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > NUMBER_MAX {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

/// Refuses kernel parameters that are the host's too.
fn validate_sysctls(spec: &Spec) -> Result<()> {
    const IPC: [&str; 10] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.msg_next_id",
        "kernel.sem_next_id",
    ];
    let sysctls = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.sysctl().as_ref());
    for name in sysctls.into_iter().flatten().map(|(name, _)| name) {
        let dotted = name.replace('/', ".");
        let wanted = if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            LinuxNamespaceType::Ipc
        } else if dotted.starts_with("net.") {
            LinuxNamespaceType::Network
        } else if ["kernel.domainname", "kernel.hostname"].contains(&dotted.as_str()) {
            LinuxNamespaceType::Uts
        } else {
            return invalid(format!(
                "sysctl {name:?} is not in a separate kernel namespace"
            ));
        };
        if dotted.contains("..") || namespace(spec, wanted).is_none() {
            return invalid(format!(
                "sysctl {name:?} is not allowed in the hosts {wanted} namespace"
            ));
        }
    }
    Ok(())
}

/// Tells whether the container has clocks of its own.
pub(crate) fn has_clocks(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    let offsets = linux.and_then(|linux| linux.time_offsets().as_ref());
    offsets.is_some_and(|offsets| !offsets.is_empty())
}

/// Returns the namespace of a kind: `None` if it is the host's, else its path if it is to be joined.
pub(crate) fn namespace(spec: &Spec, kind: LinuxNamespaceType) -> Option<Option<PathBuf>> {
    let mut all = namespaces(spec).into_iter();
    all.find(|(other, _)| *other == kind).map(|(_, path)| path)
}

/// Returns the container's namespaces; one without a path is new.
pub(crate) fn namespaces(spec: &Spec) -> Vec<(LinuxNamespaceType, Option<PathBuf>)> {
    let linux = spec.linux().as_ref();
    let all = linux.and_then(|linux| linux.namespaces().as_ref());
    let path = |path: &PathBuf| !path.as_os_str().is_empty();
    all.into_iter()
        .flatten()
        .map(|namespace| (namespace.typ(), namespace.path().clone().filter(path)))
        .collect()
}

pub(crate) fn invalid<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::new(Kind::InvalidArgument, message))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_supported_is_refused() {
        for (name, value) in [
            ("intelRdt", json!({ "closID": "a" })),
            ("netDevices", json!({ "eth0": {} })),
            (
                "mountLabel",
                json!("system_u:object_r:svirt_lxc_file_t:s0:c1"),
            ),
        ] {
            let mut config = defaults::config();
            config["linux"][name] = value;
            let spec = serde_json::from_value(config).unwrap();
            let error = validate(&spec).unwrap_err();
            assert_eq!(error.kind(), Kind::Unimplemented);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn lists_of_processors_are_ranges_and_numbers() {
        assert_eq!(numbers("0-2,7").unwrap(), [0, 1, 2, 7]);
        for list in ["", "a", "3-1", "1-", "0-99999999", "-1"] {
            assert!(numbers(list).is_none(), "{list:?}");
        }
    }
}
