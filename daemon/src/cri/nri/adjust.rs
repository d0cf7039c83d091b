//! A specification with what plugins want of it: pure.
//!
//! A `-` before the key of something says that it is to be removed; what is removed and set anew is set.

use std::collections::BTreeMap;

use api_protos::nri::pkg::api::v1alpha1::{
    ContainerAdjustment, Hook, IoPrioClass, LinuxContainerAdjustment, LinuxDevice,
    LinuxMemoryPolicy, LinuxRdt, LinuxResources, LinuxScheduler, LinuxSeccomp, MpolFlag, MpolMode,
};
use api_protos::oci::{device_rule, list, sort_mounts};
use serde_json::{Map, Value, json};

use crate::error::{Error, Kind, Result};

/// Changes what is run, and the hooks.
pub fn process(wanted: &ContainerAdjustment, spec: &mut Value) {
    let annotations = wanted.annotations.iter();
    set_entries(
        &mut spec["annotations"],
        annotations.map(|(key, value)| (key, json!(value))),
    );
    env(wanted, spec);
    if !wanted.args.is_empty() {
        spec["process"]["args"] = json!(wanted.args);
    }
    if let Some(hooks) = &wanted.hooks {
        for (kind, hooks) in [
            ("prestart", &hooks.prestart),
            ("createRuntime", &hooks.create_runtime),
            ("createContainer", &hooks.create_container),
            ("startContainer", &hooks.start_container),
            ("poststart", &hooks.poststart),
            ("poststop", &hooks.poststop),
        ] {
            if !hooks.is_empty() {
                list(&mut spec["hooks"][kind]).extend(hooks.iter().map(hook));
            }
        }
    }
}

/// Changes everything else.
pub fn rest(wanted: &ContainerAdjustment, spec: &mut Value, huge_pages: bool) -> Result<()> {
    if let Some(linux) = &wanted.linux {
        self::linux(linux, spec, huge_pages)?;
    }
    mounts(wanted, spec);
    for limit in &wanted.rlimits {
        let limits = list(&mut spec["process"]["rlimits"]);
        limits.retain(|other| other["type"] != limit.r#type.as_str());
        limits.push(json!({"type": limit.r#type, "hard": limit.hard, "soft": limit.soft}));
    }
    Ok(())
}

/// Returns the key that is marked to be removed.
fn removed(key: &str) -> Option<&str> {
    key.strip_prefix('-')
}

fn set_entries<'a>(into: &mut Value, wanted: impl Iterator<Item = (&'a String, Value)>) {
    // What is marked comes first: `-` is less than a letter.
    let wanted: BTreeMap<&String, Value> = wanted.collect();
    let (marked, set): (Vec<_>, Vec<_>) = {
        let wanted = wanted.into_iter();
        wanted.partition(|(key, _)| removed(key).is_some())
    };
    for (key, _) in marked {
        if let (Some(entries), Some(key)) = (into.as_object_mut(), removed(key)) {
            entries.remove(key);
        }
    }
    for (key, value) in set {
        into[key.as_str()] = value;
    }
}

/// Sets and removes variables: those that are there keep their places.
fn env(wanted: &ContainerAdjustment, spec: &mut Value) {
    if wanted.env.is_empty() {
        return;
    }
    let env = list(&mut spec["process"]["env"]);
    let name = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        text.split('=').next().unwrap_or_default().to_owned()
    };
    let set = |key: &str| wanted.env.iter().any(|variable| variable.key == key);
    for variable in &wanted.env {
        match removed(&variable.key) {
            Some(key) if !set(key) => env.retain(|other| name(other) != key),
            Some(_) => {}
            None => {
                let text = json!(format!("{}={}", variable.key, variable.value));
                match env.iter_mut().find(|other| name(other) == variable.key) {
                    Some(other) => *other = text,
                    None => env.push(text),
                }
            }
        }
    }
}

fn hook(hook: &Hook) -> Value {
    let mut entry = json!({"path": hook.path});
    for (key, texts) in [("args", &hook.args), ("env", &hook.env)] {
        if !texts.is_empty() {
            entry[key] = json!(texts);
        }
    }
    if let Some(timeout) = &hook.timeout {
        entry["timeout"] = json!(timeout.value);
    }
    entry
}

fn linux(wanted: &LinuxContainerAdjustment, spec: &mut Value, huge_pages: bool) -> Result<()> {
    for device in &wanted.devices {
        self::device(device, &mut spec["linux"]);
    }
    if !wanted.cgroups_path.is_empty() {
        spec["linux"]["cgroupsPath"] = json!(wanted.cgroups_path);
    }
    if let Some(score) = &wanted.oom_score_adj {
        spec["process"]["oomScoreAdj"] = json!(score.value);
    }
    if let Some(priority) = &wanted.io_priority {
        match priority.class() {
            IoPrioClass::IoprioClassNone => drop(remove(&mut spec["process"], "ioPriority")),
            class => {
                let class = class.as_str_name();
                let priority = json!({"class": class, "priority": priority.priority});
                spec["process"]["ioPriority"] = priority;
            }
        }
    }
    if let Some(scheduler) = &wanted.scheduler {
        spec["process"]["scheduler"] = self::scheduler(scheduler);
    }
    if let Some(policy) = &wanted.seccomp_policy {
        spec["linux"]["seccomp"] = seccomp(policy);
    }
    for namespace in &wanted.namespaces {
        let kind = namespace.r#type.as_str();
        let namespaces = list(&mut spec["linux"]["namespaces"]);
        match removed(kind) {
            Some(kind) => namespaces.retain(|other| other["type"] != kind),
            None => {
                let mut entry = json!({"type": kind});
                if !namespace.path.is_empty() {
                    entry["path"] = json!(namespace.path);
                }
                match namespaces.iter_mut().find(|other| other["type"] == kind) {
                    Some(other) => *other = entry,
                    None => namespaces.push(entry),
                }
            }
        }
    }
    let sysctl = wanted.sysctl.iter();
    set_entries(
        &mut spec["linux"]["sysctl"],
        sysctl.map(|(key, value)| (key, json!(value))),
    );
    let devices = wanted.net_devices.iter();
    let devices = devices.map(|(host, device)| (host, json!({"name": device.name})));
    set_entries(&mut spec["linux"]["netDevices"], devices);
    for key in ["sysctl", "netDevices"] {
        if spec["linux"][key].is_null() {
            remove(&mut spec["linux"], key);
        }
    }
    if let Some(policy) = &wanted.memory_policy {
        spec["linux"]["memoryPolicy"] = memory_policy(policy);
    }
    if let Some(resources) = &wanted.resources {
        self::resources(resources, &mut spec["linux"], huge_pages)?;
    }
    if let Some(rdt) = &wanted.rdt {
        self::rdt(rdt, &mut spec["linux"]);
    }
    Ok(())
}

fn device(wanted: &LinuxDevice, linux: &mut Value) {
    let path = wanted.path.as_str();
    let devices = list(&mut linux["devices"]);
    devices.retain(|other| other["path"] != removed(path).unwrap_or(path));
    if removed(path).is_some() {
        return;
    }
    let mut device = json!({
        "path": path,
        "type": wanted.r#type,
        "major": wanted.major,
        "minor": wanted.minor,
    });
    if let Some(mode) = &wanted.file_mode {
        device["fileMode"] = json!(mode.value);
    }
    for (key, id) in [("uid", &wanted.uid), ("gid", &wanted.gid)] {
        if let Some(id) = id {
            device[key] = json!(id.value);
        }
    }
    let access = match wanted.r#type.as_str() {
        "b" => "rwm",
        _ => "rw",
    };
    let rule = device_rule(&device, access);
    devices.push(device);
    list(&mut linux["resources"]["devices"]).push(rule);
}

