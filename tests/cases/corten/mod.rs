//! `corten` at work: the same cases against our daemon and upstream's.

mod convert;
mod doctor;
mod events;
mod nouns;
mod registries;
mod run;
mod tasks;
mod trace;

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tests::{Ctr, Daemon, Engine, Image, Peers, Registry, Terminal, eventually};

const LIMIT: Duration = Duration::from_secs(30);

/// A daemon with `corten` as its client.
struct Setup {
    daemon: Daemon,
    corten: Ctr,
}

impl Setup {
    fn of(engine: Engine, peers: &Peers) -> Setup {
        let daemon = Daemon::start(engine, peers);
        let corten = daemon.corten().expect("corten is built");
        Setup { daemon, corten }
    }

    fn run(&self, line: &[&str]) -> tests::Finished {
        self.corten.run(line)
    }

    #[track_caller]
    fn ok(&self, line: &[&str]) -> String {
        self.run(line).ok()
    }

    fn import(&self) -> &'static str {
        let name = "example.org/busybox:1";
        let archive = Image::busybox().write_archive(self.daemon.folder(), name);
        self.ok(&["images", "import", &archive.display().to_string()]);
        name
    }

    fn on_terminal(&self, line: &[&str]) -> Terminal {
        Terminal::start(&self.corten.command(line), 80, 24)
    }

    /// Fails if a container, snapshot, lease, FIFO or anything of the system's is left.
    fn assert_clean(&self) {
        assert_eq!(self.ok(&["containers", "list", "-q"]), "");
        assert_eq!(self.ok(&["tasks", "list", "-q"]), "");
        assert_eq!(self.ok(&["leases", "list", "-q"]), "");
        let fifos = std::fs::read_dir(self.daemon.folder().join("fifo"));
        assert_eq!(fifos.map_or(0, Iterator::count), 0, "FIFOs are left");
        self.daemon.assert_nothing_left();
    }
}

/// Runs a case against upstream's daemon, then against ours.
fn on_both(case: impl Fn(&Setup)) {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    for engine in [Engine::Containerd2, Engine::Corten] {
        eprintln!("--- {engine:?}");
        case(&Setup::of(engine, &peers));
    }
}

#[test]
fn images_are_pulled_with_progress_listed_tagged_and_removed() {
    on_both(|setup| {
        let registry = Registry::start();
        let image = registry.push("busybox", "latest", &Image::many_layers(3, 200_000));
        let told = setup.ok(&["images", "pull", "--plain-http", &image]);
        for part in ["layer ", "complete", "done: "] {
            assert!(told.contains(part), "{part:?} in {told}");
        }
        assert!(!told.contains('\x1b'), "no terminal, no escapes: {told:?}");
        let table = setup.ok(&["images", "list"]);
        let row = table
            .lines()
            .find(|line| line.starts_with(&image))
            .expect("the image is listed");
        assert!(row.contains("linux/") && row.contains("MiB"), "{row}");
        assert_eq!(setup.ok(&["snapshots", "list", "-q"]).lines().count(), 4);
        setup.ok(&["images", "tag", &image, "example.org/again:1"]);
        let pushed = format!("{}/copy:2", registry.host());
        setup.ok(&[
            "images",
            "push",
            "--plain-http",
            &pushed,
            "example.org/again:1",
        ]);
        assert_eq!(setup.ok(&["images", "list", "-q"]).lines().count(), 2);
        setup.ok(&["images", "remove", &image, "example.org/again:1"]);
        for list in [
            ["snapshots", "list", "-q"],
            ["content", "list", "-q"],
            ["images", "list", "-q"],
        ] {
            assert_eq!(setup.ok(&list), "", "{list:?}");
        }
        setup.ok(&["images", "pull", "--plain-http", "-q", &pushed]);
        setup.assert_clean();
    });
}

#[test]
fn a_terminal_shows_a_bar_for_each_layer() {
    on_both(|setup| {
        let registry = Registry::start();
        let image = registry.push("busybox", "latest", &Image::many_layers(2, 100_000));
        let mut terminal = setup.on_terminal(&["images", "pull", "--plain-http", &image]);
        terminal.expect("done: ");
        assert_eq!(terminal.wait_for(LIMIT), Some(0));
        let seen = terminal.seen();
        assert!(seen.contains("[===") && seen.contains("\x1b["), "{seen:?}");
        let widest = seen
            .split(['\n', '\r'])
            .map(|line| line.replace("\x1b[K", "").chars().count())
            .max();
        assert!(widest < Some(90), "{seen:?}");
    });
}

