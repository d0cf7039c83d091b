//! The options of `run` and `containers create` that shape a container's configuration.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use api_protos::oci::{self, cdi, list};
use clap::Args;
use serde_json::{Value, json};
use sys::device::{self, Device};

use super::process::{self, capability, change_capabilities, set_env};

/// What the user asks of a container's configuration.
#[derive(Debug, Clone, Default, Args)]
pub struct SpecOptions {
    /// Set a variable, as NAME=VALUE; may be given several times
    #[arg(long, short = 'e', value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Set the variables that this file has, one NAME=VALUE a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Mount something, as type=bind,src=/host,dst=/container,options=rbind:ro
    #[arg(long, value_name = "MOUNT")]
    pub mount: Vec<String>,
    /// Working folder of the process
    #[arg(long, value_name = "FOLDER")]
    pub cwd: Option<String>,
    /// User of the process, as NAME, UID, or either with :GROUP
    #[arg(long, short = 'u', value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Share the host's network, its /etc/hosts and /etc/resolv.conf
    #[arg(long)]
    pub net_host: bool,
    /// Join a namespace, as network:/proc/7/ns/net; may be given several times
    #[arg(long, value_name = "KIND:PATH", value_parser = parse_namespace)]
    pub with_ns: Vec<(String, String)>,
    /// Propagation of the root file system's mounts, as rshared
    #[arg(long, value_name = "KIND")]
    pub rootfs_propagation: Option<String>,
    /// Give every capability and all of the host's devices, and lift what is masked, read-only or filtered
    #[arg(long)]
    pub privileged: bool,
    /// With --privileged, give none of the host's devices
    #[arg(long, requires = "privileged")]
    pub privileged_without_host_devices: bool,
    /// Give a device of the host, all in a folder, or a CDI device (VENDOR/CLASS=NAME); may be given several times
    #[arg(long, value_name = "DEVICE")]
    pub device: Vec<String>,
    /// Add a capability; may be given several times
    #[arg(long, value_name = "CAPABILITY", value_parser = capability)]
    pub cap_add: Vec<String>,
    /// Take a capability away; may be given several times
    #[arg(long, value_name = "CAPABILITY", value_parser = capability)]
    pub cap_drop: Vec<String>,
    /// Make the root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// Host name in the container
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Allow the process to gain privileges, as by set-user-id programs
    #[arg(long)]
    pub allow_new_privs: bool,
    /// Path of the container's control group
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<String>,
    /// Annotation for the runtime, as KEY=VALUE; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,
    /// Filter system calls by the default profile, or with =false not at all [default: true unless --privileged]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub seccomp: Option<bool>,
    /// Filter system calls by the OCI profile (linux.seccomp) in this JSON file
    #[arg(long, value_name = "FILE")]
    pub seccomp_profile: Option<PathBuf>,
    /// Confine the process by this AppArmor profile, which must be loaded
    #[arg(long, value_name = "NAME")]
    pub apparmor_profile: Option<String>,
}

impl SpecOptions {
    /// Puts the options into `spec`, but for the user, who is looked up in the root file system.
    pub fn apply(&self, spec: &mut Value) -> Result<()> {
        if let Some(file) = &self.env_file {
            let text = std::fs::read_to_string(file);
            let text = text.with_context(|| format!("read {}", file.display()))?;
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            set_env(spec, lines.map(str::to_owned).collect());
        }
        set_env(spec, self.env.clone());
        for text in &self.mount {
            let mount = parse_mount(text).with_context(|| format!("mount {text}"))?;
            let mounts = mounts(spec);
            mounts.retain(|known| known["destination"] != mount["destination"]);
            mounts.push(mount);
        }
        if let Some(cwd) = &self.cwd {
            spec["process"]["cwd"] = json!(cwd);
        }
        if self.read_only {
            spec["root"]["readonly"] = json!(true);
        }
        if self.allow_new_privs {
            spec["process"]["noNewPrivileges"] = json!(false);
        }
        if let Some(hostname) = &self.hostname {
            spec["hostname"] = json!(hostname);
        }
        if let Some(cgroup) = &self.cgroup {
            spec["linux"]["cgroupsPath"] = json!(cgroup);
        }
        for (key, value) in crate::format::parse_labels(&self.annotation) {
            spec["annotations"][key] = json!(value);
        }
        for (kind, path) in &self.with_ns {
            let namespaces = list(&mut spec["linux"]["namespaces"]);
            namespaces.retain(|namespace| namespace["type"] != kind.as_str());
            namespaces.push(json!({"type": kind, "path": path}));
        }
        if let Some(kind) = &self.rootfs_propagation {
            spec["linux"]["rootfsPropagation"] = json!(kind);
        }
        if let Some(profile) = &self.apparmor_profile {
            spec["process"]["apparmorProfile"] = json!(profile);
        }
        if self.privileged {
            privileged(spec, !self.privileged_without_host_devices)?;
        }
        let nodes = self.device.iter();
        for path in nodes.filter(|device| !cdi::name::is_qualified(device)) {
            add_devices(spec, &device::under(Path::new(path))?, true);
        }
        change_capabilities(spec, |names| {
            let added = self
                .cap_add
                .iter()
                .filter(|name| !names.contains(name))
                .cloned()
                .collect::<Vec<_>>();
            names.extend(added);
            names.retain(|name| !self.cap_drop.contains(name));
        });
        if self.net_host {
            net_host(spec)?;
        }
        self.filter(spec)
    }

