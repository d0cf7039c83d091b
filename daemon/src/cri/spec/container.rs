//! The specification of a container in a pod.

use api_protos::oci;
use api_protos::runtime::v1::{
    ContainerConfig, LinuxContainerSecurityContext, NamespaceMode, PodSandboxConfig,
};
use serde_json::{Map, Value, json};

use super::mounts::{self, Bind};
use super::sandbox::host_network;
use super::user::User;
use super::{
    Host, ImageConfig, OCI_VERSION, Seccomp, annotations, capabilities, process, resources,
};
use crate::cri::config::{Config, Runtime};
use crate::cri::userns::Mappings;
use crate::error::{Result, invalid};

/// What a container is made of, everything that has to be read included.
#[derive(Debug)]
pub struct Container<'a> {
    pub id: &'a str,
    pub pod_id: &'a str,
    /// The first process of the sandbox, whose namespaces the pod shares.
    pub pod_pid: u32,
    /// Of the pod's user namespace, if it has one of its own.
    pub mappings: Option<Mappings>,
    /// The process whose PID namespace is joined.
    pub target_pid: u32,
    pub config: &'a ContainerConfig,
    pub pod: &'a PodSandboxConfig,
    pub image: &'a ImageConfig,
    pub image_name: &'a str,
    pub runtime: &'a Runtime,
    pub settings: &'a Config,
    pub host: &'a Host,
    pub user: User,
    pub binds: Vec<Bind>,
    pub devices: Vec<Value>,
    pub seccomp: Seccomp,
    pub apparmor: Option<String>,
}

/// Returns the part of a container's settings that says what it may do.
pub fn security(config: &ContainerConfig) -> LinuxContainerSecurityContext {
    let linux = config.linux.clone().unwrap_or_default();
    linux.security_context.unwrap_or_default()
}

