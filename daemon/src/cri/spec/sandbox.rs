//! The specification of a pod's sandbox: the container that holds the pod's namespaces.

use std::collections::BTreeMap;

use api_protos::oci;
use api_protos::runtime::v1::{NamespaceMode, PodSandboxConfig};
use serde_json::{Value, json};

use super::mounts::{self, Bind};
use super::user::User;
use super::{Host, ImageConfig, OCI_VERSION, Seccomp, annotations, capabilities};
use crate::cri::config::{Config, Runtime};
use crate::cri::userns::Mappings;
use crate::error::{Result, invalid};

/// The score of sandboxes: they are small, and the pod dies with them.
const OOM_SCORE: i64 = -998;
/// The share of the processor that something gets which does nothing.
const SHARES: u64 = 2;

/// What a sandbox is made of.
#[derive(Debug)]
pub struct Sandbox<'a> {
    pub id: &'a str,
    pub config: &'a PodSandboxConfig,
    pub image: &'a ImageConfig,
    pub image_name: &'a str,
    pub runtime: &'a Runtime,
    pub settings: &'a Config,
    pub host: &'a Host,
    pub user: User,
    /// Empty for the node's network.
    pub netns: &'a str,
    /// The user namespace and the file that it is mounted on, if the pod has one of its own.
    pub userns: Option<(Mappings, &'a str)>,
    pub shm: &'a str,
    pub resolv: &'a str,
    pub seccomp: Seccomp,
}

/// Returns how a pod shares a kind of namespace.
pub fn namespace_mode(
    config: &PodSandboxConfig,
    of: impl Fn(&api_protos::runtime::v1::NamespaceOption) -> i32,
) -> NamespaceMode {
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    super::mode(of(&security.namespace_options.unwrap_or_default()))
}

/// Returns whether a pod has the node's network.
pub fn host_network(config: &PodSandboxConfig) -> bool {
    namespace_mode(config, |options| options.network) == NamespaceMode::Node
}

