//! Checkpoint and restore by the runtime's command line: each case holds for runc too, or it is a wrong case.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tests::{Bundle, Criu, Finished, Network, Runtime, Terminal, command, eventually, skip};

/// What counts in its memory and shows how far it is.
const COUNT: &str =
    "i=0; while :; do i=$((i + 1)); echo $i >/work/new; mv /work/new /work/count; sleep 0.05; done";

/// Runs a case with ours and with runc.
fn each(case: impl Fn(Bundle, &Criu)) {
    let runtimes = Runtime::both();
    if runtimes.is_empty() {
        return;
    }
    let Some(criu) = Criu::or_skip() else {
        return;
    };
    for runtime in &runtimes {
        case(bundle(runtime, &criu), &criu);
    }
}

/// Makes a bundle whose container counts.
fn bundle(runtime: &Runtime, criu: &Criu) -> Bundle {
    let mut bundle = Bundle::with_criu(runtime, criu);
    bundle.args(&["/bin/sh", "-c", COUNT]);
    std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/mv")).expect("link");
    bundle
}

/// Runs a command whose container gets nothing of ours as stdio: what is open of outside cannot be written to disk.
fn detached(bundle: &Bundle, args: &[&str]) -> Finished {
    let mut runtime = bundle.command(args);
    // In a group of its own, which the limit ends.
    runtime.process_group(0);
    runtime.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = runtime
        .stderr(Stdio::null())
        .spawn()
        .expect("start the runtime");
    let code = command::wait(&mut child, command::LIMIT);
    Finished {
        command: args.join(" "),
        code,
        stdout: String::new(),
        stderr: bundle.log().join("\n"),
    }
}

/// Has a program run a command of the runtime, which is its arguments.
fn run_by(mut program: Command, bundle: &Bundle, runtime: &Command) -> Command {
    program.arg(runtime.get_program()).args(runtime.get_args());
    for (name, value) in runtime.get_envs() {
        program.env(name, value.expect("no variable is removed"));
    }
    program.current_dir(bundle.path());
    program
}

fn start(bundle: &Bundle) {
    detached(bundle, &["run", "-d", bundle.id()]).ok();
}

/// Checkpoints the container with the usual folders.
fn checkpoint(bundle: &Bundle, flags: &[&str]) -> Finished {
    let folders = ["checkpoint", "--image-path", "img", "--work-path", "work"];
    bundle.runtime(&[&folders, flags, &[bundle.id()]].concat())
}

/// Restores the container, detached, from the usual folders.
fn restore(bundle: &Bundle, flags: &[&str]) -> Finished {
    let folders = [
        "restore",
        "-d",
        "--image-path",
        "img",
        "--work-path",
        "work",
    ];
    detached(bundle, &[&folders, flags, &[bundle.id()]].concat())
}