#[test]
fn an_archive_goes_out_and_comes_in_again() {
    on_both(|setup| {
        let name = setup.import();
        let digest = |table: &str| {
            table
                .split_whitespace()
                .find(|word| word.starts_with("sha256:"))
                .map(str::to_owned)
        };
        let before = digest(&setup.ok(&["images", "list"]));
        let archive = setup.daemon.folder().join("out.tar").display().to_string();
        setup.ok(&["images", "export", &archive, name]);
        setup.ok(&["images", "remove", name]);
        assert_eq!(setup.ok(&["content", "list", "-q"]), "");
        setup.ok(&["images", "import", &archive]);
        assert!(before.is_some());
        assert_eq!(digest(&setup.ok(&["images", "list"])), before);
        assert_eq!(
            setup.ok(&["run", "--rm", name, "one", "echo", "back"]),
            "back\n"
        );
        setup.assert_clean();
    });
}

#[test]
fn run_has_the_streams_and_the_exit_code_of_the_container() {
    on_both(|setup| {
        let image = setup.import();
        let run = setup.run(&[
            "run",
            "--rm",
            image,
            "one",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 3",
        ]);
        assert_eq!(
            (run.code, run.stdout.as_str(), run.stderr.as_str()),
            (Some(3), "out\n", "err\n"),
            "{run}"
        );
        let line = ["run", "--rm", image, "two", "wc", "-c"];
        let counted = setup.corten.run_with(&line, &vec![b'x'; 300_000], LIMIT);
        assert_eq!(counted.ok().trim(), "300000");
        let options = [
            "--user",
            "user",
            "--env",
            "A=b",
            "--cwd",
            "/tmp",
            "--read-only",
            "--hostname",
            "h",
        ];
        let script = "id; echo $A; pwd; hostname; touch /x 2>/dev/null || echo read-only";
        let line = [
            &["run", "--rm"],
            &options[..],
            &[image, "three", "sh", "-c", script],
        ]
        .concat();
        let told = setup.ok(&line);
        for part in [
            "uid=1000(user) gid=1000(user)",
            "2000(extra)",
            "\nb\n/tmp\nh\nread-only\n",
        ] {
            assert!(told.contains(part), "{part:?} in {told}");
        }
        setup.assert_clean();
    });
}

#[test]
fn a_detached_container_is_entered_paused_killed_and_deleted() {
    on_both(|setup| {
        let image = setup.import();
        let script = "trap 'exit 42' TERM; while :; do sleep 0.05; done";
        assert_eq!(
            setup.ok(&[
                "run",
                "-d",
                "--memory-limit",
                "64m",
                image,
                "server",
                "sh",
                "-c",
                script
            ]),
            ""
        );
        assert!(setup.ok(&["tasks", "list"]).contains("RUNNING"));
        let exec = setup.run(&["tasks", "exec", "server", "sh", "-c", "echo in; exit 7"]);
        assert_eq!(
            (exec.code, exec.stdout.as_str()),
            (Some(7), "in\n"),
            "{exec}"
        );
        setup.ok(&["tasks", "pause", "server"]);
        assert!(setup.ok(&["tasks", "list"]).contains("PAUSED"));
        setup.ok(&["tasks", "resume", "server"]);
        let figures = setup.ok(&["tasks", "metrics", "server"]);
        assert!(
            figures
                .lines()
                .any(|line| line.starts_with("memory.limit") && line.ends_with("64.0 MiB")),
            "{figures}"
        );
        assert!(
            figures
                .lines()
                .any(|line| line.starts_with("pids.limit") && line.ends_with("no limit")),
            "{figures}"
        );
        assert!(setup.ok(&["tasks", "ps", "server"]).lines().count() > 1);
        let refused = setup.run(&["containers", "delete", "server"]).refused();
        assert!(refused.contains("it has a task"), "{refused}");
        setup.ok(&["tasks", "kill", "server"]);
        assert_eq!(setup.run(&["tasks", "delete", "server"]).code, Some(42));
        setup.ok(&["containers", "delete", "server"]);
        setup.assert_clean();
    });
}

