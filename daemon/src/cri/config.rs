//! The settings of CRI: the keys of containerd's CRI plugin, as its versions 2 and 3 of the configuration have them.
//!
//! Version 2 has everything under one plugin; from version 3 on there is one for the image service, one for the
//! runtime service and one for the streaming server. What is written in either place means the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api_protos::any;
use api_protos::containerd::runc::v1::Options;
use api_protos::oci::cdi;
use prost_types::Any;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config::duration;
use crate::error::{Result, invalid};

/// The plugin of version 2, and of the streaming server since.
pub const PLUGIN: &str = "io.containerd.grpc.v1.cri";
/// The plugin of the image service.
pub const IMAGES: &str = "io.containerd.cri.v1.images";
/// The plugin of the runtime service.
pub const RUNTIME: &str = "io.containerd.cri.v1.runtime";

const DEFAULT_SANDBOX_IMAGE: &str = "registry.k8s.io/pause:3.10.1";
/// Lines of a container's output that are longer are split.
const LINE: usize = 16 << 10;

/// The settings of CRI; nothing is left open.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub snapshotter: String,
    pub sandbox_image: String,
    /// The folder with the settings of registries.
    pub registry_path: Option<PathBuf>,
    pub pull_stall: Duration,
    /// How long a container's use of the disk is not measured again.
    pub stats_period: Duration,
    pub max_line: usize,
    pub restrict_oom_score_adj: bool,
    pub unprivileged_ports: bool,
    pub unprivileged_icmp: bool,
    pub ignore_image_volumes: bool,
    pub device_ownership: bool,
    pub tolerate_missing_hugetlb: bool,
    pub disable_hugetlb: bool,
    /// How long `ExecSync` waits for output after the process has ended; zero is for ever.
    pub drain_exec_sync: Duration,
    pub netns_under_state: bool,
    /// Where devices by CDI are looked for; nothing leaves them alone.
    pub cdi: Option<Vec<PathBuf>>,
    pub default_runtime: String,
    pub runtimes: BTreeMap<String, Runtime>,
    pub cni: Cni,
    pub stream: Stream,
}

/// A runtime handler.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Runtime {
    pub kind: String,
    pub options: Option<Any>,
    pub systemd_cgroup: bool,
    pub pod_annotations: Vec<String>,
    pub container_annotations: Vec<String>,
    pub privileged_without_host_devices: bool,
    pub all_devices_allowed: bool,
    pub cgroup_writable: bool,
    pub snapshotter: String,
}

/// Where networks are configured and set up from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cni {
    pub bin_dirs: Vec<PathBuf>,
    pub conf_dir: PathBuf,
    /// How many of the configuration files count; 0 is all.
    pub max_conf_num: usize,
    pub conf_template: Option<PathBuf>,
    /// `ipv4`, `ipv6` or `cni`.
    pub ip_pref: String,
}

/// Where the streaming server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    pub address: String,
    pub port: u16,
    pub idle: Duration,
    pub tls: Tls,
}

/// How streams are encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    #[default]
    Not,
    /// By a certificate that is made when the server starts.
    SelfSigned,
    Files {
        cert: PathBuf,
        key: PathBuf,
    },
}

impl Default for Cni {
    fn default() -> Self {
        Self {
            bin_dirs: vec!["/opt/cni/bin".into()],
            conf_dir: "/etc/cni/net.d".into(),
            max_conf_num: 1,
            conf_template: None,
            ip_pref: String::new(),
        }
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            address: "127.0.0.1".into(),
            port: 0,
            idle: Duration::from_secs(4 * 3600),
            tls: Tls::Not,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let runc = Runtime {
            kind: "io.containerd.runc.v2".into(),
            ..Runtime::default()
        };
        Self {
            snapshotter: "overlayfs".into(),
            sandbox_image: DEFAULT_SANDBOX_IMAGE.into(),
            registry_path: None,
            pull_stall: Duration::from_secs(300),
            stats_period: Duration::from_secs(10),
            max_line: LINE,
            restrict_oom_score_adj: false,
            unprivileged_ports: true,
            unprivileged_icmp: true,
            ignore_image_volumes: false,
            device_ownership: false,
            tolerate_missing_hugetlb: true,
            disable_hugetlb: true,
            drain_exec_sync: Duration::ZERO,
            netns_under_state: false,
            cdi: Some(cdi::FOLDERS.map(PathBuf::from).into()),
            default_runtime: "runc".into(),
            runtimes: BTreeMap::from([("runc".into(), runc)]),
            cni: Cni::default(),
            stream: Stream::default(),
        }
    }
}

