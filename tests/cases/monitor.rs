//! The restart monitor: containers are kept running, or stopped, as their labels ask for.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tests::command::parent;
use tests::{Ctr, Daemon, Engine, Image, Peers, eventually};

const IMAGE: &str = "example.org/busybox:1";
const SOON: Duration = Duration::from_secs(30);
const PREFIX: &str = "containerd.io/restart.";
/// Ends at once and with a failure.
const FAILS: &str = "echo again; exit 3";

/// A daemon whose monitor looks after its containers more often than usual.
struct Fixture {
    daemon: Daemon,
}

impl Fixture {
    fn new(engine: Engine, peers: &Peers) -> Self {
        Self::with_interval(engine, peers, "200ms")
    }

    fn with_interval(engine: Engine, peers: &Peers, interval: &str) -> Self {
        let version = match engine {
            Engine::Corten => "version = 3\n",
            _ => "",
        };
        let config = format!(
            "{version}[plugins.\"io.containerd.monitor.container.v1.restart\"]\ninterval = {interval:?}\n"
        );
        let daemon = Daemon::start_with(engine, peers, &config);
        import(&daemon, &Image::busybox(), IMAGE);
        Self { daemon }
    }

    fn ctr(&self) -> Ctr {
        self.daemon.ctr()
    }

    fn run(&self, id: &str, script: &str) {
        self.ctr()
            .ok(&["run", "-d", IMAGE, id, "/bin/sh", "-c", script]);
    }

    /// Sets labels about restarts; an empty value takes one away.
    fn label(&self, id: &str, labels: &[(&str, &str)]) {
        let ctr = self.ctr();
        let mut args = vec!["containers".to_owned(), "label".into(), id.into()];
        args.extend(
            labels
                .iter()
                .map(|(key, value)| format!("{PREFIX}{key}={value}")),
        );
        ctr.ok(&args);
    }

    fn labels(&self, id: &str) -> serde_json::Map<String, Value> {
        let info = self.ctr().ok(&["containers", "info", id]);
        let info: Value = serde_json::from_str(&info).expect("ctr prints JSON");
        info["Labels"].as_object().cloned().unwrap_or_default()
    }

    fn count(&self, id: &str) -> u32 {
        let labels = self.labels(id);
        let count = labels.get(&format!("{PREFIX}count"));
        count.map_or(0, |count| {
            count.as_str().expect("a text").parse().expect("a number")
        })
    }

    /// Returns the pid of a container's first process, and the state of its task.
    fn task(&self, id: &str) -> Option<(i32, String)> {
        let table = self.ctr().ok(&["tasks", "ls"]);
        let row = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|row| row.first() == Some(&id))?;
        Some((row.get(1)?.parse().ok()?, (*row.get(2)?).to_owned()))
    }

    fn wait_for_restarts(&self, id: &str, count: u32) {
        eventually("it is restarted", SOON, || {
            (self.count(id) >= count).then_some(())
        });
    }

    /// Waits until the monitor has been around a few times: by a container that it restarts again and again.
    fn wait_for_rounds(&self) {
        self.run("witness", FAILS);
        self.label("witness", &[("status", "running")]);
        self.wait_for_restarts("witness", 3);
    }

    /// Has all containers stopped and removed, and fails if anything is left.
    fn end(&self) {
        let ctr = self.ctr();
        for id in ctr.ok(&["containers", "ls", "-q"]).lines() {
            self.label(id, &[("status", "")]);
        }
        // A restart that has begun goes on; with upstream a container that is removed meanwhile leaves its task behind.
        std::thread::sleep(Duration::from_secs(2));
        eventually("all containers are removed", SOON, || {
            for id in ctr.ok(&["containers", "ls", "-q"]).lines() {
                ctr.run(&["tasks", "delete", "--force", id]);
                ctr.run(&["containers", "rm", id]);
            }
            ctr.ok(&["containers", "ls", "-q"]).is_empty().then_some(())
        });
        self.daemon.assert_nothing_left();
    }
}

fn import(daemon: &Daemon, image: &Image, name: &str) {
    let archive = image.write_archive(daemon.folder(), name);
    let archive = archive.display().to_string();
    daemon.ctr().ok(&["images", "import", "--local", &archive]);
}

/// Runs a scenario under upstream's daemon, then under ours.
fn under_both(scenario: impl Fn(Fixture)) {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    for engine in [Engine::Containerd2, Engine::Corten] {
        scenario(Fixture::new(engine, &peers));
    }
}

#[test]
fn a_container_that_ends_is_restarted_until_it_shall_be_stopped() {
    under_both(|fixture| {
        let log = fixture.daemon.folder().join("output");
        let uri = format!("file://{}", log.display());
        fixture.run("again", FAILS);
        fixture.label("again", &[("loguri", &uri), ("status", "running")]);
        fixture.wait_for_restarts("again", 3);
        let output = std::fs::read_to_string(&log).expect("read the output");
        assert!(output.starts_with("again\nagain\n"), "{output:?}");

        fixture.run("stays", "sleep 1000");
        fixture.label("stays", &[("status", "running")]);
        let before = fixture.task("stays").expect("it has a task");
        fixture.wait_for_rounds();
        assert_eq!(fixture.task("stays"), Some(before));
        assert_eq!(fixture.count("stays"), 0);

        fixture.label("stays", &[("status", "stopped")]);
        eventually("its task is killed and deleted", SOON, || {
            fixture.task("stays").is_none().then_some(())
        });
        fixture.end();
    });
}

