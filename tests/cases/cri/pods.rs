//! Pods and containers, images and streams.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{Engine, eventually};

use super::node::{Node, Programs};

/// Runs a case on upstream's node and on ours; what it returns must be the same.
#[track_caller]
pub fn same<T: PartialEq + std::fmt::Debug>(case: impl Fn(&Node) -> T) {
    same_on(Node::start, case);
}

#[track_caller]
fn same_on<T: PartialEq + std::fmt::Debug>(
    start: fn(Engine, &Programs) -> Node,
    case: impl Fn(&Node) -> T,
) {
    let Some(programs) = Programs::or_skip() else {
        return;
    };
    let upstream = case(&start(Engine::Containerd2, &programs));
    let ours = case(&start(Engine::Corten, &programs));
    assert_eq!(ours, upstream, "ours on the left, upstream's on the right");
}

#[test]
fn a_pod_with_a_container_lives_and_leaves_nothing() {
    same(|node| {
        let pod = node.pod("web", &json!({"hostname": "webhost"}));
        let id = node.script(&pod, "main", "hostname; echo oops >&2; exit 3");
        node.wait_for(&id, "CONTAINER_EXITED");
        let said = node.ok(&["logs", &id]);
        let status = ["exitCode", "reason", "metadata"]
            .map(|key| node.inspect(&id, &format!("/status/{key}")));
        let listed = node.ok(&["ps", "-a", "-q", "--no-trunc"]) == id;
        let pods = node.ok(&["pods", "-q", "--no-trunc"]) == pod.0;
        node.ok(&["stopp", &pod.0]);
        node.ok(&["stopp", &pod.0]);
        node.ok(&["rmp", &pod.0]);
        let gone = node.run(&["inspectp", &pod.0]).code;
        let none = node.ok(&["ps", "-a", "-q"]) + &node.ok(&["pods", "-q"]);
        node.daemon.assert_nothing_left();
        (said, status, listed, pods, gone, none)
    });
}

#[test]
fn processes_are_run_beside_the_first() {
    same(|node| {
        let pod = node.pod("web", &json!({}));
        let id = node.script(&pod, "main", "sleep 1000");
        let sync = node.run(&[
            "exec",
            "-s",
            &id,
            "sh",
            "-c",
            "echo out; echo err >&2; exit 7",
        ]);
        let spdy = node.run(&["exec", &id, "sh", "-c", "echo out; echo err >&2; exit 5"]);
        let piped = {
            let mut command = node.command(&["exec", "-i", &id, "cat"]);
            tests::command::run_with(&mut command, b"over and out", Duration::from_secs(30))
        };
        let late = node.run(&["exec", "-s", "--timeout", "1", &id, "sleep", "30"]);
        let late = (late.code, late.stderr.contains("DeadlineExceeded"));
        node.ok(&["rmp", "-f", &pod.0]);
        node.daemon.assert_nothing_left();
        (
            (sync.stdout.clone(), sync.stderr.contains("exit code 7")),
            (spdy.stdout.clone(), spdy.stderr.contains("exit code 5")),
            piped.stdout.clone(),
            late,
        )
    });
}

#[test]
fn an_attached_client_that_has_sent_all_is_let_go() {
    same(|node| {
        let pod = node.pod("web", &json!({}));
        let attach = |name: &str, once: bool| {
            let more = json!({"command": ["cat"], "stdin": true, "stdin_once": once});
            let id = node.container(&pod, name, &more);
            node.ok(&["start", &id]);
            let mut command = node.command(&["attach", "-i", &id]);
            let finished =
                tests::command::run_with(&mut command, b"typed in\n", Duration::from_secs(30));
            (id, finished)
        };
        // Standard input that is the client's alone ends with it, and so does the container.
        let (id, once) = attach("once", true);
        node.wait_for(&id, "CONTAINER_EXITED");
        let (id, open) = attach("open", false);
        let lives = node.inspect(&id, "/status/state");
        node.ok(&["rmp", "-f", &pod.0]);
        node.daemon.assert_nothing_left();
        (once.code, once.stdout, open.code, lives)
    });
}