impl Config {
    /// Returns what the tables of the three plugins say; keys that mean nothing here are added to `unknown`.
    pub fn read(
        plugins: &BTreeMap<String, toml::Table>,
        unknown: &mut Vec<String>,
    ) -> Result<Self> {
        let mut config = Self::default();
        let service: written::Service = section(plugins, PLUGIN)?;
        let images: written::Images = section(plugins, IMAGES)?;
        let runtime: written::Runtime = section(plugins, RUNTIME)?;
        let mut note = |uri: &str, keys: &written::Unknown| {
            unknown.extend(keys.keys().map(|key| format!("{uri}.{key}")));
        };
        note(IMAGES, &images.unknown);
        note(RUNTIME, &runtime.unknown);
        config.set_stream(&service)?;
        config.set_images(service.images)?;
        config.set_images(images)?;
        config.set_runtime(service.runtime)?;
        config.set_runtime(runtime)?;
        if !config.runtimes.contains_key(&config.default_runtime) {
            return Err(invalid(format!(
                "no corresponding runtime configured in `containerd.runtimes` for \
                 `containerd` `default_runtime_name = {:?}`",
                config.default_runtime
            )));
        }
        Ok(config)
    }

    /// Returns the runtime of a handler; the name of the default one is empty.
    pub fn runtime(&self, handler: &str) -> Result<&Runtime> {
        let name = match handler {
            "" => &self.default_runtime,
            name => name,
        };
        self.runtimes
            .get(name)
            .ok_or_else(|| invalid(format!("no runtime for {handler:?} is configured")))
    }

    /// Returns the snapshotter of a runtime's containers.
    pub fn snapshotter_of<'a>(&'a self, runtime: &'a Runtime) -> &'a str {
        match runtime.snapshotter.as_str() {
            "" => &self.snapshotter,
            name => name,
        }
    }

    fn set_stream(&mut self, written: &written::Service) -> Result<()> {
        let stream = &mut self.stream;
        set(&mut stream.address, written.stream_server_address.clone());
        if let Some(port) = &written.stream_server_port {
            let number = port.parse();
            stream.port = number.map_err(|_| invalid(format!("stream_server_port {port:?}")))?;
        }
        set_duration(
            &mut stream.idle,
            "stream_idle_timeout",
            &written.stream_idle_timeout,
        )?;
        let pair = &written.x509_key_pair_streaming;
        let files = (
            some(pair.tls_cert_file.clone()),
            some(pair.tls_key_file.clone()),
        );
        stream.tls = match (written.enable_tls_streaming == Some(true), files) {
            (false, (None, None)) => Tls::Not,
            (true, (None, None)) => Tls::SelfSigned,
            (true, (Some(cert), Some(key))) => Tls::Files {
                cert: cert.into(),
                key: key.into(),
            },
            (true, _) => {
                let message = "x509_key_pair_streaming needs both tls_cert_file and tls_key_file";
                return Err(invalid(message));
            }
            (false, _) => {
                let message = "x509_key_pair_streaming is set but enable_tls_streaming is not";
                return Err(invalid(message));
            }
        };
        Ok(())
    }

    fn set_images(&mut self, written: written::Images) -> Result<()> {
        set(&mut self.snapshotter, some(written.snapshotter));
        set(&mut self.sandbox_image, some(written.sandbox_image));
        set(
            &mut self.sandbox_image,
            some(written.pinned_images.get("sandbox").cloned()),
        );
        if let Some(path) = some(written.registry.config_path) {
            self.registry_path = Some(path.into());
        }
        set(
            &mut self.stats_period,
            written.stats_collect_period.map(Duration::from_secs),
        );
        set_duration(
            &mut self.pull_stall,
            "image_pull_progress_timeout",
            &written.image_pull_progress_timeout,
        )
    }

