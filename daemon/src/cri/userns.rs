//! User namespaces of pods: which are asked for, and the namespace itself, kept by a mount on a file together with
//! the network namespace that belongs to it.

use std::path::Path;

use api_protos::runtime::v1::{IdMapping, NamespaceMode, PodSandboxConfig, UserNamespace};
use serde_json::{Value, json};

use crate::error::{Context, Result, invalid};
use crate::labels::Labels;

/// How the users and groups of a namespace are those of the host: from 0 on, one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mappings {
    uids: Range,
    gids: Range,
}

/// Ids of the host that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    length: u32,
}

impl Mappings {
    /// Returns what is asked for, nothing if both are empty.
    pub fn parse(uids: &[IdMapping], gids: &[IdMapping]) -> Result<Option<Self>> {
        match (one(uids)?, one(gids)?) {
            (None, None) => Ok(None),
            (Some(uids), Some(gids)) => Ok(Some(Self { uids, gids })),
            _ => Err(invalid(
                "user namespaces need mappings of both users and groups",
            )),
        }
    }

    /// Returns the user namespace of a pod, nothing if it has the node's.
    pub fn of_pod(config: &PodSandboxConfig) -> Result<Option<Self>> {
        let linux = config.linux.clone().unwrap_or_default();
        let security = linux.security_context.unwrap_or_default();
        let options = security.namespace_options.unwrap_or_default();
        Self::asked(options.userns_options)
    }

    /// Returns the user namespace that options ask for.
    pub fn asked(options: Option<UserNamespace>) -> Result<Option<Self>> {
        let Some(options) = options else {
            return Ok(None);
        };
        let mappings = Self::parse(&options.uids, &options.gids);
        let mappings = mappings.context(|| "user namespace configuration")?;
        match (options.mode(), mappings) {
            (NamespaceMode::Node, None) => Ok(None),
            (NamespaceMode::Node, Some(_)) => Err(invalid(
                "user namespace configuration: mode \"NODE\" cannot have mappings",
            )),
            (NamespaceMode::Pod, None) => Err(invalid(
                "user namespace configuration: mode \"POD\" needs mappings",
            )),
            (NamespaceMode::Pod, Some(mappings)) => Ok(Some(mappings)),
            (mode, _) => Err(invalid(format!(
                "unsupported user namespace mode: {:?}",
                mode.as_str_name()
            ))),
        }
    }

    /// Returns the labels by which a snapshotter gives files to the namespace's users.
    pub fn labels(self) -> Labels {
        [("uidmapping", self.uids), ("gidmapping", self.gids)]
            .map(|(name, Range { first, length })| {
                let label = format!("containerd.io/snapshot/{name}");
                (label, format!("0:{first}:{length}"))
            })
            .into()
    }

    /// Returns the mappings of users and of groups as CRI has them.
    pub fn cri(self) -> [Vec<IdMapping>; 2] {
        [self.uids, self.gids].map(|range| {
            vec![IdMapping {
                host_id: range.first,
                container_id: 0,
                length: range.length,
            }]
        })
    }

    /// Writes both mappings, and the namespace that has the file `path`, into a specification.
    pub fn write(self, spec: &mut Value, path: &str) {
        let [uids, gids] = self.cri();
        let linux = &mut spec["linux"];
        linux["uidMappings"] = super::spec::mounts::id_mappings(&uids);
        linux["gidMappings"] = super::spec::mounts::id_mappings(&gids);
        if let Some(namespaces) = linux["namespaces"].as_array_mut() {
            namespaces.push(json!({"type": "user", "path": path}));
        }
    }

    /// Makes the namespace and mounts it on the new file `user`; a network namespace that belongs to it goes to `net`.
    pub fn create(self, user: &Path, net: Option<&Path>) -> Result<()> {
        let [uids, gids] =
            [self.uids, self.gids].map(|range| format!("0 {} {}\n", range.first, range.length));
        let procfs = sys::procfs::Procfs::open()?;
        sys::namespace::with_mapped_user(&procfs, &uids, &gids, net.is_some(), |pid| {
            super::netns::keep(&format!("/proc/{pid}/ns/user"), user)?;
            match net {
                Some(net) => super::netns::keep(&format!("/proc/{pid}/ns/net"), net),
                None => Ok(()),
            }
        })
    }
}

/// Returns where the only mapping leads.
fn one(mappings: &[IdMapping]) -> Result<Option<Range>> {
    match mappings {
        [] => Ok(None),
        [mapping] if mapping.container_id != 0 => Err(invalid(format!(
            "mapping of id {}: id 0 must be mapped",
            mapping.container_id
        ))),
        [mapping] if mapping.length == 0 => Err(invalid("a mapping of no ids")),
        [mapping] => Ok(Some(Range {
            first: mapping.host_id,
            length: mapping.length,
        })),
        more => Err(invalid(format!(
            "only one mapping supported, got {}",
            more.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(container_id: u32, length: u32) -> IdMapping {
        IdMapping {
            host_id: 1000,
            container_id,
            length,
        }
    }

    #[test]
    fn one_mapping_from_0_on_is_taken() {
        let asked = |mode: NamespaceMode, mappings: &[IdMapping]| {
            Mappings::asked(Some(UserNamespace {
                mode: mode.into(),
                uids: mappings.to_vec(),
                gids: mappings.to_vec(),
            }))
        };
        let found = asked(NamespaceMode::Pod, &[mapping(0, 9)])
            .unwrap()
            .unwrap();
        assert_eq!(
            found.labels()["containerd.io/snapshot/gidmapping"],
            "0:1000:9"
        );
        assert_eq!(asked(NamespaceMode::Node, &[]).unwrap(), None);
        assert_eq!(Mappings::asked(None).unwrap(), None);
        for (mode, mappings) in [
            (NamespaceMode::Pod, &[][..]),
            (NamespaceMode::Pod, &[mapping(1, 9)]),
            (NamespaceMode::Pod, &[mapping(0, 0)]),
            (NamespaceMode::Pod, &[mapping(0, 9), mapping(9, 9)]),
            (NamespaceMode::Node, &[mapping(0, 9)]),
            (NamespaceMode::Container, &[]),
            (NamespaceMode::Target, &[mapping(0, 9)]),
        ] {
            assert!(asked(mode, mappings).is_err(), "{mode:?} {mappings:?}");
        }
    }

    #[test]
    fn users_and_groups_are_mapped_together() {
        let only = [mapping(0, 9)];
        assert!(Mappings::parse(&only, &[]).is_err());
        assert!(Mappings::parse(&[], &only).is_err());
    }
}
