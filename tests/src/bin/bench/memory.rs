//! Memory: of the shims of many containers, and of a daemon that has nothing to do.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use tests::daemon::Engine;
use tests::leftovers::Leftovers;
use tests::{Daemon, Image};

use crate::Bench;
use crate::engine::{IMAGE, Pair, id, upstream};
use crate::report::Row;
use crate::sample::median;

/// Rows of [`shims`].
pub const SHIMS: &[&str] = &["shim-pss"];
/// Rows of [`idle`].
pub const IDLE: &[&str] = &["daemon-rss"];

const CONTAINERS: usize = 50;

/// Measures what a running container costs in shims, with 50 running: their proportional share of memory by container.
pub fn shims(bench: &Bench) -> Vec<Row> {
    let pair = Pair::start(bench);
    let [ours, peer] = pair.both().map(|daemon| {
        for _ in 0..CONTAINERS {
            daemon
                .ctr()
                .ok(&["run", "-d", IMAGE, &id(), "/bin/sleep", "3600"]);
        }
        let samples = (0..5).map(|_| {
            sleep(Duration::from_millis(500));
            shim_pss(daemon) / CONTAINERS as f64
        });
        median(samples.collect())
    });
    vec![
        Row::new("shim-pss", "kB", ours, peer)
            .peer("containerd-shim-runc-v2", &upstream(bench))
            .goal(0.2),
    ]
}

/// Measures the resident memory of a daemon that has started, imported an image and run one container, and then rests.
pub fn idle(bench: &Bench) -> Vec<Row> {
    let rounds = bench.samples.min(5);
    let mut samples = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (engine, into) in [Engine::Corten, Engine::Containerd2]
            .into_iter()
            .zip(&mut samples)
        {
            let daemon = Daemon::start(engine, &bench.peers);
            let archive = Image::busybox().write_archive(daemon.folder(), IMAGE);
            daemon
                .ctr()
                .ok(&["images", "import", "--local", &archive.to_string_lossy()]);
            daemon.ctr().ok(&["run", "--rm", IMAGE, &id(), "/bin/true"]);
            sleep(Duration::from_secs(2));
            let file = format!("/proc/{}/status", daemon.pid());
            into.push(kilobytes(Path::new(&file), "VmRSS:"));
        }
    }
    let [ours, peer] = samples.map(median);
    vec![
        Row::new("daemon-rss", "kB", ours, peer)
            .peer("containerd", &upstream(bench))
            .goal(0.3),
    ]
}

fn shim_pss(daemon: &Daemon) -> f64 {
    let left = Leftovers::find(daemon.folder(), &daemon.namespace);
    let shims: Vec<i32> = left
        .processes
        .into_keys()
        .filter(|pid| {
            let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("containerd-shim")
        })
        .collect();
    assert!(!shims.is_empty(), "containers have shims");
    shims
        .iter()
        .map(|pid| kilobytes(Path::new(&format!("/proc/{pid}/smaps_rollup")), "Pss:"))
        .sum()
}

/// Returns the number after `key` in a file of /proc.
fn kilobytes(file: &Path, key: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("read {}: {e}", file.display()));
    text.lines()
        .find_map(|line| {
            line.strip_prefix(key)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or_else(|| panic!("no {key} in {}", file.display()))
}