#[test]
fn a_terminal_is_handed_through_with_its_size() {
    on_both(|setup| {
        let image = setup.import();
        let mut terminal = setup.on_terminal(&["run", "--rm", "-t", image, "shell", "sh"]);
        terminal.send("stty size; echo ready-$((1+1))\n");
        terminal.expect("24 80");
        terminal.expect("ready-2");
        terminal.resize(100, 40);
        // The signal and the call take their time; the shell is asked until it knows.
        eventually("the size is handed on", LIMIT, || {
            terminal.send("stty size\n");
            std::thread::sleep(Duration::from_millis(100));
            terminal.seen().contains("40 100").then_some(())
        });
        terminal.send("exit 5\n");
        assert_eq!(terminal.wait_for(LIMIT), Some(5));
        setup.assert_clean();
    });
}

#[test]
fn signals_reach_the_container_and_everything_is_cleaned_up() {
    on_both(|setup| {
        let image = setup.import();
        let script = "trap 'echo got it; exit 9' TERM; echo up; while :; do sleep 0.05; done";
        let mut command = setup
            .corten
            .command(&["run", "--rm", image, "one", "sh", "-c", script]);
        let output = setup.daemon.folder().join("output");
        let file = std::fs::File::create(&output).expect("make a file");
        let mut child = command
            .stdin(std::process::Stdio::null())
            .stdout(file)
            .spawn()
            .expect("start corten");
        eventually("it is up", LIMIT, || {
            std::fs::read_to_string(&output)
                .is_ok_and(|text| text == "up\n")
                .then_some(())
        });
        kill_process(Pid::from_child(&child), Signal::TERM).expect("signal a child of ours");
        assert_eq!(tests::command::wait(&mut child, LIMIT), Some(9));
        assert_eq!(
            std::fs::read_to_string(&output).expect("read"),
            "up\ngot it\n"
        );
        setup.assert_clean();
    });
}

#[test]
fn errors_are_one_line_that_says_what_was_done_to_what() {
    on_both(|setup| {
        let image = setup.import();
        let host = "127.0.0.1:1/nothing:1";
        let lines: [(&[&str], &str); 6] = [
            (
                &["images", "pull", "--plain-http", host],
                "corten: pull 127.0.0.1:1/nothing:1: ",
            ),
            (
                &["images", "pull", "no such reference"],
                "corten: pull no such reference: ",
            ),
            (
                &["run", "nowhere:1", "one", "true"],
                "corten: run nowhere:1: ",
            ),
            (
                &["run", image, "one", "no-such-program"],
                "corten: run example.org/busybox:1 as one: ",
            ),
            (
                &["run", "--user", "4294967296", image, "one", "true"],
                "corten: run example.org/busybox:1: ",
            ),
            (
                &["tasks", "kill", "missing"],
                "corten: get container missing: ",
            ),
        ];
        for (line, start) in lines {
            let finished = setup.run(line);
            assert_eq!(finished.code, Some(1), "{finished}");
            assert!(
                finished.stderr.starts_with(start) && finished.stderr.lines().count() == 1,
                "{finished}"
            );
        }
        assert_eq!(setup.run(&["images", "nonsense"]).code, Some(2));
        setup.assert_clean();
    });
}

#[test]
fn other_nouns_can_be_listed_and_changed() {
    on_both(|setup| {
        setup.ok(&["namespaces", "create", "extra-one", "a=b"]);
        setup.ok(&["ns", "label", "extra-one", "c=d"]);
        let table = setup.ok(&["ns", "ls"]);
        assert!(
            table
                .lines()
                .any(|line| line.starts_with("extra-one") && line.ends_with("a=b,c=d")),
            "{table}"
        );
        setup.ok(&["ns", "rm", "extra-one"]);
        assert_eq!(setup.ok(&["leases", "create", "--id", "mine"]), "mine\n");
        assert_eq!(setup.ok(&["leases", "ls", "-q"]), "mine\n");
        setup.ok(&["leases", "rm", "mine"]);
        assert!(
            setup
                .ok(&["plugins", "ls"])
                .contains("io.containerd.snapshotter.v1")
        );
        assert!(setup.ok(&["version"]).contains("Server:"));
        let image = setup.import();
        setup.ok(&[
            "containers",
            "create",
            "--label",
            "x=y",
            image,
            "made",
            "sh",
            "-c",
            "exit 4",
        ]);
        let info = setup.ok(&["containers", "info", "made"]);
        assert!(
            info.contains("\"x\": \"y\"") && info.contains("\"cgroupsPath\""),
            "{info}"
        );
        assert_eq!(setup.run(&["tasks", "start", "made"]).code, Some(4));
        assert!(setup.ok(&["snapshots", "tree"]).contains("\\_ made"));
        setup.ok(&["containers", "rm", "made"]);
        setup.assert_clean();
    });
}