    fn set_runtime(&mut self, written: written::Runtime) -> Result<()> {
        if written.enable_selinux == Some(true) {
            return Err(invalid("enable_selinux: SELinux labels are not supported"));
        }
        if let Some(line) = written.max_container_log_line_size {
            self.max_line = usize::try_from(line).unwrap_or(usize::MAX);
        }
        set(
            &mut self.restrict_oom_score_adj,
            written.restrict_oom_score_adj,
        );
        set(
            &mut self.unprivileged_ports,
            written.enable_unprivileged_ports,
        );
        set(
            &mut self.unprivileged_icmp,
            written.enable_unprivileged_icmp,
        );
        set(
            &mut self.ignore_image_volumes,
            written.ignore_image_defined_volumes,
        );
        set(
            &mut self.device_ownership,
            written.device_ownership_from_security_context,
        );
        set(
            &mut self.tolerate_missing_hugetlb,
            written.tolerate_missing_hugetlb_controller,
        );
        set(
            &mut self.disable_hugetlb,
            written.disable_hugetlb_controller,
        );
        set(
            &mut self.netns_under_state,
            written.netns_mounts_under_state_dir,
        );
        if let Some(folders) = written.cdi_spec_dirs.filter(|folders| !folders.is_empty()) {
            self.cdi = Some(folders);
        }
        if written.enable_cdi == Some(false) {
            self.cdi = None;
        }
        set_duration(
            &mut self.drain_exec_sync,
            "drain_exec_sync_io_timeout",
            &written.drain_exec_sync_io_timeout,
        )?;
        set(&mut self.snapshotter, some(written.containerd.snapshotter));
        set(
            &mut self.default_runtime,
            some(written.containerd.default_runtime_name),
        );
        for (name, runtime) in written.containerd.runtimes {
            self.runtimes.insert(name, runtime.meaning()?);
        }
        let cni = &mut self.cni;
        if let Some(dir) = some(written.cni.bin_dir) {
            cni.bin_dirs = vec![dir.into()];
        }
        if let Some(dirs) = written.cni.bin_dirs.filter(|dirs| !dirs.is_empty()) {
            cni.bin_dirs = dirs;
        }
        if let Some(dir) = some(written.cni.conf_dir) {
            cni.conf_dir = dir.into();
        }
        set(&mut cni.max_conf_num, written.cni.max_conf_num);
        if let Some(path) = some(written.cni.conf_template) {
            cni.conf_template = Some(path.into());
        }
        set(&mut cni.ip_pref, written.cni.ip_pref);
        Ok(())
    }
}

fn set<T>(setting: &mut T, written: Option<T>) {
    if let Some(value) = written {
        *setting = value;
    }
}