fn scheduler(wanted: &LinuxScheduler) -> Value {
    let flags = wanted.flags().map(|flag| flag.as_str_name());
    let mut scheduler = json!({"policy": wanted.policy().as_str_name()});
    let flags: Vec<&str> = flags.collect();
    if !flags.is_empty() {
        scheduler["flags"] = json!(flags);
    }
    for (key, value) in [("nice", wanted.nice), ("priority", wanted.priority)] {
        if value != 0 {
            scheduler[key] = json!(value);
        }
    }
    for (key, value) in [
        ("runtime", wanted.runtime),
        ("deadline", wanted.deadline),
        ("period", wanted.period),
    ] {
        if value != 0 {
            scheduler[key] = json!(value);
        }
    }
    scheduler
}

fn seccomp(wanted: &LinuxSeccomp) -> Value {
    let calls = wanted.syscalls.iter().map(|call| {
        let args = call.args.iter().map(|arg| {
            json!({"index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": arg.op})
        });
        let args: Vec<Value> = args.collect();
        let mut entry = json!({"names": call.names, "action": call.action});
        if let Some(errno) = &call.errno_ret {
            entry["errnoRet"] = json!(errno.value);
        }
        if !args.is_empty() {
            entry["args"] = json!(args);
        }
        entry
    });
    let mut profile = json!({
        "defaultAction": wanted.default_action,
        "syscalls": calls.collect::<Vec<Value>>(),
    });
    if let Some(errno) = &wanted.default_errno {
        profile["defaultErrnoRet"] = json!(errno.value);
    }
    for (key, texts) in [
        ("architectures", &wanted.architectures),
        ("flags", &wanted.flags),
    ] {
        if !texts.is_empty() {
            profile[key] = json!(texts);
        }
    }
    for (key, text) in [
        ("listenerPath", &wanted.listener_path),
        ("listenerMetadata", &wanted.listener_metadata),
    ] {
        if !text.is_empty() {
            profile[key] = json!(text);
        }
    }
    profile
}

fn memory_policy(wanted: &LinuxMemoryPolicy) -> Value {
    let flags = wanted.flags().map(|flag: MpolFlag| flag.as_str_name());
    let mode: MpolMode = wanted.mode();
    json!({
        "mode": mode.as_str_name(),
        "nodes": wanted.nodes,
        "flags": flags.collect::<Vec<&str>>(),
    })
}

