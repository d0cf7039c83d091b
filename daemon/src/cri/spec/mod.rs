//! From what CRI says of pods and containers to OCI specifications: pure, everything that is read is read before.

pub mod annotations;
pub mod capabilities;
pub mod container;
pub mod mounts;
pub mod process;
pub mod resources;
pub mod sandbox;
pub mod user;

use serde::Deserialize;
use serde_json::{Value, json};

use api_protos::runtime::v1::NamespaceMode;

/// The version of the specification that is written.
const OCI_VERSION: &str = "1.2.0";

/// What an image's configuration says of the processes that are run from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    pub user: String,
    #[serde(deserialize_with = "or_none")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "or_none")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_none")]
    pub cmd: Vec<String>,
    #[serde(deserialize_with = "or_none")]
    pub volumes: std::collections::BTreeMap<String, Value>,
    pub working_dir: String,
    #[serde(deserialize_with = "or_none")]
    pub labels: crate::labels::Labels,
    pub stop_signal: String,
}

/// Old images have `null` where they have nothing.
fn or_none<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What matters of the machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    pub hostname: String,
    /// Whether control groups are those of version 2.
    pub unified: bool,
    /// Whether swap can be limited.
    pub swap: bool,
    /// The daemon's own score: nothing may have a lower one if that is restricted.
    pub oom_score_adj: i64,
    /// What a privileged container is given.
    pub capabilities: Vec<String>,
    /// The device nodes under `/dev`, as the specification has them.
    pub devices: Vec<Value>,
}

/// Which profile of system calls a process gets.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Seccomp {
    #[default]
    Unconfined,
    Default,
    /// What a file says.
    Given(Value),
}

/// Returns the value of a namespace mode; what is none counts as the pod's.
pub fn mode(number: i32) -> NamespaceMode {
    NamespaceMode::try_from(number).unwrap_or_default()
}

/// Returns where a container's control group is: under `parent`, or among the namespace's if that is empty.
pub fn cgroups_path(parent: &str, id: &str) -> String {
    let name = parent.rsplit('/').next().unwrap_or_default();
    match parent {
        "" => format!("/k8s.io/{id}"),
        // The systemd driver takes slice, prefix and name.
        _ if name.ends_with(".slice") => format!("{name}:cri-containerd:{id}"),
        _ => format!("{}/{id}", parent.trim_end_matches('/')),
    }
}

/// Returns the score under which a process is killed when memory is short.
fn oom_score_adj(wanted: i64, restricted: bool, host: &Host) -> i64 {
    match restricted {
        true => wanted.max(host.oom_score_adj),
        false => wanted,
    }
}

/// Returns the rule that forbids all devices, from which every list of rules starts.
fn no_devices() -> Value {
    json!({"allow": false, "access": "rwm"})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_are_named_for_either_driver() {
        for (parent, path) in [
            ("", "/k8s.io/c1"),
            ("/kubepods/pod1", "/kubepods/pod1/c1"),
            ("/kubepods/pod1/", "/kubepods/pod1/c1"),
            (
                "/kubepods.slice/kubepods-pod1.slice",
                "kubepods-pod1.slice:cri-containerd:c1",
            ),
        ] {
            assert_eq!(cgroups_path(parent, "c1"), path, "{parent}");
        }
    }

    #[test]
    fn images_may_say_nothing() {
        let config: ImageConfig =
            serde_json::from_str(r#"{"Env":null,"Cmd":["a"],"Volumes":null,"Other":1}"#).unwrap();
        assert_eq!(config.cmd, ["a"]);
        assert!(config.env.is_empty());
    }

    #[test]
    fn a_score_is_not_lower_than_the_daemons_if_that_is_restricted() {
        let host = Host {
            oom_score_adj: 100,
            ..Host::default()
        };
        assert_eq!(oom_score_adj(-998, false, &host), -998);
        assert_eq!(oom_score_adj(-998, true, &host), 100);
        assert_eq!(oom_score_adj(500, true, &host), 500);
    }
}