    /// Gives the devices that have names of the Container Device Interface; the user must be known by then.
    pub fn inject_devices(&self, spec: &mut Value) -> Result<()> {
        let named = self.device.iter();
        let named = named.filter(|device| cdi::name::is_qualified(device));
        let named: Vec<String> = named.cloned().collect();
        if named.is_empty() {
            return Ok(());
        }
        let registry = cdi::Registry::read(&cdi::FOLDERS.map(PathBuf::from));
        Ok(registry.inject(spec, &named)?)
    }

    /// Adds the profile of system calls, whose default depends on the capabilities.
    fn filter(&self, spec: &mut Value) -> Result<()> {
        if let Some(file) = &self.seccomp_profile {
            if self.seccomp == Some(false) {
                bail!("--seccomp-profile and --seccomp=false exclude each other");
            }
            let what = || format!("read {}", file.display());
            let text = std::fs::read(file).with_context(what)?;
            spec["linux"]["seccomp"] = serde_json::from_slice(&text).with_context(what)?;
        } else if self.seccomp.unwrap_or(!self.privileged) {
            let held = process::capabilities(spec, "bounding");
            spec["linux"]["seccomp"] = oci::seccomp::default_profile(&held);
        }
        Ok(())
    }
}

fn mounts(spec: &mut Value) -> &mut Vec<Value> {
    list(&mut spec["mounts"])
}

/// Lifts what holds a container back. Of capabilities it has those that we have: in a container, that is not all.
fn privileged(spec: &mut Value, devices: bool) -> Result<()> {
    let own = rustix::thread::capabilities(None).context("read own capabilities")?;
    let own = sys::capability::named(own.effective.bits());
    change_capabilities(spec, |names| names.clone_from(&own));
    spec["linux"]["maskedPaths"] = json!([]);
    spec["linux"]["readonlyPaths"] = json!([]);
    spec["process"]["noNewPrivileges"] = json!(false);
    if devices {
        spec["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
        add_devices(spec, &device::all(), false);
    }
    for mount in mounts(spec) {
        if matches!(mount["type"].as_str(), Some("sysfs" | "cgroup")) {
            let options = mount["options"].as_array_mut();
            options
                .into_iter()
                .for_each(|options| options.retain(|option| option != "ro"));
        }
    }
    Ok(())
}

/// Gives devices of the host, and with `rules` the right to use them.
fn add_devices(spec: &mut Value, devices: &[Device], rules: bool) {
    for device in devices {
        let device = oci::device(device, &device.path.to_string_lossy());
        if rules {
            list(&mut spec["linux"]["resources"]["devices"]).push(oci::device_rule(&device, "rwm"));
        }
        list(&mut spec["linux"]["devices"]).push(device);
    }
}

fn net_host(spec: &mut Value) -> Result<()> {
    let namespaces = spec["linux"]["namespaces"].as_array_mut();
    let namespaces = namespaces.ok_or_else(|| anyhow!("no namespaces in the configuration"))?;
    namespaces.retain(|namespace| namespace["type"] != "network");
    for file in ["/etc/hosts", "/etc/resolv.conf"] {
        mounts(spec).push(json!({"destination": file, "type": "bind", "source": file, "options": ["rbind", "ro"]}));
    }
    let uname = rustix::system::uname();
    process::set_env(
        spec,
        vec![format!("HOSTNAME={}", uname.nodename().to_string_lossy())],
    );
    Ok(())
}

/// Reads `KIND:PATH`.
fn parse_namespace(text: &str) -> Result<(String, String), String> {
    const KINDS: [&str; 7] = ["pid", "network", "uts", "mount", "user", "ipc", "cgroup"];
    let (kind, path) = text.split_once(':').ok_or("not KIND:PATH")?;
    if !KINDS.contains(&kind) {
        return Err(format!("{kind:?} is none of {}", KINDS.join(", ")));
    }
    Ok((kind.into(), path.into()))
}

/// Reads `type=..,src=..,dst=..,options=a:b`, as ctr writes mounts.
fn parse_mount(text: &str) -> Result<Value> {
    let (mut fstype, mut source, mut destination) = (String::new(), String::new(), String::new());
    let mut options: Vec<String> = Vec::new();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        match key {
            "type" => fstype = value.into(),
            "source" | "src" => source = value.into(),
            "destination" | "dst" | "target" => destination = value.into(),
            "options" => options.extend(
                value
                    .split(':')
                    .filter(|option| !option.is_empty())
                    .map(str::to_owned),
            ),
            "ro" | "readonly" if value.is_empty() => options.push("ro".into()),
            _ => bail!("{key:?} is none of type, src, dst, options"),
        }
    }
    if !destination.starts_with('/') {
        bail!("it needs dst=, an absolute path in the container");
    }
    if fstype.is_empty() {
        fstype = "bind".into();
    }
    if fstype == "bind" {
        if !source.starts_with('/') {
            bail!("a bind mount needs src=, an absolute path on the host");
        }
        if !options
            .iter()
            .any(|option| option == "bind" || option == "rbind")
        {
            options.insert(0, "rbind".into());
        }
    }
    Ok(json!({"destination": destination, "type": fstype, "source": source, "options": options}))
}