impl Container<'_> {
    /// Returns the specification.
    pub fn spec(&self) -> Result<Value> {
        let security = security(self.config);
        let linux = self.pod.linux.clone().unwrap_or_default();
        let of_pod = linux.security_context.unwrap_or_default();
        if security.privileged && !of_pod.privileged {
            return Err(invalid("no privileged container allowed in sandbox"));
        }
        let name = self.config.metadata.clone().unwrap_or_default().name;
        let (pod, runtime) = (self.pod, self.runtime);
        let mut notes = annotations::passed_through(&pod.annotations, &runtime.pod_annotations);
        notes.extend(annotations::passed_through(
            &self.config.annotations,
            &runtime.container_annotations,
        ));
        let own = annotations::of_container(self.pod_id, &name, self.image_name, pod);
        notes.extend(own);
        let system = self.system_mounts(security.privileged);
        let mut spec = json!({
            "ociVersion": OCI_VERSION,
            "process": self.process(&security)?,
            "root": {"path": "rootfs", "readonly": security.readonly_rootfs},
            "mounts": mounts::compose(system, self.binds.clone())?,
            "annotations": notes,
            "linux": self.linux(&security, &linux.cgroup_parent),
        });
        if let Some(mappings) = self.mappings {
            mappings.write(&mut spec, &format!("/proc/{}/ns/user", self.pod_pid));
        }
        Ok(spec)
    }

    fn process(&self, security: &LinuxContainerSecurityContext) -> Result<Value> {
        let asked = security.capabilities.as_ref();
        let held = match security.privileged {
            true => self.host.capabilities.clone(),
            false => capabilities::apply(asked, &self.host.capabilities),
        };
        let hostname = match self.pod.hostname.as_str() {
            "" => &self.host.hostname,
            name => name,
        };
        let cwd = [&self.config.working_dir, &self.image.working_dir];
        let cwd = cwd.into_iter().find(|path| !path.is_empty());
        let linux = self.config.linux.clone().unwrap_or_default();
        let score = linux.resources.unwrap_or_default().oom_score_adj;
        let restricted = self.settings.restrict_oom_score_adj;
        let mut process = json!({
            "terminal": self.config.tty,
            "user": {
                "uid": self.user.uid,
                "gid": self.user.gid,
                "additionalGids": self.user.groups,
            },
            "args": process::args(self.config, self.image)?,
            "env": process::env(self.config, self.image, hostname),
            "cwd": cwd.map_or("/", |path| path.as_str()),
            "capabilities": {"bounding": held, "effective": held, "permitted": held},
            "noNewPrivileges": security.no_new_privs,
            "oomScoreAdj": super::oom_score_adj(score, restricted, self.host),
        });
        if let Some(profile) = self.apparmor.as_ref().filter(|_| !security.privileged) {
            process["apparmorProfile"] = profile.as_str().into();
        }
        Ok(process)
    }

    fn system_mounts(&self, privileged: bool) -> Vec<Value> {
        let mut system = mounts::system(privileged);
        if self.mappings.is_some() && host_network(self.pod) {
            system = mounts::with_hosts_sys(system, privileged);
        }
        system.push(mounts::cgroup(privileged || self.runtime.cgroup_writable));
        system
    }

    fn linux(&self, security: &LinuxContainerSecurityContext, parent: &str) -> Value {
        let mut linux = json!({
            "cgroupsPath": super::cgroups_path(parent, self.id),
            "namespaces": self.namespaces(security),
            "resources": self.resources(security),
            "devices": self.devices(security),
        });
        if !security.privileged {
            linux["maskedPaths"] = json!(security.masked_paths);
            linux["readonlyPaths"] = json!(security.readonly_paths);
            let asked = security.capabilities.as_ref();
            match &self.seccomp {
                Seccomp::Unconfined => {}
                Seccomp::Default => {
                    let held = capabilities::apply(asked, &self.host.capabilities);
                    linux["seccomp"] = oci::seccomp::default_profile(&held);
                }
                Seccomp::Given(profile) => linux["seccomp"] = profile.clone(),
            }
        }
        if let Some(propagation) = mounts::rootfs_propagation(&self.binds) {
            linux["rootfsPropagation"] = propagation.into();
        }
        linux
    }

    fn namespaces(&self, security: &LinuxContainerSecurityContext) -> Value {
        let of = |kind: &str, pid: u32| {
            let file = match kind {
                "network" => "net",
                kind => kind,
            };
            json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")})
        };
        let mut namespaces = vec![json!({"type": "mount"})];
        for kind in ["network", "ipc", "uts"] {
            namespaces.push(of(kind, self.pod_pid));
        }
        let options = security.namespace_options.clone().unwrap_or_default();
        match super::mode(options.pid) {
            NamespaceMode::Container => namespaces.push(json!({"type": "pid"})),
            // A pod in the node's namespace has a sandbox that is there too.
            _ => namespaces.push(of("pid", self.target_pid)),
        }
        if self.host.unified && !security.privileged {
            namespaces.push(json!({"type": "cgroup"}));
        }
        namespaces.into()
    }

    fn resources(&self, security: &LinuxContainerSecurityContext) -> Map<String, Value> {
        let linux = self.config.linux.clone().unwrap_or_default();
        let asked = linux.resources.unwrap_or_default();
        let huge_pages = !self.settings.disable_hugetlb;
        let mut limits = resources::limits(&asked, self.host, huge_pages);
        let all = match security.privileged {
            true => {
                !self.runtime.privileged_without_host_devices || self.runtime.all_devices_allowed
            }
            false => false,
        };
        let rules = match all {
            true => vec![json!({"allow": true, "access": "rwm"})],
            false => {
                let mut rules = vec![super::no_devices()];
                rules.extend(self.devices.iter().map(rule));
                rules
            }
        };
        limits.insert("devices".into(), rules.into());
        limits
    }

    fn devices(&self, security: &LinuxContainerSecurityContext) -> Vec<Value> {
        let mut devices: Vec<Value> = Vec::new();
        if security.privileged && !self.runtime.privileged_without_host_devices {
            devices.clone_from(&self.host.devices);
        }
        let own = |device: &Value| self.devices.iter().any(|own| own["path"] == device["path"]);
        devices.retain(|device| !own(device));
        devices.extend(self.devices.iter().map(|device| {
            let mut device = device.clone();
            if let Some(fields) = device.as_object_mut() {
                fields.remove("access");
            }
            device
        }));
        devices
    }
}

