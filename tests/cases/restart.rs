//! The daemon, and shims, die at bad moments: nothing is lost, nothing is left, and nobody else notices.

use std::time::{Duration, Instant};

use api_protos::containerd::events::TaskExit;
use api_protos::containerd::services::events::v1::SubscribeRequest;
use api_protos::containerd::services::tasks::v1::{
    DeleteTaskRequest, GetRequest, ListTasksRequest, WaitRequest,
};
use api_protos::containerd::v1::types::Status;
use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use tests::command::parent;
use tests::{Api, Ctr, Daemon, Engine, Image, Peers, binaries, eventually};
use tonic::Code;

const IMAGE: &str = "example.org/busybox:1";
const SOON: Duration = Duration::from_secs(20);
/// Ends with 7 when it gets a SIGTERM.
const ENDS: &str = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done";

/// A daemon of ours with an image, and the shim that its containers are to have.
struct Fixture {
    daemon: Daemon,
    shim: String,
}

impl Fixture {
    fn new(peers: &Peers, shim: &str) -> Self {
        let daemon = Daemon::start(Engine::Corten, peers);
        let archive = Image::busybox().write_archive(daemon.folder(), IMAGE);
        let archive = archive.display().to_string();
        daemon.ctr().ok(&["images", "import", "--local", &archive]);
        let shim = shim.to_owned();
        Self { daemon, shim }
    }

    fn ctr(&self) -> Ctr {
        self.daemon.ctr()
    }

    fn api(&self) -> Api {
        Api::new(&self.daemon, &self.daemon.namespace)
    }

    fn run(&self, id: &str, script: &str) -> tests::Finished {
        let shim = self.shim.as_str();
        self.ctr().run(&[
            "run",
            "-d",
            "--runtime",
            shim,
            IMAGE,
            id,
            "/bin/sh",
            "-c",
            script,
        ])
    }

    /// Kills the daemon, does `meanwhile`, and starts it again.
    fn restart_after(&mut self, meanwhile: impl FnOnce()) {
        self.daemon.kill();
        meanwhile();
        self.daemon.restart();
    }

    /// Returns the pid, on the host, of a container's first process, and its state.
    fn task(&self, id: &str) -> Option<(i32, String)> {
        let table = self.ctr().ok(&["tasks", "ls"]);
        let words: Vec<String> = table
            .lines()
            .find(|line| line.split_whitespace().next() == Some(id))?
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        Some((words.get(1)?.parse().ok()?, words.get(2)?.clone()))
    }

    fn pid(&self, id: &str) -> i32 {
        self.task(id).expect("the container has a task").0
    }

    /// Waits until the trap of [`ENDS`] is set.
    fn wait_until_ready(&self, id: &str) {
        eventually("the container set its trap", SOON, || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid(id))).ok()?;
            let caught = status
                .lines()
                .find_map(|line| line.strip_prefix("SigCgt:"))?;
            let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
            (caught & (1 << 14) != 0).then_some(())
        });
    }

    /// Ends a container, whatever there is of it.
    fn remove(&self, id: &str) {
        let ctr = self.ctr();
        ctr.run(&["tasks", "delete", "--force", id]);
        ctr.run(&["containers", "rm", id]);
    }

    /// Fails unless the daemon has no container, task, lease, snapshot but the image's, process, mount or cgroup.
    #[track_caller]
    fn assert_nothing_left(&self) {
        let ctr = self.ctr();
        assert_eq!(ctr.ok(&["tasks", "ls", "-q"]), "");
        assert_eq!(ctr.ok(&["containers", "ls", "-q"]), "");
        assert_eq!(ctr.ok(&["leases", "ls", "-q"]), "");
        let snapshots = ctr.ok(&["snapshots", "ls"]);
        assert!(!snapshots.contains("Active"), "{snapshots}");
        let state = self
            .daemon
            .folder()
            .join("state/io.containerd.runtime.v2.task");
        let work = self
            .daemon
            .folder()
            .join("root/io.containerd.runtime.v2.task");
        for folder in [state, work] {
            let own = folder.join(&self.daemon.namespace);
            let left: Vec<_> = std::fs::read_dir(&own)
                .into_iter()
                .flatten()
                .flatten()
                .collect();
            assert!(left.is_empty(), "{left:?}");
        }
        self.daemon.assert_nothing_left();
    }
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("signal a container of ours");
}

/// Runs `case` with each shim that there is: Debian's for runc, and ours.
fn with_each_shim(case: impl Fn(&mut Fixture)) {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let debians = peers.sid.join("containerd-shim-runc-v2");
    case(&mut Fixture::new(&peers, &debians.display().to_string()));
    match binaries::find("containerd-shim-corten-v2") {
        Some(_) => case(&mut Fixture::new(&peers, "io.containerd.corten.v2")),
        None => tests::print_skip("containerd-shim-corten-v2 is not in the tree yet"),
    }
}

