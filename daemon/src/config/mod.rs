//! What the configuration means: every setting has a value.

pub mod duration;
pub mod file;
pub mod import;
pub mod print;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::error::{Context, Result, invalid};
use crate::gc;
use crate::labels;
use crate::tasks::Limits;
use file::{Debug, File, Grpc, Metadata, Metrics, ProxyPlugin, Scheduler, Ttrpc, Unknown};

/// Where the configuration file is unless the command line names another.
pub const DEFAULT_FILE: &str = "/etc/corten/config.toml";

const GRPC: &str = "io.containerd.server.v1.grpc";
const TTRPC: &str = "io.containerd.server.v1.ttrpc";
const DEBUG: &str = "io.containerd.server.v1.debug";
const METRICS: &str = "io.containerd.server.v1.metrics";
const HISTOGRAM: &str = "io.containerd.metrics.v1.grpc-prometheus";
const METADATA: &str = "io.containerd.metadata.v1.bolt";
const SCHEDULER: &str = "io.containerd.gc.v1.scheduler";
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
const MAX_MESSAGE: usize = 16 << 20;

/// The daemon's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What outlives a reboot.
    pub root: PathBuf,
    /// What does not.
    pub state: PathBuf,
    /// The socket of the gRPC services.
    pub grpc: Socket,
    /// The socket that shims send their events to.
    pub ttrpc: Socket,
    /// The largest gRPC message, in either direction.
    pub max_message: usize,
    pub log_level: String,
    pub log_json: bool,
    /// Where the daemon's variables are served, if anywhere.
    pub debug: Option<Endpoint>,
    /// Host and port where metrics are served, if anywhere.
    pub metrics: Option<String>,
    /// Whether metrics tell how long calls take.
    pub histogram: bool,
    /// How likely the kernel is to kill the daemon for want of memory; nothing leaves that as it is.
    pub oom_score: Option<i32>,
    /// The control group that the daemon is to be in; nothing leaves it where it is.
    pub cgroup: Option<PathBuf>,
    /// How long shims may take.
    pub timeouts: Limits,
    /// Whether a blob of one namespace may be had by all that know its digest.
    pub content_shared: bool,
    pub gc: gc::Config,
    /// Snapshotters in other processes, by name.
    pub snapshotters: BTreeMap<String, ProxyPlugin>,
    /// Keys of containerd's that this daemon knows but does not heed.
    pub unheeded: Vec<String>,
    /// URIs of the parts that are not to be started.
    pub disabled: Vec<String>,
    /// URIs of the parts without which the daemon is not to be started.
    pub required: Vec<String>,
    /// What the file says of parts that read their own settings, by plugin URI.
    pub plugins: BTreeMap<String, toml::Table>,
}

/// A unix socket and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    pub path: PathBuf,
    pub uid: u32,
    pub gid: u32,
}

/// Where something is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Unix(Socket),
    /// Host and port.
    Tcp(String),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/corten".into(),
            state: "/run/corten".into(),
            grpc: Socket::new("/run/corten/cortend.sock"),
            ttrpc: Socket::new("/run/corten/cortend.sock.ttrpc"),
            max_message: MAX_MESSAGE,
            log_level: "info".into(),
            log_json: false,
            debug: None,
            metrics: None,
            histogram: false,
            oom_score: None,
            cgroup: None,
            timeouts: Limits::default(),
            content_shared: true,
            gc: gc::Config::default(),
            snapshotters: BTreeMap::new(),
            unheeded: Vec::new(),
            disabled: Vec::new(),
            required: Vec::new(),
            plugins: BTreeMap::new(),
        }
    }
}

impl Socket {
    fn new(path: impl Into<PathBuf>) -> Self {
        let (path, uid, gid) = (path.into(), 0, 0);
        Self { path, uid, gid }
    }
}

impl Config {
    /// Returns what the file `path` says; the names of keys that mean nothing here are added to `unknown`.
    pub fn load(path: &Path, unknown: &mut Vec<String>) -> Result<Self> {
        let table = import::load(path)?;
        Self::from_table(table, unknown).context(|| format!("configuration file {path:?}"))
    }

