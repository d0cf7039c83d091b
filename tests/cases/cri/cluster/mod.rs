//! A cluster of one node: Kubernetes' control plane around a kubelet on a daemon, and kubectl.
//!
//! Its build takes many minutes, and each case a minute or more, so they run only when they are asked for: `make test-cluster`.

mod kubectl;
mod lifecycle;
mod plane;
mod rollout;
mod services;
mod volumes;
mod workloads;

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use tests::{Engine, Finished, command, eventually, peers, print_skip};

use super::kubelet::{self, Kubelet, NAME};
use super::node::Programs;
use plane::Plane;

/// How long anything in a cluster may take, with all of its programs on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(300);

/// A control plane and its only node; both end when it is dropped.
#[derive(Debug)]
struct Cluster {
    // The control plane ends first: it would only miss its node.
    plane: Plane,
    kubelet: Kubelet,
}

/// Runs a case in a cluster on upstream's daemon and in one on ours; what it returns must be the same.
#[track_caller]
fn same<T: PartialEq + std::fmt::Debug>(case: impl Fn(&mut Cluster) -> T) {
    if std::env::var_os("CORTEN_TESTS_CLUSTER").is_none() {
        return print_skip("a cluster takes long to build and to test: make test-cluster does it");
    }
    let (Some(programs), Some(kubelet)) = (Programs::or_skip(), kubelet::program_or_skip()) else {
        return;
    };
    let Some(folder) = peers::folder("cluster.env", "PEERS_CLUSTER") else {
        return print_skip("needs Kubernetes and etcd: run tests/peers-cluster");
    };
    let run = |engine| {
        let mut kubelet = Kubelet::make(engine, &programs, kubelet.clone());
        let plane = Plane::start(&kubelet, &folder);
        kubelet.server = Some(plane.configuration_of_node());
        kubelet.spawn();
        let mut cluster = Cluster { plane, kubelet };
        cluster.wait_for("the node is ready", "node", NAME, |node| {
            (condition(node, "Ready")? == "True").then_some(())
        });
        let result = case(&mut cluster);
        cluster.end();
        result
    };
    let upstream = run(Engine::Containerd2);
    let ours = run(Engine::Corten);
    assert_eq!(ours, upstream, "ours on the left, upstream's on the right");
}

impl Cluster {
    /// Runs kubectl to its end.
    fn run(&self, args: &[&str]) -> Finished {
        self.run_with(args, b"")
    }

    /// Runs kubectl, which reads `input`, to its end.
    fn run_with(&self, args: &[&str], input: &[u8]) -> Finished {
        command::run_with(&mut self.plane.kubectl(&self.kubelet, args), input, LIMIT)
    }

    /// Runs kubectl, which must succeed, and returns its standard output without the line break at its end.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        self.run(args).ok().trim_end().to_owned()
    }

    /// Gives the cluster an object, or changes it.
    #[track_caller]
    fn apply(&self, object: &Value) {
        self.run_with(&["apply", "-f", "-"], object.to_string().as_bytes())
            .ok();
    }

    /// Gives the cluster a pod of these containers and waits until all of them are ready.
    #[track_caller]
    fn pod(&self, name: &str, spec: &Value) {
        let template = self.template(name, spec);
        self.apply(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": template["spec"],
        }));
        self.ready(name);
    }

    /// Waits until a pod is ready.
    #[track_caller]
    fn ready(&self, name: &str) {
        self.wait_for("the pod is ready", "pod", name, |pod| {
            (condition(pod, "Ready")? == "True").then_some(())
        });
    }

    /// Returns a pod as others are made after it: on this cluster's image, and gone soon after it is told to go.
    fn template(&self, app: &str, spec: &Value) -> Value {
        let mut spec = spec.clone();
        if spec["terminationGracePeriodSeconds"].is_null() {
            spec["terminationGracePeriodSeconds"] = json!(1);
        }
        for kind in ["containers", "initContainers"] {
            for container in spec[kind].as_array_mut().into_iter().flatten() {
                container["image"] = json!(self.kubelet.node.image);
            }
        }
        json!({"metadata": {"labels": {"app": app}}, "spec": spec})
    }

    /// Returns objects of a kind, or one of them if it is there.
    fn get(&self, args: &[&str]) -> Value {
        let words = [&["get", "-o", "json", "--ignore-not-found"], args].concat();
        serde_json::from_str(&self.ok(&words)).unwrap_or_default()
    }

    /// Returns the pods of an application.
    fn pods(&self, app: &str) -> Vec<Value> {
        let pods = self.get(&["pods", "-l", &format!("app={app}")]);
        pods["items"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until an object has what is looked for in it.
    #[track_caller]
    fn wait_for<T>(
        &self,
        what: &str,
        kind: &str,
        name: &str,
        look: impl Fn(&Value) -> Option<T>,
    ) -> T {
        self.wait(what, || look(&self.get(&[kind, name])))
    }

    /// Waits for something.
    #[track_caller]
    fn wait<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> T {
        eventually(what, LIMIT, || {
            let found = look();
            std::thread::sleep(Duration::from_millis(300));
            found
        })
    }

    /// Waits until a container's log has this end, and returns it.
    #[track_caller]
    fn wait_for_log(&self, pod: &str, container: &str, end: &str) -> String {
        self.wait("the log is whole", || {
            let log = self.run(&["logs", pod, "-c", container]).stdout;
            log.ends_with(end).then_some(log)
        })
    }

    /// Takes all that cases make from the cluster, whose node must have nothing left of it.
    #[track_caller]
    fn end(&mut self) {
        const KINDS: &str = "deployments,daemonsets,cronjobs,jobs,replicasets,pods,services";
        self.ok(&["delete", KINDS, "--all", "--wait=false"]);
        self.wait("all pods are gone", || {
            self.ok(&["get", "pods", "-A", "-o", "name"])
                .is_empty()
                .then_some(())
        });
        self.plane.end();
        self.kubelet.end();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for kind in ["pods", "events"] {
                eprintln!("--- {kind}\n{}", self.run(&["get", kind, "-o", "wide"]));
            }
        }
    }
}

/// Returns a deployment, or another kind of the same shape, of pods after a template.
fn of_kind(kind: &str, name: &str, template: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template},
    })
}

/// Returns the status of a condition of an object.
fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let mut conditions = object["status"]["conditions"].as_array()?.iter();
    conditions.find(|condition| condition["type"] == kind)?["status"].as_str()
}

/// Returns how often the containers of a pod were started again.
fn restarts(pod: &Value) -> u64 {
    let containers = pod["status"]["containerStatuses"].as_array();
    let counts = containers.into_iter().flatten();
    counts
        .filter_map(|container| container["restartCount"].as_u64())
        .sum()
}

/// Makes a folder of the host for pods, and returns the volume of this name.
fn shared(cluster: &Cluster, name: &str) -> (std::path::PathBuf, Value) {
    let path = cluster.kubelet.folder(name);
    fs::create_dir(&path).expect("make a folder");
    let volume = json!({"name": name, "hostPath": {"path": path, "type": "Directory"}});
    (path, volume)
}
