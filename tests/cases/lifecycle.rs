//! One life of a container, in every combination of daemon, shim and OCI runtime.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::{Daemon, Engine, Image, Peers, binaries, eventually, vm};

/// The runtime that clients ask for unless they are told otherwise.
const RUNC: &str = "io.containerd.runc.v2";

/// Which shim and OCI runtime a container is asked for with.
#[derive(Debug, Clone)]
struct Runtime {
    /// The value of `--runtime`; nothing for the daemon's default.
    shim: Option<String>,
    /// The value of `--runc-binary`.
    binary: Option<PathBuf>,
}

impl Runtime {
    fn of(shim: impl Into<String>) -> Runtime {
        Runtime {
            shim: Some(shim.into()),
            binary: None,
        }
    }

    fn with_binary(self, binary: PathBuf) -> Runtime {
        Runtime {
            binary: Some(binary),
            ..self
        }
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if let Some(shim) = &self.shim {
            arguments.extend(["--runtime".to_owned(), shim.clone()]);
        }
        if let Some(binary) = &self.binary {
            arguments.extend(["--runc-binary".to_owned(), binary.display().to_string()]);
        }
        arguments
    }
}

/// Runs, execs, pauses, kills and deletes; the daemon must be left with nothing.
fn one_life(engine: Engine, peers: &Peers, runtime: &Runtime) {
    one_life_of(Daemon::start(engine, peers), runtime);
}

/// The same for a daemon that serves this.
fn one_life_of(daemon: Daemon, runtime: &Runtime) {
    let ctr = daemon.ctr();
    let image = "example.org/busybox:1";
    let archive = Image::busybox().write_archive(daemon.folder(), image);
    ctr.ok(&[
        "images",
        "import",
        "--local",
        &archive.display().to_string(),
    ]);
    let run = |options: &[&str], rest: &[&str]| {
        let mut args = vec!["run".to_owned()];
        args.extend(runtime.arguments());
        args.extend(options.iter().map(|word| word.to_string()));
        args.push(image.to_owned());
        args.extend(rest.iter().map(|word| word.to_string()));
        ctr.run(&args)
    };

    let first = run(
        &["--rm"],
        &["one", "/bin/sh", "-c", "echo out; echo err >&2; exit 3"],
    );
    assert_eq!(
        (first.code, first.stdout.as_str(), first.stderr.as_str()),
        (Some(3), "out\n", "err\n"),
        "{first}"
    );

    run(
        &["-d"],
        &[
            "two",
            "/bin/sh",
            "-c",
            "trap 'exit 5' TERM; echo $$ >/tmp/pid; while :; do sleep 0.05; done",
        ],
    )
    .ok();
    let status = |id: &str| {
        let table = ctr.ok(&["tasks", "ls"]);
        let row = table.lines().find(|line| line.starts_with(id));
        row.and_then(|line| line.split_whitespace().nth(2))
            .map(str::to_owned)
    };
    assert_eq!(status("two").as_deref(), Some("RUNNING"));
    eventually(
        "the container wrote its file",
        Duration::from_secs(10),
        || {
            (ctr.run(&[
                "tasks",
                "exec",
                "--exec-id",
                "look",
                "two",
                "cat",
                "/tmp/pid",
            ])
            .stdout
                == "1\n")
                .then_some(())
        },
    );
    let exec = ctr.run(&[
        "tasks",
        "exec",
        "--exec-id",
        "fails",
        "two",
        "sh",
        "-c",
        "exit 9",
    ]);
    assert_eq!(exec.code, Some(9), "{exec}");
    assert!(ctr.ok(&["tasks", "ps", "two"]).lines().count() >= 2);
    assert!(!ctr.ok(&["tasks", "metrics", "two"]).is_empty());

    ctr.ok(&["tasks", "pause", "two"]);
    assert_eq!(status("two").as_deref(), Some("PAUSED"));
    ctr.ok(&["tasks", "resume", "two"]);
    assert_eq!(status("two").as_deref(), Some("RUNNING"));

    ctr.ok(&["tasks", "kill", "--signal", "SIGTERM", "two"]);
    eventually("the container ended", Duration::from_secs(10), || {
        (status("two").as_deref() == Some("STOPPED")).then_some(())
    });
    let deleted = ctr.run(&["tasks", "delete", "two"]);
    assert_eq!(deleted.code, Some(0), "{deleted}");
    assert!(deleted.stderr.contains("exit code 5"), "{deleted}");
    ctr.ok(&["containers", "rm", "two"]);
    assert_eq!(ctr.ok(&["containers", "ls", "-q"]), "");
    assert_eq!(ctr.ok(&["tasks", "ls", "-q"]), "");
    daemon.assert_nothing_left();
}

