//! Pods and containers as plugins see them, and limits in both languages.

use std::collections::HashMap;

use api_protos::nri::pkg::api::v1alpha1::{
    CdiDevice, Container as Described, ContainerState, Hook, Hooks, HugepageLimit, Image,
    LinuxContainer, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxMemory, LinuxNamespace,
    LinuxNetDevice, LinuxPids, LinuxPodSandbox, LinuxRdt, LinuxResources, Mount, OptionalBool,
    OptionalFileMode, OptionalInt, OptionalInt64, OptionalRepeatedString, OptionalString,
    OptionalUInt32, OptionalUInt64, PodSandbox, PosixRlimit, SecurityProfile, User,
};
use api_protos::runtime::v1::{ContainerConfig, HugepageLimit as Asked, LinuxContainerResources};
use serde_json::Value;

use crate::blocking::blocking;
use crate::cri::Cri;
use crate::cri::state::State;
use crate::cri::store::{Container, Pod};
use crate::labels::Labels;
use crate::metadata;
use crate::tasks::Exit;

/// Returns all pods, and the containers that have not ended.
pub async fn all(cri: &Cri) -> (Vec<PodSandbox>, Vec<Described>) {
    let mut pods = Vec::new();
    for of_store in cri.store.pods() {
        pods.push(pod(cri, &of_store).await);
    }
    let mut containers = Vec::new();
    for of_store in cri.store.containers() {
        if of_store.state().end().is_none() {
            containers.push(container(cri, &of_store, None).await);
        }
    }
    (pods, containers)
}

/// Returns a pod.
pub async fn pod(cri: &Cri, pod: &Pod) -> PodSandbox {
    let record = pod.record();
    let config = record.config.unwrap_or_default();
    let metadata = config.metadata.unwrap_or_default();
    let stored = stored(cri, &pod.id).await;
    let spec = stored.as_ref().map(spec_of).unwrap_or_default();
    let linux = config.linux.unwrap_or_default();
    let labels = stored.map(|stored| stored.labels).unwrap_or_default();
    PodSandbox {
        id: pod.id.clone(),
        name: metadata.name,
        uid: metadata.uid,
        namespace: metadata.namespace,
        labels: together(config.labels, labels),
        annotations: together(config.annotations, texts(&spec["annotations"])),
        runtime_handler: record.handler,
        linux: Some(LinuxPodSandbox {
            pod_overhead: linux.overhead.as_ref().map(limits),
            pod_resources: linux.resources.as_ref().map(limits),
            cgroup_parent: linux.cgroup_parent,
            cgroups_path: text(&spec["linux"]["cgroupsPath"]),
            namespaces: namespaces(&spec),
            resources: resources(&spec["linux"]["resources"]),
        }),
        pid: record.pid,
        ips: record.ips,
    }
}

/// Returns the pod of a container; of one that is not there any more, no more than its id is known.
pub async fn pod_of(cri: &Cri, container: &Container) -> PodSandbox {
    match cri.store.pod(&container.record.pod) {
        Ok(of_store) => pod(cri, &of_store).await,
        Err(_) => PodSandbox {
            id: container.record.pod.clone(),
            ..PodSandbox::default()
        },
    }
}

/// Returns a container; `exit` is how it has ended if that is not written down yet.
pub async fn container(cri: &Cri, container: &Container, exit: Option<&Exit>) -> Described {
    let stored = stored(cri, &container.id).await.unwrap_or_default();
    let mut described = new(&container.id, &container.record.pod, &container.config());
    described.labels = together(described.labels, stored.labels.clone());
    add_spec(&mut described, &spec_of(&stored));
    described.image = Some(image(
        stored.image,
        &container.record.image_ref,
        &container.record.image,
    ));
    described.created_at = container.record.created_at;
    let state = container.state();
    described.started_at = state.started_at();
    described.pid = state.pid().unwrap_or(0);
    let mut phase = match &state {
        State::Created | State::Starting => ContainerState::ContainerCreated,
        State::Running { .. } => ContainerState::ContainerRunning,
        State::Exited { .. } => ContainerState::ContainerStopped,
    };
    if let Some(end) = state.end() {
        described.finished_at = end.finished_at;
        described.exit_code = end.exit_code;
        described.status_reason.clone_from(&end.reason);
        described.status_message.clone_from(&end.message);
    }
    if let Some(exit) = exit {
        phase = ContainerState::ContainerStopped;
        described.finished_at = exit.at.seconds * 1_000_000_000 + i64::from(exit.at.nanos);
        described.exit_code = exit.status as i32;
    }
    described.set_state(phase);
    described
}

