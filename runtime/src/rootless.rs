//! Containers made by who is not the host's root: an ordinary user, or the root of a user namespace.
//!
//! Such a caller may have no right to make control groups, which a container can then do without, and may map no more than
//! its own user and group itself. More of them, those of `/etc/subuid` and `/etc/subgid`, are mapped by two programs that
//! distributions install with that right.

use std::process::Command;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Process, Spec};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use sys::procfs::Procfs;
use sys::{Context, Error, Kind, Result};

use crate::rootfs::map_text;
use crate::spec::{invalid, namespace};

/// What `/proc/<pid>/uid_map` has in the host's user namespace.
const EVERY_ID: [&str; 3] = ["0", "0", "4294967295"];

/// Tells whether the caller is an ordinary user.
pub(crate) fn is_user() -> bool {
    !geteuid().is_root()
}

/// Tells whether the caller is not root, or is root of a user namespace only, and so may have no right to control groups.
pub fn is_rootless() -> bool {
    is_user() || in_user_namespace()
}

fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    // A kernel without user namespaces has no such file.
    !map.is_empty() && !map.split_whitespace().eq(EVERY_ID)
}

/// Checks that an ordinary user can make this container.
pub(crate) fn validate(spec: &Spec) -> Result<()> {
    let Some(user) = namespace(spec, LinuxNamespaceType::User) else {
        return invalid("rootless container requires user namespaces");
    };
    let maps = maps(spec);
    if user.is_none() {
        for (kind, map) in [("UID", maps.uids), ("GID", maps.gids)] {
            if map.is_empty() {
                let message = format!("rootless containers requires at least one {kind} mapping");
                return invalid(message);
            }
        }
    }
    for mount in spec.mounts().iter().flatten() {
        for option in mount.options().iter().flatten() {
            let (map, number) = match option.split_once('=') {
                Some(("uid", number)) => (maps.uids, number),
                Some(("gid", number)) => (maps.gids, number),
                _ => continue,
            };
            // What is no number is the kernel's to refuse.
            if number
                .parse()
                .is_ok_and(|id| user.is_none() && !has(map, id))
            {
                return invalid(format!(
                    "cannot specify {option} mount option for rootless container: it is not mapped"
                ));
            }
        }
    }
    Ok(())
}

/// Checks that an ordinary user can make this process.
pub(crate) fn validate_process(process: &Process) -> Result<()> {
    let groups = process.user().additional_gids().as_deref();
    match groups.unwrap_or_default() {
        [] => Ok(()),
        _ => invalid("cannot set any additional groups in a rootless container"),
    }
}

/// Writes the maps of the new user namespace of the process `pid`.
pub(crate) fn map_users(procfs: &Procfs, pid: i32, spec: &Spec) -> Result<()> {
    let Maps { uids, gids } = maps(spec);
    let own = getegid().as_raw();
    if is_user() && matches!(gids, [only] if only.host_id() == own && only.size() == 1) {
        // The kernel lets an ordinary user map groups only if none can be dropped by it.
        procfs.write(&format!("{pid}/setgroups"), b"deny")?;
    }
    map(procfs, pid, "uid_map", uids, "newuidmap")?;
    map(procfs, pid, "gid_map", gids, "newgidmap")
}

/// Writes one of the maps, by the `tool` if only that has the right to.
fn map(procfs: &Procfs, pid: i32, file: &str, ids: &[LinuxIdMapping], tool: &str) -> Result<()> {
    let text = map_text(ids);
    match procfs.write(&format!("{pid}/{file}"), text.as_bytes()) {
        Err(error) if is_user() && error.errno() == Some(Errno::PERM) => {}
        written => return written,
    }
    let describe = || format!("map {text:?} by {tool:?}");
    let output = Command::new(tool)
        .arg(pid.to_string())
        .args(text.split_whitespace())
        .output()
        .context(describe)?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            let message = format!("{tool} failed: {}", said.trim());
            Err(Error::new(Kind::PermissionDenied, message).context(describe()))
        }
    }
}

/// The maps of a configuration; they have nothing if it has none.
struct Maps<'a> {
    uids: &'a [LinuxIdMapping],
    gids: &'a [LinuxIdMapping],
}

fn maps(spec: &Spec) -> Maps<'_> {
    let linux = spec.linux().as_ref();
    let uids = linux.and_then(|linux| linux.uid_mappings().as_deref());
    let gids = linux.and_then(|linux| linux.gid_mappings().as_deref());
    Maps {
        uids: uids.unwrap_or_default(),
        gids: gids.unwrap_or_default(),
    }
}

fn has(map: &[LinuxIdMapping], id: u32) -> bool {
    map.iter().any(|range| {
        id.checked_sub(range.container_id())
            .is_some_and(|offset| offset < range.size())
    })
}