#[test]
fn containers_of_a_pod_share_its_namespaces_and_files() {
    same(|node| {
        let dns = json!({"servers": ["10.9.9.9"], "searches": ["a.local"], "options": ["ndots:5"]});
        let pod = node.pod("web", &json!({"hostname": "webhost", "dns_config": dns}));
        let one = node.script(&pod, "one", "sleep 1000");
        let two = node.script(&pod, "two", "sleep 1000");
        let namespace = |id: &str, kind: &str| {
            node.ok(&[
                "exec",
                "-s",
                id,
                "readlink",
                &format!("/proc/self/ns/{kind}"),
            ])
        };
        let kinds = ["net", "ipc", "uts", "pid", "mnt"];
        let shared = kinds.map(|kind| namespace(&one, kind) == namespace(&two, kind));
        let resolver = node.ok(&["exec", "-s", &one, "cat", "/etc/resolv.conf"]);
        let hostname = node.ok(&["exec", "-s", &one, "cat", "/etc/hostname"]);
        node.ok(&["exec", "-s", &one, "sh", "-c", "echo x >/dev/shm/x"]);
        let shm = node.ok(&["exec", "-s", &two, "cat", "/dev/shm/x"]);
        let of_pod: Value = serde_json::from_str(&node.ok(&["inspectp", &pod.0])).unwrap();
        let ip = of_pod["status"]["network"]["ip"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let connected = node
            .ok(&["exec", "-s", &one, "cat", "/proc/net/dev"])
            .contains("eth0");
        node.ok(&["rmp", "-f", &pod.0]);
        node.daemon.assert_nothing_left();
        (
            shared,
            resolver,
            hostname,
            shm,
            ip.starts_with("10.88."),
            connected,
        )
    });
}

#[test]
fn images_are_pulled_listed_and_removed() {
    same_on(Node::start_with_registry, |node| {
        let image = node.image.as_str();
        let missing = node.run(&["inspecti", image]).code;
        node.ok(&["pull", image]);
        let listed: Value = serde_json::from_str(&node.ok(&["images", "-o", "json"])).unwrap();
        let images = listed["images"].as_array().cloned().unwrap_or_default();
        let found = images
            .iter()
            .find(|found| found["repoTags"] == json!([image]))
            .cloned();
        let found = found.unwrap_or_default();
        let id = found["id"].as_str().unwrap_or_default().to_owned();
        let by_id = node.run(&["inspecti", &id]).code;
        node.ok(&["rmi", image]);
        let removed = node.run(&["inspecti", image]).code;
        (missing, id, found["size"].clone(), by_id, removed)
    });
}

#[test]
fn a_container_is_stopped_and_its_log_reopened() {
    same(|node| {
        let pod = node.pod("web", &json!({}));
        let script = "trap 'echo bye; exit 0' TERM; while :; do echo tick; sleep 0.1; done";
        let id = node.script(&pod, "main", script);
        let (log, old) = (node.logs().join("main.log"), node.logs().join("old.log"));
        eventually("the first line", Duration::from_secs(10), || {
            std::fs::read_to_string(&log)
                .ok()
                .filter(|text| text.contains("tick"))
        });
        std::fs::rename(&log, &old).unwrap();
        node.ok(&["logs", "--reopen", &id]);
        eventually("a line in the new file", Duration::from_secs(10), || {
            std::fs::read_to_string(&log)
                .ok()
                .filter(|text| text.contains("tick"))
        });
        node.ok(&["stop", "--timeout", "20", &id]);
        let text = std::fs::read_to_string(&log).unwrap();
        let last = text
            .lines()
            .last()
            .and_then(|line| line.split(' ').nth(1))
            .map(str::to_owned);
        let code = node.inspect(&id, "/status/exitCode");
        node.ok(&["rm", &id]);
        node.ok(&["rmp", "-f", &pod.0]);
        (last, text.trim_end().ends_with("bye"), code)
    });
}

#[test]
fn pods_and_containers_outlive_the_daemon() {
    let Some(programs) = Programs::or_skip() else {
        return;
    };
    for engine in [Engine::Containerd2, Engine::Corten] {
        let mut node = Node::start(engine, &programs);
        let pod = node.pod("web", &json!({}));
        let id = node.script(
            &pod,
            "main",
            "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done",
        );
        let ends = node.script(&pod, "ends", "sleep 2; exit 9");
        node.daemon.kill();
        std::thread::sleep(Duration::from_millis(2500));
        node.daemon.restart();
        node.wait_for(&id, "CONTAINER_RUNNING");
        node.wait_for(&ends, "CONTAINER_EXITED");
        // Upstream's daemon has not seen it, and does not ask its shim.
        if engine == Engine::Corten {
            assert_eq!(node.inspect(&ends, "/status/exitCode"), 9);
        }
        let log = node.logs().join("main.log");
        let before = std::fs::read_to_string(&log).unwrap().lines().count();
        eventually("the log goes on", Duration::from_secs(20), || {
            let now = std::fs::read_to_string(&log).ok()?.lines().count();
            (now > before).then_some(())
        });
        assert_eq!(node.ok(&["exec", "-s", &id, "echo", "hi"]), "hi");
        node.ok(&["rmp", "-f", &pod.0]);
        node.daemon.assert_nothing_left();
    }
}

/// The newest crictl speaks a version of the protocol that upstream's server does not know.
#[test]
fn what_containers_take_of_the_disk_is_told() {
    const WRITTEN: u64 = 5 << 20;
    same(|node| {
        let pod = node.pod("web", &json!({}));
        let id = node.script(
            &pod,
            "main",
            "sleep 1; head -c 5242880 /dev/zero >/data; sleep 1000",
        );
        let number = |args: &[&str], pointer: &str| {
            let value: Value = serde_json::from_str(&node.ok(args)).expect("JSON");
            let text = value.pointer(pointer).and_then(Value::as_str);
            text.and_then(|text| text.parse::<u64>().ok())
        };
        let layer = "/stats/0/writableLayer/usedBytes/value";
        let used = |wanted: &dyn Fn(u64) -> bool| {
            eventually(
                "the use of the disk is known",
                Duration::from_secs(30),
                || {
                    let stats = number(&["stats", "-o", "json", "--id", &id], layer)?;
                    wanted(stats).then_some(())
                },
            );
        };
        used(&|bytes| bytes < WRITTEN);
        used(&|bytes| (WRITTEN..2 * WRITTEN).contains(&bytes));
        let sum = "/status/imageFilesystems/0/usedBytes/value";
        let all = number(&["imagefsinfo", "-o", "json"], sum);
        node.ok(&["rmp", "-f", &pod.0]);
        eventually(
            "what is removed counts no more",
            Duration::from_secs(30),
            || {
                let left = number(&["imagefsinfo", "-o", "json"], sum)?;
                (left + WRITTEN <= all?).then_some(())
            },
        );
    });
}

#[test]
fn processes_are_run_over_websocket() {
    let Some(programs) = Programs::or_skip() else {
        return;
    };
    let node = Node::start(Engine::Corten, &programs);
    let pod = node.pod("web", &json!({}));
    let id = node.script(&pod, "main", "sleep 1000");
    let script = "echo out; exit 4";
    let args = ["exec", "--transport", "websocket", &id, "sh", "-c", script];
    let finished = node.run(&args);
    assert_eq!(finished.stdout, "out\n");
    assert!(finished.stderr.contains("exit code 4"), "{finished:?}");
}

#[test]
fn streams_are_encrypted_by_the_key_pair_that_is_set() {
    let Some(programs) = Programs::or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("make a folder");
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names.clone());
    let made = made.expect("make a certificate");
    let other = rcgen::generate_simple_self_signed(names);
    let other = other.expect("make a certificate").cert.pem();
    let authority = folder.path().join("other.pem");
    std::fs::write(&authority, other).expect("write a file");
    let other = authority.display().to_string();
    std::fs::write(&cert, made.cert.pem()).expect("write a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("write a file");
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let settings = format!(
        "[plugins.'io.containerd.grpc.v1.cri']\nenable_tls_streaming = true\n\
         [plugins.'io.containerd.grpc.v1.cri'.x509_key_pair_streaming]\n\
         tls_cert_file = '{cert}'\ntls_key_file = '{key}'\n"
    );
    for engine in [Engine::Containerd2, Engine::Corten] {
        let node = Node::start_prepared(engine, &programs, &settings, |_| {});
        let pod = node.pod("web", &json!({}));
        let id = node.script(&pod, "main", "sleep 1000");
        // The newest crictl speaks a version of WebSocket's protocol that upstream's server does not know.
        let transports: &[&str] = match engine {
            Engine::Corten => &["spdy", "websocket"],
            _ => &["spdy"],
        };
        for transport in transports {
            let run = |more: &[&str]| {
                let args = ["exec", "--transport", *transport];
                let line = [&args[..], more, &[&id, "sh", "-c", "echo out; exit 4"]].concat();
                node.run(&line)
            };
            let pair = ["--tls-cert", &cert, "--tls-key", &key];
            let trusted = run(&[&pair[..], &["--tls-ca", &cert]].concat());
            assert_eq!(
                trusted.stdout, "out\n",
                "{engine:?}, {transport}: {trusted:?}"
            );
            assert!(trusted.stderr.contains("exit code 4"), "{trusted:?}");
            let not = run(&[&pair[..], &["--tls-ca", &other]].concat());
            assert!(not.stderr.contains("certificate"), "{not:?}");
        }
        node.ok(&["rmp", "-f", &pod.0]);
    }
}
