//! One life of a container by upstream's `ctr`, the same program for both daemons.

use std::sync::atomic::{AtomicU32, Ordering};

use tests::daemon::Engine;
use tests::{Ctr, Daemon, Image};

use crate::Bench;
use crate::report::{Row, version};
use crate::sample::{self, Contender};

/// The name of the image that [`Pair::start`] imports.
pub const IMAGE: &str = "example.test/busybox:1";
/// Rows of [`run`].
pub const RUN: &[&str] = &["ctr-run", "ctr-run-without-client"];
/// Rows of [`exec`].
pub const EXEC: &[&str] = &["ctr-exec", "ctr-exec-without-client"];

/// Our daemon and sid's, each with busybox.
pub struct Pair {
    /// Ours.
    pub ours: Daemon,
    /// Upstream's.
    pub peer: Daemon,
}

impl Pair {
    /// Starts both daemons and imports the image into each.
    pub fn start(bench: &Bench) -> Pair {
        let pair = Pair {
            ours: Daemon::start(Engine::Corten, &bench.peers),
            peer: Daemon::start(Engine::Containerd2, &bench.peers),
        };
        for daemon in pair.both() {
            let archive = Image::busybox().write_archive(daemon.folder(), IMAGE);
            let archive = archive.to_string_lossy();
            daemon.ctr().ok(&["images", "import", "--local", &archive]);
        }
        pair
    }

    /// Returns ours and upstream's.
    pub fn both(&self) -> [&Daemon; 2] {
        [&self.ours, &self.peer]
    }
}

/// Returns an identifier that no other container of this run has.
pub fn id() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("b{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Returns upstream's name and version for a report.
pub fn upstream(bench: &Bench) -> String {
    version(&bench.peers.sid.join("containerd"))
}

/// Measures `ctr run --rm` of `true`.
pub fn run(bench: &Bench) -> Vec<Row> {
    let pair = Pair::start(bench);
    let medians = with_client(bench, &pair, |ctr| {
        sample::milliseconds(&mut ctr.command(&["run", "--rm", IMAGE, &id(), "/bin/true"]))
    });
    rows(bench, RUN, medians, Some(0.5))
}

/// Measures `ctr tasks exec` of `true` in a container that runs.
pub fn exec(bench: &Bench) -> Vec<Row> {
    let pair = Pair::start(bench);
    for daemon in pair.both() {
        daemon
            .ctr()
            .ok(&["run", "-d", IMAGE, "running", "/bin/sleep", "3600"]);
    }
    let medians = with_client(bench, &pair, |ctr| {
        let exec = ["tasks", "exec", "--exec-id", &id(), "running", "/bin/true"];
        sample::milliseconds(&mut ctr.command(&exec))
    });
    rows(bench, EXEC, medians, None)
}

/// Returns the medians of: the work with ours, with upstream's, and the client's own start with ours, with upstream's.
fn with_client(bench: &Bench, pair: &Pair, work: impl Fn(&Ctr) -> f64) -> Vec<f64> {
    let work = &work;
    let clients = pair.both().map(Daemon::ctr);
    let mut contenders: Vec<Contender<'_>> = Vec::new();
    for ctr in &clients {
        contenders.push(Box::new(move || work(ctr)));
    }
    for ctr in &clients {
        contenders.push(Box::new(move || {
            sample::milliseconds(&mut ctr.command(&["version"]))
        }));
    }
    sample::medians(bench.samples, &mut contenders)
}

fn rows(bench: &Bench, names: &[&'static str], medians: Vec<f64>, goal: Option<f64>) -> Vec<Row> {
    let [ours, peer, our_client, peer_client] = medians[..] else {
        panic!("four contenders give four medians");
    };
    let mut raw = Row::new(names[0], "ms", ours, peer).peer("containerd", &upstream(bench));
    raw.goal = goal;
    let net = Row::new(names[1], "ms", ours - our_client, peer - peer_client);
    vec![raw, net.peer("containerd", &upstream(bench))]
}