fn resources(wanted: &LinuxResources, linux: &mut Value, huge_pages: bool) -> Result<()> {
    let limits = &mut linux["resources"];
    if let Some(cpu) = &wanted.cpu {
        for (key, value) in [
            ("period", cpu.period.map(|value| json!(value.value))),
            ("quota", cpu.quota.map(|value| json!(value.value))),
            ("shares", cpu.shares.map(|value| json!(value.value))),
            (
                "realtimeRuntime",
                cpu.realtime_runtime.map(|value| json!(value.value)),
            ),
            (
                "realtimePeriod",
                cpu.realtime_period.map(|value| json!(value.value)),
            ),
            ("cpus", Some(json!(cpu.cpus)).filter(|cpus| *cpus != "")),
            ("mems", Some(json!(cpu.mems)).filter(|mems| *mems != "")),
        ] {
            if let Some(value) = value {
                limits["cpu"][key] = value;
            }
        }
    }
    let memory = wanted.memory.and_then(|memory| memory.limit);
    if let Some(limit) = memory.filter(|limit| limit.value != 0) {
        limits["memory"]["limit"] = json!(limit.value);
        // As much with swap as without it: no swap.
        limits["memory"]["swap"] = json!(limit.value);
    }
    for pages in wanted.hugepage_limits.iter().filter(|_| huge_pages) {
        let all = list(&mut limits["hugepageLimits"]);
        all.retain(|other| other["pageSize"] != pages.page_size.as_str());
        all.push(json!({"pageSize": pages.page_size, "limit": pages.limit}));
    }
    for (key, value) in &wanted.unified {
        limits["unified"][key.as_str()] = json!(value);
    }
    if let Some(pids) = wanted.pids.filter(|pids| pids.limit > -1) {
        limits["pids"] = json!({"limit": pids.limit});
    }
    for rule in &wanted.devices {
        let mut entry = json!({"allow": rule.allow, "access": rule.access});
        if !rule.r#type.is_empty() {
            entry["type"] = json!(rule.r#type);
        }
        for (key, number) in [("major", rule.major), ("minor", rule.minor)] {
            if let Some(number) = number {
                entry[key] = json!(number.value);
            }
        }
        list(&mut limits["devices"]).push(entry);
    }
    match wanted
        .blockio_class
        .as_ref()
        .map(|class| class.value.as_str())
    {
        None => {}
        Some("") => drop(remove(limits, "blockIO")),
        Some(class) => {
            let message = format!("block I/O class {class:?}: there are no classes");
            return Err(Error::new(Kind::Unimplemented, message));
        }
    }
    match wanted.rdt_class.as_ref().map(|class| class.value.as_str()) {
        None => {}
        Some("") => drop(remove(linux, "intelRdt")),
        Some(class) => linux["intelRdt"] = json!({"closID": class}),
    }
    Ok(())
}

fn rdt(wanted: &LinuxRdt, linux: &mut Value) {
    if wanted.remove {
        remove(linux, "intelRdt");
    }
    for (key, value) in [
        (
            "closID",
            wanted.clos_id.as_ref().map(|class| json!(class.value)),
        ),
        (
            "schemata",
            wanted.schemata.as_ref().map(|lines| json!(lines.value)),
        ),
        (
            "enableMonitoring",
            wanted.enable_monitoring.map(|enable| json!(enable.value)),
        ),
    ] {
        if let Some(value) = value {
            linux["intelRdt"][key] = value;
        }
    }
}

fn mounts(wanted: &ContainerAdjustment, spec: &mut Value) {
    if wanted.mounts.is_empty() {
        return;
    }
    let mut propagation = None;
    let mounts = list(&mut spec["mounts"]);
    for mount in &wanted.mounts {
        let destination = mount.destination.as_str();
        let name = removed(destination).unwrap_or(destination);
        mounts.retain(|other| other["destination"] != name);
        if removed(destination).is_some() {
            continue;
        }
        let has = |option: &str| mount.options.iter().any(|other| other == option);
        if has("rshared") {
            propagation = Some("rshared");
        } else if has("rslave") {
            propagation = propagation.or(Some("rslave"));
        }
        mounts.push(json!({
            "destination": destination,
            "type": mount.r#type,
            "source": mount.source,
            "options": mount.options,
        }));
    }
    sort_mounts(mounts);
    let of_root = &mut spec["linux"]["rootfsPropagation"];
    match propagation {
        Some("rshared") => *of_root = json!("rshared"),
        Some(_) if *of_root != "rshared" => *of_root = json!("rslave"),
        _ => {
            if of_root.is_null() {
                remove(&mut spec["linux"], "rootfsPropagation");
            }
        }
    }
}

fn remove(value: &mut Value, key: &str) -> Option<Value> {
    value
        .as_object_mut()
        .and_then(|fields: &mut Map<_, _>| fields.remove(key))
}

#[cfg(test)]
mod tests;
