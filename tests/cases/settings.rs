//! Settings of the daemon that show outside: each does under ours what it does under upstream's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tests::command::parent;
use tests::{Daemon, Engine, Image, Peers, binaries, command};

const IMAGE: &str = "example.org/busybox:1";
const ENGINES: [Engine; 2] = [Engine::Containerd2, Engine::Corten];

/// Returns lines at the end of a configuration, which for ours is all of it.
fn config(engine: Engine, lines: &str) -> String {
    match engine {
        Engine::Corten => format!("version = 3\n{lines}"),
        _ => lines.to_owned(),
    }
}

#[test]
fn the_daemon_has_the_oom_score_that_is_set() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    for engine in ENGINES {
        let daemon = Daemon::start_with(engine, &peers, &config(engine, "oom_score = 321\n"));
        let path = format!("/proc/{}/oom_score_adj", daemon.pid());
        let score = fs::read_to_string(path).expect("the daemon runs");
        assert_eq!(score.trim(), "321", "{engine:?}");
    }
}

#[test]
fn a_required_plugin_that_is_missing_ends_the_daemon() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let programs = [
        peers.sid.join("containerd"),
        binaries::find("cortend").expect("cortend is built"),
    ];
    for program in programs {
        let folder = tempfile::tempdir().expect("make a folder");
        let path = |name: &str| folder.path().join(name);
        let lines = "version = 3\nrequired_plugins = [\"io.containerd.other.v1.none\"]\n";
        fs::write(path("config.toml"), lines).expect("write the configuration");
        let mut command = Command::new(&program);
        command.arg("--config").arg(path("config.toml"));
        command.arg("--root").arg(path("root"));
        command.arg("--state").arg(path("state"));
        command.arg("--address").arg(path("socket"));
        let ended = command::run_with(&mut command, b"", Duration::from_secs(30));
        assert_eq!(ended.code, Some(1), "{ended:?}");
        for word in [
            "required plugin",
            "io.containerd.other.v1.none",
            "not included",
        ] {
            assert!(ended.stderr.contains(word), "{program:?}: {}", ended.stderr);
        }
    }
}

#[test]
fn a_slow_shim_gets_the_time_that_is_set() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    for engine in ENGINES {
        let lines = "[timeouts]\n\"io.containerd.timeout.task.state\" = \"40s\"\n";
        let daemon = Daemon::start_with(engine, &peers, &config(engine, lines));
        let archive = Image::busybox().write_archive(daemon.folder(), IMAGE);
        let archive = archive.display().to_string();
        let ctr = daemon.ctr();
        ctr.ok(&["images", "import", "--local", &archive]);
        ctr.ok(&["run", "-d", IMAGE, "slow", "sleep", "1000"]);
        let table = ctr.ok(&["tasks", "ls"]);
        let row = table.lines().find(|line| line.starts_with("slow"));
        let pid = row.and_then(|row| row.split_whitespace().nth(1));
        let pid = pid.and_then(|pid| pid.parse().ok());
        let shim = Pid::from_raw(parent(pid.expect("it has a pid"))).expect("a pid");
        kill_process(shim, Signal::STOP).expect("stop a shim of ours");
        let listing = std::thread::spawn({
            let ctr = ctr.clone();
            move || ctr.ok(&["tasks", "ls"])
        });
        // Twice what it would get otherwise.
        std::thread::sleep(Duration::from_secs(4));
        kill_process(shim, Signal::CONT).expect("let a shim of ours go on");
        let table = listing.join().expect("the client ends well");
        assert!(table.contains("slow"), "{engine:?}: {table}");
        ctr.ok(&["tasks", "delete", "--force", "slow"]);
        ctr.ok(&["containers", "rm", "slow"]);
        daemon.assert_nothing_left();
    }
}

/// Removes a group of this name from all hierarchies when it is dropped.
struct Groups(String);

impl Groups {
    fn folders(&self) -> Vec<PathBuf> {
        let roots = fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten();
        let roots = roots.map(|root| root.path());
        let roots = roots.chain([PathBuf::from("/sys/fs/cgroup")]);
        let groups = roots.map(|root| root.join(&self.0));
        groups.filter(|group| group.is_dir()).collect()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in self.folders() {
            // Upstream makes plain folders for hierarchies that are not mounted, with a plain file in each.
            if fs::remove_dir(&group).is_err() {
                let _ = fs::remove_file(group.join("cgroup.procs"));
                let _ = fs::remove_dir(&group);
            }
        }
    }
}

#[test]
fn the_daemon_is_in_the_control_group_that_is_set() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    if !Path::new("/sys/fs/cgroup/memory").is_dir() {
        tests::skip!("upstream joins a group of version 2 only if it is there");
    }
    let joined = ENGINES.map(|engine| {
        let groups = Groups(format!("corten-{}-{engine:?}", std::process::id()));
        let lines = format!("[cgroup]\npath = \"/{}\"\n", groups.0);
        let mut daemon = Daemon::start_with(engine, &peers, &config(engine, &lines));
        let path = format!("/proc/{}/cgroup", daemon.pid());
        let text = fs::read_to_string(path).expect("the daemon runs");
        let joined = text.lines().filter(|line| line.contains(&groups.0));
        let mut names: Vec<String> = joined
            .filter_map(|line| Some(line.split(':').nth(1)?.to_owned()))
            .collect();
        names.sort();
        daemon.terminate();
        assert!(!groups.folders().is_empty());
        drop(daemon);
        let removed = Groups(groups.0.clone());
        drop(groups);
        assert_eq!(removed.folders(), Vec::<PathBuf>::new());
        names
    });
    let [upstream, ours] = joined;
    assert!(upstream.iter().any(|name| name == "memory"), "{upstream:?}");
    let missing: Vec<&String> = upstream
        .iter()
        .filter(|name| !ours.contains(name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}, ours: {ours:?}");
}
