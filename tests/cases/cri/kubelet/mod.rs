//! A kubelet on a node; the cases here are those of its static pods, without an API server.
//!
//! Its build takes many minutes, and each case some dozen seconds, so they run only when they are asked for: `make test-kubelet`.

mod api;
mod isolation;
mod pods;
mod recovery;

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tests::leftovers::Leftovers;
use tests::{Engine, Network, command, eventually, peers, print_skip};

use super::node::{Node, Programs};

/// How long anything that a kubelet does may take: what has ended it removes once in a minute.
const LIMIT: Duration = Duration::from_secs(120);
/// The kubelet's name for its node, which it appends to the names of static pods.
pub const NAME: &str = "here";
/// The node's address, which is no other's: the network is its own.
pub const ADDRESS: &str = "10.77.0.1";
/// How large a log may grow before another file takes its place.
const LOG_SIZE: usize = 64 << 10;
/// What a kubelet sets in the kernel for the whole machine.
const TUNABLES: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// A kubelet on a node; both end when it is dropped.
#[derive(Debug)]
pub struct Kubelet {
    pub node: Node,
    program: PathBuf,
    child: Option<Child>,
    /// How it finds its API server, if it has one.
    pub server: Option<PathBuf>,
}

/// Runs a case with a kubelet on upstream's node and on ours; what it returns must be the same.
#[track_caller]
fn same<T: PartialEq + std::fmt::Debug>(case: impl Fn(&mut Kubelet) -> T) {
    if std::env::var_os("CORTEN_TESTS_KUBELET").is_none() {
        return print_skip("a kubelet takes long to build and to test: make test-kubelet does it");
    }
    let Some(programs) = Programs::or_skip() else {
        return;
    };
    let Some(program) = program_or_skip() else {
        return;
    };
    let run = |engine| {
        let mut kubelet = Kubelet::make(engine, &programs, program.clone());
        kubelet.spawn();
        let result = case(&mut kubelet);
        kubelet.end();
        result
    };
    let upstream = run(Engine::Containerd2);
    let ours = run(Engine::Corten);
    assert_eq!(ours, upstream, "ours on the left, upstream's on the right");
}

/// Returns the kubelet, or prints why the test is skipped.
pub fn program_or_skip() -> Option<PathBuf> {
    let folder = peers::folder("kubelet.env", "PEERS_KUBELET");
    if folder.is_none() {
        print_skip("needs a kubelet: run tests/peers-kubelet");
    }
    Some(folder?.join("kubelet"))
}

impl Kubelet {
    /// Makes a node and all that a kubelet needs on it; [`Kubelet::spawn`] starts that.
    pub fn make(engine: Engine, programs: &Programs, program: PathBuf) -> Kubelet {
        let network = Network::with_state();
        let node = Node::start_with_images(engine, programs, network);
        let kubelet = Kubelet {
            node,
            program,
            child: None,
            server: None,
        };
        kubelet.make_view();
        fs::create_dir(kubelet.folder("manifests")).expect("make a folder");
        kubelet.write_configuration();
        kubelet
    }

