//! Networks by CNI: configuration lists, and the plugins that set up and take down what they say.
//!
//! A plugin is a program: what to do is in its environment, its configuration and the results so far come on standard
//! input, and its answer, or its error, goes to standard output.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use api_protos::runtime::v1::{PodSandboxConfig, Protocol};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::config::Cni as Config;
use crate::error::{Context, Error, Kind, Result, invalid};

/// How long a plugin may take.
const LIMIT: Duration = Duration::from_secs(90);
/// The annotations that limit a pod's bandwidth, in bits a second.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// The capability that carries a pod's annotations.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// From this version on plugins can be asked for their status.
const STATUS_SINCE: (u32, u32) = (1, 1);

/// The networks that pods are connected to.
#[derive(Clone, Debug)]
pub struct Cni {
    config: Config,
}

/// A configuration list.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    pub name: String,
    version: String,
    plugins: Vec<Map<String, Value>>,
}

/// A pod's place in its networks.
#[derive(Clone, Debug)]
pub struct Attachment<'a> {
    pub id: &'a str,
    pub netns: &'a Path,
    /// `CNI_ARGS`.
    pub args: String,
    pub capabilities: Map<String, Value>,
}

/// What connecting a pod came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// The main address first.
    pub ips: Vec<String>,
    /// What each network answered.
    pub results: Vec<String>,
}

