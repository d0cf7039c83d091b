//! Pods and containers by calls of CRI, on our daemon and on upstream's, by one client on one connection to each.

use std::cell::Cell;
use std::future::Future;
use std::time::Instant;

use api_protos::runtime::v1::runtime_service_client::RuntimeServiceClient;
use api_protos::runtime::v1::*;
use futures_util::future::join_all;
use tests::api::Service;
use tests::daemon::Engine;
use tests::node::{Node, Programs};
use tests::{Api, Network};

use crate::Bench;
use crate::engine::upstream;
use crate::report::Row;
use crate::sample::{Contender, medians, quantile};

/// Rows of [`alone`].
pub const ALONE: &[&str] = &["pod", "pod-p99", "start", "start-p99"];
/// Rows of [`alone_with_network`].
pub const ALONE_WITH_NETWORK: &[&str] = &["pod-cni", "pod-cni-p99", "start-cni", "start-cni-p99"];
/// Rows of [`together`].
pub const TOGETHER: &[&str] = &["pod-20", "pod-20-p99", "start-20", "start-20-p99"];
/// Rows of [`together_with_network`].
pub const TOGETHER_WITH_NETWORK: &[&str] = &[
    "pod-cni-20",
    "pod-cni-20-p99",
    "start-cni-20",
    "start-cni-20-p99",
];
/// Rows of [`many`].
pub const MANY: &[&str] = &["50-pods-up", "50-pods-down"];
/// Rows of [`looks`].
pub const LOOKS: &[&str] = &["list-containers", "list-pod-stats", "container-stats"];

/// A node of one of the two, and the connection to it.
struct Side {
    api: Api,
    node: Node,
    network: NamespaceMode,
    count: Cell<u32>,
}

/// What was made of a pod, and how long each part took in milliseconds.
struct Made {
    pod: String,
    container: String,
    run: f64,
    start: f64,
}

/// Returns our node and upstream's, whose pods have the host's network or one of their own by network plugins.
fn pair(bench: &Bench, network: NamespaceMode) -> [Side; 2] {
    let programs = Programs::find(bench.peers.clone()).expect("tests/peers-cri has run");
    [Engine::Corten, Engine::Containerd2].map(|engine| {
        let node = Node::start_with_images(engine, &programs, Network::new());
        Side {
            api: Api::new(&node.daemon, "k8s.io"),
            node,
            network,
            count: Cell::new(0),
        }
    })
}

impl Side {
    fn client(&self) -> RuntimeServiceClient<Service> {
        RuntimeServiceClient::new(self.api.service())
    }

