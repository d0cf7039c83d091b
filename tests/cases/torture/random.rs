//! Kills at random instants, while several clients work: of the daemon, and of shims. Upstream's daemon goes through the
//! same, and its figures stand beside ours.
//!
//! `CORTEN_TORTURE_KILLS` says how many, and `CORTEN_TORTURE_SEED` repeats the choices of a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tests::footprint::Loss;
use tests::leftovers::Leftovers;
use tests::{Daemon, Engine, Peers, Random};

use super::client::Client;
use super::{Fixture, IMAGES};

/// How long the clients need for all their steps, about.
const WORK: u64 = 4000;
/// The longest time without a daemon.
const OUTAGE: usize = 300;

/// What was killed at random instants, and what came of it.
struct Figures {
    name: &'static str,
    kills: usize,
    counts: BTreeMap<Loss, usize>,
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a whole number"))
}

#[test]
fn killed_at_any_moment_the_daemon_loses_and_leaks_nothing() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let seed = number("CORTEN_TORTURE_SEED").unwrap_or(4);
    let kills = number("CORTEN_TORTURE_KILLS").unwrap_or(if super::is_long() { 200 } else { 5 });
    eprintln!("torture: CORTEN_TORTURE_SEED={seed} CORTEN_TORTURE_KILLS={kills}");
    let kills = kills as usize;
    let debians = peers.sid.join("containerd-shim-runc-v2");
    let debians = debians.display().to_string();
    let own = "io.containerd.corten.v2";
    let storm = |name, engine, shim: &str| {
        let mut fixture = Fixture::new(engine, &peers, shim);
        let figures = fixture.storm(name, kills, &mut Random(seed));
        if engine == Engine::Corten {
            fixture.finish();
        }
        figures
    };
    let ours = [
        storm("cortend", Engine::Corten, own),
        storm("cortend, Go shim", Engine::Corten, &debians),
    ];
    let mut table = Figures::heading();
    ours.iter().for_each(|figures| table += &figures.row());
    if super::is_long() {
        // Not to be judged: what is to be seen is that it goes through the same.
        table += &storm("containerd", Engine::Containerd2, &debians).row();
    }
    eprintln!("{table}");
    for figures in ours {
        assert!(figures.counts.is_empty(), "{}", figures.name);
    }
}

impl Fixture {
    /// Kills the daemon, and every third time a shim, at moments that `random` chooses, while clients work.
    fn storm(&mut self, name: &'static str, kills: usize, random: &mut Random) -> Figures {
        let mut counts = BTreeMap::new();
        for kill in 0..kills {
            let moment = Duration::from_millis(random.below(WORK as usize) as u64);
            let outage = Duration::from_millis(random.below(OUTAGE) as u64);
            let whose = (kill % 3 == 2).then(|| random.below(IMAGES));
            let mut clients: Vec<Client> = (0..IMAGES).map(|image| self.client(image)).collect();
            if let Some(whose) = whose {
                clients[whose].loses_shims = true;
            }
            std::thread::scope(|scope| {
                let shims = whose.map(|whose| clients[whose].first.clone());
                for client in &mut clients {
                    scope.spawn(|| client.work());
                }
                std::thread::sleep(moment);
                match shims {
                    Some(id) => kill_shim(&self.daemon, &id),
                    None => {
                        self.daemon.kill();
                        std::thread::sleep(outage);
                        self.revive();
                    }
                }
            });
            clients.iter_mut().for_each(Client::check);
            for (loss, what) in self.settle(&mut clients) {
                eprintln!("{name}, kill {kill}: {loss:?}: {what}");
                *counts.entry(loss).or_default() += 1;
            }
        }
        Figures {
            name,
            kills,
            counts,
        }
    }
}

/// Kills the shim of a container, as soon as there is one.
fn kill_shim(daemon: &Daemon, id: &str) {
    let began = Instant::now();
    let of = format!(" -id {id} ");
    while began.elapsed() < Duration::from_millis(WORK) {
        let left = Leftovers::find(daemon.folder(), &daemon.namespace);
        let mut shims = left.processes.iter();
        let shim = shims.find(|(_, line)| line.contains("containerd-shim") && line.contains(&of));
        if let Some(pid) = shim.and_then(|(pid, _)| Pid::from_raw(*pid)) {
            // It may end by itself.
            let _ = kill_process(pid, Signal::KILL);
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Figures {
    fn heading() -> String {
        let mut heading = format!("\n{:<18}{:>9}", "", "kills");
        for loss in Loss::ALL {
            let _ = write!(heading, "{:>9}", format!("{loss:?}").to_lowercase());
        }
        heading + "\n"
    }

    fn row(&self) -> String {
        let mut row = format!("{:<18}{:>9}", self.name, self.kills);
        for loss in Loss::ALL {
            let _ = write!(row, "{:>9}", self.counts.get(&loss).unwrap_or(&0));
        }
        row + "\n"
    }
}
