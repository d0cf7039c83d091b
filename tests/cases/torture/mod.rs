//! The daemon, and shims, die or fail at every moment that matters, and at any other: nothing is lost and nothing is left.
//!
//! | file | what |
//! |---|---|
//! | `client.rs` | what a client does meanwhile, and what must be true of it afterwards |
//! | `points.rs` | each failpoint of the sources, to kill, to fail and to wait at |
//!
//! After each crash the daemon is started again. Then what was acknowledged is there, what the crash cut short can be
//! brought to an end, and when that is done the daemon has, record for record and file for file, what it had before.
//! A container that has nothing to do with all this runs on from the first crash to the last.

mod client;
mod points;

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tests::footprint::Loss;
use tests::{Daemon, Engine, Footprint, Image, Peers, Registry};

use client::{Client, Exits, until};

/// The image of the container that stays.
const IMAGE: &str = "example.org/busybox:1";
/// The container that stays.
const STAYS: &str = "stays";
/// Waits for a SIGTERM without a process that comes or goes, and ends with 7.
const STAYS_SCRIPT: &str = "trap 'exit 7' TERM; sleep 1000000 & wait";
/// How long the daemon may need to clean up.
const SOON: Duration = Duration::from_secs(10);

/// A daemon with a container that stays, and the image that its clients pull.
struct Fixture {
    daemon: Daemon,
    _registry: Registry,
    image: String,
    shim: String,
    exits: Exits,
    baseline: Footprint,
    clients: usize,
}

impl Fixture {
    fn new(engine: Engine, peers: &Peers, shim: &str) -> Fixture {
        let registry = Registry::start();
        // Its lowest layer is the one of the container that stays.
        let image = registry.push("library/torture", "1", &Image::many_layers(2, 200_000));
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
        let mut first = Client::new(&daemon, shim, &image, 0);
        first.work();
        assert_eq!(first.failed, None);
        let baseline = Footprint::of(&daemon, &[STAYS]);
        Fixture {
            daemon,
            _registry: registry,
            image,
            shim: shim.to_owned(),
            exits,
            baseline,
            clients: 0,
        }
    }

    /// Returns a client with containers that no other has.
    fn client(&mut self) -> Client {
        self.clients += 1;
        Client::new(&self.daemon, &self.shim, &self.image, self.clients)
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

    /// Has a client bring everything to an end; returns all that is wrong then.
    fn settle(&mut self, client: &mut Client) -> Vec<(Loss, String)> {
        client.settle(&self.daemon, &self.exits);
        let mut losses = std::mem::take(&mut client.losses);
        let ids = [STAYS, &client.first, &client.second];
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

/// Returns whether this is `make torture`.
fn is_long() -> bool {
    std::env::var_os("CORTEN_TORTURE").is_some()
}