impl Sandbox<'_> {
    /// Returns the specification.
    pub fn spec(&self) -> Result<Value> {
        let mut args = self.image.entrypoint.clone();
        args.extend(self.image.cmd.clone());
        if args.is_empty() {
            return Err(invalid("invalid empty entrypoint and cmd in image config"));
        }
        let mut notes =
            annotations::passed_through(&self.config.annotations, &self.runtime.pod_annotations);
        let own = annotations::of_sandbox(self.id, self.image_name, self.config);
        notes.extend(own);
        let held = capabilities::default();
        let restricted = self.settings.restrict_oom_score_adj;
        let cwd = match self.image.working_dir.as_str() {
            "" => "/",
            path => path,
        };
        let mut resolv = Bind::new(self.resolv, "/etc/resolv.conf", true);
        let mut system = mounts::system(false);
        if let Some((mappings, _)) = self.userns {
            [resolv.uid_mappings, resolv.gid_mappings] = mappings.cri();
            if host_network(self.config) {
                system = mounts::with_hosts_sys(system, false);
            }
        }
        let binds = vec![Bind::new(self.shm, "/dev/shm", true), resolv];
        let mut spec = json!({
            "ociVersion": OCI_VERSION,
            "process": {
                "user": {
                    "uid": self.user.uid,
                    "gid": self.user.gid,
                    "additionalGids": self.user.groups,
                },
                "args": args,
                "env": self.env(),
                "cwd": cwd,
                "capabilities": {"bounding": held, "effective": held, "permitted": held},
                "noNewPrivileges": true,
                "oomScoreAdj": super::oom_score_adj(OOM_SCORE, restricted, self.host),
            },
            "root": {"path": "rootfs", "readonly": true},
            "mounts": mounts::compose(system, binds)?,
            "annotations": notes,
            "linux": self.linux(&held),
        });
        if !host_network(self.config) && !self.config.hostname.is_empty() {
            spec["hostname"] = self.config.hostname.as_str().into();
        }
        if let Some((mappings, path)) = self.userns {
            mappings.write(&mut spec, path);
        }
        Ok(spec)
    }

    fn env(&self) -> Vec<String> {
        let mut env =
            vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
        env.extend(self.image.env.clone());
        env
    }

    fn linux(&self, held: &[String]) -> Value {
        let linux = self.config.linux.clone().unwrap_or_default();
        let mut spec = json!({
            "cgroupsPath": super::cgroups_path(&linux.cgroup_parent, self.id),
            "namespaces": self.namespaces(),
            "sysctl": self.sysctls(),
            "resources": {"devices": [super::no_devices()], "cpu": {"shares": SHARES}},
            "maskedPaths": oci::MASKED_PATHS,
            "readonlyPaths": oci::READONLY_PATHS,
        });
        match &self.seccomp {
            Seccomp::Unconfined => {}
            Seccomp::Default => spec["seccomp"] = oci::seccomp::default_profile(held),
            Seccomp::Given(profile) => spec["seccomp"] = profile.clone(),
        }
        spec
    }

    fn namespaces(&self) -> Vec<Value> {
        let node = |of: fn(&api_protos::runtime::v1::NamespaceOption) -> i32| {
            namespace_mode(self.config, of) == NamespaceMode::Node
        };
        let mut namespaces = vec![json!({"type": "mount"})];
        if !node(|options| options.network) {
            namespaces.push(json!({"type": "network", "path": self.netns}));
            namespaces.push(json!({"type": "uts"}));
        }
        if !node(|options| options.pid) {
            namespaces.push(json!({"type": "pid"}));
        }
        if !node(|options| options.ipc) {
            namespaces.push(json!({"type": "ipc"}));
        }
        namespaces
    }

    fn sysctls(&self) -> BTreeMap<String, String> {
        let linux = self.config.linux.clone().unwrap_or_default();
        let mut sysctls: BTreeMap<String, String> = linux.sysctls.into_iter().collect();
        if !host_network(self.config) {
            for (wanted, key, value) in [
                (
                    self.settings.unprivileged_ports,
                    "net.ipv4.ip_unprivileged_port_start",
                    "0",
                ),
                (
                    // Groups that the namespace does not have cannot be named.
                    self.settings.unprivileged_icmp && self.userns.is_none(),
                    "net.ipv4.ping_group_range",
                    "0 2147483647",
                ),
            ] {
                if wanted {
                    sysctls.entry(key.into()).or_insert_with(|| value.into());
                }
            }
        }
        sysctls
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_protos::runtime::v1::{
        LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceOption,
    };

    fn spec(options: NamespaceOption, sysctls: &[(&str, &str)]) -> Value {
        let config = PodSandboxConfig {
            hostname: "h".into(),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..LinuxSandboxSecurityContext::default()
                }),
                sysctls: sysctls
                    .iter()
                    .map(|(key, value)| ((*key).into(), (*value).into()))
                    .collect(),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        };
        let image = ImageConfig {
            entrypoint: vec!["/pause".into()],
            ..ImageConfig::default()
        };
        let (runtime, settings, host) = Default::default();
        let sandbox = Sandbox {
            id: "p1",
            config: &config,
            image: &image,
            image_name: "pause",
            runtime: &runtime,
            settings: &settings,
            host: &host,
            user: User::default(),
            netns: "/n",
            userns: None,
            shm: "/s",
            resolv: "/r",
            seccomp: Seccomp::Default,
        };
        let spec = sandbox.spec().unwrap();
        let parsed: Result<oci_spec::runtime::Spec, _> = serde_json::from_value(spec.clone());
        parsed.unwrap();
        spec
    }

    fn kinds(spec: &Value) -> Vec<&str> {
        let namespaces = spec["linux"]["namespaces"].as_array().unwrap().iter();
        namespaces
            .map(|namespace| namespace["type"].as_str().unwrap())
            .collect()
    }

    #[test]
    fn a_pod_has_the_namespaces_that_are_not_the_nodes() {
        let node = i32::from(NamespaceMode::Node);
        let pod = spec(NamespaceOption::default(), &[]);
        assert_eq!(kinds(&pod), ["mount", "network", "uts", "pid", "ipc"]);
        assert_eq!(pod["hostname"], "h");
        let host = spec(
            NamespaceOption {
                network: node,
                pid: node,
                ipc: node,
                ..NamespaceOption::default()
            },
            &[],
        );
        assert_eq!(kinds(&host), ["mount"]);
        assert_eq!(host["hostname"], Value::Null);
        assert_eq!(host["linux"]["sysctl"], json!({}));
    }

    #[test]
    fn the_pods_own_sysctls_win() {
        let key = "net.ipv4.ip_unprivileged_port_start";
        let spec = spec(NamespaceOption::default(), &[(key, "80")]);
        let sysctls = &spec["linux"]["sysctl"];
        assert_eq!(sysctls[key], "80");
        assert_eq!(sysctls["net.ipv4.ping_group_range"], "0 2147483647");
    }
}
