//! Docker's command line on the same dockerd, above our daemon and above upstream's.

use std::fs;

use tests::daemon::Engine;
use tests::docker::{DockerPeers, Setup, Store};
use tests::{Dockerd, Image, Registry};

use crate::Bench;
use crate::engine::upstream;
use crate::pull;
use crate::report::Row;
use crate::sample::{self, Contender};

/// Rows of [`run`].
pub const RUN: &[&str] = &["docker-run"];
/// Rows of [`exec`].
pub const EXEC: &[&str] = &["docker-exec"];
/// Rows of [`build`].
pub const BUILD: &[&str] = &["docker-build"];
/// Rows of [`pull_by_graph_driver`].
pub const PULL_GRAPH_DRIVER: &[&str] = &["docker-pull-graph-driver"];
/// Rows of [`pull_to_image_store`].
pub const PULL_IMAGE_STORE: &[&str] = &["docker-pull-image-store"];

/// Where a dockerd's own network has the registry.
const REGISTRY: &str = "127.0.0.1:5000";

/// Starts dockerd on our daemon and on upstream's, each with busybox.
fn pair(bench: &Bench, store: Store) -> [Dockerd; 2] {
    let docker = DockerPeers::find().expect("tests/peers-docker has run");
    [Engine::Corten, Engine::Containerd2].map(|engine| {
        let dockerd = Dockerd::start(engine, &bench.peers, &docker, Setup::new(store));
        let archive = Image::busybox().write_docker_archive(&dockerd.work(), "busybox:latest");
        dockerd.ok(&format!("docker load -qi {}", archive.display()));
        dockerd
    })
}

/// Measures a command of Docker's on both, in seconds; `before` is run before each sample and is not measured.
fn compare(
    bench: &Bench,
    name: &'static str,
    pair: &[Dockerd; 2],
    before: &str,
    arguments: &[&str],
    goal: f64,
) -> Vec<Row> {
    let mut contenders: Vec<Contender<'_>> = Vec::new();
    for dockerd in pair {
        contenders.push(Box::new(move || {
            if !before.is_empty() {
                dockerd.ok(before);
                // What this has left to be written is not the sample's.
                rustix::fs::sync();
            }
            sample::milliseconds(dockerd.command("docker").args(arguments))
        }));
    }
    let medians = sample::medians(bench.samples, &mut contenders);
    let row = Row::new(name, "ms", medians[0], medians[1]);
    vec![row.peer("containerd", &upstream(bench)).goal(goal)]
}

/// Measures `docker run --rm` of `true`.
pub fn run(bench: &Bench) -> Vec<Row> {
    let pair = pair(bench, Store::Overlay2);
    let words = ["run", "--rm", "--network", "none", "busybox", "/bin/true"];
    compare(bench, RUN[0], &pair, "", &words, 0.6)
}

/// Measures `docker exec` of `true`.
pub fn exec(bench: &Bench) -> Vec<Row> {
    let pair = pair(bench, Store::Overlay2);
    for dockerd in &pair {
        dockerd.ok("docker run -d --name running --network none busybox /bin/sleep 3600");
    }
    compare(
        bench,
        EXEC[0],
        &pair,
        "",
        &["exec", "running", "/bin/true"],
        1.0,
    )
}

/// Measures `docker build` of a file of 20 steps, none of which is known already.
pub fn build(bench: &Bench) -> Vec<Row> {
    let pair = pair(bench, Store::Containerd);
    let mut file = "FROM busybox\n".to_owned();
    for step in 1..20 {
        file.push_str(&format!("RUN echo {step} >/step-{step}\n"));
    }
    for dockerd in &pair {
        let context = dockerd.work().join("context");
        fs::create_dir(&context).expect("make a folder");
        fs::write(context.join("Dockerfile"), &file).expect("write a file");
    }
    let words = [
        "build",
        "-q",
        "--no-cache",
        "--network",
        "none",
        "-t",
        "built",
        "context",
    ];
    compare(bench, BUILD[0], &pair, "", &words, 1.0)
}

/// Measures `docker pull` of the large image into dockerd's own folder.
pub fn pull_by_graph_driver(bench: &Bench) -> Vec<Row> {
    pull(bench, PULL_GRAPH_DRIVER[0], Store::Overlay2)
}

/// Measures `docker pull` of the large image into the daemon below.
pub fn pull_to_image_store(bench: &Bench) -> Vec<Row> {
    pull(bench, PULL_IMAGE_STORE[0], Store::Containerd)
}

fn pull(bench: &Bench, name: &'static str, store: Store) -> Vec<Row> {
    let registry = Registry::start();
    registry.push("large", "latest", &pull::gzip_image(bench));
    let mut pair = pair(bench, store);
    for dockerd in &mut pair {
        dockerd.serve_images_of(&registry, REGISTRY);
    }
    let image = format!("{REGISTRY}/large:latest");
    // The first time there is none.
    let remove = format!("docker rmi -f {image} && docker image prune -f");
    compare(bench, name, &pair, &remove, &["pull", "-q", &image], 1.0)
}