/// An empty text is as good as none.
fn some(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn set_duration(setting: &mut Duration, key: &str, written: &Option<String>) -> Result<()> {
    if let Some(text) = written.as_deref().filter(|text| !text.is_empty()) {
        *setting = duration::parse(text)
            .ok_or_else(|| invalid(format!("{key}: {text:?} is no duration")))?;
    }
    Ok(())
}

fn section<T: DeserializeOwned + Default>(
    plugins: &BTreeMap<String, toml::Table>,
    uri: &str,
) -> Result<T> {
    match plugins.get(uri) {
        Some(table) => table
            .clone()
            .try_into()
            .map_err(|error| invalid(format!("plugin {uri:?}: {error}"))),
        None => Ok(T::default()),
    }
}

/// What may be written.
mod written {
    use super::*;

    pub type Unknown = BTreeMap<String, toml::Value>;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    pub struct Service {
        pub stream_server_address: Option<String>,
        pub stream_server_port: Option<String>,
        pub stream_idle_timeout: Option<String>,
        pub enable_tls_streaming: Option<bool>,
        pub x509_key_pair_streaming: KeyPair,
        /// What version 2 has here of the image service.
        #[serde(flatten)]
        pub images: Images,
        /// What version 2 has here of the runtime service.
        #[serde(flatten)]
        pub runtime: Runtime,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    pub struct KeyPair {
        pub tls_cert_file: Option<String>,
        pub tls_key_file: Option<String>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    pub struct Images {
        pub snapshotter: Option<String>,
        pub sandbox_image: Option<String>,
        pub pinned_images: BTreeMap<String, String>,
        pub registry: Registry,
        pub image_pull_progress_timeout: Option<String>,
        /// Seconds.
        pub stats_collect_period: Option<u64>,
        #[serde(flatten)]
        pub unknown: Unknown,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    pub struct Registry {
        pub config_path: Option<String>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    pub struct Runtime {
        pub enable_selinux: Option<bool>,
        pub max_container_log_line_size: Option<i64>,
        pub restrict_oom_score_adj: Option<bool>,
        pub enable_unprivileged_ports: Option<bool>,
        pub enable_unprivileged_icmp: Option<bool>,
        pub ignore_image_defined_volumes: Option<bool>,
        pub device_ownership_from_security_context: Option<bool>,
        pub tolerate_missing_hugetlb_controller: Option<bool>,
        pub disable_hugetlb_controller: Option<bool>,
        pub drain_exec_sync_io_timeout: Option<String>,
        pub netns_mounts_under_state_dir: Option<bool>,
        pub enable_cdi: Option<bool>,
        pub cdi_spec_dirs: Option<Vec<PathBuf>>,
        pub containerd: Containerd,
        pub cni: Cni,
        #[serde(flatten)]
        pub unknown: Unknown,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    pub struct Containerd {
        pub snapshotter: Option<String>,
        pub default_runtime_name: Option<String>,
        pub runtimes: BTreeMap<String, Handler>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    pub struct Handler {
        pub runtime_type: String,
        pub runtime_path: String,
        pub pod_annotations: Vec<String>,
        pub container_annotations: Vec<String>,
        pub privileged_without_host_devices: bool,
        pub privileged_without_host_devices_all_devices_allowed: bool,
        pub cgroup_writable: bool,
        pub snapshotter: String,
        pub sandboxer: String,
        pub options: RuncOptions,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, rename_all = "PascalCase")]
    pub struct RuncOptions {
        pub binary_name: String,
        pub systemd_cgroup: bool,
        pub root: String,
        pub io_uid: u32,
        pub io_gid: u32,
        pub no_pivot_root: bool,
        pub no_new_keyring: bool,
        pub shim_cgroup: String,
        pub criu_image_path: String,
        pub criu_work_path: String,
        pub type_url: String,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    pub struct Cni {
        pub bin_dir: Option<String>,
        pub bin_dirs: Option<Vec<PathBuf>>,
        pub conf_dir: Option<String>,
        pub max_conf_num: Option<usize>,
        pub conf_template: Option<String>,
        pub ip_pref: Option<String>,
    }

    impl Handler {
        /// Returns the runtime that is meant.
        pub fn meaning(self) -> Result<super::Runtime> {
            if !matches!(self.sandboxer.as_str(), "" | "podsandbox") {
                return Err(invalid(format!(
                    "sandboxer {:?} is not supported",
                    self.sandboxer
                )));
            }
            if !self.options.type_url.is_empty() {
                return Err(invalid("runtime options with a TypeUrl are not supported"));
            }
            let kind = match (self.runtime_path.as_str(), self.runtime_type.as_str()) {
                ("", "") => "io.containerd.runc.v2".to_owned(),
                ("", kind) => kind.to_owned(),
                (path, _) if Path::new(path).is_absolute() => path.to_owned(),
                (path, _) => return Err(invalid(format!("runtime_path {path:?} is relative"))),
            };
            let written = self.options;
            let options = Options {
                no_pivot_root: written.no_pivot_root,
                no_new_keyring: written.no_new_keyring,
                shim_cgroup: written.shim_cgroup,
                io_uid: written.io_uid,
                io_gid: written.io_gid,
                binary_name: written.binary_name,
                root: written.root,
                systemd_cgroup: written.systemd_cgroup,
                criu_image_path: written.criu_image_path,
                criu_work_path: written.criu_work_path,
                ..Options::default()
            };
            let runc = kind == "io.containerd.runc.v2" || options != Options::default();
            Ok(super::Runtime {
                systemd_cgroup: options.systemd_cgroup,
                options: runc.then(|| any::pack(&options)),
                kind,
                pod_annotations: self.pod_annotations,
                container_annotations: self.container_annotations,
                privileged_without_host_devices: self.privileged_without_host_devices,
                all_devices_allowed: self.privileged_without_host_devices_all_devices_allowed,
                cgroup_writable: self.cgroup_writable,
                snapshotter: self.snapshotter,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Config, Vec<String>) {
        let plugins: BTreeMap<String, toml::Table> = toml::from_str(text).unwrap();
        let mut unknown = Vec::new();
        (Config::read(&plugins, &mut unknown).unwrap(), unknown)
    }

    #[test]
    fn both_versions_mean_the_same() {
        let old = r#"
            ["io.containerd.grpc.v1.cri"]
            sandbox_image = "r/pause:1"
            stream_server_port = "10010"
            restrict_oom_score_adj = true
            ["io.containerd.grpc.v1.cri".containerd]
            snapshotter = "native"
            default_runtime_name = "crun"
            ["io.containerd.grpc.v1.cri".containerd.runtimes.crun]
            runtime_type = "io.containerd.runc.v2"
            pod_annotations = ["a.*"]
            ["io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
            BinaryName = "/usr/bin/crun"
            SystemdCgroup = true
            ["io.containerd.grpc.v1.cri".cni]
            bin_dir = "/b"
            conf_dir = "/c"
            ["io.containerd.grpc.v1.cri".registry]
            config_path = "/certs.d"
        "#;
        let new = r#"
            ["io.containerd.grpc.v1.cri"]
            stream_server_port = "10010"
            ["io.containerd.cri.v1.images"]
            snapshotter = "native"
            ["io.containerd.cri.v1.images".pinned_images]
            sandbox = "r/pause:1"
            ["io.containerd.cri.v1.images".registry]
            config_path = "/certs.d"
            ["io.containerd.cri.v1.runtime"]
            restrict_oom_score_adj = true
            ["io.containerd.cri.v1.runtime".containerd]
            default_runtime_name = "crun"
            ["io.containerd.cri.v1.runtime".containerd.runtimes.crun]
            runtime_type = "io.containerd.runc.v2"
            pod_annotations = ["a.*"]
            ["io.containerd.cri.v1.runtime".containerd.runtimes.crun.options]
            BinaryName = "/usr/bin/crun"
            SystemdCgroup = true
            ["io.containerd.cri.v1.runtime".cni]
            bin_dirs = ["/b"]
            conf_dir = "/c"
        "#;
        let (config, _) = parse(old);
        assert_eq!(parse(new), (config.clone(), Vec::new()));
        assert_eq!(config.stream.port, 10010);
        assert_eq!(config.sandbox_image, "r/pause:1");
        assert_eq!(config.cni.bin_dirs, [Path::new("/b")]);
        let crun = config.runtime("").unwrap();
        assert!(crun.systemd_cgroup);
        assert_eq!(config.snapshotter_of(crun), "native");
        let options: Options = any::unpack(crun.options.as_ref().unwrap())
            .unwrap()
            .unwrap();
        assert_eq!(options.binary_name, "/usr/bin/crun");
        assert!(config.runtime("kata").is_err());
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        for text in [
            "[\"io.containerd.cri.v1.runtime\"]\nenable_selinux = true\n",
            "[\"io.containerd.cri.v1.runtime\".containerd]\ndefault_runtime_name = \"x\"\n",
            "[\"io.containerd.cri.v1.images\"]\nimage_pull_progress_timeout = \"5\"\n",
        ] {
            let plugins = toml::from_str(text).unwrap();
            assert!(Config::read(&plugins, &mut Vec::new()).is_err(), "{text}");
        }
    }

    #[test]
    fn devices_are_looked_for_where_it_is_said_or_nowhere() {
        let folders = |text: &str| parse(&format!("[\"{RUNTIME}\"]\n{text}")).0.cdi;
        let usual = Some(cdi::FOLDERS.map(PathBuf::from).into());
        assert_eq!(folders(""), usual);
        assert_eq!(folders("cdi_spec_dirs = []"), usual);
        assert_eq!(folders("cdi_spec_dirs = ['/a']"), Some(vec!["/a".into()]));
        assert_eq!(folders("enable_cdi = false\ncdi_spec_dirs = ['/a']"), None);
    }

    #[test]
    fn streams_are_encrypted_by_files_or_by_what_is_made() {
        let read = |text: &str| {
            let plugins = toml::from_str(&format!("[\"{PLUGIN}\"]\n{text}")).unwrap();
            Config::read(&plugins, &mut Vec::new()).map(|config| config.stream.tls)
        };
        let files = "x509_key_pair_streaming = {tls_cert_file = '/c', tls_key_file = '/k'}";
        let on = "enable_tls_streaming = true\n";
        assert_eq!(read("").unwrap(), Tls::Not);
        assert_eq!(read(on).unwrap(), Tls::SelfSigned);
        let (cert, key) = ("/c".into(), "/k".into());
        assert_eq!(
            read(&format!("{on}{files}")).unwrap(),
            Tls::Files { cert, key }
        );
        assert!(read(files).is_err());
        let half = "x509_key_pair_streaming = {tls_cert_file = '/c', tls_key_file = ''}";
        assert!(read(&format!("{on}{half}")).is_err());
    }

    #[test]
    fn unknown_keys_are_named() {
        let (config, unknown) = parse("[\"io.containerd.cri.v1.runtime\"]\nnew_key = 1\n");
        assert_eq!(config, Config::default());
        assert_eq!(unknown, ["io.containerd.cri.v1.runtime.new_key"]);
    }
}