/// Returns what the settings of a container say.
pub fn new(id: &str, pod: &str, config: &ContainerConfig) -> Described {
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let devices = config.cdi_devices.iter();
    let devices = devices.map(|device| CdiDevice {
        name: device.name.clone(),
    });
    let metadata = config.metadata.clone().unwrap_or_default();
    Described {
        id: id.to_owned(),
        pod_sandbox_id: pod.to_owned(),
        name: metadata.name,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        cdi_devices: devices.collect(),
        linux: Some(LinuxContainer {
            seccomp_profile: security.seccomp.map(|profile| SecurityProfile {
                profile_type: profile.profile_type,
                localhost_ref: profile.localhost_ref,
            }),
            ..LinuxContainer::default()
        }),
        ..Described::default()
    }
}

/// Returns an image by its name, the digest that it was pulled by, and its id.
pub fn image(name: String, pulled: &str, id: &str) -> Image {
    let digest = pulled.split_once('@').map_or("", |(_, digest)| digest);
    Image {
        name,
        digest: digest.to_owned(),
        config_digest: id.to_owned(),
    }
}

/// Adds what a container's specification says.
pub fn add_spec(container: &mut Described, spec: &Value) {
    let (process, linux) = (&spec["process"], &spec["linux"]);
    let annotations = texts(&spec["annotations"]);
    for (key, value) in annotations {
        container.annotations.entry(key).or_insert(value);
    }
    container.args = words(&process["args"]);
    container.env = words(&process["env"]);
    container.mounts = each(&spec["mounts"], |mount| Mount {
        destination: text(&mount["destination"]),
        r#type: text(&mount["type"]),
        source: text(&mount["source"]),
        options: words(&mount["options"]),
    });
    container.hooks = hooks(&spec["hooks"]);
    container.rlimits = each(&process["rlimits"], |limit| PosixRlimit {
        r#type: text(&limit["type"]),
        hard: limit["hard"].as_u64().unwrap_or_default(),
        soft: limit["soft"].as_u64().unwrap_or_default(),
    });
    let user = &process["user"];
    let id = |value: &Value| u32::try_from(value.as_u64().unwrap_or_default()).unwrap_or_default();
    container.user = Some(User {
        uid: id(&user["uid"]),
        gid: id(&user["gid"]),
        additional_gids: each(&user["additionalGids"], id),
    });
    let of_container = container.linux.get_or_insert_default();
    of_container.namespaces = namespaces(spec);
    of_container.devices = each(&linux["devices"], device);
    of_container.resources = resources(&linux["resources"]);
    let score = process["oomScoreAdj"].as_i64();
    of_container.oom_score_adj = score.map(|value| OptionalInt { value });
    of_container.cgroups_path = text(&linux["cgroupsPath"]);
    of_container.sysctl = texts(&linux["sysctl"]).into_iter().collect();
    let devices = linux["netDevices"].as_object().into_iter().flatten();
    let devices = devices.map(|(host, device)| {
        let name = text(&device["name"]);
        (host.clone(), LinuxNetDevice { name })
    });
    of_container.net_devices = devices.collect();
    let rdt = linux.get("intelRdt").filter(|rdt| rdt.is_object());
    of_container.rdt = rdt.map(|rdt| LinuxRdt {
        clos_id: Some(OptionalString {
            value: text(&rdt["closID"]),
        }),
        schemata: Some(OptionalRepeatedString {
            value: words(&rdt["schemata"]),
        }),
        enable_monitoring: Some(OptionalBool {
            value: rdt["enableMonitoring"] == true,
        }),
        remove: false,
    });
}

/// Returns limits as CRI has them in the plugins' language.
pub fn limits(asked: &LinuxContainerResources) -> LinuxResources {
    let unsigned = |value: i64| {
        let value = u64::try_from(value).unwrap_or_default();
        Some(OptionalUInt64 { value })
    };
    let signed = |value: i64| Some(OptionalInt64 { value });
    let pages = asked.hugepage_limits.iter();
    LinuxResources {
        cpu: Some(LinuxCpu {
            shares: unsigned(asked.cpu_shares),
            quota: signed(asked.cpu_quota),
            period: unsigned(asked.cpu_period),
            cpus: asked.cpuset_cpus.clone(),
            mems: asked.cpuset_mems.clone(),
            ..LinuxCpu::default()
        }),
        memory: Some(LinuxMemory {
            limit: signed(asked.memory_limit_in_bytes),
            ..LinuxMemory::default()
        }),
        hugepage_limits: pages
            .map(|pages| HugepageLimit {
                page_size: pages.page_size.clone(),
                limit: pages.limit,
            })
            .collect(),
        unified: asked.unified.clone(),
        ..LinuxResources::default()
    }
}