/// Returns the rule that lets a container use one of its devices.
fn rule(device: &Value) -> Value {
    oci::device_rule(device, device["access"].as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_protos::runtime::v1::{
        Capability, LinuxContainerConfig, LinuxPodSandboxConfig, LinuxSandboxSecurityContext,
        NamespaceOption,
    };

    /// Returns the specification of a container in a privileged pod.
    fn spec(
        security: LinuxContainerSecurityContext,
        change: impl FnOnce(&mut Container<'_>),
    ) -> Result<Value> {
        let pod = PodSandboxConfig {
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    privileged: true,
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        };
        spec_in(&pod, security, change)
    }

    fn spec_in(
        pod: &PodSandboxConfig,
        security: LinuxContainerSecurityContext,
        change: impl FnOnce(&mut Container<'_>),
    ) -> Result<Value> {
        let config = ContainerConfig {
            command: vec!["sh".into()],
            linux: Some(LinuxContainerConfig {
                security_context: Some(security),
                resources: None,
            }),
            ..ContainerConfig::default()
        };
        let (image, host, settings) = Default::default();
        let host = Host {
            capabilities: vec!["CAP_CHOWN".into(), "CAP_SYS_ADMIN".into()],
            devices: vec![json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 2})],
            ..host
        };
        let runtime = Runtime::default();
        let mut container = Container {
            id: "c1",
            pod_id: "p1",
            pod_pid: 7,
            mappings: None,
            target_pid: 7,
            config: &config,
            pod,
            image: &image,
            image_name: "img",
            runtime: &runtime,
            settings: &settings,
            host: &host,
            user: User::default(),
            binds: Vec::new(),
            devices: Vec::new(),
            seccomp: Seccomp::Default,
            apparmor: None,
        };
        change(&mut container);
        let spec = container.spec()?;
        // Whatever is made is a specification.
        let parsed: Result<oci_spec::runtime::Spec, _> = serde_json::from_value(spec.clone());
        parsed.unwrap();
        Ok(spec)
    }

    fn namespace(spec: &Value, kind: &str) -> Option<Value> {
        let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
        let found = namespaces
            .iter()
            .find(|namespace| namespace["type"] == kind);
        found.map(|namespace| namespace["path"].clone())
    }

    #[test]
    fn the_pods_namespaces_are_joined() {
        let plain = spec(LinuxContainerSecurityContext::default(), |_| {}).unwrap();
        assert_eq!(namespace(&plain, "network"), Some("/proc/7/ns/net".into()));
        assert_eq!(namespace(&plain, "ipc"), Some("/proc/7/ns/ipc".into()));
        assert_eq!(namespace(&plain, "uts"), Some("/proc/7/ns/uts".into()));
        assert_eq!(namespace(&plain, "mount"), Some(Value::Null));
        for (mode, target, wanted) in [
            (NamespaceMode::Pod, 7, Value::from("/proc/7/ns/pid")),
            (NamespaceMode::Target, 9, "/proc/9/ns/pid".into()),
            (NamespaceMode::Container, 7, Value::Null),
        ] {
            let security = LinuxContainerSecurityContext {
                namespace_options: Some(NamespaceOption {
                    pid: mode.into(),
                    ..NamespaceOption::default()
                }),
                ..LinuxContainerSecurityContext::default()
            };
            let spec = spec(security, |container| container.target_pid = target).unwrap();
            assert_eq!(namespace(&spec, "pid"), Some(wanted), "{mode:?}");
        }
    }

    #[test]
    fn privileged_containers_are_not_confined() {
        let security = LinuxContainerSecurityContext {
            privileged: true,
            masked_paths: vec!["/proc/kcore".into()],
            capabilities: Some(Capability::default()),
            ..LinuxContainerSecurityContext::default()
        };
        let spec = spec(security, |_| {}).unwrap();
        let linux = &spec["linux"];
        assert_eq!(linux["seccomp"], Value::Null);
        assert_eq!(linux["maskedPaths"], Value::Null);
        assert_eq!(linux["devices"][0]["path"], "/dev/x");
        assert_eq!(
            linux["resources"]["devices"],
            json!([{"allow": true, "access": "rwm"}])
        );
        let held = &spec["process"]["capabilities"]["bounding"];
        assert_eq!(held, &json!(["CAP_CHOWN", "CAP_SYS_ADMIN"]));
        let sys = &spec["mounts"][4];
        assert_eq!(sys["options"][3], "rw");
    }

    #[test]
    fn a_privileged_container_needs_a_privileged_pod() {
        let security = LinuxContainerSecurityContext {
            privileged: true,
            ..LinuxContainerSecurityContext::default()
        };
        let pod = PodSandboxConfig::default();
        assert!(spec_in(&pod, security, |_| {}).is_err());
    }

    #[test]
    fn other_containers_are_confined() {
        let security = LinuxContainerSecurityContext {
            masked_paths: vec!["/proc/kcore".into()],
            readonly_rootfs: true,
            no_new_privs: true,
            ..LinuxContainerSecurityContext::default()
        };
        let device = json!({"path": "/dev/y", "type": "c", "major": 3, "minor": 4, "access": "rw"});
        let spec = spec(security, |container| container.devices = vec![device]).unwrap();
        let linux = &spec["linux"];
        assert_eq!(linux["maskedPaths"], json!(["/proc/kcore"]));
        assert_eq!(linux["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
        assert_eq!(
            linux["resources"]["devices"],
            json!([
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 3, "minor": 4, "access": "rw"},
            ])
        );
        assert_eq!(
            linux["devices"],
            json!([{"path": "/dev/y", "type": "c", "major": 3, "minor": 4}])
        );
        assert_eq!(spec["root"]["readonly"], true);
        assert_eq!(spec["process"]["noNewPrivileges"], true);
    }
}