fn count(bundle: &Bundle) -> u64 {
    let text = fs::read_to_string(bundle.rootfs().join("work/count")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Waits until the container has counted further than `from`, and not from the start.
fn goes_on(bundle: &Bundle, from: u64) {
    eventually("it goes on counting", command::LIMIT, || {
        (count(bundle) > from).then_some(())
    });
    let now = count(bundle);
    assert!(now < from + 1000, "{now} after {from}");
}

fn is_gone(bundle: &Bundle) {
    let gone = bundle.runtime(&["state", bundle.id()]).refused();
    assert!(gone.contains("does not exist"), "{gone}");
}

#[test]
fn a_restored_container_goes_on_where_it_was() {
    each(|bundle, _| {
        start(&bundle);
        goes_on(&bundle, 20);
        for _ in 0..2 {
            checkpoint(&bundle, &[]).ok();
            is_gone(&bundle);
            let at = count(&bundle);
            for file in ["img/inventory.img", "img/descriptors.json", "work/dump.log"] {
                assert!(bundle.path().join(file).exists(), "{file}");
            }
            restore(&bundle, &["--pid-file", "pid"]).ok();
            goes_on(&bundle, at);
            assert!(bundle.path().join("work/restore.log").exists());
            let state = bundle.state();
            assert_eq!(state["status"], "running");
            let pid = fs::read_to_string(bundle.path().join("pid")).expect("there is a pid file");
            assert_eq!(state["pid"].to_string(), pid);
            let exec = ["exec", bundle.id(), "/bin/echo", "inside"];
            assert_eq!(bundle.runtime(&exec).ok(), "inside\n");
            let group = format!(":/{}\n", bundle.id());
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
            assert!(groups.contains(&group), "{groups}");
        }
        bundle.runtime(&["kill", bundle.id(), "KILL"]).ok();
        eventually("it has stopped", command::LIMIT, || {
            (bundle.state()["status"] == "stopped").then_some(())
        });
        bundle.runtime(&["delete", bundle.id()]).ok();
        let left = fs::read_dir(bundle.path().join("state")).expect("list the records");
        assert_eq!(left.count(), 0, "nothing is left of it");
    });
}

#[test]
fn a_checkpoint_of_one_runtime_is_restored_by_the_other() {
    let runtimes = Runtime::both();
    let Some(criu) = Criu::or_skip() else { return };
    let [ours, runc] = runtimes.as_slice() else {
        return;
    };
    for (first, second) in [(ours, runc), (runc, ours)] {
        let mut bundle = bundle(first, &criu);
        start(&bundle);
        goes_on(&bundle, 20);
        checkpoint(&bundle, &[]).ok();
        let at = count(&bundle);
        bundle.hand_to(second);
        restore(&bundle, &[]).ok();
        goes_on(&bundle, at);
    }
}

#[test]
fn a_container_that_is_left_running_goes_on() {
    each(|bundle, _| {
        start(&bundle);
        goes_on(&bundle, 20);
        checkpoint(&bundle, &["--leave-running"]).ok();
        let at = count(&bundle);
        assert_eq!(bundle.state()["status"], "running");
        goes_on(&bundle, at);
        bundle.runtime(&["delete", "--force", bundle.id()]).ok();
        restore(&bundle, &[]).ok();
        goes_on(&bundle, at - 1);
    });
}

#[test]
fn a_restored_container_in_the_foreground_gives_its_exit_code() {
    each(|mut bundle, _| {
        let script = "while [ ! -e /work/go ]; do sleep 0.05; done; exit 7";
        bundle.args(&["/bin/sh", "-c", script]);
        start(&bundle);
        checkpoint(&bundle, &[]).ok();
        let mut runtime = bundle.command(&["restore", "--image-path", "img", bundle.id()]);
        let mut child = runtime.spawn().expect("start the runtime");
        eventually("it runs", command::LIMIT, || {
            let state = bundle.runtime(&["state", bundle.id()]);
            state.stdout.contains("\"running\"").then_some(())
        });
        fs::write(bundle.rootfs().join("work/go"), "").expect("let it go");
        assert_eq!(command::wait(&mut child, command::LIMIT), Some(7));
        is_gone(&bundle);
    });
}

#[test]
fn pipes_of_the_caller_take_the_place_of_those_that_were_stdio() {
    each(|mut bundle, _| {
        let script = "while read word; do echo got $word; [ $word != end ] || exit; done";
        bundle.args(&["/bin/sh", "-c", script]);
        let (stdin, mut say) = std::io::pipe().expect("make a pipe");
        let (mut hear, stdout) = std::io::pipe().expect("make a pipe");
        let mut last = None;
        let image = ["--image-path", "img", bundle.id()];
        let first = ["run", "-d", bundle.id()];
        let second = [&["restore", "-d"], image.as_slice()].concat();
        for args in [first.as_slice(), &second] {
            if last.is_some() {
                bundle
                    .runtime(&[&["checkpoint"], image.as_slice()].concat())
                    .ok();
            }
            let mut runtime = bundle.command(args);
            runtime
                .stdin(stdin.try_clone().expect("copy a descriptor"))
                .stdout(stdout.try_clone().expect("copy a descriptor"))
                .stderr(stdout.try_clone().expect("copy a descriptor"));
            let mut child = runtime.spawn().expect("start the runtime");
            last = command::wait(&mut child, command::LIMIT);
            assert_eq!(last, Some(0), "{:?}", bundle.log());
        }
        drop((stdin, stdout));
        say.write_all(b"word\nend\n").expect("say something");
        let mut heard = String::new();
        hear.read_to_string(&mut heard).expect("hear something");
        assert_eq!(heard, "got word\ngot end\n");
    });
}

#[test]
fn a_terminal_is_restored_with_who_looks_at_it() {
    each(|mut bundle, _| {
        bundle.set("/process/terminal", json!(true));
        let script = "n=0; while read word; do n=$((n + 1)); echo $n-$word; [ $word != end ] || exit 9; done";
        bundle.args(&["/bin/sh", "-c", script]);
        let id = bundle.id().to_owned();
        // A terminal's program starts where the tests do.
        let at = |args: &[&str]| {
            let mut env = Command::new("env");
            env.arg("-C").arg(bundle.path());
            run_by(env, &bundle, &bundle.command(args))
        };
        let mut terminal = Terminal::start(&at(&["run", &id]), 80, 24);
        terminal.send("one\n");
        terminal.expect("1-one");
        checkpoint(&bundle, &[]).ok();
        let _ = terminal.wait();
        let args = ["restore", "--image-path", "img", "--work-path", "work", &id];
        let mut terminal = Terminal::start(&at(&args), 80, 24);
        terminal.send("two\n");
        terminal.expect("2-two");
        terminal.send("end\n");
        assert_eq!(terminal.wait(), Some(9), "{}", terminal.seen());
    });
}

#[test]
fn what_is_mounted_from_outside_is_mounted_again() {
    each(|mut bundle, _| {
        for name in ["one", "two"] {
            fs::create_dir(bundle.path().join(name)).expect("make a folder");
        }
        fs::write(bundle.path().join("file"), "of the host\n").expect("write a file");
        let real = bundle.rootfs().join("real/conf");
        fs::create_dir_all(real).expect("make a folder");
        std::os::unix::fs::symlink("/real/conf", bundle.rootfs().join("conf")).expect("link");
        for (source, target) in [
            ("one", "/conf"),
            ("two", "/conf/for/nested"),
            ("file", "/etc/new/file"),
        ] {
            let source = bundle.path().join(source);
            let mount = json!({"type": "bind", "source": source, "destination": target, "options": ["rbind"]});
            bundle.push("/mounts", mount);
        }
        start(&bundle);
        goes_on(&bundle, 5);
        checkpoint(&bundle, &[]).ok();
        // What the making of the container has made is missing again.
        fs::remove_dir_all(bundle.path().join("one/for")).expect("remove a folder");
        fs::remove_dir_all(bundle.rootfs().join("etc/new")).expect("remove a folder");
        fs::write(bundle.path().join("two/file"), "new\n").expect("write a file");
        let at = count(&bundle);
        restore(&bundle, &[]).ok();
        goes_on(&bundle, at);
        let cat = [
            "exec",
            bundle.id(),
            "/bin/cat",
            "/conf/for/nested/file",
            "/etc/new/file",
        ];
        assert_eq!(bundle.runtime(&cat).ok(), "new\nof the host\n");
    });
}

#[test]
fn hierarchies_are_shown_again_without_a_namespace_of_control_groups() {
    each(|mut bundle, _| {
        let namespaces = bundle.config["linux"]["namespaces"].as_array_mut();
        namespaces
            .expect("there are namespaces")
            .retain(|namespace| namespace["type"] != "cgroup");
        start(&bundle);
        goes_on(&bundle, 5);
        let show = ["exec", bundle.id(), "/bin/ls", "/sys/fs/cgroup/"];
        let before = bundle.runtime(&show).ok();
        checkpoint(&bundle, &[]).ok();
        restore(&bundle, &[]).ok();
        assert_eq!(bundle.runtime(&show).ok(), before);
    });
}

#[test]
fn a_network_that_was_joined_is_joined_again() {
    each(|mut bundle, _| {
        let network = Network::new();
        let inode = fs::read_link(network.path()).expect("the network is there");
        bundle.set("/linux/namespaces/1/path", json!(network.path()));
        start(&bundle);
        goes_on(&bundle, 5);
        checkpoint(&bundle, &[]).ok();
        restore(&bundle, &[]).ok();
        let pid = bundle.state()["pid"].to_string();
        let joined = fs::read_link(format!("/proc/{pid}/ns/net")).expect("it runs");
        assert_eq!(joined, inode);
    });
}

#[test]
fn connections_go_on_where_they_are_allowed() {
    each(|mut bundle, _| {
        if !command::run(Command::new("iptables").arg("--version"))
            .stdout
            .contains("iptables")
        {
            skip!("needs iptables, by which CRIU locks a network");
        }
        let network = Network::new();
        bundle.set("/linux/namespaces/1/path", json!(network.path()));
        let script = "nc -l -p 7 </work/in >/work/heard & \
            until nc 127.0.0.1 7 </work/say >/dev/null; do sleep 0.1; done & wait";
        bundle.args(&["/bin/sh", "-c", script]);
        let made = format!(
            "mkfifo {0}/in {0}/say",
            bundle.rootfs().join("work").display()
        );
        command::run(Command::new("sh").args(["-c", &made])).ok();
        start(&bundle);
        let open = |name: &str| {
            let path = bundle.rootfs().join("work").join(name);
            File::options()
                .read(true)
                .write(true)
                .open(path)
                .expect("open a pipe")
        };
        let (_in, mut say) = (open("in"), open("say"));
        say.write_all(b"before\n").expect("say something");
        let heard = || fs::read_to_string(bundle.rootfs().join("work/heard")).unwrap_or_default();
        eventually("it is heard", command::LIMIT, || {
            heard().contains("before").then_some(())
        });
        let refused = checkpoint(&bundle, &[]).refused();
        assert!(refused.contains("criu failed: type DUMP"), "{refused}");
        assert_eq!(bundle.state()["status"], "running");
        checkpoint(&bundle, &["--tcp-established"]).ok();
        restore(&bundle, &["--tcp-established"]).ok();
        say.write_all(b"after\n").expect("say something");
        eventually("it is heard", command::LIMIT, || {
            heard().contains("after").then_some(())
        });
    });
}

/// Copies a program of the host with the libraries that it loads into the root file system.
fn lend_program(bundle: &Bundle, program: &str) {
    let told = command::run(Command::new("ldd").arg(program)).ok();
    let words = told.split_whitespace().filter(|word| word.starts_with('/'));
    for path in words.chain([program]) {
        let place = bundle.rootfs().join(path.trim_start_matches('/'));
        fs::create_dir_all(place.parent().expect("it is in a folder")).expect("make a folder");
        fs::copy(path, place).expect("copy a file of the host");
    }
}

#[test]
fn files_are_locked_again_where_that_is_allowed() {
    each(|mut bundle, _| {
        lend_program(&bundle, "/usr/bin/flock");
        let script = format!("exec 9>/work/lock; flock 9; {COUNT}");
        bundle.args(&["/bin/sh", "-c", &script]);
        start(&bundle);
        goes_on(&bundle, 5);
        let refused = checkpoint(&bundle, &[]).refused();
        assert!(refused.contains("criu failed: type DUMP"), "{refused}");
        if bundle.of().name == "corten-runtime" {
            let log = bundle.path().join("work/dump.log");
            let log = format!("log file: {}", log.display());
            assert!(
                refused.contains("lock") && refused.contains(&log),
                "{refused}"
            );
        }
        let at = count(&bundle);
        goes_on(&bundle, at);
        checkpoint(&bundle, &["--file-locks"]).ok();
        restore(&bundle, &["--file-locks"]).ok();
        goes_on(&bundle, at);
        let try_lock = ["exec", bundle.id(), "flock", "-n", "/work/lock", "true"];
        assert_eq!(bundle.runtime(&try_lock).code, Some(1));
    });
}

#[test]
fn hooks_that_make_the_network_run_on_restore() {
    each(|mut bundle, _| {
        let told = bundle.path().join("told");
        let script = format!("cat >>{0}; echo >>{0}", told.display());
        let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
        bundle.set("/hooks", json!({"createRuntime": [hook]}));
        start(&bundle);
        goes_on(&bundle, 5);
        checkpoint(&bundle, &[]).ok();
        restore(&bundle, &[]).ok();
        let told = fs::read_to_string(told).expect("the hook has run");
        let last: serde_json::Value =
            serde_json::from_str(told.lines().last().unwrap_or_default()).expect("it is JSON");
        assert_eq!(told.lines().count(), 2);
        assert_eq!(last["id"], json!(bundle.id()));
        assert_eq!(last["pid"], bundle.state()["pid"]);
    });
}

#[test]
fn memory_is_written_ahead_where_the_kernel_tracks_it() {
    each(|bundle, criu| {
        start(&bundle);
        goes_on(&bundle, 5);
        let ahead = [
            "checkpoint",
            "--pre-dump",
            "--image-path",
            "ahead",
            bundle.id(),
        ];
        let ahead = bundle.runtime(&ahead);
        assert_eq!(bundle.state()["status"], "running");
        if !criu.has("mem_dirty_track") {
            let refused = ahead.refused();
            assert!(
                refused.contains("criu is missing features: [MemTrack]"),
                "{refused}"
            );
            tests::print_skip("needs a kernel that tracks memory, for a pre-dump");
            return;
        }
        ahead.ok();
        checkpoint(&bundle, &["--parent-path", "../ahead"]).ok();
        assert!(bundle.path().join("img/parent").exists());
        let at = count(&bundle);
        restore(&bundle, &[]).ok();
        goes_on(&bundle, at);
    });
}

#[test]
fn what_cannot_be_checkpointed_is_refused_with_the_reason() {
    each(|bundle, _| {
        let id = bundle.id().to_owned();
        detached(&bundle, &["create", &id]).ok();
        let refused = checkpoint(&bundle, &[]).refused();
        assert!(
            refused.contains("ontainer cannot be checkpointed in created state"),
            "{refused}"
        );
        bundle.runtime(&["start", &id]).ok();
        for (flags, reason) in [
            (
                ["--parent-path", "/absolute"],
                "--parent-path must be relative",
            ),
            (["--parent-path", "no/such"], "invalid --parent-path: stat "),
            (
                ["--manage-cgroups-mode", "odd"],
                "invalid manage-cgroups-mode value",
            ),
            (["--empty-ns", "ipc"], "namespace \"ipc\" is not supported"),
            (
                ["--page-server", "nowhere"],
                "Use --page-server ADDRESS:PORT to specify page server",
            ),
        ] {
            let refused = checkpoint(&bundle, &flags).refused();
            assert!(refused.contains(reason), "{flags:?}: {refused}");
        }
        assert_eq!(bundle.state()["status"], "running");
        let mut without = bundle.command(&["checkpoint", "--image-path", "img", &id]);
        let refused = command::run(without.env("PATH", "/no/such")).refused();
        let words = ["\"criu\"", "executable file not found in $PATH"];
        assert!(
            words.iter().all(|words| refused.contains(words)),
            "{refused}"
        );
        bundle.runtime(&["delete", "--force", &id]).ok();
        let missing = bundle
            .runtime(&["restore", "--image-path", "none", "-d", "other"])
            .refused();
        assert!(
            missing.contains("no such file or directory") || missing.contains("descriptors"),
            "{missing}"
        );
    });
}

/// A program that ends with the test, whatever becomes of that.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn who_asks_for_pages_hears_when_they_are_served() {
    each(|bundle, criu| {
        if !criu.has("uffd-noncoop") {
            skip!("needs userfaultfd with events, for lazy pages");
        }
        start(&bundle);
        goes_on(&bundle, 20);
        let free = TcpListener::bind("127.0.0.1:0").expect("listen");
        let server = free.local_addr().expect("it has an address");
        drop(free);
        let (mut ready, status) = std::io::pipe().expect("make a pipe");
        let id = bundle.id();
        let dump = format!(
            "checkpoint --lazy-pages --page-server {server} --status-fd 9 --image-path img \
             --work-path work --manage-cgroups-mode ignore {id}"
        );
        let runtime = bundle.command(&dump.split_whitespace().collect::<Vec<_>>());
        // A shell gives the pipe its number.
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$@\" 9>&1", "sh"]).stdout(status);
        let dump = run_by(shell, &bundle, &runtime).spawn();
        let mut dump = Started(dump.expect("start the runtime"));
        let mut byte = [1];
        ready
            .read_exact(&mut byte)
            .expect("hear that pages are served");
        assert_eq!(byte, [0]);
        // Who wants no more of them ends it.
        drop(TcpStream::connect(server).expect("ask for pages"));
        assert_eq!(command::wait(&mut dump.0, command::LIMIT), Some(0));
        is_gone(&bundle);
    });
}
