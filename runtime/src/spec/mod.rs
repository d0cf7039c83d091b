//! The configuration of a container: read from its bundle, and checked before anything is made.

pub mod defaults;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, LinuxNamespaceType, Process, Spec};
use serde_json::Value;
use sys::{Context, Error, Kind, Result};

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
    parse(&text, &["process"]).map_err(|error| {
        Error::other(format!("parse {path:?}"), error).with_kind(Kind::InvalidArgument)
    })
}

/// Parses JSON in which the process is at `process`; capabilities that nobody knows are left out, as by runc.
fn parse<T: serde::de::DeserializeOwned>(
    text: &[u8],
    process: &[&str],
) -> Result<T, serde_json::Error> {
    let error = match serde_json::from_slice(text) {
        Ok(parsed) => return Ok(parsed),
        Err(error) => error,
    };
    // Not parsed so at first: a tree of values takes several times as long.
    let mut tree: Value = serde_json::from_slice(text)?;
    let mut place = Some(&mut tree);
    for name in process.iter().chain(&["capabilities"]) {
        place = place.and_then(|value| value.get_mut(name));
    }
    let Some(Value::Object(sets)) = place else {
        return Err(error);
    };
    let known = |name: &Value| serde_json::from_value::<Capability>(name.clone()).is_ok();
    for set in sets.values_mut().filter_map(Value::as_array_mut) {
        set.retain(known);
    }
    serde_json::from_value(tree)
}

/// Reads a process as `exec --process` has it.
pub fn load_process(path: &Path) -> Result<Process> {
    let text = std::fs::read(path).context(|| format!("read {path:?}"))?;
    parse(&text, &[]).map_err(|error| {
        Error::other(format!("parse {path:?}"), error).with_kind(Kind::InvalidArgument)
    })
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
    Ok(())
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
    let offsets = linux.and_then(|linux| linux.time_offsets().as_ref());
    if offsets.is_some_and(|offsets| !offsets.is_empty())
        && namespace(spec, LinuxNamespaceType::Time) != Some(None)
    {
        return invalid("time namespace offsets need a time namespace of the container's own");
    }
    Ok(())
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

fn invalid<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::new(Kind::InvalidArgument, message))
}