    /// Returns what a kubelet would ask for, under a name that no other pod has.
    fn sandbox(&self) -> PodSandboxConfig {
        let name = format!("pod-{}", self.count.replace(self.count.get() + 1));
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                uid: name.clone(),
                name,
                namespace: "bench".into(),
                attempt: 0,
            }),
            log_directory: self.node.logs().display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}", self.node.daemon.namespace),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(NamespaceOption {
                        network: self.network.into(),
                        pid: NamespaceMode::Container.into(),
                        ..NamespaceOption::default()
                    }),
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        }
    }

    async fn run(&self, config: &PodSandboxConfig) -> String {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            ..RunPodSandboxRequest::default()
        };
        let answer = self.client().run_pod_sandbox(request).await;
        answer.expect("run a pod").into_inner().pod_sandbox_id
    }

    /// Creates a container in a pod and starts it.
    async fn start(&self, pod: &str, config: &PodSandboxConfig, name: &str) -> String {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(ContainerConfig {
                metadata: Some(ContainerMetadata {
                    name: name.to_owned(),
                    attempt: 0,
                }),
                image: Some(ImageSpec {
                    image: self.node.image.clone(),
                    ..ImageSpec::default()
                }),
                command: ["/bin/sleep", "100000"].map(str::to_owned).to_vec(),
                log_path: format!("{pod}-{name}.log"),
                ..ContainerConfig::default()
            }),
            sandbox_config: Some(config.clone()),
        };
        let created = self.client().create_container(request).await;
        let container_id = created
            .expect("create a container")
            .into_inner()
            .container_id;
        let request = StartContainerRequest {
            container_id: container_id.clone(),
        };
        let started = self.client().start_container(request).await;
        started.expect("start a container");
        container_id
    }

    /// Runs a pod with a container.
    async fn make(&self) -> Made {
        let config = self.sandbox();
        let began = Instant::now();
        let pod = self.run(&config).await;
        let run = began.elapsed();
        let container = self.start(&pod, &config, "main").await;
        Made {
            pod,
            container,
            run: run.as_secs_f64() * 1e3,
            start: (began.elapsed() - run).as_secs_f64() * 1e3,
        }
    }

    /// Stops a pod and removes it, as a kubelet does: its container before it.
    async fn unmake(&self, made: &Made) {
        let mut client = self.client();
        let stop = StopContainerRequest {
            container_id: made.container.clone(),
            timeout: 0,
        };
        client.stop_container(stop).await.expect("stop a container");
        let pod_sandbox_id = made.pod.clone();
        let stop = StopPodSandboxRequest { pod_sandbox_id };
        client.stop_pod_sandbox(stop).await.expect("stop a pod");
        let pod_sandbox_id = made.pod.clone();
        let remove = RemovePodSandboxRequest { pod_sandbox_id };
        client
            .remove_pod_sandbox(remove)
            .await
            .expect("remove a pod");
    }

    /// Makes this many pods at once.
    async fn make_all(&self, count: usize) -> Vec<Made> {
        join_all((0..count).map(|_| self.make())).await
    }

    async fn unmake_all(&self, made: &[Made]) {
        join_all(made.iter().map(|made| self.unmake(made))).await;
    }
}

/// Measures RunPodSandbox, and CreateContainer with StartContainer, one pod after the other, in the host's network.
pub fn alone(bench: &Bench) -> Vec<Row> {
    let goals = [Some(0.35), None];
    lives(bench, ALONE, NamespaceMode::Node, 1, goals)
}

/// Measures the same in networks of their own.
pub fn alone_with_network(bench: &Bench) -> Vec<Row> {
    lives(bench, ALONE_WITH_NETWORK, NamespaceMode::Pod, 1, [None; 2])
}

/// Measures the same with twenty pods in flight, in the host's network.
pub fn together(bench: &Bench) -> Vec<Row> {
    let goals = [Some(0.35), Some(0.25)];
    lives(bench, TOGETHER, NamespaceMode::Node, 20, goals)
}

/// Measures the same with twenty pods in flight, in networks of their own.
pub fn together_with_network(bench: &Bench) -> Vec<Row> {
    let goals = [None, Some(0.25)];
    lives(bench, TOGETHER_WITH_NETWORK, NamespaceMode::Pod, 20, goals)
}

