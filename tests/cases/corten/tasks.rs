//! What `corten tasks` does with a process that runs: attach to it, wait for it, add another beside it.

use std::time::Duration;

use tests::eventually;

use super::{LIMIT, Setup, on_both};

impl Setup {
    /// Runs a script in a container that is left alone.
    fn detached(&self, options: &[&str], image: &str, id: &str, script: &str) {
        let command = [image, id, "sh", "-c", script];
        self.ok(&[&["run", "-d"], options, &command].concat());
    }
}

#[test]
fn who_attaches_has_the_streams_and_the_exit_code() {
    on_both(|setup| {
        let image = setup.import();
        let script = "echo up; while read line; do [ $line = quit ] && break; echo \"got $line\"; done; \
                      echo bye >&2; exit 6";
        let attached = [setup.corten.clone(), setup.daemon.ctr()].map(|client| {
            setup.detached(&["-i"], image, "server", script);
            let line = ["tasks", "attach", "server"];
            let attached = client.run_with(&line, b"one\ntwo\nquit\n", LIMIT);
            // Upstream's client deletes the task, ours leaves that to the user.
            let _ = setup.run(&["tasks", "delete", "server"]);
            setup.ok(&["containers", "delete", "server"]);
            (attached.code, attached.stdout, attached.stderr)
        });
        let [ours, upstreams] = attached;
        let expected = "up\ngot one\ngot two\n";
        assert_eq!(ours, (Some(6), expected.into(), "bye\n".into()));
        assert_eq!(upstreams, ours);
        setup.assert_clean();
    });
}

#[test]
fn a_terminal_can_be_attached_to() {
    on_both(|setup| {
        let image = setup.import();
        setup.ok(&["run", "-d", "-t", image, "shell", "sh"]);
        let mut terminal = setup.on_terminal(&["tasks", "attach", "shell"]);
        terminal.send("stty size; echo ready-$((1+1))\n");
        terminal.expect("24 80");
        terminal.expect("ready-2");
        terminal.send("exit 5\n");
        assert_eq!(terminal.wait_for(LIMIT), Some(5));
        assert_eq!(setup.run(&["tasks", "delete", "shell"]).code, Some(5));
        setup.ok(&["containers", "delete", "shell"]);
        setup.assert_clean();
    });
}

#[test]
fn the_end_of_a_task_is_waited_for() {
    on_both(|setup| {
        let image = setup.import();
        setup.detached(
            &[],
            image,
            "server",
            "trap 'exit 7' TERM; while :; do sleep 0.02; done",
        );
        let mut waiting = setup
            .corten
            .command(&["tasks", "wait", "server"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("start corten");
        std::thread::sleep(Duration::from_millis(200));
        assert!(
            waiting
                .try_wait()
                .expect("wait for a child of ours")
                .is_none()
        );
        setup.ok(&["tasks", "kill", "server"]);
        assert_eq!(tests::command::wait(&mut waiting, LIMIT), Some(0));
        let said = waiting.wait_with_output().expect("read its output").stdout;
        assert_eq!(String::from_utf8_lossy(&said), "7\n");
        // The end is still known.
        assert_eq!(setup.ok(&["tasks", "wait", "server"]), "7\n");
        let missing = setup.run(&["tasks", "wait", "missing"]).refused();
        assert!(missing.contains("wait for task missing: "), "{missing}");
        assert_eq!(setup.run(&["tasks", "delete", "server"]).code, Some(7));
        setup.ok(&["containers", "delete", "server"]);
        setup.assert_clean();
    });
}

#[test]
fn a_further_process_has_its_own_user_folder_and_environment() {
    on_both(|setup| {
        let image = setup.import();
        setup.detached(
            &[],
            image,
            "server",
            "echo late:x:77:78::/:/bin/sh >>/etc/passwd; sleep 600",
        );
        let exec = |options: &[&str], script: &str| {
            let line = [&["tasks", "exec"], options, &["server", "sh", "-c", script]].concat();
            setup.ok(&line)
        };
        let script = "id -u; id -g; id -G; pwd; echo $A";
        let options = ["--user", "user", "--cwd", "/tmp", "--env", "A=b"];
        assert_eq!(exec(&options, script), "1000\n1000\n1000 2000\n/tmp\nb\n");
        assert_eq!(
            exec(&["--user", "nobody:extra"], script),
            "65534\n2000\n2000\n/\n\n"
        );
        assert_eq!(exec(&["--user", "5:6"], "id -u; id -g"), "5\n6\n");
        // The container's own list counts, as it is now.
        eventually("the user is there", LIMIT, || {
            let line = ["tasks", "exec", "--user", "late", "server", "id", "-u"];
            let told = setup.run(&line);
            (told.code == Some(0)).then(|| assert_eq!(told.stdout, "77\n"))
        });
        let line = [
            "tasks",
            "exec",
            "--exec-id",
            "x",
            "--user",
            "user",
            "server",
            "id",
            "-u",
        ];
        assert_eq!(setup.daemon.ctr().ok(&line), "1000\n");
        let line = ["tasks", "exec", "--user", "nowhere", "server", "true"];
        let refused = setup.run(&line).refused();
        assert!(refused.contains("no user \"nowhere\""), "{refused}");
        setup.ok(&["tasks", "kill", "-s", "KILL", "server"]);
        assert_eq!(setup.run(&["tasks", "delete", "server"]).code, Some(137));
        setup.ok(&["containers", "delete", "server"]);
        setup.assert_clean();
    });
}

#[test]
fn a_further_process_has_a_terminal_with_its_size() {
    on_both(|setup| {
        let image = setup.import();
        setup.detached(&[], image, "server", "sleep 600");
        let mut terminal = setup.on_terminal(&["tasks", "exec", "-t", "server", "sh"]);
        terminal.send("stty size; echo ready-$((1+1))\n");
        terminal.expect("24 80");
        terminal.expect("ready-2");
        terminal.resize(101, 41);
        eventually("the size is handed on", LIMIT, || {
            terminal.send("stty size\n");
            std::thread::sleep(Duration::from_millis(100));
            terminal.seen().contains("41 101").then_some(())
        });
        terminal.send("exit 3\n");
        assert_eq!(terminal.wait_for(LIMIT), Some(3));
        assert_eq!(
            setup.run(&["tasks", "delete", "-f", "server"]).code,
            Some(137)
        );
        setup.ok(&["containers", "delete", "server"]);
        setup.assert_clean();
    });
}