#[test]
fn a_failure_is_followed_by_as_many_restarts_as_the_policy_says() {
    under_both(|fixture| {
        fixture.run("fails", FAILS);
        let twice = [("policy", "on-failure:2"), ("status", "running")];
        fixture.label("fails", &twice);
        fixture.run("ends", "exit 0");
        fixture.label("ends", &[("policy", "on-failure"), ("status", "running")]);
        fixture.run("never", FAILS);
        fixture.label("never", &[("policy", "no"), ("status", "running")]);
        fixture.wait_for_restarts("fails", 2);
        fixture.wait_for_rounds();
        let counts = ["fails", "ends", "never"].map(|id| fixture.count(id));
        assert_eq!(counts, [2, 0, 0]);
        let (_, state) = fixture.task("fails").expect("its last task is there");
        assert_eq!(state, "STOPPED");
        fixture.end();
    });
}

#[test]
fn what_a_user_has_stopped_is_not_restarted() {
    under_both(|fixture| {
        fixture.run("c", "sleep 1000");
        let policy = [("policy", "unless-stopped"), ("status", "running")];
        fixture.label("c", &policy);
        fixture.label("c", &[("explicitly-stopped", "true")]);
        fixture.ctr().ok(&["tasks", "kill", "-s", "KILL", "c"]);
        fixture.wait_for_rounds();
        assert_eq!(fixture.count("c"), 0);
        fixture.label("c", &[("explicitly-stopped", "false")]);
        fixture.wait_for_restarts("c", 1);
        fixture.end();
    });
}

#[test]
fn what_ended_while_no_daemon_ran_is_restarted() {
    under_both(|mut fixture| {
        for id in ["ended", "alive"] {
            fixture.run(id, "sleep 1000");
            fixture.label(id, &[("status", "running")]);
        }
        let task = |fixture: &Fixture, id: &str| fixture.task(id).expect("it has a task");
        let (ended, alive) = (task(&fixture, "ended"), task(&fixture, "alive"));
        fixture.daemon.kill();
        let pid = Pid::from_raw(ended.0).expect("a pid");
        kill_process(pid, Signal::KILL).expect("kill a container of ours");
        fixture.daemon.restart();
        fixture.wait_for_restarts("ended", 1);
        eventually("it runs again", SOON, || {
            let (pid, state) = fixture.task("ended")?;
            (pid != ended.0 && state == "RUNNING").then_some(())
        });
        assert_eq!(task(&fixture, "alive"), alive);
        assert_eq!(fixture.count("alive"), 0);
        fixture.end();
    });
}

/// Upstream writes all labels of a container anew, and so takes away what came in between.
#[test]
fn labels_that_clients_set_meanwhile_are_kept() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let fixture = Fixture::new(Engine::Corten, &peers);
    fixture.run("c", FAILS);
    fixture.label("c", &[("status", "running")]);
    let mut number = 0;
    while fixture.count("c") < 5 {
        let label = format!("label{number}=set");
        fixture.ctr().ok(&["containers", "label", "c", &label]);
        number += 1;
    }
    let labels = fixture.labels("c");
    for number in 0..number {
        assert_eq!(labels.get(&format!("label{number}")), Some(&json!("set")));
    }
    fixture.end();
}

/// Upstream's monitor kills what a client has created and not started yet.
#[test]
fn a_client_that_is_making_its_task_is_not_disturbed() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    // A client must come from one step to the next in less.
    let fixture = Fixture::with_interval(Engine::Corten, &peers, "3s");
    for number in 0..10 {
        let id = format!("c{number}");
        let label = format!("{PREFIX}status=running");
        let command = ["run", "-d", "--label", &label, IMAGE, &id, "sleep", "1000"];
        fixture.ctr().ok(&command);
    }
    fixture.wait_for_rounds();
    for number in 0..10 {
        assert_eq!(fixture.count(&format!("c{number}")), 0);
    }
    fixture.end();
}

#[test]
fn a_hung_shim_keeps_no_other_container_from_being_restarted() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let fixture = Fixture::new(Engine::Corten, &peers);
    fixture.run("hung", "sleep 1000");
    let (pid, _) = fixture.task("hung").expect("it has a task");
    let shim = Pid::from_raw(parent(pid)).expect("a pid");
    kill_process(shim, Signal::STOP).expect("stop a shim of ours");
    fixture.label("hung", &[("status", "running")]);
    fixture.wait_for_rounds();
    kill_process(shim, Signal::CONT).expect("let a shim of ours go on");
    assert_eq!(fixture.count("hung"), 0);
    assert_eq!(fixture.task("hung").map(|(pid, _)| pid), Some(pid));
    fixture.end();
}

/// Bookworm's client puts all labels of an image on its containers, and its daemon would run what they name.
#[test]
fn an_image_cannot_ask_for_restarts_of_its_containers() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let fixture = Fixture::new(Engine::Corten, &peers);
    let touched = fixture.daemon.folder().join("touched");
    let program = format!("binary:///bin/touch?{}", touched.display());
    let labels = json!({
        "containerd.io/restart.status": "running",
        "containerd.io/restart.loguri": program,
        "maintainer": "m",
    });
    let image = Image::busybox_recipe().config("Labels", labels).build();
    let name = "example.org/evil:1";
    import(&fixture.daemon, &image, name);
    fixture
        .daemon
        .old_ctr()
        .ok(&["run", "-d", name, "c", "/bin/sh", "-c", FAILS]);
    let labels = fixture.labels("c");
    assert_eq!(labels.get("maintainer"), Some(&json!("m")));
    let reserved = labels.keys().find(|key| key.starts_with(PREFIX));
    assert_eq!(reserved, None);
    fixture.wait_for_rounds();
    assert_eq!(fixture.count("c"), 0);
    assert!(!touched.exists());

    // What the user asks for still counts.
    fixture.label("c", &[("status", "running")]);
    fixture.wait_for_restarts("c", 1);
    fixture.end();
}