/// Measures the lives of pods, some at a time; the goals are those of the median and of the 99th percentile.
fn lives(
    bench: &Bench,
    names: &[&'static str],
    network: NamespaceMode,
    flight: usize,
    goals: [Option<f64>; 2],
) -> Vec<Row> {
    let sides = pair(bench, network);
    // Of fewer than a hundred pods the last percentile is the slowest one.
    let rounds = (bench.samples * 4).div_ceil(flight).max(bench.samples / 3);
    let mut samples: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..=rounds {
        for turn in 0..2 {
            let which = (round + turn) % 2;
            rustix::fs::sync();
            let side = &sides[which];
            let made = side.api.run(side.make_all(flight));
            side.api.run(side.unmake_all(&made));
            // The first of each warms caches and is not counted.
            if round > 0 {
                samples[which][0].extend(made.iter().map(|made| made.run));
                samples[which][1].extend(made.iter().map(|made| made.start));
            }
        }
    }
    let [ours, peer] = samples;
    let parts = ours.into_iter().zip(peer);
    let percentiles = [(0.5, goals[0]), (0.99, goals[1])];
    let rows = parts.flat_map(|(ours, peer)| {
        percentiles.map(|(part, goal)| {
            (
                quantile(ours.clone(), part),
                quantile(peer.clone(), part),
                goal,
            )
        })
    });
    names
        .iter()
        .zip(rows)
        .map(|(name, (ours, peer, goal))| {
            let mut row = Row::new(name, "ms", ours, peer).peer("containerd", &upstream(bench));
            row.goal = goal;
            row
        })
        .collect()
}

/// Measures how long fifty pods in networks of their own take to run, all at once, and to be gone.
pub fn many(bench: &Bench) -> Vec<Row> {
    let sides = pair(bench, NamespaceMode::Pod);
    let downs = [Cell::new(Vec::new()), Cell::new(Vec::new())];
    let mut contenders: Vec<Contender<'_>> = Vec::new();
    for (side, downs) in sides.iter().zip(&downs) {
        contenders.push(Box::new(move || {
            rustix::fs::sync();
            let (up, made) = seconds(side, side.make_all(50));
            let (down, ()) = seconds(side, side.unmake_all(&made));
            let mut all = downs.take();
            all.push(down);
            downs.set(all);
            up
        }));
    }
    let ups = medians(bench.samples.min(5), &mut contenders);
    drop(contenders);
    let [ours, peer] = downs.map(|downs| quantile(downs.take().split_off(1), 0.5));
    [(MANY[0], ups[0], ups[1]), (MANY[1], ours, peer)]
        .map(|(name, ours, peer)| {
            Row::new(name, "s", ours, peer).peer("containerd", &upstream(bench))
        })
        .to_vec()
}

fn seconds<T>(side: &Side, work: impl Future<Output = T>) -> (f64, T) {
    let began = Instant::now();
    let result = side.api.run(work);
    (began.elapsed().as_secs_f64(), result)
}

/// Measures what a kubelet asks again and again, with a hundred containers in fifty pods.
pub fn looks(bench: &Bench) -> Vec<Row> {
    let sides = pair(bench, NamespaceMode::Pod);
    let containers = sides.each_ref().map(|side| {
        let pod = || async {
            let config = side.sandbox();
            let pod = side.run(&config).await;
            side.start(&pod, &config, "one").await;
            side.start(&pod, &config, "two").await
        };
        (0..50).map(|_| side.api.run(pod())).last().expect("fifty")
    });
    let list = compare(bench, &sides, async |side, _| {
        let all = ListContainersRequest::default();
        let answer = side.client().list_containers(all).await;
        answer
            .expect("list containers")
            .into_inner()
            .containers
            .len()
            == 100
    });
    let pods = compare(bench, &sides, async |side, _| {
        let all = ListPodSandboxStatsRequest::default();
        let answer = side.client().list_pod_sandbox_stats(all).await;
        answer.expect("list pods' stats").into_inner().stats.len() == 50
    });
    let one = compare(bench, &sides, async |side, which| {
        let container_id = containers[which].clone();
        let request = ContainerStatsRequest { container_id };
        let answer = side.client().container_stats(request).await;
        answer.expect("ask for stats").into_inner().stats.is_some()
    });
    let goals = [None, Some(0.3), Some(0.3)];
    LOOKS
        .iter()
        .zip([list, pods, one])
        .zip(goals)
        .map(|((name, medians), goal)| {
            let row = Row::new(name, "ms", medians[0], medians[1]);
            let mut row = row.peer("containerd", &upstream(bench));
            row.goal = goal;
            row
        })
        .collect()
}

/// Returns the medians of a call, in milliseconds; what it returns is whether its answer is whole.
fn compare(bench: &Bench, sides: &[Side; 2], call: impl AsyncFn(&Side, usize) -> bool) -> Vec<f64> {
    let call = &call;
    let mut contenders: Vec<Contender<'_>> = Vec::new();
    for (which, side) in sides.iter().enumerate() {
        contenders.push(Box::new(move || {
            let (taken, whole) = seconds(side, call(side, which));
            assert!(whole, "an answer is not whole");
            taken * 1e3
        }));
    }
    medians(bench.samples * 4, &mut contenders)
}