/// Returns limits as plugins have them in CRI's language.
pub fn asked(limits: &LinuxResources) -> LinuxContainerResources {
    let cpu = limits.cpu.clone().unwrap_or_default();
    let memory = limits.memory.unwrap_or_default();
    let signed = |value: Option<OptionalInt64>| value.map_or(0, |value| value.value);
    let unsigned = |value: Option<OptionalUInt64>| {
        value.map_or(0, |value| i64::try_from(value.value).unwrap_or(i64::MAX))
    };
    let pages = limits.hugepage_limits.iter();
    LinuxContainerResources {
        cpu_period: unsigned(cpu.period),
        cpu_quota: signed(cpu.quota),
        cpu_shares: unsigned(cpu.shares),
        cpuset_cpus: cpu.cpus,
        cpuset_mems: cpu.mems,
        memory_limit_in_bytes: signed(memory.limit),
        hugepage_limits: pages
            .map(|pages| Asked {
                page_size: pages.page_size.clone(),
                limit: pages.limit,
            })
            .collect(),
        unified: limits.unified.clone(),
        ..LinuxContainerResources::default()
    }
}

/// Returns the limits that a specification has, in CRI's language.
pub fn asked_by(spec: &Value) -> LinuxContainerResources {
    let limits = resources(&spec["linux"]["resources"]);
    asked(&limits.unwrap_or_default())
}

async fn stored(cri: &Cri, id: &str) -> Option<metadata::Container> {
    let (containers, context) = (cri.parts.containers.clone(), cri.store.context.clone());
    let id = id.to_owned();
    // Of what is being removed the record may be gone.
    blocking(move || containers.get(&context, &id)).await.ok()
}

fn spec_of(stored: &metadata::Container) -> Value {
    let spec = stored.spec.as_ref().map(|spec| spec.value.as_slice());
    serde_json::from_slice(spec.unwrap_or_default()).unwrap_or_default()
}