#[test]
fn a_daemon_that_was_killed_finds_its_containers_and_what_they_did() {
    with_each_shim(|fixture| {
        fixture.run("stays", "while :; do sleep 0.1; done").ok();
        fixture.run("ends", ENDS).ok();
        fixture.wait_until_ready("ends");
        let (stays, ends) = (fixture.pid("stays"), fixture.pid("ends"));
        fixture.restart_after(|| {
            signal(ends, Signal::TERM);
            eventually("the container ended", SOON, || {
                let state = std::fs::read_to_string(format!("/proc/{ends}/stat"));
                state.map_or(Some(()), |state| state.contains(") Z ").then_some(()))
            });
        });
        assert_eq!(fixture.task("stays"), Some((stays, "RUNNING".into())));
        let api = fixture.api();
        let container = |id: &str| id.to_owned();
        let exit = api.run(async {
            let request = SubscribeRequest {
                filters: vec!["topic==\"/tasks/exit\"".into()],
            };
            let mut events = api.events().subscribe(request).await.unwrap().into_inner();
            let envelope = events.message().await.unwrap().expect("an event");
            let event = envelope.event.expect("the envelope has an event");
            api_protos::any::unpack::<TaskExit>(&event)
                .unwrap()
                .unwrap()
        });
        assert_eq!((exit.id.as_str(), exit.exit_status), ("ends", 7));
        assert!(exit.exited_at.is_some_and(|at| at.seconds > 0));
        api.run(async {
            let mut tasks = api.tasks();
            let wait = WaitRequest {
                container_id: container("ends"),
                ..Default::default()
            };
            assert_eq!(tasks.wait(wait).await.unwrap().into_inner().exit_status, 7);
            let get = GetRequest {
                container_id: container("ends"),
                ..Default::default()
            };
            let process = tasks.get(get).await.unwrap().into_inner().process.unwrap();
            assert_eq!(process.status(), Status::Stopped);
            assert_eq!(process.exit_status, 7);
            let delete = DeleteTaskRequest {
                container_id: container("ends"),
            };
            let deleted = tasks.delete(delete).await.unwrap().into_inner();
            assert_eq!(deleted.exit_status, 7);
        });
        fixture.remove("ends");

        let ctr = fixture.ctr();
        let exec = ctr.run(&[
            "tasks",
            "exec",
            "--exec-id",
            "e",
            "stays",
            "sh",
            "-c",
            "exit 9",
        ]);
        assert_eq!(exec.code, Some(9), "{exec}");
        ctr.ok(&["tasks", "kill", "--signal", "SIGKILL", "stays"]);
        eventually("the container was killed", SOON, || {
            (fixture.task("stays")?.1 == "STOPPED").then_some(())
        });
        let deleted = ctr.run(&["tasks", "delete", "stays"]);
        assert!(deleted.stderr.contains("exit code 137"), "{deleted}");
        ctr.ok(&["containers", "rm", "stays"]);
        fixture.assert_nothing_left();
    });
}

#[test]
fn what_a_client_was_deleting_is_deleted_and_not_told_of_again() {
    with_each_shim(|fixture| {
        let sleeps = "while :; do sleep 0.1; done";
        fixture.run("known", sleeps).ok();
        fixture.run("lost", sleeps).ok();
        let shims = ["known", "lost"].map(|id| parent(fixture.pid(id)));
        let state = fixture.daemon.folder().join("state");
        let bundles = state.join("io.containerd.runtime.v2.task");
        let known = bundles.join(&fixture.daemon.namespace).join("known");
        fixture.restart_after(|| {
            // As if the daemon had died between the shim's part of a deletion and its own.
            std::fs::write(known.join("deleting"), "").expect("write a file");
            for shim in shims {
                signal(shim, Signal::KILL);
            }
        });
        let api = fixture.api();
        let told = api.run(async {
            let request = SubscribeRequest {
                filters: vec!["topic==\"/tasks/exit\"".into()],
            };
            let mut events = api.events().subscribe(request).await.unwrap().into_inner();
            fixture.run("last", "exit 3").ok();
            let mut told = Vec::new();
            while told.last().is_none_or(|id| id != "last") {
                let envelope = events.message().await.unwrap().expect("an event");
                let event = envelope.event.expect("the envelope has an event");
                let exit = api_protos::any::unpack::<TaskExit>(&event).unwrap();
                told.push(exit.unwrap().container_id);
            }
            told
        });
        assert_eq!(told, ["lost", "last"]);
        for id in ["known", "lost"] {
            assert_eq!(fixture.task(id), None);
            fixture.ctr().ok(&["containers", "rm", id]);
        }
        fixture.remove("last");
        fixture.assert_nothing_left();
    });
}

#[test]
fn a_task_that_many_delete_at_once_is_gone_for_all_of_them() {
    with_each_shim(|fixture| {
        let api = fixture.api();
        for round in 0..8 {
            let id = format!("c{round}");
            fixture.run(&id, "exit 3").ok();
            eventually("the container has ended", SOON, || {
                (fixture.task(&id)?.1 == "STOPPED").then_some(())
            });
            let delete = || async {
                let container_id = id.clone();
                let request = DeleteTaskRequest { container_id };
                api.tasks().delete(request).await
            };
            let answers = api.run(join_all((0..8).map(|_| delete())));
            // Whoever comes late is told how it ended, or that it is gone.
            for answer in answers {
                match answer {
                    Ok(answer) => assert_eq!(answer.into_inner().exit_status, 3),
                    Err(status) => assert_eq!(status.code(), Code::NotFound, "{status}"),
                }
            }
            fixture.ctr().ok(&["containers", "rm", &id]);
        }
        fixture.assert_nothing_left();
    });
}

