//! What a vendor wants changed in a container's configuration.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use serde::Deserialize;
use serde_json::{Value, json};
use sys::{Context as _, Result};

use super::file::{invalid, mode, nullable};
use crate::oci::{device_rule, list, sort_mounts};

/// The hooks of a container's life.
const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];
/// The access to a device of which the container is to have a node and no right to use it.
const NO_ACCESS: &str = "none";

/// What one device needs, or all of a file, or several of them together.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Edits {
    #[serde(deserialize_with = "nullable")]
    env: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    device_nodes: Vec<Node>,
    #[serde(deserialize_with = "nullable")]
    net_devices: Vec<NetDevice>,
    #[serde(deserialize_with = "nullable")]
    hooks: Vec<Hook>,
    #[serde(deserialize_with = "nullable")]
    mounts: Vec<Mount>,
    intel_rdt: Option<Rdt>,
    #[serde(deserialize_with = "nullable")]
    additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Node {
    path: String,
    #[serde(deserialize_with = "nullable")]
    host_path: String,
    #[serde(rename = "type", deserialize_with = "nullable")]
    kind: String,
    #[serde(deserialize_with = "nullable")]
    major: i64,
    #[serde(deserialize_with = "nullable")]
    minor: i64,
    #[serde(deserialize_with = "mode")]
    file_mode: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct NetDevice {
    host_interface_name: String,
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Hook {
    hook_name: String,
    path: String,
    #[serde(deserialize_with = "nullable")]
    args: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    env: Vec<String>,
    timeout: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Mount {
    host_path: String,
    container_path: String,
    #[serde(deserialize_with = "nullable")]
    options: Vec<String>,
    #[serde(rename = "type", deserialize_with = "nullable")]
    kind: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Rdt {
    #[serde(rename = "closID", deserialize_with = "nullable")]
    class: String,
    #[serde(rename = "l3CacheSchema", deserialize_with = "nullable")]
    l3_cache: String,
    #[serde(rename = "memBwSchema", deserialize_with = "nullable")]
    bandwidth: String,
    schemata: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable")]
    enable_monitoring: bool,
}

impl Edits {
    /// Returns whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        let lists = [
            self.env.is_empty(),
            self.device_nodes.is_empty(),
            self.net_devices.is_empty(),
            self.hooks.is_empty(),
            self.mounts.is_empty(),
            self.additional_gids.is_empty(),
        ];
        lists.iter().all(|empty| *empty) && self.intel_rdt.is_none()
    }

    /// Returns whether there is something that version 1.1.0 has brought.
    pub fn needs_1_1(&self) -> bool {
        let rdt = self.intel_rdt.as_ref();
        let rdt = rdt.is_some_and(|rdt| rdt.schemata.is_some() || rdt.enable_monitoring);
        rdt || !self.net_devices.is_empty()
    }

    /// Returns whether there is something that version 0.7.0 has brought.
    pub fn needs_0_7(&self) -> bool {
        self.intel_rdt.is_some() || !self.additional_gids.is_empty()
    }

    /// Returns whether there is something that version 0.5.0 has brought.
    pub fn needs_0_5(&self) -> bool {
        self.device_nodes
            .iter()
            .any(|node| !node.host_path.is_empty())
    }

    /// Returns whether there is something that version 0.4.0 has brought.
    pub fn needs_0_4(&self) -> bool {
        self.mounts.iter().any(|mount| !mount.kind.is_empty())
    }

    /// Refuses what no configuration could have.
    pub fn check(&self) -> Result<()> {
        check_env(&self.env)?;
        for node in &self.device_nodes {
            node.check()?;
        }
        for hook in &self.hooks {
            let name = &hook.hook_name;
            if !HOOKS.contains(&name.as_str()) {
                return Err(invalid(format!("invalid hook name {name:?}")));
            }
            if hook.path.is_empty() {
                return Err(invalid(format!("invalid hook {name:?} with empty path")));
            }
            check_env(&hook.env).context(|| format!("invalid hook {name:?}"))?;
        }
        for mount in &self.mounts {
            if mount.host_path.is_empty() || mount.container_path.is_empty() {
                return Err(invalid("invalid mount, empty host path or container path"));
            }
        }
        if let Some(rdt) = &self.intel_rdt {
            let class = rdt.class.as_str();
            let path = class != "/" && class.contains(['/', '\n']);
            if path || class == "." || class == ".." || class.len() >= 4096 {
                return Err(invalid(format!("invalid closID {class:?}")));
            }
        }
        self.check_net_devices()
    }

    fn check_net_devices(&self) -> Result<()> {
        let mut hosts = BTreeMap::new();
        let mut names = BTreeMap::new();
        for device in &self.net_devices {
            let (host, name) = (device.host_interface_name.as_str(), device.name.as_str());
            if host.is_empty() || name.is_empty() {
                return Err(invalid(
                    "invalid net device, empty hostInterfaceName or name",
                ));
            }
            if hosts.insert(host, name).is_some() || names.insert(name, host).is_some() {
                return Err(invalid(format!(
                    "net device {host:?} or {name:?} is there twice"
                )));
            }
        }
        Ok(())
    }

    /// Adds others to these.
    pub fn append(&mut self, other: &Self) {
        self.env.extend_from_slice(&other.env);
        self.device_nodes.extend_from_slice(&other.device_nodes);
        self.net_devices.extend_from_slice(&other.net_devices);
        self.hooks.extend_from_slice(&other.hooks);
        self.mounts.extend_from_slice(&other.mounts);
        if other.intel_rdt.is_some() {
            self.intel_rdt.clone_from(&other.intel_rdt);
        }
        self.additional_gids
            .extend_from_slice(&other.additional_gids);
    }

    /// Changes a container's configuration.
    pub fn apply(&self, spec: &mut Value) -> Result<()> {
        for variable in &self.env {
            set_env(list(&mut spec["process"]["env"]), variable);
        }
        for node in &self.device_nodes {
            let (device, rule) = node.found(spec)?;
            let devices = list(&mut spec["linux"]["devices"]);
            devices.retain(|other| other["path"] != device["path"]);
            devices.push(device);
            if let Some(rule) = rule {
                list(&mut spec["linux"]["resources"]["devices"]).push(rule);
            }
        }
        for device in &self.net_devices {
            let name = device.host_interface_name.as_str();
            spec["linux"]["netDevices"][name] = json!({"name": device.name});
        }
        self.apply_mounts(spec);
        for hook in &self.hooks {
            list(&mut spec["hooks"][hook.hook_name.as_str()]).push(hook.entry());
        }
        if let Some(rdt) = &self.intel_rdt {
            spec["linux"]["intelRdt"] = rdt.entry();
        }
        for gid in self.additional_gids.iter().filter(|gid| **gid != 0) {
            let gids = list(&mut spec["process"]["user"]["additionalGids"]);
            if !gids.iter().any(|other| *other == json!(gid)) {
                gids.push(json!(gid));
            }
        }
        Ok(())
    }

    fn apply_mounts(&self, spec: &mut Value) {
        if self.mounts.is_empty() {
            return;
        }
        let namespaces = spec["linux"]["namespaces"].as_array();
        let mapped = namespaces.into_iter().flatten();
        let mapped = mapped
            .into_iter()
            .any(|namespace| namespace["type"] == "user");
        let mounts = list(&mut spec["mounts"]);
        for mount in &self.mounts {
            mounts.retain(|other| other["destination"] != mount.container_path.as_str());
            mounts.push(mount.entry(mapped));
        }
        sort_mounts(mounts);
    }
}

impl Node {
    fn check(&self) -> Result<()> {
        let path = &self.path;
        if path.is_empty() {
            return Err(invalid("invalid (empty) device path"));
        }
        if !["", "b", "c", "u", "p"].contains(&self.kind.as_str()) {
            let kind = &self.kind;
            return Err(invalid(format!("device {path:?}: invalid type {kind:?}")));
        }
        let letters = self
            .permissions
            .chars()
            .all(|letter| "rwm".contains(letter));
        if !letters && self.permissions != NO_ACCESS {
            let access = &self.permissions;
            let message = format!("device {path:?}: invalid permissions {access:?}");
            return Err(invalid(message));
        }
        Ok(())
    }

    /// Returns the device as the configuration has it, and the rule that lets the container use it, with what the file
    /// does not say taken from the host.
    fn found(&self, spec: &Value) -> Result<(Value, Option<Value>)> {
        let whole = !self.kind.is_empty() && (self.major != 0 || self.kind == "p");
        let host = match self.host_path.as_str() {
            "" => &self.path,
            path => path,
        };
        let (mut kind, mut numbers) = (self.kind.clone(), (self.major, self.minor));
        let mut file_mode = self.file_mode;
        match of_host(host) {
            Ok(found) => {
                file_mode = file_mode.or(Some(found.mode));
                if !whole {
                    if kind.is_empty() {
                        found.kind.clone_into(&mut kind);
                    }
                    if kind != found.kind {
                        return Err(invalid(format!(
                            "CDI device ({:?}, {host:?}), host type mismatch ({kind}, {})",
                            self.path, found.kind
                        )));
                    }
                    if kind != "p" && self.major == 0 {
                        numbers = found.numbers;
                    }
                }
            }
            // What is said of the device is enough without it.
            Err(_) if whole => {}
            Err(error) => {
                return Err(error.context(format!("failed to stat CDI host device {host:?}")));
            }
        }
        let user = &spec["process"]["user"];
        let owner = |own: Option<u32>, key: &str| match own {
            Some(id) => json!(id),
            None => user[key].as_u64().filter(|id| *id > 0).into(),
        };
        let mut device = json!({
            "path": self.path,
            "type": kind,
            "major": numbers.0,
            "minor": numbers.1,
            "fileMode": file_mode,
            "uid": owner(self.uid, "uid"),
            "gid": owner(self.gid, "gid"),
        });
        let access = match self.permissions.as_str() {
            "" => "rwm",
            NO_ACCESS => "",
            access => access,
        };
        let rule = matches!(kind.as_str(), "b" | "c").then(|| device_rule(&device, access));
        without_nulls(&mut device);
        Ok((device, rule))
    }
}

/// What the host knows of a device node.
struct Found {
    kind: &'static str,
    numbers: (i64, i64),
    mode: u32,
}

fn of_host(path: &str) -> Result<Found> {
    let found = std::fs::symlink_metadata(path).context(|| "look at it")?;
    let kind = found.file_type();
    let kind = match () {
        () if kind.is_block_device() => "b",
        () if kind.is_char_device() => "c",
        () if kind.is_fifo() => "p",
        () => return Err(invalid("not a device node")),
    };
    let (major, minor) = sys::device::numbers(found.rdev());
    Ok(Found {
        kind,
        numbers: (major.into(), minor.into()),
        mode: found.mode() & 0o7777,
    })
}

impl Hook {
    fn entry(&self) -> Value {
        let mut entry = json!({"path": self.path, "timeout": self.timeout});
        for (key, texts) in [("args", &self.args), ("env", &self.env)] {
            if !texts.is_empty() {
                entry[key] = json!(texts);
            }
        }
        without_nulls(&mut entry);
        entry
    }
}

impl Mount {
    /// Returns the mount, with the owners of its files mapped if the container has a user namespace.
    fn entry(&self, mapped: bool) -> Value {
        let has = |option: &str| self.options.iter().any(|other| other == option);
        let mut options = self.options.clone();
        if mapped && !has("idmap") && !has("ridmap") {
            let option = match () {
                () if has("rbind") => Some("ridmap"),
                () if has("bind") || self.kind == "bind" => Some("idmap"),
                () => None,
            };
            options.extend(option.map(str::to_owned));
        }
        let mut entry = json!({"source": self.host_path, "destination": self.container_path});
        if !self.kind.is_empty() {
            entry["type"] = json!(self.kind);
        }
        if !options.is_empty() {
            entry["options"] = json!(options);
        }
        entry
    }
}

impl Rdt {
    fn entry(&self) -> Value {
        let mut entry = json!({});
        let texts = [
            ("closID", &self.class),
            ("l3CacheSchema", &self.l3_cache),
            ("memBwSchema", &self.bandwidth),
        ];
        for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            entry[key] = json!(text);
        }
        if let Some(schemata) = &self.schemata {
            entry["schemata"] = json!(schemata);
        }
        if self.enable_monitoring {
            entry["enableMonitoring"] = json!(true);
        }
        entry
    }
}

fn check_env(env: &[String]) -> Result<()> {
    let nameless = |variable: &&String| variable.find('=').is_none_or(|at| at == 0);
    match env.iter().find(nameless) {
        Some(variable) => Err(invalid(format!(
            "invalid environment variable {variable:?}"
        ))),
        None => Ok(()),
    }
}

/// Sets a variable where it is, or adds it.
fn set_env(env: &mut Vec<Value>, variable: &str) {
    let name = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
    let of_same_name = |other: &&mut Value| other.as_str().map(name) == Some(name(variable));
    match env.iter_mut().rev().find(of_same_name) {
        Some(other) => *other = json!(variable),
        None => env.push(json!(variable)),
    }
}

fn without_nulls(value: &mut Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
}