fn together(mut own: HashMap<String, String>, others: Labels) -> HashMap<String, String> {
    own.extend(others);
    own
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Labels {
    let entries = value.as_object().into_iter().flatten();
    entries
        .map(|(key, value)| (key.clone(), text(value)))
        .collect()
}

fn words(value: &Value) -> Vec<String> {
    each(value, text)
}

fn each<T>(value: &Value, of: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().into_iter().flatten().map(of).collect()
}

fn namespaces(spec: &Value) -> Vec<LinuxNamespace> {
    each(&spec["linux"]["namespaces"], |namespace| LinuxNamespace {
        r#type: text(&namespace["type"]),
        path: text(&namespace["path"]),
    })
}

fn hooks(value: &Value) -> Option<Hooks> {
    let of = |kind: &str| {
        each(&value[kind], |hook| Hook {
            path: text(&hook["path"]),
            args: words(&hook["args"]),
            env: words(&hook["env"]),
            timeout: hook["timeout"].as_i64().map(|value| OptionalInt { value }),
        })
    };
    value.is_object().then(|| Hooks {
        prestart: of("prestart"),
        create_runtime: of("createRuntime"),
        create_container: of("createContainer"),
        start_container: of("startContainer"),
        poststart: of("poststart"),
        poststop: of("poststop"),
    })
}

fn device(value: &Value) -> LinuxDevice {
    let id = |key: &str| {
        let value = u32::try_from(value[key].as_u64()?).ok()?;
        Some(OptionalUInt32 { value })
    };
    let mode = value["fileMode"].as_u64();
    let mode = mode.and_then(|mode| u32::try_from(mode).ok());
    LinuxDevice {
        path: text(&value["path"]),
        r#type: text(&value["type"]),
        major: value["major"].as_i64().unwrap_or_default(),
        minor: value["minor"].as_i64().unwrap_or_default(),
        file_mode: mode.map(|value| OptionalFileMode { value }),
        uid: id("uid"),
        gid: id("gid"),
    }
}

fn resources(value: &Value) -> Option<LinuxResources> {
    if !value.is_object() {
        return None;
    }
    let signed = |value: &Value| value.as_i64().map(|value| OptionalInt64 { value });
    let unsigned = |value: &Value| value.as_u64().map(|value| OptionalUInt64 { value });
    let truth = |value: &Value| value.as_bool().map(|value| OptionalBool { value });
    let (memory, cpu) = (&value["memory"], &value["cpu"]);
    Some(LinuxResources {
        memory: memory.is_object().then(|| LinuxMemory {
            limit: signed(&memory["limit"]),
            reservation: signed(&memory["reservation"]),
            swap: signed(&memory["swap"]),
            kernel: signed(&memory["kernel"]),
            kernel_tcp: signed(&memory["kernelTCP"]),
            swappiness: unsigned(&memory["swappiness"]),
            disable_oom_killer: truth(&memory["disableOOMKiller"]),
            use_hierarchy: truth(&memory["useHierarchy"]),
        }),
        cpu: cpu.is_object().then(|| LinuxCpu {
            shares: unsigned(&cpu["shares"]),
            quota: signed(&cpu["quota"]),
            period: unsigned(&cpu["period"]),
            realtime_runtime: signed(&cpu["realtimeRuntime"]),
            realtime_period: unsigned(&cpu["realtimePeriod"]),
            cpus: text(&cpu["cpus"]),
            mems: text(&cpu["mems"]),
        }),
        hugepage_limits: each(&value["hugepageLimits"], |pages| HugepageLimit {
            page_size: text(&pages["pageSize"]),
            limit: pages["limit"].as_u64().unwrap_or_default(),
        }),
        unified: texts(&value["unified"]).into_iter().collect(),
        devices: each(&value["devices"], |rule| LinuxDeviceCgroup {
            allow: rule["allow"] == true,
            r#type: text(&rule["type"]),
            major: signed(&rule["major"]),
            minor: signed(&rule["minor"]),
            access: text(&rule["access"]),
        }),
        pids: value["pids"].is_object().then(|| LinuxPids {
            limit: value["pids"]["limit"].as_i64().unwrap_or_default(),
        }),
        ..LinuxResources::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_specification_is_told_as_it_is() {
        let spec = json!({
            "annotations": {"a": "b"},
            "process": {
                "args": ["sh"], "env": ["A=1"], "oomScoreAdj": -5,
                "user": {"uid": 1, "gid": 2, "additionalGids": [3]},
                "rlimits": [{"type": "RLIMIT_CORE", "hard": 2, "soft": 1}],
            },
            "mounts": [{"destination": "/d", "type": "bind", "source": "/s", "options": ["ro"]}],
            "hooks": {"poststop": [{"path": "/h", "timeout": 3}]},
            "linux": {
                "cgroupsPath": "/c",
                "namespaces": [{"type": "pid"}, {"type": "network", "path": "/n"}],
                "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 2, "uid": 0}],
                "resources": {"memory": {"limit": 5}, "cpu": {"shares": 6}, "pids": {"limit": 7}},
            },
        });
        let mut told = Described::default();
        add_spec(&mut told, &spec);
        assert_eq!((told.args[0].as_str(), told.env[0].as_str()), ("sh", "A=1"));
        assert_eq!(told.mounts[0].options, ["ro"]);
        assert_eq!(told.rlimits[0].soft, 1);
        assert_eq!(told.user.unwrap().additional_gids, [3]);
        let hook = told.hooks.unwrap().poststop[0].clone();
        assert_eq!(hook.timeout.unwrap().value, 3);
        let linux = told.linux.unwrap();
        assert_eq!(linux.namespaces[1].path, "/n");
        assert_eq!(linux.devices[0].uid.unwrap().value, 0);
        assert_eq!(linux.devices[0].gid, None);
        assert_eq!(linux.oom_score_adj.unwrap().value, -5);
        let resources = linux.resources.unwrap();
        assert_eq!(resources.memory.unwrap().limit.unwrap().value, 5);
        assert_eq!(resources.cpu.unwrap().shares.unwrap().value, 6);
        assert_eq!(resources.pids.unwrap().limit, 7);
    }

    #[test]
    fn limits_are_the_same_in_both_languages() {
        let wanted = LinuxContainerResources {
            cpu_period: 1,
            cpu_quota: -1,
            cpu_shares: 3,
            memory_limit_in_bytes: 4,
            cpuset_cpus: "0".into(),
            cpuset_mems: "1".into(),
            unified: [("memory.high".to_owned(), "5".to_owned())].into(),
            ..LinuxContainerResources::default()
        };
        assert_eq!(asked(&limits(&wanted)), wanted);
    }
}
