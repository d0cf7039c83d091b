//! A node: a daemon with CRI, a registry with its images, and crictl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    Daemon, Engine, Finished, Image, Network, Peers, Registry, command, eventually, peers,
    print_skip,
};

/// How long a call of crictl may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The programs that `tests/peers-cri` brings.
#[derive(Debug, Clone)]
pub struct Programs {
    folder: PathBuf,
    peers: Peers,
}

impl Programs {
    /// Returns the programs, or prints why the test is skipped.
    pub fn or_skip() -> Option<Programs> {
        let programs = Programs::find(Peers::or_skip()?);
        if programs.is_none() {
            print_skip("needs crictl and network plugins: run tests/peers-cri");
        }
        programs
    }

    /// Returns the programs, or nothing when `tests/peers-cri` has not run on this machine.
    pub fn find(peers: Peers) -> Option<Programs> {
        let folder = peers::folder("cri.env", "PEERS_CRI")?;
        Some(Programs { folder, peers })
    }
}

/// A node whose pods have a network of their own.
#[derive(Debug)]
pub struct Node {
    /// The daemon.
    pub daemon: Daemon,
    /// The image of the containers.
    pub image: String,
    programs: Programs,
    _registry: Option<Registry>,
    /// The node's settings: of its network, its devices, and its plugins.
    settings: tempfile::TempDir,
}

/// The names of the images of containers and of sandboxes.
const BUSYBOX: &str = "registry.test/library/busybox:1";
const PAUSE: &str = "registry.test/library/pause:1";

impl Node {
    /// Starts a node in a network of its own, which has its images already.
    pub fn start(engine: Engine, programs: &Programs) -> Node {
        Node::start_with_images(engine, programs, Network::new())
    }

    /// Starts a node in this network, which has its images already.
    pub fn start_with_images(engine: Engine, programs: &Programs, network: Network) -> Node {
        let node = Node::start_in(engine, programs, Some(network), "");
        node.import();
        node
    }

    /// Starts a node like [`Node::start`], with more settings, and in whose folder of settings
    /// something is prepared.
    pub fn start_prepared(
        engine: Engine,
        programs: &Programs,
        settings: &str,
        prepare: impl FnOnce(&Path),
    ) -> Node {
        let network = Some(Network::new());
        let node = Node::launch(engine, programs, network, settings, prepare);
        node.import();
        node
    }

    /// Starts a node whose network is the machine's, which has its images already, with more settings.
    pub fn start_on_host(engine: Engine, programs: &Programs, settings: &str) -> Node {
        let node = Node::launch(engine, programs, None, settings, |_| {});
        node.import();
        node
    }

    fn import(&self) {
        let ctr = self.daemon.ctr().in_namespace("k8s.io");
        let pause = Image::busybox_recipe()
            .config("Entrypoint", json!(["/bin/sleep"]))
            .config("Cmd", json!(["1000000"]))
            .build();
        for (name, image) in [(BUSYBOX, Image::busybox()), (PAUSE, pause)] {
            let archive = image.write_archive(self.daemon.folder(), name);
            ctr.ok(&["images", "import", &archive.display().to_string()]);
            eventually("the image is known", Duration::from_secs(20), || {
                (self.run(&["inspecti", name]).code == Some(0)).then_some(())
            });
        }
    }

    /// Starts a node that pulls its images from a registry, and whose network is the machine's: it is to run no pods.
    pub fn start_with_registry(engine: Engine, programs: &Programs) -> Node {
        let registry = Registry::start();
        let image = registry.push("library/busybox", "1", &Image::busybox());
        Node {
            image,
            _registry: Some(registry),
            ..Node::start_in(engine, programs, None, "")
        }
    }

    /// Starts a node that has no image yet, with more settings.
    pub fn start_in(
        engine: Engine,
        programs: &Programs,
        network: Option<Network>,
        settings: &str,
    ) -> Node {
        Node::launch(engine, programs, network, settings, |_| {})
    }