    /// Returns what the text of a configuration file says.
    pub fn parse(text: &str, unknown: &mut Vec<String>) -> Result<Self> {
        let table = text
            .parse()
            .map_err(|error| invalid(format!("parse: {error}")))?;
        Self::from_table(table, unknown)
    }

    /// Returns what a parsed configuration file says.
    pub fn from_table(table: toml::Table, unknown: &mut Vec<String>) -> Result<Self> {
        let empty = table.is_empty();
        let mut file: File = table
            .try_into()
            .map_err(|error| invalid(format!("parse: {error}")))?;
        match file.version {
            Some(2..=4) => {}
            None if empty => {}
            version => {
                let version = version.unwrap_or(1);
                return Err(invalid(format!(
                    "version {version} is not supported, only 2, 3 and 4"
                )));
            }
        }
        note(unknown, "", &file.unknown);
        let mut config = Self {
            unheeded: unheeded(&file),
            ..Self::default()
        };
        config.set_sockets(&mut file, unknown)?;
        let metadata: Metadata = section(&mut file, METADATA)?;
        note(unknown, METADATA, &metadata.unknown);
        config.content_shared = match metadata.content_sharing_policy.as_deref() {
            None | Some("shared") => true,
            Some("isolated") => false,
            Some(policy) => {
                return Err(invalid(format!("content_sharing_policy {policy:?}")));
            }
        };
        config.set_gc(section(&mut file, SCHEDULER)?, unknown)?;
        config.set_debug(&mut file, unknown)?;
        config.set_metrics(&mut file, unknown)?;
        config.set_proxies(&mut file, unknown)?;
        config.root = file.root.unwrap_or(config.root);
        config.state = file.state.unwrap_or(config.state);
        for (key, text) in &file.timeouts {
            let limit = duration::parse(text)
                .ok_or_else(|| invalid(format!("timeouts.{key}: {text:?} is no duration")))?;
            if !config.timeouts.set(key, limit) {
                config.unheeded.push(format!("timeouts.{key}"));
            }
        }
        note(unknown, "cgroup", &file.cgroup.unknown);
        config.cgroup = file.cgroup.path.filter(|path| !path.as_os_str().is_empty());
        config.oom_score = file.oom_score.filter(|score| *score != 0);
        config.required = file.required_plugins;
        config.disabled = file.disabled_plugins;
        config.plugins = file.plugins;
        Ok(config)
    }

    /// Moves the gRPC socket to `path` and the shims' socket beside it.
    pub fn set_address(&mut self, path: &Path) {
        self.grpc.path = path.to_owned();
        self.ttrpc.path = beside(path);
    }

    fn set_sockets(&mut self, file: &mut File, unknown: &mut Vec<String>) -> Result<()> {
        let grpc: Grpc = match file.plugins.remove(GRPC) {
            Some(table) => read(GRPC, table)?,
            None => std::mem::take(&mut file.grpc),
        };
        note(unknown, "grpc", &grpc.unknown);
        if let Some(path) = &grpc.address {
            self.set_address(path);
        }
        self.grpc.uid = grpc.uid.unwrap_or(0);
        self.grpc.gid = grpc.gid.unwrap_or(0);
        let sizes = [grpc.max_recv_message_size, grpc.max_send_message_size];
        let largest = sizes.into_iter().flatten().max().filter(|size| *size > 0);
        self.max_message = largest.unwrap_or(MAX_MESSAGE);
        let ttrpc: Ttrpc = match file.plugins.remove(TTRPC) {
            Some(table) => read(TTRPC, table)?,
            None => std::mem::take(&mut file.ttrpc),
        };
        note(unknown, "ttrpc", &ttrpc.unknown);
        if let Some(path) = ttrpc.address.filter(|path| !path.as_os_str().is_empty()) {
            self.ttrpc.path = path;
        }
        self.ttrpc.uid = ttrpc.uid.unwrap_or(self.grpc.uid);
        self.ttrpc.gid = ttrpc.gid.unwrap_or(self.grpc.gid);
        Ok(())
    }

