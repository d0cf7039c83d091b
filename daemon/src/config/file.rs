//! What may be written in a configuration file: containerd's, versions 2, 3 and 4. Nothing in it is required.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Keys that this daemon does not know, with their values.
pub type Unknown = BTreeMap<String, toml::Value>;

/// A section of containerd's that this daemon has no use for yet.
pub type Unused = BTreeMap<String, toml::Value>;

/// A configuration file.
#[derive(Debug, Default, Deserialize)]
pub struct File {
    pub version: Option<u32>,
    pub root: Option<PathBuf>,
    pub state: Option<PathBuf>,
    pub oom_score: Option<i32>,
    #[serde(default)]
    pub disabled_plugins: Vec<String>,
    #[serde(default)]
    pub grpc: Grpc,
    #[serde(default)]
    pub ttrpc: Ttrpc,
    #[serde(default)]
    pub debug: Debug,
    #[serde(default)]
    pub metrics: Metrics,
    #[serde(default)]
    pub cgroup: Cgroup,
    #[serde(default)]
    pub timeouts: BTreeMap<String, String>,
    #[serde(default)]
    pub proxy_plugins: BTreeMap<String, ProxyPlugin>,
    #[serde(default)]
    pub stream_processors: Unused,
    #[serde(default)]
    pub required_plugins: Vec<String>,
    /// Settings of the parts, by their plugin URI.
    #[serde(default)]
    pub plugins: BTreeMap<String, toml::Table>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The socket of the gRPC services; from version 4 on the plugin `io.containerd.server.v1.grpc`.
#[derive(Debug, Default, Deserialize)]
pub struct Grpc {
    pub address: Option<PathBuf>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub max_recv_message_size: Option<usize>,
    pub max_send_message_size: Option<usize>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The socket of the shims; from version 4 on the plugin `io.containerd.server.v1.ttrpc`.
#[derive(Debug, Default, Deserialize)]
pub struct Ttrpc {
    pub address: Option<PathBuf>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The server of metrics; from version 4 on the plugin `io.containerd.server.v1.metrics`, and the histogram a key of
/// `io.containerd.metrics.v1.grpc-prometheus`.
#[derive(Debug, Default, Deserialize)]
pub struct Metrics {
    pub address: Option<String>,
    pub grpc_histogram: Option<bool>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What is logged, and the debug socket, which from version 4 on is the plugin `io.containerd.server.v1.debug`.
#[derive(Debug, Default, Deserialize)]
pub struct Debug {
    pub address: Option<String>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub level: Option<String>,
    pub format: Option<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A part in another process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxyPlugin {
    /// What it is: `snapshot`, or the whole type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The socket that it listens on.
    pub address: PathBuf,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    pub exports: BTreeMap<String, String>,
    pub capabilities: Vec<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The control group of the daemon.
#[derive(Debug, Default, Deserialize)]
pub struct Cgroup {
    pub path: Option<PathBuf>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The plugin `io.containerd.metadata.v1.bolt`.
#[derive(Debug, Default, Deserialize)]
pub struct Metadata {
    pub content_sharing_policy: Option<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The plugin `io.containerd.gc.v1.scheduler`; delays are written as `100ms` or `1m30s`.
#[derive(Debug, Default, Deserialize)]
pub struct Scheduler {
    pub pause_threshold: Option<f64>,
    pub deletion_threshold: Option<u64>,
    pub mutation_threshold: Option<u64>,
    pub schedule_delay: Option<String>,
    pub startup_delay: Option<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}
