//! The daemon, and shims, die or fail at every moment that matters, and at any other: nothing is lost and nothing is left.
//!
//! | file | what |
//! |---|---|
//! | `client.rs` | what a client does meanwhile, and what must be true of it afterwards |
//! | `points.rs` | each failpoint of the sources, to kill, to fail and to wait at |
//! | `random.rs` | kills at random instants, of upstream's daemon too |
//!
//! After each crash the daemon is started again. Then what was acknowledged is there, what the crash cut short can be
//! brought to an end, and when that is done the daemon has, record for record and file for file, what it had before.
//! A container that has nothing to do with all this runs on from the first crash to the last.

mod client;
mod points;
mod random;

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tests::footprint::{Loss, socket};
use tests::{Daemon, Engine, Footprint, Image, Peers, Registry};

use client::{Client, Exits, until};

/// The image of the container that stays.
const IMAGE: &str = "example.org/busybox:1";
/// The container that stays.
const STAYS: &str = "stays";
/// Waits for a SIGTERM without a process that comes or goes, and ends with 7.
const STAYS_SCRIPT: &str = "trap 'exit 7' TERM; sleep 1000000 & wait";
/// How many images there are, each for one client at a time; they have layers in common.
const IMAGES: usize = 3;
/// How long the daemon may need to clean up.
const SOON: Duration = Duration::from_secs(10);

/// A daemon with a container that stays, and the images that its clients pull.
struct Fixture {
    daemon: Daemon,
    _registry: Registry,
    images: Vec<String>,
    shim: String,
    exits: Exits,
    baseline: Footprint,
    /// All containers so far.
    ids: Vec<String>,
}

impl Fixture {
    fn new(engine: Engine, peers: &Peers, shim: &str) -> Fixture {
        let registry = Registry::start();
        // Their lowest layer is the one of the container that stays.
        let images = (1..=IMAGES).map(|count| {
            let image = Image::many_layers(count + 1, 200_000);
            registry.push("library/torture", &count.to_string(), &image)
        });
        let images: Vec<String> = images.collect();
        let daemon = Daemon::start(engine, peers);
        let archive = Image::busybox().write_archive(daemon.folder(), IMAGE);
        let ctr = daemon.ctr();
        ctr.ok(&[
            "images",
            "import",
            "--local",
            &archive.display().to_string(),
        ]);
        let stays = ["run", "-d", "--runtime", shim, IMAGE, STAYS];
        ctr.ok(&[&stays[..], &["/bin/sh", "-c", STAYS_SCRIPT]].concat());
        let exits = Exits::default();
        exits.listen(&daemon);
        // What the import has left for the collector is gone when a client has done all it does.
        let mut first = Client::new(&daemon, shim, &images[0], 0);
        first.work();
        assert_eq!(first.failed, None);
        let baseline = Footprint::of(&daemon, &[STAYS]);
        Fixture {
            daemon,
            _registry: registry,
            images,
            shim: shim.to_owned(),
            exits,
            baseline,
            ids: vec![STAYS.to_owned()],
        }
    }

    /// Returns a client of one of the images, with containers that no other has.
    fn client(&mut self, image: usize) -> Client {
        let image = &self.images[image];
        let client = Client::new(&self.daemon, &self.shim, image, self.ids.len());
        self.ids
            .extend([client.first.clone(), client.second.clone()]);
        client
    }

    /// Starts the daemon again after it has died.
    fn revive(&mut self) {
        self.daemon.restart();
        self.exits.listen(&self.daemon);
    }

    /// Has a client work, and starts the daemon again as soon as it dies; returns whether it did.
    ///
    /// The client goes on where its connection does.
    fn outlive(&mut self, client: &mut Client) -> bool {
        let mut died = false;
        std::thread::scope(|scope| {
            let work = scope.spawn(|| client.work());
            while !work.is_finished() || (!died && self.daemon.has_ended()) {
                if self.daemon.has_ended() {
                    self.revive();
                    died = true;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            work.join().expect("the client does not panic");
        });
        died
    }

    /// Has clients bring everything to an end; returns all that is wrong then.
    fn settle(&mut self, clients: &mut [Client]) -> Vec<(Loss, String)> {
        let mut losses = Vec::new();
        let ids: Vec<&str> = self.ids.iter().map(String::as_str).collect();
        for client in clients {
            client.settle(&self.daemon, &self.exits);
            losses.append(&mut client.losses);
        }
        let mut last = self.baseline.clone();
        until(SOON, || {
            last = Footprint::of(&self.daemon, &ids);
            (last == self.baseline).then_some(())
        });
        losses.extend(last.differences(&self.baseline));
        // What is lost or leaked once is not to be counted again.
        self.baseline = last;
        losses
    }

    /// Ends the container that stayed; fails unless it ends as it should and the daemon has nothing any more.
    fn finish(self) {
        let ctr = self.daemon.ctr();
        let tasks = ctr.ok(&["tasks", "ls"]);
        let row = tasks.lines().find(|line| line.starts_with(STAYS));
        let mut row = row.expect("it stays").split_whitespace().skip(1);
        let pid = row.next().and_then(|pid| pid.parse().ok());
        let pid = pid.and_then(Pid::from_raw).expect("a pid");
        assert_eq!(row.next(), Some("RUNNING"), "{tasks}");
        kill_process(pid, Signal::TERM).expect("signal a container of ours");
        let told = until(SOON, || self.exits.of(STAYS).pop());
        assert_eq!(told, Some(7));
        let deleted = ctr.run(&["tasks", "delete", STAYS]);
        assert!(deleted.stderr.contains("exit code 7"), "{deleted}");
        ctr.ok(&["containers", "rm", STAYS]);
        self.daemon.assert_nothing_left();
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // Nothing else knows of those that upstream leaves.
        for id in &self.ids {
            let _ = std::fs::remove_file(socket(&self.daemon, id));
        }
    }
}

/// Returns whether this is `make torture`.
fn is_long() -> bool {
    std::env::var_os("CORTEN_TORTURE").is_some()
}