    fn set_debug(&mut self, file: &mut File, unknown: &mut Vec<String>) -> Result<()> {
        let section = std::mem::take(&mut file.debug);
        let plugin: Debug = self::section(file, DEBUG)?;
        for debug in [&section, &plugin] {
            note(unknown, "debug", &debug.unknown);
        }
        if let Some(level) = plugin.level.or(section.level) {
            self.log_level = level;
        }
        self.log_json = plugin.format.or(section.format).as_deref() == Some("json");
        let address = plugin.address.or(section.address);
        let uid = plugin.uid.or(section.uid).unwrap_or(0);
        let gid = plugin.gid.or(section.gid).unwrap_or(0);
        self.debug = match address.filter(|address| !address.is_empty()) {
            Some(path) if Path::new(&path).is_absolute() => {
                let path = path.into();
                Some(Endpoint::Unix(Socket { path, uid, gid }))
            }
            address => address.map(Endpoint::Tcp),
        };
        Ok(())
    }

    fn set_metrics(&mut self, file: &mut File, unknown: &mut Vec<String>) -> Result<()> {
        let section = std::mem::take(&mut file.metrics);
        let plugin: Metrics = self::section(file, METRICS)?;
        let calls: Metrics = self::section(file, HISTOGRAM)?;
        for metrics in [&section, &plugin, &calls] {
            note(unknown, "metrics", &metrics.unknown);
        }
        let address = plugin.address.or(section.address);
        self.metrics = address.filter(|address| !address.is_empty());
        let histogram = calls.grpc_histogram.or(plugin.grpc_histogram);
        self.histogram = histogram.or(section.grpc_histogram).unwrap_or(false);
        Ok(())
    }

    fn set_proxies(&mut self, file: &mut File, unknown: &mut Vec<String>) -> Result<()> {
        for (name, proxy) in std::mem::take(&mut file.proxy_plugins) {
            let section = format!("proxy_plugins.{name}");
            note(unknown, &section, &proxy.unknown);
            if !["snapshot", SNAPSHOTTER].contains(&proxy.kind.as_str()) {
                self.unheeded.push(section);
                continue;
            }
            if !proxy.address.is_absolute() {
                let address = &proxy.address;
                return Err(invalid(format!("{section}: no socket is at {address:?}")));
            }
            labels::validate_identifier(&name).context(|| section.clone())?;
            if !proxy.platform.is_empty() {
                self.unheeded.push(format!("{section}.platform"));
            }
            self.snapshotters.insert(name, proxy);
        }
        Ok(())
    }

    fn set_gc(&mut self, scheduler: Scheduler, unknown: &mut Vec<String>) -> Result<()> {
        note(unknown, SCHEDULER, &scheduler.unknown);
        let gc = &mut self.gc;
        let delay = |text: Option<String>, default| match text {
            Some(text) => duration::parse(&text)
                .ok_or_else(|| invalid(format!("{SCHEDULER}: {text:?} is no duration"))),
            None => Ok(default),
        };
        gc.schedule_delay = delay(scheduler.schedule_delay, gc.schedule_delay)?;
        gc.startup_delay = delay(scheduler.startup_delay, gc.startup_delay)?;
        gc.pause_threshold = scheduler.pause_threshold.unwrap_or(gc.pause_threshold);
        let deletions = scheduler.deletion_threshold;
        gc.deletion_threshold = deletions.unwrap_or(gc.deletion_threshold);
        let mutations = scheduler.mutation_threshold;
        gc.mutation_threshold = mutations.unwrap_or(gc.mutation_threshold);
        Ok(())
    }

    /// Returns the settings of a part that reads its own; the names of keys that it does not know are its to report.
    pub fn section<T: DeserializeOwned + Default>(&self, uri: &str) -> Result<T> {
        match self.plugins.get(uri) {
            Some(table) => read(uri, table.clone()),
            None => Ok(T::default()),
        }
    }
}

/// Returns the names of what is said in sections that have no effect.
fn unheeded(file: &File) -> Vec<String> {
    let keys = file.stream_processors.keys();
    keys.map(|key| format!("stream_processors.{key}")).collect()
}

/// Returns the address of the ttrpc socket that goes with a gRPC socket.
fn beside(path: &Path) -> PathBuf {
    let mut ttrpc = path.as_os_str().to_owned();
    ttrpc.push(".ttrpc");
    ttrpc.into()
}

