//! What goes wrong on a node: networks without addresses, clients that vanish, a sandbox that is killed. It is told, and
//! leaves nothing.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::json;
use tests::{Engine, command, eventually};

use super::node::{Node, Programs};
use super::pods::same;

/// How many clients vanish at once.
const CLIENTS: usize = 20;

#[test]
fn a_pod_that_gets_no_address_leaves_nothing() {
    let Some(programs) = Programs::or_skip() else {
        return;
    };
    for engine in [Engine::Containerd2, Engine::Corten] {
        // Room for one address besides the gateway's.
        let node = Node::start_prepared(engine, &programs, "", |folder| {
            let list = json!({
                "cniVersion": "1.0.0",
                "name": format!("small-{}", std::process::id()),
                "plugins": [{
                    "type": "ptp",
                    "ipam": {
                        "type": "host-local",
                        "dataDir": folder.join("small"),
                        "ranges": [[{"subnet": "10.89.0.0/30"}]],
                    },
                }],
            });
            fs::write(folder.join("05-small.conflist"), list.to_string()).expect("write a network");
        });
        let links = || {
            let listed = command::run(node.daemon.command("ip").args(["-o", "link"])).ok();
            listed.lines().count()
        };
        let pod = node.pod("first", &json!({}));
        let before = links();
        let config = json!({
            "metadata": {"name": "second", "namespace": "ns", "uid": "second", "attempt": 1},
            "linux": {"cgroup_parent": format!("/{}", node.daemon.namespace)},
        });
        let second = node.file("second.json", &config);
        for _ in 0..3 {
            let refused = node.run(&["runp", &second]);
            assert_ne!(refused.code, Some(0), "{engine:?}");
            let said = &refused.stderr;
            assert!(
                said.contains("failed to setup network for sandbox"),
                "{said}"
            );
            assert!(said.contains("no IP addresses available"), "{said}");
        }
        assert_eq!(node.ok(&["pods", "-q", "--no-trunc"]), pod.0, "{engine:?}");
        assert_eq!(links(), before, "{engine:?}");
        node.ok(&["rmp", "-f", &pod.0]);
        let second = node.ok(&["runp", &second]);
        node.ok(&["rmp", "-f", &second]);
        node.daemon.assert_nothing_left();
    }
}

/// Starts clients and kills them all once they are ready.
fn vanish(node: &Node, line: &[&str], ready: impl Fn() -> bool) {
    let start = |_| {
        let mut client = node.command(line);
        client
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        client.spawn().expect("start a client")
    };
    let mut clients: Vec<Child> = (0..CLIENTS).map(start).collect();
    eventually("the clients are connected", Duration::from_secs(60), || {
        ready().then_some(())
    });
    for client in &mut clients {
        client.kill().expect("kill a client of ours");
        client.wait().expect("wait for a client of ours");
    }
}

#[test]
fn clients_that_vanish_leave_no_process_and_no_descriptor() {
    same(|node| {
        let pod = node.pod("web", &json!({}));
        let id = node.script(&pod, "main", "while :; do echo tick; sleep 0.2; done");
        let running = || {
            let listed = node.ok(&["exec", "-s", &id, "ps"]);
            listed.lines().filter(|line| line.ends_with(" cat")).count()
        };
        let descriptors = || {
            let folder = format!("/proc/{}/fd", node.daemon.pid());
            fs::read_dir(folder).map_or(0, Iterator::count)
        };
        // What is opened once stays open.
        node.ok(&["exec", &id, "true"]);
        let before = descriptors();
        vanish(node, &["exec", "-i", &id, "cat"], || running() == CLIENTS);
        eventually("the processes have ended", Duration::from_secs(30), || {
            (running() == 0).then_some(())
        });
        vanish(node, &["attach", &id], || descriptors() >= before + CLIENTS);
        // Upstream keeps them.
        if node.daemon.engine == Engine::Corten {
            eventually(
                "the descriptors are closed",
                Duration::from_secs(30),
                || (descriptors() <= before + 5).then_some(()),
            );
        }
        node.ok(&["rmp", "-f", &pod.0]);
        node.daemon.assert_nothing_left();
    });
}

#[test]
fn a_sandbox_that_is_killed_takes_its_pod_with_it() {
    same(|node| {
        let pod = node.pod("web", &json!({}));
        let id = node.script(&pod, "main", "sleep 1000");
        let status: serde_json::Value =
            serde_json::from_str(&node.ok(&["inspectp", &pod.0])).expect("JSON");
        let pid = status
            .pointer("/info/pid")
            .and_then(serde_json::Value::as_u64);
        let pid = i32::try_from(pid.expect("the sandbox runs")).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        let killed = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        killed.expect("kill the sandbox");
        node.wait_for(&id, "CONTAINER_EXITED");
        eventually("the pod is not ready", Duration::from_secs(20), || {
            let ready = node.ok(&["pods", "-q", "--state", "ready"]);
            ready.is_empty().then_some(())
        });
        let code = node.inspect(&id, "/status/exitCode");
        let again = node.run(&["start", &id]).code;
        node.ok(&["stopp", &pod.0]);
        node.ok(&["rmp", &pod.0]);
        let none = node.ok(&["ps", "-a", "-q"]) + &node.ok(&["pods", "-q"]);
        // Upstream leaves the sandbox's shim.
        if node.daemon.engine == Engine::Corten {
            node.daemon.assert_nothing_left();
        }
        (code, again, none)
    });
}