    /// Returns a path in the folder of the node.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.node.daemon.folder().join(name)
    }

    /// Has the programs of the node see the kernel as a kubelet wants it and logs of their own, and makes its address and
    /// its control group.
    ///
    /// So it changes nothing of the machine: it compares the kernel's settings with what it would write to them.
    fn make_view(&self) {
        let tunables = self.folder("tunables");
        // The kernel lets a user namespace have its own /proc only where there is one with nothing mounted over it.
        let mut script = format!(
            "mount -t tmpfs tmpfs /var/log && mkdir /var/lib/proc && mount -t proc proc /var/lib/proc && \
             ip link add node type bridge && ip address add {ADDRESS}/32 dev node && ip link set node up",
        );
        for (name, value) in TUNABLES {
            let file = tunables.join(name);
            fs::create_dir_all(file.parent().expect("it is in a folder")).expect("make a folder");
            fs::write(&file, format!("{value}\n")).expect("write a file");
            script += &format!(" && mount --bind {} /proc/sys/{name}", file.display());
        }
        script += &format!(
            " && for root in /sys/fs/cgroup/*/; do mkdir -p $root/{}; done",
            self.node.daemon.namespace
        );
        command::run(self.node.daemon.command("sh").args(["-c", &script])).ok();
    }

    fn write_configuration(&self) {
        let folder = |name: &str| self.folder(name).display().to_string();
        let socket = format!("unix://{}", self.node.daemon.address().display());
        let configuration = json!({
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "address": "0.0.0.0",
            "port": api::PORT,
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": socket,
            "staticPodPath": folder("manifests"),
            "podLogsDir": folder("logs"),
            "volumePluginDir": folder("plugins"),
            "resolvConf": "",
            "failCgroupV1": false,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.node.daemon.namespace),
            "makeIPTablesUtilChains": false,
            "protectKernelDefaults": true,
            // A lower value takes a capability that the tests may not have.
            "oomScoreAdj": 0,
            "failSwapOn": false,
            "containerLogMaxSize": LOG_SIZE.to_string(),
            "containerLogMonitorInterval": "3s",
            "syncFrequency": "2s",
            "fileCheckFrequency": "1s",
            "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
            // However full the machine's disk is.
            "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
        });
        fs::write(self.folder("kubelet.json"), configuration.to_string()).expect("write a file");
    }

    /// Starts the kubelet and waits until it answers.
    pub fn spawn(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder("kubelet.log"))
            .expect("open the log");
        let mut command = self.node.daemon.command(&self.program);
        command
            .arg("--config")
            .arg(self.folder("kubelet.json"))
            .arg("--root-dir")
            .arg(self.folder("kubelet"))
            .arg("--cert-dir")
            .arg(self.folder("pki"))
            .args(["--hostname-override", NAME, "--node-ip", ADDRESS])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("duplicate a descriptor"))
            .stderr(log)
            .process_group(0);
        if let Some(server) = &self.server {
            command.arg("--kubeconfig").arg(server);
        }
        self.child = Some(command.spawn().expect("start the kubelet"));
        eventually("the kubelet answers", LIMIT, || {
            let child = self.child.as_mut().expect("just started");
            let ended = child.try_wait().expect("wait for a child of ours");
            assert_eq!(ended, None, "the kubelet ended\n{}", self.log());
            (self.get("/healthz").0 == 200).then_some(())
        });
    }

    /// Ends the kubelet with no warning; its pods live on.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder("kubelet.log")).unwrap_or_default()
    }

    /// Gives the kubelet a pod.
    pub fn create(&self, name: &str, spec: &Value) {
        let mut spec = spec.clone();
        // Most of what runs here does not listen to the signal.
        if spec["terminationGracePeriodSeconds"].is_null() {
            spec["terminationGracePeriodSeconds"] = json!(1);
        }
        for kind in ["containers", "initContainers"] {
            for container in spec[kind].as_array_mut().into_iter().flatten() {
                container["image"] = json!(self.node.image);
            }
        }
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": spec,
        });
        // The kubelet reads what is in the folder at any moment, but nothing whose name begins with a dot.
        let hidden = self.folder("manifests").join(".new");
        fs::write(&hidden, pod.to_string()).expect("write a file");
        fs::rename(hidden, self.manifest(name)).expect("rename a file");
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.folder("manifests").join(format!("{name}.json"))
    }

    /// Takes a pod from the kubelet.
    pub fn delete(&self, name: &str) {
        fs::remove_file(self.manifest(name)).expect("remove a file");
    }

    /// Takes all pods from the kubelet, which must leave nothing of them that runs, and ends it.
    #[track_caller]
    pub fn end(&mut self) {
        let manifests = fs::read_dir(self.folder("manifests")).expect("read a folder");
        for manifest in manifests.flatten() {
            fs::remove_file(manifest.path()).expect("remove a file");
        }
        let node = &self.node;
        let groups = || Leftovers::find(node.daemon.folder(), &node.daemon.namespace).cgroups;
        self.wait("nothing is left of the pods", || {
            let run = node.ok(&["pods", "-q", "--state", "ready"]) + &node.ok(&["ps", "-q"]);
            let volumes = fs::read_dir(self.folder("kubelet/pods")).map_or(0, Iterator::count);
            let of_pod = |group: &PathBuf| {
                let name = group.file_name().unwrap_or_default();
                name.to_string_lossy().starts_with("pod")
            };
            (run.is_empty() && volumes == 0 && !groups().iter().any(of_pod)).then_some(())
        });
        // The kubelet does that once in a minute.
        self.node.run(&["rmp", "-a"]);
        let groups = groups();
        self.kill();
        for group in groups.iter().rev() {
            // Those of the classes that it has made once for all pods; what has a container in it stays.
            let _ = fs::remove_dir(group);
        }
        let pods = self.folder("kubelet/pods");
        let table = command::run(self.node.daemon.command("cat").arg("/proc/self/mountinfo")).ok();
        let mounts = table.lines().filter_map(|line| line.split(' ').nth(4));
        let left: Vec<&str> = mounts
            .filter(|mount| Path::new(mount).starts_with(&pods))
            .collect();
        assert!(left.is_empty(), "mounts left behind: {left:#?}");
        // Upstream now and then loses the shim of a pod whose containers and sandbox end at once.
        if self.node.daemon.engine == Engine::Corten {
            self.node.daemon.assert_nothing_left();
        }
    }

    /// Returns what the kubelet says of a pod's state.
    fn status(&self, name: &str) -> Value {
        let (code, body) = self.get("/pods");
        assert_eq!(code, 200, "{body}");
        let pods: Value = serde_json::from_str(&body).expect("JSON");
        let full = format!("{name}-{NAME}");
        let mut pods = pods["items"].as_array().into_iter().flatten();
        let found = pods.find(|pod| pod["metadata"]["name"] == full);
        found.map(|pod| pod["status"].clone()).unwrap_or_default()
    }

    /// Waits until a pod's state has what is looked for in it.
    #[track_caller]
    fn wait_for<T>(&self, what: &str, name: &str, look: impl Fn(&Value) -> Option<T>) -> T {
        self.wait(what, || look(&self.status(name)))
    }

    /// Waits for something, and tells what the kubelet has written if it does not come.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> T {
        eventually(what, LIMIT, || {
            let found = look();
            std::thread::sleep(Duration::from_millis(200));
            found
        })
    }

    /// Waits until a container runs and is ready, and returns its id.
    #[track_caller]
    fn ready(&self, name: &str, container: &str) -> String {
        self.wait_for("the container is ready", name, |status| {
            let container = of_container(status, container)?;
            let id = container["containerID"].as_str()?;
            (container["ready"] == true).then(|| id.to_owned())
        })
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- log of the kubelet, its last lines");
            lines[lines.len().saturating_sub(60)..]
                .iter()
                .for_each(|line| eprintln!("{line}"));
        }
        self.kill();
    }
}

/// Returns what a pod's state says of a container of whatever kind.
fn of_container<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    ["containerStatuses", "initContainerStatuses"]
        .iter()
        .filter_map(|kind| status[kind].as_array())
        .flatten()
        .find(|container| container["name"] == name)
}

/// Returns a container that runs a script.
pub fn script(name: &str, script: &str) -> Value {
    json!({"name": name, "command": ["sh", "-c", script]})
}