fn section<T: DeserializeOwned + Default>(file: &mut File, uri: &str) -> Result<T> {
    match file.plugins.remove(uri) {
        Some(table) => read(uri, table),
        None => Ok(T::default()),
    }
}

fn read<T: DeserializeOwned>(uri: &str, table: toml::Table) -> Result<T> {
    table
        .try_into()
        .map_err(|error| invalid(format!("plugin {uri:?}: {error}")))
}

fn note(names: &mut Vec<String>, section: &str, unknown: &Unknown) {
    let dot = if section.is_empty() { "" } else { "." };
    names.extend(unknown.keys().map(|key| format!("{section}{dot}{key}")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn versions_two_to_four_name_the_socket_each_in_its_way() {
        let old = "version = 2\n[grpc]\naddress = \"/a/s\"\ngid = 7\n";
        let new = "version = 4\n[plugins.\"io.containerd.server.v1.grpc\"]\naddress = \"/a/s\"\ngid = 7\n";
        for text in [old, &old.replace('2', "3"), new] {
            let config = Config::parse(text, &mut Vec::new()).unwrap();
            assert_eq!(config.grpc.path, Path::new("/a/s"));
            assert_eq!(config.ttrpc.path, Path::new("/a/s.ttrpc"));
            assert_eq!((config.grpc.gid, config.ttrpc.gid), (7, 7));
        }
        for text in ["version = 1\n", "root = \"/r\"\n", "version = 5\n"] {
            let error = Config::parse(text, &mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("not supported"), "{error}");
        }
    }

    #[test]
    fn unknown_keys_are_named() {
        let mut unknown = Vec::new();
        let text = "version = 3\nrooot = \"/r\"\n[grpc]\nadress = \"/a\"\n\
                    [plugins.\"io.containerd.gc.v1.scheduler\"]\nschedule_delay = \"1m0.5s\"\nnew = 1\n";
        let config = Config::parse(text, &mut unknown).unwrap();
        assert_eq!(
            unknown,
            ["rooot", "grpc.adress", "io.containerd.gc.v1.scheduler.new"]
        );
        assert_eq!(config.gc.schedule_delay, Duration::from_millis(60_500));
    }

    #[test]
    fn sections_without_effect_are_named() {
        let text = "version = 2\n[timeouts]\n\"io.containerd.timeout.task.state\" = \"7s\"\n\
                    \"io.containerd.timeout.bolt.open\" = \"2s\"\n\
                    [proxy_plugins.far]\ntype = \"content\"\naddress = \"/s\"\n";
        let mut unknown = Vec::new();
        let config = Config::parse(text, &mut unknown).unwrap();
        let expected = [
            "proxy_plugins.far",
            "timeouts.io.containerd.timeout.bolt.open",
        ];
        assert_eq!(config.unheeded, expected);
        assert_eq!(config.timeouts.state, Duration::from_secs(7));
        assert!(unknown.is_empty());
    }

    #[test]
    fn proxy_plugins_that_are_snapshotters_are_known_by_their_names() {
        let text = "version = 2\n[proxy_plugins.fuse]\ntype = \"snapshot\"\naddress = \"/s\"\nnew = 1\n\
                    capabilities = [\"rebase\"]\nplatform = \"linux/arm64\"\n[proxy_plugins.fuse.exports]\nroot = \"/r\"\n";
        let mut unknown = Vec::new();
        let config = Config::parse(text, &mut unknown).unwrap();
        let proxy = &config.snapshotters["fuse"];
        assert_eq!(proxy.address, Path::new("/s"));
        assert_eq!(proxy.capabilities, ["rebase"]);
        assert_eq!(proxy.exports["root"], "/r");
        assert_eq!(unknown, ["proxy_plugins.fuse.new"]);
        assert_eq!(config.unheeded, ["proxy_plugins.fuse.platform"]);
        for bad in [text.replace("/s", "s"), text.replace("fuse", "\"a/b\"")] {
            assert!(Config::parse(&bad, &mut Vec::new()).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_file_at_all_gives_the_defaults() {
        assert_eq!(
            Config::parse("", &mut Vec::new()).unwrap(),
            Config::default()
        );
    }
}
