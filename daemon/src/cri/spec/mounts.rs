//! Mounts: the system's, the pod's files, and those that CRI asks for, in the order in which they cover each other.

use api_protos::runtime::v1::{IdMapping, MountPropagation};
use serde_json::{Value, json};

use crate::error::{Result, invalid};

/// A folder or file of the host in a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bind {
    pub source: String,
    pub destination: String,
    pub readonly: bool,
    pub recursive_readonly: bool,
    pub propagation: MountPropagation,
    pub uid_mappings: Vec<IdMapping>,
    pub gid_mappings: Vec<IdMapping>,
}

impl Bind {
    /// Returns a mount that neither side's later mounts reach.
    pub fn new(source: impl Into<String>, destination: &str, readonly: bool) -> Self {
        Self {
            source: source.into(),
            destination: destination.into(),
            readonly,
            ..Self::default()
        }
    }

    fn spec(&self) -> Result<Value> {
        let propagation = match self.propagation {
            MountPropagation::PropagationPrivate => "rprivate",
            MountPropagation::PropagationHostToContainer => "rslave",
            MountPropagation::PropagationBidirectional => "rshared",
        };
        let access = match (self.readonly, self.recursive_readonly) {
            (true, true) if propagation != "rprivate" => {
                return Err(invalid(format!(
                    "recursive read-only mount needs private propagation (hostPath={:?})",
                    self.source
                )));
            }
            (true, true) => "rro",
            (true, false) => "ro",
            (false, false) => "rw",
            (false, true) => {
                return Err(invalid(format!(
                    "recursive read-only mount conflicts with RW mount (hostPath={:?})",
                    self.source
                )));
            }
        };
        let mut mount = json!({
            "destination": self.destination,
            "type": "bind",
            "source": self.source,
            "options": ["rbind", propagation, access],
        });
        for (key, mappings) in [
            ("uidMappings", &self.uid_mappings),
            ("gidMappings", &self.gid_mappings),
        ] {
            if !mappings.is_empty() {
                mount[key] = id_mappings(mappings);
            }
        }
        Ok(mount)
    }
}

/// Returns mappings of users or groups as the specification has them.
pub fn id_mappings(mappings: &[IdMapping]) -> Value {
    let entries = mappings.iter().map(|mapping| {
        json!({
            "containerID": mapping.container_id,
            "hostID": mapping.host_id,
            "size": mapping.length,
        })
    });
    entries.collect()
}

/// Returns the mounts that every container has, without `/dev/shm`, which is the pod's.
pub fn system(writable: bool) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, options: &str| {
        let options: Vec<&str> = options.split(',').collect();
        json!({"destination": destination, "type": kind, "source": kind, "options": options})
    };
    let sys = match writable {
        true => "nosuid,noexec,nodev,rw",
        false => "nosuid,noexec,nodev,ro",
    };
    vec![
        mount("/proc", "proc", "nosuid,noexec,nodev"),
        mount("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        mount(
            "/dev/pts",
            "devpts",
            "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        mount("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
        mount("/sys", "sysfs", sys),
    ]
}

/// Returns `system` with the node's `/sys`: no namespace's users may mount one that shows a network they do not own.
pub fn with_hosts_sys(mut system: Vec<Value>, writable: bool) -> Vec<Value> {
    for mount in &mut system {
        if mount["destination"] == "/sys" {
            let access = if writable { "rw" } else { "ro" };
            mount["type"] = "bind".into();
            mount["source"] = "/sys".into();
            mount["options"] = json!(["rbind", "nosuid", "noexec", "nodev", access]);
        }
    }
    system
}

/// Returns the mount of the control groups.
pub fn cgroup(writable: bool) -> Value {
    let access = if writable { "rw" } else { "ro" };
    json!({
        "destination": "/sys/fs/cgroup",
        "type": "cgroup",
        "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", access],
    })
}

