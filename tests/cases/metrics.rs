//! Metrics for Prometheus under containerd's names, and the debug socket.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::command::parent;
use tests::{Daemon, Engine, Image, Peers, eventually};

const IMAGE: &str = "example.org/busybox:1";
const SOON: Duration = Duration::from_secs(20);

/// A daemon that serves metrics and has an image.
struct Fixture {
    daemon: Daemon,
    port: u16,
}

impl Fixture {
    fn new(engine: Engine, peers: &Peers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("find a free port");
        let port = listener.local_addr().expect("it has an address").port();
        drop(listener);
        let version = match engine {
            Engine::Corten => "version = 3\n",
            _ => "",
        };
        let config =
            format!("{version}[metrics]\naddress = \"127.0.0.1:{port}\"\ngrpc_histogram = true\n");
        let daemon = Daemon::start_with(engine, peers, &config);
        let archive = Image::busybox().write_archive(daemon.folder(), IMAGE);
        let archive = archive.display().to_string();
        daemon.ctr().ok(&["images", "import", "--local", &archive]);
        Self { daemon, port }
    }

    fn run(&self, id: &str) {
        let command = ["run", "-d", IMAGE, id, "sleep", "1000"];
        self.daemon.ctr().ok(&command);
    }

    fn remove(&self, id: &str) {
        let ctr = self.daemon.ctr();
        ctr.ok(&["tasks", "delete", "--force", id]);
        ctr.ok(&["containers", "rm", id]);
    }

    /// Returns status and body of a page.
    fn get(&self, path: &str) -> (String, String) {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connect");
        let limit = stream.set_read_timeout(Some(SOON));
        limit.expect("limit the time");
        get(stream, path)
    }

    fn page(&self) -> String {
        let (status, page) = self.get("/v1/metrics");
        assert!(status.contains(" 200 "), "{status}");
        page
    }

    /// Returns the names of the metrics of a container, with those of their labels.
    fn of_container(&self, id: &str) -> BTreeSet<String> {
        let page = self.page();
        let id = format!("container_id=\"{id}\"");
        let lines = page.lines().filter(|line| line.contains(&id));
        lines
            .map(|line| {
                let (name, rest) = line.split_once('{').expect("it has labels");
                let labels = rest.rsplit_once('}').expect("labels end").0;
                let mut labels: Vec<&str> = labels
                    .split("\",")
                    .filter_map(|label| Some(label.split_once('=')?.0))
                    .collect();
                labels.sort_unstable();
                format!("{name} {}", labels.join(","))
            })
            .collect()
    }
}

/// Returns status line and body of a page, in a version of HTTP in which the body has no form of its own.
fn get(mut stream: impl Read + Write, path: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read the answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.lines().next().unwrap_or_default();
    (status.to_owned(), body.to_owned())
}

/// Returns the value of the metric that has all of these labels.
fn value(page: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let line = page.lines().find(|line| {
        let of_name = line.split(['{', ' ']).next() == Some(name);
        let mut labels = labels.iter();
        of_name && labels.all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")))
    })?;
    line.rsplit_once(' ')?.1.parse().ok()
}

