//! Eight clients do random things by Docker's command line while the daemon below it is killed again and again; in the
//! end containers, images and volumes are those of the model that the clients keep, and nothing is left on the machine.
//!
//! `CORTEN_SOAK_SECONDS` says for how long (`make soak`: an hour), `CORTEN_SOAK_SEED` repeats the choices of a run,
//! `CORTEN_SOAK_PEER=containerd` puts upstream's daemon below, and `CORTEN_SOAK_LIFE` is how many seconds the daemon lives.
//! Upstream loses ends of containers when it dies, so what judges the model is upstream with a long life.

mod client;
mod model;
mod operations;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tests::docker::{Setup, Store};
use tests::{Dockerd, Engine, Random, skip};

use client::{Client, Outages, Shell, see};
use model::World;

/// How many work at the same time.
const CLIENTS: usize = 8;
/// What dockerd says of a container that it lists from then on and knows nothing of, until it starts again.
const HALF_CREATED: &str = "failed to cleanup container on create error";
/// How many seconds the daemon lives if nothing else is asked for.
const LIFE: u64 = 20;

#[test]
fn docker_keeps_its_promises_while_the_daemon_dies() {
    let Some((peers, docker)) = super::peers() else {
        return;
    };
    let number = |name: &str| {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
        Some(text.parse::<u64>().expect("a whole number"))
    };
    let Some(seconds) = number("CORTEN_SOAK_SECONDS") else {
        skip!("takes long: CORTEN_SOAK_SECONDS says how long");
    };
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = number("CORTEN_SOAK_SEED")
        .unwrap_or_else(|| since_1970.expect("a clock that goes").as_secs() % 1_000_000);
    let length = Duration::from_secs(seconds);
    let life = Duration::from_secs(number("CORTEN_SOAK_LIFE").unwrap_or(LIFE));
    let engine = match std::env::var("CORTEN_SOAK_PEER").as_deref() {
        Ok("containerd") => Engine::Containerd2,
        _ => Engine::Corten,
    };
    eprintln!(
        "soak: CORTEN_SOAK_SEED={seed} CORTEN_SOAK_SECONDS={} on {engine:?}",
        length.as_secs()
    );

    let setup = Setup::new(Store::Containerd)
        .with_network()
        .with("live-restore", json!(true));
    let mut dockerd = Dockerd::start(engine, &peers, &docker, setup);
    super::load_busybox(&dockerd);
    dockerd.serve_registry("127.0.0.1:5000", "");

    let (world, sockets) = soak(&mut dockerd, seed, length, life);
    check(&dockerd, &world);
    if dockerd.log().contains(HALF_CREATED) {
        assert_eq!(dockerd.terminate(), Some(0), "dockerd ends");
        dockerd.restart();
    }
    clear(&dockerd);
    nothing_is_left(&mut dockerd, &sockets);
}

/// Lets the clients work and the daemon die; returns what they have made, and where shims have listened.
fn soak(
    dockerd: &mut Dockerd,
    seed: u64,
    length: Duration,
    life: Duration,
) -> (World, BTreeSet<PathBuf>) {
    let shell = Shell::new(dockerd);
    let outages = Outages::default();
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let work = |number| {
        let mut client = Client::new(number, seed, &shell, &outages);
        while began.elapsed() < length && !over.load(Ordering::Relaxed) {
            let pause = client.random.below(300) as u64;
            std::thread::sleep(Duration::from_millis(pause));
            if let Err(contradiction) = client.step() {
                over.store(true, Ordering::Relaxed);
                let history = client.history();
                return Err(format!(
                    "client {number} after\n{history}\n\n{contradiction}"
                ));
            }
        }
        Ok((client.world, client.counts))
    };
    let mut sockets = BTreeSet::new();
    let mut deaths = 0;
    let results: Vec<_> = std::thread::scope(|scope| {
        let work = &work;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(move || work(number)))
            .collect();
        let mut random = Random(seed);
        let mut last = Instant::now();
        while began.elapsed() + life < length && !over.load(Ordering::Relaxed) {
            if last.elapsed() < life {
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            last = Instant::now();
            outages.begin();
            dockerd.daemon.kill();
            sockets.extend(shims_sockets(dockerd.daemon.folder()));
            std::thread::sleep(Duration::from_millis(random.below(1500) as u64));
            dockerd.daemon.restart();
            outages.end();
            deaths += 1;
        }
        let join = |client: std::thread::ScopedJoinHandle<'_, _>| client.join();
        clients.into_iter().map(join).collect()
    });
    let mut world = World::default();
    let mut counts = (0, 0);
    let mut contradictions = String::new();
    for result in results {
        match result.expect("a client does not panic") {
            Ok((own, (done, lost))) => {
                world.absorb(own);
                counts = (counts.0 + done, counts.1 + lost);
            }
            Err(contradiction) => contradictions.push_str(&contradiction),
        }
    }
    if !contradictions.is_empty() {
        panic!("CORTEN_SOAK_SEED={seed}: {contradictions}");
    }
    eprintln!(
        "soak: {} commands done, {} lost to {deaths} deaths of the daemon; {} containers, {} images, {} volumes",
        counts.0,
        counts.1,
        world.containers.len(),
        world.images.len(),
        world.volumes.len()
    );
    (world, sockets)
}