/// Returns `system` and then `binds`, the ones with shorter paths first; a bind takes the place of the system's mount.
pub fn compose(system: Vec<Value>, mut binds: Vec<Bind>) -> Result<Vec<Value>> {
    binds.sort_by_key(|bind| parts(&bind.destination));
    let covered = |destination: &str| {
        binds.iter().any(|bind| {
            let bind = clean(&bind.destination);
            bind == destination || (bind == "/dev" && destination.starts_with("/dev/"))
        })
    };
    let mut mounts: Vec<Value> = system
        .into_iter()
        .filter(|mount| !covered(mount["destination"].as_str().unwrap_or_default()))
        .collect();
    for bind in &binds {
        mounts.push(bind.spec()?);
    }
    Ok(mounts)
}

/// Returns how mounts on the container's root reach it, which the widest of its mounts says.
pub fn rootfs_propagation(binds: &[Bind]) -> Option<&'static str> {
    let has = |wanted| binds.iter().any(|bind| bind.propagation == wanted);
    match () {
        () if has(MountPropagation::PropagationBidirectional) => Some("rshared"),
        () if has(MountPropagation::PropagationHostToContainer) => Some("rslave"),
        () => None,
    }
}

fn parts(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

/// Returns a path without needless slashes and dots.
pub fn clean(path: &str) -> String {
    let mut kept = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(kept.pop()),
            part => kept.push(part),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destinations(mounts: &[Value]) -> Vec<&str> {
        let destinations = mounts.iter();
        destinations
            .map(|mount| mount["destination"].as_str().unwrap())
            .collect()
    }

    #[test]
    fn a_bind_takes_the_place_of_a_mount_of_the_system() {
        let binds = vec![
            Bind::new("/h/deep", "/data/deep", false),
            Bind::new("/h", "/data", true),
            Bind::new("/sys", "/sys/", true),
        ];
        let mounts = compose(system(false), binds).unwrap();
        assert_eq!(
            destinations(&mounts),
            [
                "/proc",
                "/dev",
                "/dev/pts",
                "/dev/mqueue",
                "/data",
                "/sys/",
                "/data/deep"
            ]
        );
        assert_eq!(mounts[4]["options"], json!(["rbind", "rprivate", "ro"]));
        let dev = compose(system(false), vec![Bind::new("/dev", "/dev", false)]).unwrap();
        assert_eq!(destinations(&dev), ["/proc", "/sys", "/dev"]);
    }

    #[test]
    fn the_widest_propagation_is_the_roots() {
        let with = |propagation| Bind {
            propagation,
            ..Bind::new("/h", "/h", false)
        };
        let private = with(MountPropagation::PropagationPrivate);
        let slave = with(MountPropagation::PropagationHostToContainer);
        let shared = with(MountPropagation::PropagationBidirectional);
        assert_eq!(rootfs_propagation(std::slice::from_ref(&private)), None);
        assert_eq!(
            rootfs_propagation(&[private, slave.clone()]),
            Some("rslave")
        );
        assert_eq!(rootfs_propagation(&[shared, slave]), Some("rshared"));
    }

    #[test]
    fn read_only_to_the_bottom_needs_a_private_mount() {
        let bind = |readonly, propagation| Bind {
            recursive_readonly: true,
            propagation,
            ..Bind::new("/h", "/h", readonly)
        };
        let private = MountPropagation::PropagationPrivate;
        let spec = bind(true, private).spec().unwrap();
        assert_eq!(spec["options"], json!(["rbind", "rprivate", "rro"]));
        assert!(bind(false, private).spec().is_err());
        let slave = MountPropagation::PropagationHostToContainer;
        assert!(bind(true, slave).spec().is_err());
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, wanted) in [
            ("/a//b/", "/a/b"),
            ("a/./b/../c", "/a/c"),
            ("/..", "/"),
            ("", "/"),
        ] {
            assert_eq!(clean(path), wanted);
        }
    }
}