impl Cni {
    /// Returns the networks that the settings tell; they are read when they are needed.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Returns the networks, the first of which is the pods' main one.
    pub fn networks(&self) -> Result<Vec<Network>> {
        let dir = &self.config.conf_dir;
        let mut files: Vec<PathBuf> = match std::fs::read_dir(dir) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).context(|| format!("read folder {dir:?}")),
        };
        let known = ["conf", "conflist", "json"];
        files.retain(|file| {
            let extension = file.extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|extension| known.contains(&extension))
        });
        files.sort();
        if self.config.max_conf_num > 0 {
            files.truncate(self.config.max_conf_num);
        }
        let read = |file: &PathBuf| {
            let text = std::fs::read_to_string(file).context(|| format!("read {file:?}"))?;
            Network::parse(&text).context(|| format!("network configuration {file:?}"))
        };
        let networks: Vec<Network> = files.iter().map(read).collect::<Result<_>>()?;
        match networks.is_empty() {
            true => Err(Error::new(
                Kind::Unavailable,
                format!("no network config found in {}", dir.display()),
            )),
            false => Ok(networks),
        }
    }

    /// Returns whether pods can be connected, by asking the plugins that know.
    pub async fn status(&self) -> Result<()> {
        for network in self.networks()? {
            if !network.has_status() {
                continue;
            }
            for plugin in &network.plugins {
                let request = network.request(plugin, &Map::new(), None);
                self.run("STATUS", plugin, &request, &[]).await?;
            }
        }
        Ok(())
    }

    /// Connects a pod to all networks; what was done of it is undone if one fails.
    pub async fn connect(&self, attachment: &Attachment<'_>) -> Result<Connected> {
        let mut connected = Connected::default();
        let networks = self.networks()?;
        for (number, network) in networks.iter().enumerate() {
            match self.add(network, number, attachment).await {
                Ok(result) => {
                    if number == 0 {
                        connected.ips = addresses(&result, &self.config.ip_pref);
                    }
                    connected.results.push(result.to_string());
                }
                Err(error) => {
                    if let Err(error) = self.disconnect(attachment, &connected.results).await {
                        tracing::warn!(id = attachment.id, "take down a network: {error:#}");
                    }
                    return Err(error.context(format!("connect to network {:?}", network.name)));
                }
            }
        }
        match connected.ips.is_empty() {
            true => Err(Error::new(
                Kind::Unknown,
                format!(
                    "failed to find network info for sandbox {:?}",
                    attachment.id
                ),
            )),
            false => Ok(connected),
        }
    }

    /// Disconnects a pod from all networks; to do so again is no error.
    pub async fn disconnect(&self, attachment: &Attachment<'_>, results: &[String]) -> Result<()> {
        let networks = match self.networks() {
            // Without networks there is nothing that anybody could take down.
            Err(error) if error.kind() == Kind::Unavailable => return Ok(()),
            networks => networks?,
        };
        let mut failed = None;
        for (number, network) in networks.iter().enumerate().rev() {
            let result = results.get(number);
            let result = result.and_then(|text| serde_json::from_str(text).ok());
            if let Err(error) = self.delete(network, number, attachment, result).await {
                let error = error.context(format!("disconnect from network {:?}", network.name));
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Writes the network that the template makes of a range of addresses, if there is a template.
    pub fn write_template(&self, pod_cidr: &str) -> Result<()> {
        let Some(template) = self
            .config
            .conf_template
            .as_ref()
            .filter(|_| !pod_cidr.is_empty())
        else {
            return Ok(());
        };
        let text = std::fs::read_to_string(template).context(|| format!("read {template:?}"))?;
        let text = text.replace("{{.PodCIDR}}", pod_cidr);
        if text.contains("{{") {
            return Err(Error::new(
                Kind::Unimplemented,
                format!("{template:?}: only {{{{.PodCIDR}}}} is supported in a template"),
            ));
        }
        std::fs::create_dir_all(&self.config.conf_dir)
            .context(|| format!("make folder {:?}", self.config.conf_dir))?;
        let path = self.config.conf_dir.join("10-containerd-net.conflist");
        sys::fs::write_atomic(&path, text.as_bytes(), 0o644)
    }

    async fn add(&self, network: &Network, number: usize, to: &Attachment<'_>) -> Result<Value> {
        let mut result = None;
        for plugin in &network.plugins {
            let request = network.request(plugin, &to.capabilities, result);
            let answer = self.run("ADD", plugin, &request, &to.env(number)).await?;
            result = Some(answer);
        }
        result.ok_or_else(|| invalid(format!("network {:?} has no plugin", network.name)))
    }

    async fn delete(
        &self,
        network: &Network,
        number: usize,
        from: &Attachment<'_>,
        result: Option<Value>,
    ) -> Result<()> {
        for plugin in network.plugins.iter().rev() {
            let request = network.request(plugin, &from.capabilities, result.clone());
            self.run("DEL", plugin, &request, &from.env(number)).await?;
        }
        Ok(())
    }

    /// Runs a plugin and returns its answer.
    async fn run(
        &self,
        command: &str,
        plugin: &Map<String, Value>,
        request: &Value,
        env: &[(&str, String)],
    ) -> Result<Value> {
        let kind = plugin
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let binary = self.find(kind)?;
        let dirs = self.config.bin_dirs.iter().map(|dir| dir.to_string_lossy());
        let path = dirs.collect::<Vec<_>>().join(":");
        let doing = || format!("plugin type={kind:?} failed ({})", command.to_lowercase());
        let mut child = Command::new(&binary)
            .env("CNI_COMMAND", command)
            .env("CNI_PATH", path)
            .envs(env.iter().map(|(key, value)| (*key, value.as_str())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context(doing)?;
        let input = child.stdin.take();
        let request = request.to_string();
        let run = async {
            if let Some(mut input) = input {
                // A plugin that does not care for its configuration may end without reading it.
                let _ = input.write_all(request.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(LIMIT, run)
            .await
            .map_err(|_| {
                let message = format!("no answer within {} s", LIMIT.as_secs());
                Error::new(Kind::DeadlineExceeded, message)
            })
            .context(doing)?
            .context(doing)?;
        if !output.status.success() {
            let failed = Failed::parse(&output.stdout, &output.stderr, output.status);
            return Err(failed.context(doing()));
        }
        if output.stdout.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        let answer = serde_json::from_slice(&output.stdout);
        answer.map_err(|error| Error::other(format!("{}: decode the answer", doing()), error))
    }

    fn find(&self, kind: &str) -> Result<PathBuf> {
        // A name is no path: it must not lead out of the folders of plugins.
        if kind.is_empty() || kind.contains('/') || kind == ".." {
            return Err(invalid(format!("invalid plugin name: {kind:?}")));
        }
        let paths = self.config.bin_dirs.iter().map(|dir| dir.join(kind));
        let mut found = paths.filter(|path| path.is_file());
        found.next().ok_or_else(|| {
            let message = format!(
                "failed to find plugin {kind:?} in path {:?}",
                self.config.bin_dirs
            );
            Error::new(Kind::NotFound, message).with_kind(Kind::Unknown)
        })
    }
}

impl Network {
    /// Parses a configuration list, or a single configuration as a list of one.
    pub fn parse(text: &str) -> Result<Self> {
        let value: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| invalid(format!("decode: {error}")))?;
        let text = |key: &str| {
            let value = value.get(key).and_then(Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        let plugins = match value.get("plugins") {
            Some(Value::Array(plugins)) => plugins
                .iter()
                .map(|plugin| plugin.as_object().cloned())
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| invalid("a plugin is no object"))?,
            Some(_) => return Err(invalid("plugins is no list")),
            None if value.contains_key("type") => vec![value.clone()],
            None => Vec::new(),
        };
        if plugins.is_empty() {
            return Err(invalid("no plugins in list"));
        }
        if text("name").is_empty() {
            return Err(invalid("the network has no name"));
        }
        Ok(Self {
            name: text("name"),
            version: text("cniVersion"),
            plugins,
        })
    }

    fn has_status(&self) -> bool {
        let mut parts = self
            .version
            .split('.')
            .map(|part| part.parse().unwrap_or(0));
        let version: (u32, u32) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        version >= STATUS_SINCE
    }

    /// Returns what a plugin is told: its configuration, what it can do of what is wanted, and the result so far.
    fn request(
        &self,
        plugin: &Map<String, Value>,
        wanted: &Map<String, Value>,
        result: Option<Value>,
    ) -> Value {
        let mut request = plugin.clone();
        request.insert("name".into(), self.name.as_str().into());
        if !self.version.is_empty() {
            request.insert("cniVersion".into(), self.version.as_str().into());
        }
        if let Some(Value::Object(able)) = request.remove("capabilities") {
            let able = |key: &str| able.get(key) == Some(&Value::Bool(true));
            let given = wanted.iter().filter(|(key, _)| able(key));
            let given: Map<String, Value> = given
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            if !given.is_empty() {
                request.insert("runtimeConfig".into(), given.into());
            }
        }
        if let Some(result) = result.filter(|result| !result.is_null()) {
            request.insert("prevResult".into(), result);
        }
        request.into()
    }
}

impl<'a> Attachment<'a> {
    /// Returns the place of a pod.
    pub fn new(id: &'a str, netns: &'a Path, pod: &PodSandboxConfig) -> Result<Self> {
        let metadata = pod.metadata.clone().unwrap_or_default();
        let args = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_INFRA_CONTAINER_ID", id),
            ("K8S_POD_NAME", &metadata.name),
            ("K8S_POD_NAMESPACE", &metadata.namespace),
            ("K8S_POD_UID", &metadata.uid),
        ];
        let args = args.map(|(key, value)| format!("{key}={value}")).join(";");
        Ok(Self {
            id,
            netns,
            args,
            capabilities: capabilities(pod)?,
        })
    }

    fn env(&self, number: usize) -> Vec<(&'static str, String)> {
        vec![
            ("CNI_CONTAINERID", self.id.to_owned()),
            ("CNI_NETNS", self.netns.to_string_lossy().into_owned()),
            ("CNI_IFNAME", interface(number)),
            ("CNI_ARGS", self.args.clone()),
        ]
    }
}

fn interface(number: usize) -> String {
    format!("eth{number}")
}

/// Returns what a pod wants of plugins that can do it.
fn capabilities(pod: &PodSandboxConfig) -> Result<Map<String, Value>> {
    let mut wanted = Map::new();
    let mappings = pod
        .port_mappings
        .iter()
        .filter(|mapping| mapping.host_port > 0);
    let mappings: Vec<Value> = mappings
        .map(|mapping| {
            let protocol = match mapping.protocol() {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
            };
            json!({
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": protocol,
                "hostIP": mapping.host_ip,
            })
        })
        .collect();
    if !mappings.is_empty() {
        wanted.insert("portMappings".into(), mappings.into());
    }
    let mut bandwidth = Map::new();
    for (annotation, key) in [(INGRESS, "ingress"), (EGRESS, "egress")] {
        if let Some(text) = pod.annotations.get(annotation) {
            let rate = quantity(text).filter(|rate| (1_000..=1_000_000_000_000_000).contains(rate));
            let rate = rate.ok_or_else(|| invalid(format!("annotation {annotation}: {text:?}")))?;
            bandwidth.insert(format!("{key}Rate"), rate.into());
            bandwidth.insert(format!("{key}Burst"), u32::MAX.into());
        }
    }
    if !bandwidth.is_empty() {
        wanted.insert("bandwidth".into(), bandwidth.into());
    }
    if let Some(dns) = &pod.dns_config {
        let dns = json!({
            "servers": dns.servers,
            "searches": dns.searches,
            "options": dns.options,
        });
        wanted.insert("dns".into(), dns);
    }
    let annotations: BTreeMap<_, _> = pod.annotations.iter().collect();
    wanted.insert(ANNOTATIONS.into(), json!(annotations));
    let parent = pod.linux.as_ref().map(|linux| linux.cgroup_parent.as_str());
    if let Some(parent) = parent.filter(|parent| !parent.is_empty()) {
        wanted.insert("cgroupPath".into(), parent.into());
    }
    Ok(wanted)
}

/// Returns the number that a quantity of Kubernetes stands for, such as `10M` or `1Gi`.
fn quantity(text: &str) -> Option<u64> {
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Returns the addresses in a result, the one that is preferred first.
fn addresses(result: &Value, preference: &str) -> Vec<String> {
    let bare = |text: &str| text.split('/').next().unwrap_or_default().to_owned();
    let mut ips: Vec<String> = Vec::new();
    for ip in result["ips"].as_array().into_iter().flatten() {
        // Without an interface it is that of the pod; an interface without a sandbox is the host's.
        let of_pod = match ip["interface"].as_u64() {
            Some(at) => {
                let sandbox = &result["interfaces"][at as usize]["sandbox"];
                sandbox.as_str().is_some_and(|sandbox| !sandbox.is_empty())
            }
            None => true,
        };
        if let Some(address) = ip["address"].as_str().filter(|_| of_pod) {
            ips.push(bare(address));
        }
    }
    // Results before version 0.3.
    for key in ["ip4", "ip6"] {
        if let Some(address) = result[key]["ip"].as_str() {
            ips.push(bare(address));
        }
    }
    let wanted = |ip: &String| match preference {
        "cni" => true,
        "ipv6" => ip.contains(':'),
        _ => !ip.contains(':'),
    };
    if let Some(at) = ips.iter().position(wanted) {
        let first = ips.remove(at);
        ips.insert(0, first);
    }
    ips
}

/// What a plugin says of its failure.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Failed {
    msg: String,
    details: String,
}

impl Failed {
    fn parse(stdout: &[u8], stderr: &[u8], status: std::process::ExitStatus) -> Error {
        let failed: Self = serde_json::from_slice(stdout).unwrap_or_default();
        let message = match (failed.msg.as_str(), failed.details.as_str()) {
            ("", _) => {
                let said = String::from_utf8_lossy(stderr);
                format!("netplugin failed: {status}: {:.512}", said.trim())
            }
            (message, "") => message.to_owned(),
            (message, details) => format!("{message}; {details}"),
        };
        Error::new(Kind::Unknown, message)
    }
}

#[cfg(test)]
mod tests;