#[test]
fn a_shim_that_is_killed_ends_its_task_and_leaves_nothing() {
    with_each_shim(|fixture| {
        fixture.run("c", "while :; do sleep 0.1; done").ok();
        fixture.run("other", "while :; do sleep 0.1; done").ok();
        let pid = fixture.pid("c");
        let shim = parent(pid);
        let api = fixture.api();
        let (exit, waited) = api.run(async {
            let request = SubscribeRequest {
                filters: vec!["topic~=|^/tasks/|".into()],
            };
            let mut events = api.events().subscribe(request).await.unwrap().into_inner();
            let wait = WaitRequest {
                container_id: "c".into(),
                ..Default::default()
            };
            let mut tasks = api.tasks();
            let waiting = tasks.wait(wait);
            let told = async {
                signal(shim, Signal::KILL);
                let mut topics = Vec::new();
                let mut exit = None;
                while topics.last().map(String::as_str) != Some("/tasks/delete") {
                    let envelope = events.message().await.unwrap().expect("an event");
                    let event = envelope.event.unwrap_or_default();
                    exit = exit.or(api_protos::any::unpack::<TaskExit>(&event));
                    topics.push(envelope.topic);
                }
                assert_eq!(topics, ["/tasks/exit", "/tasks/delete"]);
                exit.expect("an exit").expect("a whole one")
            };
            let pair = futures_util::future::join(told, waiting).await;
            (pair.0, pair.1.unwrap().into_inner())
        });
        // 137 where the shim's executable knows that it killed the process, 255 where nobody knows.
        assert!([137, 255].contains(&exit.exit_status), "{exit:?}");
        assert_eq!(waited.exit_status, exit.exit_status);
        eventually("the process is gone", SOON, || {
            std::fs::metadata(format!("/proc/{pid}"))
                .is_err()
                .then_some(())
        });
        assert_eq!(fixture.task("c"), None);
        assert_eq!(fixture.task("other").expect("it lives").1, "RUNNING");
        let again = fixture.ctr().run(&["tasks", "start", "-d", "c"]);
        assert_eq!(again.code, Some(0), "a new task may be made: {again}");
        fixture.remove("c");
        fixture.remove("other");
        fixture.assert_nothing_left();
    });
}

#[test]
fn a_hung_shim_holds_up_nobody_else() {
    with_each_shim(|fixture| {
        for id in ["hung", "well"] {
            fixture.run(id, "while :; do sleep 0.1; done").ok();
        }
        let shim = parent(fixture.pid("hung"));
        signal(shim, Signal::STOP);
        let api = fixture.api();
        let state = |api: &Api| {
            let request = GetRequest {
                container_id: "well".into(),
                ..Default::default()
            };
            let start = Instant::now();
            let got = api.run(async { api.tasks().get(request).await });
            let process = got.unwrap().into_inner().process.unwrap();
            assert_eq!(process.status(), Status::Running);
            assert!(
                start.elapsed() < Duration::from_secs(1),
                "{:?}",
                start.elapsed()
            );
        };
        let list = |api: &Api| {
            let start = Instant::now();
            let request = ListTasksRequest::default();
            let listed = api.run(async { api.tasks().list(request).await });
            let tasks = listed.unwrap().into_inner().tasks;
            assert_eq!(tasks.len(), 1, "only the one that answers");
            assert_eq!(tasks[0].id, "well");
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "{:?}",
                start.elapsed()
            );
        };
        state(&api);
        list(&api);
        fixture.run("new", "exit 0").ok();
        fixture.remove("new");

        let start = Instant::now();
        fixture.restart_after(|| {});
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{:?}",
            start.elapsed()
        );
        let api = fixture.api();
        state(&api);
        list(&api);
        signal(shim, Signal::CONT);
        eventually("the hung shim answers again", SOON, || {
            (fixture.task("hung")?.1 == "RUNNING").then_some(())
        });
        for id in ["hung", "well"] {
            fixture.remove(id);
        }
        fixture.assert_nothing_left();
    });
}

#[test]
fn many_containers_are_found_again_side_by_side() {
    with_each_shim(|fixture| {
        let ids: Vec<String> = (0..8).map(|number| format!("m{number}")).collect();
        for id in &ids {
            fixture.run(id, "while :; do sleep 1; done").ok();
        }
        let pids: Vec<i32> = ids.iter().map(|id| fixture.pid(id)).collect();
        fixture.restart_after(|| {});
        for (id, pid) in ids.iter().zip(pids) {
            assert_eq!(fixture.task(id), Some((pid, "RUNNING".into())));
        }
        ids.iter().for_each(|id| fixture.remove(id));
        fixture.assert_nothing_left();
    });
}
