//! Kubernetes' control plane, in the network of a node and at its address.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tests::{command, eventually};

use super::super::kubelet::{ADDRESS, Kubelet, NAME};
use super::LIMIT;

/// Where services are: the first address is the API server's.
const SERVICES: &str = "10.96.0.0/24";
/// Where pods are.
const PODS: &str = "10.88.0.0/16";
const PORT: u16 = 6443;
const ETCD: &str = "http://127.0.0.1:2379";

/// The programs of a control plane, which end when it is dropped.
#[derive(Debug)]
pub struct Plane {
    folder: PathBuf,
    programs: PathBuf,
    children: Vec<(&'static str, Child)>,
}

impl Plane {
    /// Starts etcd, the API server, the controllers, the scheduler and the proxy of the node.
    pub fn start(kubelet: &Kubelet, programs: &Path) -> Plane {
        let folder = kubelet.folder("plane");
        fs::create_dir(&folder).expect("make a folder");
        let mut plane = Plane {
            folder,
            programs: programs.to_owned(),
            children: Vec::new(),
        };
        plane.make_certificate();
        plane.write_users();
        plane.spawn(kubelet, "etcd", &plane.of_etcd());
        plane.spawn(kubelet, "kube-apiserver", &plane.of_server());
        eventually("the API server is ready", LIMIT, || {
            plane.fail_if_ended();
            let mut ready = plane.kubectl(kubelet, &["get", "--raw", "/readyz"]);
            (command::run(&mut ready).stdout == "ok").then_some(())
        });
        plane.spawn(kubelet, "kube-controller-manager", &plane.of_controllers());
        plane.spawn(
            kubelet,
            "kube-scheduler",
            &plane.of_client(&["--leader-elect=false"]),
        );
        plane.spawn(kubelet, "kube-proxy", &plane.of_proxy());
        plane
    }

    /// Returns kubectl with these arguments, not yet run.
    pub fn kubectl(&self, kubelet: &Kubelet, args: &[&str]) -> Command {
        let mut command = kubelet.node.daemon.command(self.programs.join("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(self.file("admin"))
            .args(args)
            .env("HOME", &self.folder);
        command
    }

    /// Returns how the kubelet finds the API server.
    pub fn configuration_of_node(&self) -> PathBuf {
        self.file("node")
    }

    /// Ends all of its programs.
    pub fn end(&mut self) {
        for (name, mut child) in self.children.drain(..).rev() {
            let _ = child.kill();
            let _ = child.wait();
            if std::thread::panicking() {
                let log = self.folder.join(format!("{name}.log"));
                let log = fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("--- log of {name}, its last lines");
                lines[lines.len().saturating_sub(15)..]
                    .iter()
                    .for_each(|line| eprintln!("{line}"));
            }
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn option(&self, option: &str, file: &str) -> String {
        format!("--{option}={}", self.file(file).display())
    }

    /// Makes the certificate of the API server, which is its own authority, and the key that it signs tokens with too.
    fn make_certificate(&self) {
        let names = format!("subjectAltName=IP:127.0.0.1,IP:{ADDRESS},IP:10.96.0.1");
        let mut openssl = Command::new("openssl");
        openssl
            .args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"])
            .args(["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=here"])
            .args(["-addext", &names, "-keyout"])
            .arg(self.file("key"))
            .arg("-out")
            .arg(self.file("certificate"));
        command::run(&mut openssl).ok();
    }

    /// Writes down who may call the API server, and how each finds it.
    fn write_users(&self) {
        let mut tokens = String::new();
        for (name, user, group) in [
            ("admin", "admin".to_owned(), "system:masters"),
            ("node", format!("system:node:{NAME}"), "system:nodes"),
        ] {
            tokens += &format!("token-of-{name},{user},{name},{group}\n");
            let configuration = json!({
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "here", "cluster": {
                    "server": format!("https://127.0.0.1:{PORT}"),
                    "certificate-authority": self.file("certificate"),
                }}],
                "users": [{"name": name, "user": {"token": format!("token-of-{name}")}}],
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": name}}],
                "current-context": "here",
            });
            fs::write(self.file(name), configuration.to_string()).expect("write a file");
        }
        fs::write(self.file("tokens"), tokens).expect("write a file");
    }

    fn of_etcd(&self) -> Vec<String> {
        let own = ["listen-client-urls", "advertise-client-urls"];
        own.map(|option| format!("--{option}={ETCD}"))
            .into_iter()
            .chain([
                self.option("data-dir", "etcd"),
                "--listen-peer-urls=http://127.0.0.1:2380".into(),
                // What is lost with the machine is of no use without it.
                "--unsafe-no-fsync".into(),
            ])
            .collect()
    }

    fn of_server(&self) -> Vec<String> {
        vec![
            format!("--etcd-servers={ETCD}"),
            format!("--secure-port={PORT}"),
            format!("--advertise-address={ADDRESS}"),
            format!("--service-cluster-ip-range={SERVICES}"),
            self.option("tls-cert-file", "certificate"),
            self.option("tls-private-key-file", "key"),
            self.option("token-auth-file", "tokens"),
            self.option("service-account-key-file", "certificate"),
            self.option("service-account-signing-key-file", "key"),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--kubelet-preferred-address-types=InternalIP".into(),
        ]
    }

    fn of_controllers(&self) -> Vec<String> {
        self.of_client(&[
            "--leader-elect=false",
            &self.option("service-account-private-key-file", "key"),
            &self.option("root-ca-file", "certificate"),
        ])
    }

    fn of_proxy(&self) -> Vec<String> {
        self.of_client(&[
            &format!("--hostname-override={NAME}"),
            &format!("--cluster-cidr={PODS}"),
            "--proxy-mode=iptables",
            // These would be settings of the whole machine.
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ])
    }

    fn of_client(&self, more: &[&str]) -> Vec<String> {
        let more = more.iter().map(|&option| option.to_owned());
        [self.option("kubeconfig", "admin")]
            .into_iter()
            .chain(more)
            .collect()
    }

    fn spawn(&mut self, kubelet: &Kubelet, name: &'static str, args: &[String]) {
        let log = File::create(self.file(&format!("{name}.log"))).expect("make a file");
        let mut command = kubelet.node.daemon.command(self.programs.join(name));
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("duplicate a descriptor"))
            .stderr(log)
            .process_group(0);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start {name}: {error}"));
        self.children.push((name, child));
    }

    #[track_caller]
    fn fail_if_ended(&mut self) {
        for (name, child) in &mut self.children {
            let ended = child.try_wait().expect("wait for a child of ours");
            assert_eq!(ended, None, "{name} has ended");
        }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.end();
    }
}