#[test]
fn metrics_have_the_names_and_labels_that_upstreams_have() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let names = |engine| {
        let fixture = Fixture::new(engine, &peers);
        fixture.run("c");
        let of_container = fixture.of_container("c");
        let page = fixture.page();
        let namespace = fixture.daemon.namespace.as_str();
        let own = [("container_id", "c"), ("namespace", namespace)];
        let pids = value(&page, "container_pids_current", &own);
        assert_eq!(pids, Some(1.0));
        let service = "containerd.services.containers.v1.Containers";
        let create = [("grpc_service", service), ("grpc_method", "Create")];
        let unary = [&create[..], &[("grpc_type", "unary")]].concat();
        let ok = [&unary[..], &[("grpc_code", "OK")]].concat();
        for (name, labels) in [
            ("grpc_server_started_total", &unary),
            ("grpc_server_handled_total", &ok),
            ("grpc_server_handling_seconds_count", &unary),
        ] {
            assert_eq!(value(&page, name, labels), Some(1.0), "{engine:?} {name}");
        }
        let reading = [("grpc_type", "server_stream"), ("grpc_method", "Read")];
        assert!(value(&page, "grpc_server_started_total", &reading) > Some(0.0));
        for name in [
            "containerd_build_info_total",
            "containerd_gc_collections_total",
            "containerd_gc_gc_seconds_count",
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_start_time_seconds",
        ] {
            assert!(value(&page, name, &[]) > Some(0.0), "{engine:?} {name}");
        }
        assert!(fixture.get("/other").0.contains(" 404 "));
        fixture.remove("c");
        assert_eq!(fixture.of_container("c"), BTreeSet::new());
        of_container
    };
    let upstream = names(Engine::Containerd2);
    let ours = names(Engine::Corten);
    assert!(!upstream.is_empty());
    let missing: Vec<&String> = upstream.difference(&ours).collect();
    assert!(missing.is_empty(), "{missing:#?}\nours: {ours:#?}");
}

#[test]
fn a_hung_shim_keeps_no_other_task_from_being_measured() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let fixture = Fixture::new(Engine::Corten, &peers);
    fixture.run("hung");
    fixture.run("well");
    let table = fixture.daemon.ctr().ok(&["tasks", "ls"]);
    let row = table.lines().find(|line| line.starts_with("hung"));
    let pid = row.and_then(|row| row.split_whitespace().nth(1));
    let pid = pid.and_then(|pid| pid.parse().ok());
    let shim = Pid::from_raw(parent(pid.expect("it has a pid"))).expect("a pid");
    kill_process(shim, Signal::STOP).expect("stop a shim of ours");
    assert!(!fixture.of_container("well").is_empty());
    assert!(fixture.of_container("hung").is_empty());
    kill_process(shim, Signal::CONT).expect("let a shim of ours go on");
    eventually("it is measured again", SOON, || {
        (!fixture.of_container("hung").is_empty()).then_some(())
    });
    fixture.remove("hung");
    fixture.remove("well");
    fixture.daemon.assert_nothing_left();
}

#[test]
fn the_debug_socket_tells_what_the_daemon_is_busy_with() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("make a folder");
    for engine in [Engine::Containerd2, Engine::Corten] {
        let path = folder.path().join(format!("{engine:?}.sock"));
        let version = match engine {
            Engine::Corten => "version = 3\n",
            _ => "",
        };
        let config = format!(
            "{version}[debug]\naddress = {:?}\n",
            path.display().to_string()
        );
        let daemon = Daemon::start_with(engine, &peers, &config);
        let variables = || {
            let stream = UnixStream::connect(&path).expect("connect");
            let (status, body) = get(stream, "/debug/vars");
            assert!(status.contains(" 200 "), "{status}");
            let variables: Value = serde_json::from_str(&body).expect("it is JSON");
            variables
        };
        assert!(variables()["cmdline"][0].is_string());
        if engine != Engine::Corten {
            continue;
        }
        let subscribe = "/containerd.services.events.v1.Events/Subscribe";
        assert!(variables()["calls"][subscribe].is_null());
        let mut events = daemon.ctr().command(&["events"]);
        let mut events = events
            .stdout(Stdio::null())
            .spawn()
            .expect("start a client");
        eventually("the call is shown", SOON, || {
            (variables()["calls"][subscribe] == 1).then_some(())
        });
        events.kill().expect("kill a child of ours");
        events.wait().expect("wait for a child of ours");
        eventually("the call has ended", SOON, || {
            variables()["calls"][subscribe].is_null().then_some(())
        });
        let found = variables();
        assert!(
            found["process"]["descriptors"].as_u64() > Some(0),
            "{found}"
        );
        assert!(
            found["runtime"]["alive_tasks"].as_u64() > Some(0),
            "{found}"
        );
        let stream = UnixStream::connect(&path).expect("connect");
        assert!(get(stream, "/debug/pprof/").0.contains(" 404 "));
    }
}