/// Returns the value of `--runtime` for our shim, or says why the test cannot run.
fn our_shim() -> Option<String> {
    let found = binaries::find("containerd-shim-corten-v2");
    if found.is_none() {
        tests::print_skip("containerd-shim-corten-v2 is not in the tree yet");
    }
    found.map(|_| "io.containerd.corten.v2".to_owned())
}

fn our_daemon() -> bool {
    let found = binaries::find("cortend").is_some();
    if !found {
        tests::print_skip("cortend is not in the tree yet");
    }
    found
}

/// Starts our daemon with another shim behind the one name with which upstream's ctr takes `--runc-binary`.
fn our_daemon_with_shim(peers: &Peers, shim: &Path) -> Daemon {
    let config = format!(
        "version = 3\n[plugins.\"io.containerd.shim.v1.manager\".shims]\n\"{RUNC}\" = {:?}\n",
        shim.display().to_string()
    );
    Daemon::start_with(Engine::Corten, peers, &config)
}

/// Runs a test with crun here, or in the virtual machine where this one's groups are not for it.
///
/// Debian's crun refuses a hierarchy in which cgroup2 has controllers beside version 1.
fn where_crun_works(body: impl FnOnce()) {
    let unified =
        std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    if unified.trim().is_empty() {
        body();
    } else {
        vm::inside(&[], body);
    }
}

#[test]
fn containerd_2_runs_a_container_with_its_own_shim() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    one_life(Engine::Containerd2, &peers, &Runtime::of(RUNC));
}

#[test]
fn containerd_1_runs_a_container_with_its_own_shim() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    one_life(Engine::Containerd1, &peers, &Runtime::of(RUNC));
}

#[test]
fn containerd_2_runs_a_container_with_our_shim() {
    let (Some(peers), Some(shim)) = (Peers::or_skip(), our_shim()) else {
        return;
    };
    one_life(Engine::Containerd2, &peers, &Runtime::of(shim));
}

#[test]
fn containerd_1_runs_a_container_with_our_shim() {
    let (Some(peers), Some(shim)) = (Peers::or_skip(), our_shim()) else {
        return;
    };
    one_life(Engine::Containerd1, &peers, &Runtime::of(shim));
}

#[test]
fn cortend_runs_a_container_with_its_own_shim() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    if our_daemon() && our_shim().is_some() {
        one_life(
            Engine::Corten,
            &peers,
            &Runtime {
                shim: None,
                binary: None,
            },
        );
    }
}

#[test]
fn cortend_runs_a_container_with_debians_shim_and_runc() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    if our_daemon() {
        let daemon = our_daemon_with_shim(&peers, &peers.sid.join("containerd-shim-runc-v2"));
        let runtime = Runtime::of(RUNC).with_binary(peers.sid.join("runc"));
        one_life_of(daemon, &runtime);
    }
}

#[test]
fn cortend_runs_a_container_with_bookworms_shim_and_runc() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    if our_daemon() {
        let shim = peers
            .bookworm
            .join("containerd-shim-runc-v2")
            .display()
            .to_string();
        one_life(Engine::Corten, &peers, &Runtime::of(shim));
    }
}

#[test]
fn cortend_runs_a_container_with_debians_shim_and_crun() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    if our_daemon() {
        where_crun_works(|| {
            let daemon = our_daemon_with_shim(&peers, &peers.sid.join("containerd-shim-runc-v2"));
            let runtime = Runtime::of(RUNC).with_binary(peers.sid.join("crun"));
            one_life_of(daemon, &runtime);
        });
    }
}

#[test]
fn our_shim_runs_debians_runc_by_its_command_line() {
    let (Some(peers), Some(_)) = (Peers::or_skip(), our_shim()) else {
        return;
    };
    if our_daemon() {
        // Upstream's daemon would take its own shim for the name that upstream's ctr wants here.
        let runtime = Runtime::of(RUNC).with_binary(peers.sid.join("runc"));
        one_life(Engine::Corten, &peers, &runtime);
    }
}

#[test]
fn our_shim_runs_debians_crun_by_its_command_line() {
    let (Some(peers), Some(_)) = (Peers::or_skip(), our_shim()) else {
        return;
    };
    if our_daemon() {
        where_crun_works(|| {
            let runtime = Runtime::of(RUNC).with_binary(peers.sid.join("crun"));
            one_life(Engine::Corten, &peers, &runtime);
        });
    }
}