    fn launch(
        engine: Engine,
        programs: &Programs,
        network: Option<Network>,
        settings: &str,
        prepare: impl FnOnce(&Path),
    ) -> Node {
        let folder = tempfile::Builder::new().prefix("corten-cri-").tempdir();
        let folder = folder.expect("make a folder");
        let conf = folder.path();
        prepare(conf);
        let list = json!({
            "cniVersion": "1.0.0",
            "name": format!("net-{}", std::process::id()),
            "plugins": [{
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "dataDir": conf.join("ipam"),
                    "ranges": [[{"subnet": "10.88.0.0/16"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }],
        });
        fs::write(conf.join("10-net.conflist"), list.to_string()).expect("write a network");
        let bin = programs.folder.join("cni");
        let config = format!(
            "version = 3\n\
             [plugins.'io.containerd.cri.v1.images']\n\
             stats_collect_period = 1\n\
             [plugins.'io.containerd.cri.v1.images'.pinned_images]\n\
             sandbox = '{PAUSE}'\n\
             [plugins.'io.containerd.cri.v1.runtime']\n\
             restrict_oom_score_adj = true\n\
             netns_mounts_under_state_dir = true\n\
             cdi_spec_dirs = ['{conf}/cdi', '{conf}/cdi.dynamic']\n\
             [plugins.'io.containerd.cri.v1.runtime'.cni]\n\
             bin_dir = '{bin}'\n\
             conf_dir = '{conf}'\n\
             [plugins.'io.containerd.nri.v1.nri']\n\
             socket_path = '{conf}/nri.sock'\n\
             plugin_path = '{conf}/nri'\n\
             plugin_config_path = '{conf}/nri.d'\n\
             {settings}",
            bin = bin.display(),
            conf = conf.display(),
        );
        let config = match engine {
            // The harness writes upstream's version itself; its shim has runc keep its state where it is told to.
            Engine::Containerd2 => {
                config.replacen("version = 3\n", "", 1)
                    + &format!(
                        "\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n\
                         runtime_type = 'io.containerd.runc.v2'\n\
                         options = {{Root = '{}'}}\n",
                        conf.join("runc").display()
                    )
            }
            _ => config,
        };
        let daemon = Daemon::start_in(engine, &programs.peers, &config, network);
        let node = Node {
            daemon,
            image: BUSYBOX.into(),
            programs: programs.clone(),
            _registry: None,
            settings: folder,
        };
        node.ok(&["info"]);
        node
    }

    /// Writes down what a vendor says of its devices; `name` is that of a file, in either of the node's folders for such.
    pub fn write_devices(&self, name: &str, text: &str) {
        let path = self.settings.path().join(name);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("make a folder");
        fs::write(path, text).expect("write a file");
    }

    /// Returns the socket that plugins of NRI connect to.
    pub fn nri(&self) -> PathBuf {
        self.settings.path().join("nri.sock")
    }

    /// Returns the folder of crictl and critest.
    pub fn programs(&self) -> &Path {
        &self.programs.folder
    }

    /// Returns crictl with these arguments, not yet run.
    pub fn command(&self, args: &[&str]) -> Command {
        let socket = format!("unix://{}", self.daemon.address().display());
        let mut command = self.daemon.command(self.programs.folder.join("crictl"));
        command
            .args(["--runtime-endpoint", &socket, "--image-endpoint", &socket])
            .args(["--timeout", "60s"])
            .args(args)
            .env("HOME", self.daemon.folder());
        command
    }

    /// Runs crictl to its end.
    pub fn run(&self, args: &[&str]) -> Finished {
        command::run_with(&mut self.command(args), b"", LIMIT)
    }

    /// Runs crictl, which must succeed, and returns its standard output without the line break at its end.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        self.run(args).ok().trim_end().to_owned()
    }

    /// Writes a file for crictl and returns its path.
    pub fn file(&self, name: &str, value: &Value) -> String {
        let path = self.daemon.folder().join(name);
        fs::write(&path, value.to_string()).expect("write a file");
        path.display().to_string()
    }

    /// Runs a pod and returns its id and the path of its settings.
    #[track_caller]
    pub fn pod(&self, name: &str, more: &Value) -> (String, String) {
        let mut config = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "attempt": 1},
            "log_directory": self.logs(),
            "linux": {"cgroup_parent": format!("/{}", self.daemon.namespace)},
        });
        merge(&mut config, more);
        let path = self.file(&format!("{name}.pod.json"), &config);
        (self.ok(&["runp", &path]), path)
    }

    /// Creates a container in a pod and returns its id.
    #[track_caller]
    pub fn container(&self, pod: &(String, String), name: &str, more: &Value) -> String {
        let mut config = json!({
            "metadata": {"name": name, "attempt": 1},
            "image": {"image": self.image},
            "log_path": format!("{name}.log"),
        });
        merge(&mut config, more);
        let path = self.file(&format!("{name}.json"), &config);
        self.ok(&["create", &pod.0, &path, &pod.1])
    }

    /// Creates and starts a container that runs a script.
    #[track_caller]
    pub fn script(&self, pod: &(String, String), name: &str, script: &str) -> String {
        let id = self.container(pod, name, &json!({"command": ["sh", "-c", script]}));
        self.ok(&["start", &id]);
        id
    }

    /// Returns the folder of the containers' logs.
    pub fn logs(&self) -> PathBuf {
        let folder = self.daemon.folder().join("logs");
        let _ = fs::create_dir(&folder);
        folder
    }

    /// Returns a part of what `crictl inspect` says of a container.
    #[track_caller]
    pub fn inspect(&self, id: &str, pointer: &str) -> Value {
        let value: Value = serde_json::from_str(&self.ok(&["inspect", id])).expect("JSON");
        value.pointer(pointer).cloned().unwrap_or_default()
    }

    /// Waits until a container is in a state.
    #[track_caller]
    pub fn wait_for(&self, id: &str, state: &str) {
        eventually(
            &format!("container is {state}"),
            Duration::from_secs(30),
            || (self.inspect(id, "/status/state") == state).then_some(()),
        );
    }
}

fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}