/// Compares what there is with the model, once everything that is to happen has happened.
fn check(dockerd: &Dockerd, world: &World) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let differences = || {
        let run = |line: &str| {
            let finished = dockerd.shell(line);
            match finished.code {
                Some(0) => Ok(finished.stdout),
                _ => Err(finished.to_string()),
            }
        };
        match see("name=^c", "soak*/*", "name=^v", run) {
            Ok(seen) => world.differences(&seen, true),
            Err(contradiction) => vec![contradiction],
        }
    };
    let mut found = differences();
    while !found.is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(500));
        found = differences();
    }
    assert!(found.is_empty(), "at the end:\n{}", found.join("\n"));
}

/// Removes everything through Docker, and through the daemon what dockerd says that it could not remove.
fn clear(dockerd: &Dockerd) {
    for id in dockerd.ok("docker ps -aq --no-trunc").lines() {
        dockerd.ok(&format!("docker rm -fv {id}"));
    }
    let ctr = dockerd.daemon.ctr().in_namespace("moby");
    let forgotten = ctr.ok(&["containers", "list", "--quiet"]);
    let (log, tasks) = (dockerd.log(), ctr.ok(&["tasks", "list", "--quiet"]));
    for id in forgotten.lines() {
        // Of a record alone it does not know, if the answer was lost.
        let runs = tasks.lines().any(|task| task == id);
        assert!(!runs || gave_up(&log, id), "{id} was left by nobody");
        let _ = ctr.run(&["tasks", "delete", "--force", id]);
        ctr.ok(&["containers", "rm", id]);
    }
    dockerd.ok("docker system prune -af >/dev/null; docker builder prune -af >/dev/null; docker volume prune -af >/dev/null; docker images -q | sort -u | xargs -r docker rmi -f >/dev/null");
    for what in ["docker ps -aq", "docker images -aq", "docker volume ls -q"] {
        assert_eq!(dockerd.ok(what), "", "{what}");
    }
    // What dockerd was about when the daemon died stays leased for a day.
    let leases = ctr.ok(&["leases", "list", "--quiet"]);
    for id in leases.lines() {
        ctr.ok(&["leases", "delete", id]);
    }
    eprintln!(
        "soak: dockerd gave {} containers and {} leases up",
        forgotten.lines().count(),
        leases.lines().count()
    );
}

/// Says whether dockerd could not delete a container or a process of it: it tries once, and what it could not do while
/// the daemon was dead it does not do later.
fn gave_up(log: &str, container: &str) -> bool {
    log.lines()
        .any(|line| line.contains("failed to delete") && line.contains(container))
}

/// Fails unless no process, mount, group, network, FIFO, socket, snapshot or blob is left.
fn nothing_is_left(dockerd: &mut Dockerd, sockets: &BTreeSet<PathBuf>) {
    let folder = dockerd.daemon.folder().to_owned();
    let ctr = dockerd.daemon.ctr().in_namespace("moby");
    for list in [["snapshots", "list"], ["content", "list"]] {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let listed = ctr.ok(&list);
            // A line of heads.
            if listed.lines().count() <= 1 {
                break;
            }
            assert!(Instant::now() < deadline, "nobody needs\n{listed}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    let left: Vec<&PathBuf> = sockets.iter().filter(|path| path.exists()).collect();
    assert!(left.is_empty(), "sockets of shims: {left:?}");
    // Dockerd removes those of a process when it is told that that is deleted, however long it is gone.
    let log = dockerd.log();
    let fifos = dockerd.ok(&format!("find {} -type p", folder.display()));
    let owner = |fifo: &str| Some(Path::new(fifo).parent()?.file_name()?.to_str()?.to_owned());
    let fifos: Vec<&str> = fifos
        .lines()
        .filter(|fifo| owner(fifo).is_none_or(|id| !gave_up(&log, &id)))
        .collect();
    assert!(fifos.is_empty(), "FIFOs: {fifos:?}");
    let bundles = dockerd.ok(&format!(
        "find {}/state/io.containerd.runtime.v2.task/moby -mindepth 1",
        folder.display()
    ));
    assert_eq!(bundles, "", "bundles");
    dockerd.end_registries();
    assert_eq!(dockerd.terminate(), Some(0), "dockerd ends");
    // Dockerd leaves the group in which the groups of builds were, and its root mounted on itself if that was so before.
    dockerd.ok("! mountpoint -q ../docker || umount ../docker");
    dockerd.ok(&format!(
        "find /sys/fs/cgroup/*/{0} /sys/fs/cgroup/{0} -name buildkit -exec rmdir {{}} + 2>/dev/null || true",
        dockerd.daemon.namespace
    ));
    // Networks live in processes or in mounts of dockerd's.
    dockerd.daemon.assert_nothing_left();
}

/// Returns where the shims listen whose bundles are there now.
fn shims_sockets(folder: &Path) -> Vec<PathBuf> {
    let bundles = fs::read_dir(folder.join("state/io.containerd.runtime.v2.task/moby"));
    let addresses = bundles
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|bundle| {
            let text = ["bootstrap.json", "address"]
                .iter()
                .find_map(|name| fs::read_to_string(bundle.path().join(name)).ok())?;
            let from = text.find("unix://")? + "unix://".len();
            Some(PathBuf::from(text[from..].split('"').next()?.trim()))
        });
    addresses.collect()
}