#[cfg(test)]
mod tests {
    use super::super::defaults;
    use super::*;

    fn applied(options: SpecOptions) -> Value {
        let mut spec = defaults::linux("ns", "id");
        options.apply(&mut spec).unwrap();
        spec
    }

    #[test]
    fn each_option_lands_where_the_runtime_reads_it() {
        let options = SpecOptions {
            cwd: Some("/w".into()),
            hostname: Some("h".into()),
            ..Default::default()
        };
        let flags = SpecOptions {
            read_only: true,
            ..Default::default()
        };
        for (options, pointer, expected) in [
            (options.clone(), "/process/cwd", json!("/w")),
            (options, "/hostname", json!("h")),
            (flags, "/root/readonly", json!(true)),
            (
                SpecOptions::default(),
                "/linux/cgroupsPath",
                json!("/ns/id"),
            ),
            (
                SpecOptions::default(),
                "/process/noNewPrivileges",
                json!(true),
            ),
        ] {
            assert_eq!(
                applied(options).pointer(pointer),
                Some(&expected),
                "{pointer}"
            );
        }
    }

    #[test]
    fn capabilities_are_added_and_taken_away() {
        let spec = applied(SpecOptions {
            cap_add: vec!["CAP_SYS_ADMIN".into()],
            cap_drop: vec!["CAP_KILL".into()],
            ..Default::default()
        });
        let names = spec["process"]["capabilities"]["bounding"]
            .as_array()
            .unwrap();
        assert!(names.contains(&json!("CAP_SYS_ADMIN")) && !names.contains(&json!("CAP_KILL")));
    }

    #[test]
    fn privileged_lifts_the_masks_and_drops_still_count() {
        let spec = applied(SpecOptions {
            privileged: true,
            cap_drop: vec!["CAP_BPF".into()],
            ..Default::default()
        });
        assert_eq!(spec["linux"]["maskedPaths"], json!([]));
        assert!(spec["linux"].get("seccomp").is_none());
        let held = process::capabilities(&spec, "effective");
        assert!(!held.contains(&"CAP_BPF".into()));
        let devices = spec["linux"]["devices"].to_string();
        assert!(devices.contains("\"/dev/null\""), "{devices}");
        let without = applied(SpecOptions {
            privileged: true,
            privileged_without_host_devices: true,
            seccomp: Some(true),
            ..Default::default()
        });
        let linux = &without["linux"];
        assert!(linux.get("devices").is_none() && linux.get("seccomp").is_some());
        assert_eq!(linux["resources"]["devices"][0]["allow"], false);
    }

    #[test]
    fn the_hosts_network_brings_the_hosts_names() {
        let spec = applied(SpecOptions {
            net_host: true,
            ..Default::default()
        });
        let kinds: Vec<_> = spec["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["type"].clone())
            .collect();
        assert_eq!(kinds, ["pid", "ipc", "uts", "mount"]);
        let mounts = spec["mounts"].to_string();
        assert!(mounts.contains("/etc/hosts") && mounts.contains("/etc/resolv.conf"));
    }

    #[test]
    fn a_namespace_is_joined_in_place_of_a_new_one() {
        let joined = parse_namespace("network:/proc/7/ns/net").unwrap();
        let spec = applied(SpecOptions {
            with_ns: vec![joined],
            ..Default::default()
        });
        let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
        assert_eq!(namespaces.len(), 5);
        let network = json!({"type": "network", "path": "/proc/7/ns/net"});
        assert!(namespaces.contains(&network));
        for wrong in ["net:/x", "network", ":/x"] {
            assert!(parse_namespace(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_mount_takes_the_place_of_a_default_one() {
        let spec = applied(SpecOptions {
            mount: vec!["type=tmpfs,dst=/dev/shm,options=size=1m".into()],
            ..Default::default()
        });
        let shm = spec["mounts"].as_array().unwrap().iter();
        let shm = shm.filter(|mount| mount["destination"] == "/dev/shm");
        assert_eq!(shm.count(), 1);
    }

    #[test]
    fn mounts_are_written_as_ctr_writes_them() {
        let mount = parse_mount("type=bind,src=/a,dst=/b,options=rbind:ro").unwrap();
        assert_eq!(
            mount,
            json!({"destination": "/b", "type": "bind", "source": "/a", "options": ["rbind", "ro"]})
        );
        assert_eq!(parse_mount("type=tmpfs,dst=/t").unwrap()["type"], "tmpfs");
        for wrong in ["src=/a", "src=a,dst=/b", "dst=b,src=/a", "nonsense"] {
            assert!(parse_mount(wrong).is_err(), "{wrong}");
        }
    }
}
