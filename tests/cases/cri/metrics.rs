//! What CRI's operations take, for Prometheus, under the names that containerd has for them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use serde_json::json;
use tests::Engine;

use super::node::{Node, Programs};

/// What upstream tells that has no counterpart here: lists that are streamed, checkpoints, events that are dropped, how many
/// bytes a second are pulled, and lines of logs.
const UPSTREAMS: [&str; 8] = [
    "_stream_",
    "_checkpoint_",
    "_events_dropped",
    "_throughput",
    "get_pod_network_status",
    "_entries_total",
    "_input_bytes",
    "_output_bytes",
];

/// Returns the metrics of CRI: each by its name and its labels, without what it is at the moment.
fn metrics(port: u16) -> BTreeSet<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    let limit = stream.set_read_timeout(Some(Duration::from_secs(20)));
    limit.expect("limit the time");
    let request = b"GET /v1/metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).expect("ask for the page");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("read the page");
    let lines = page
        .lines()
        .filter(|line| line.starts_with("containerd_cri"));
    let names = lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, _)| name.to_owned());
    names.collect()
}

#[test]
fn operations_are_told_under_containerds_names() {
    let Some(programs) = Programs::or_skip() else {
        return;
    };
    let [upstream, ours] = [Engine::Containerd2, Engine::Corten].map(|engine| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("find a free port");
        let port = listener.local_addr().expect("it has an address").port();
        drop(listener);
        let settings = format!("[metrics]\naddress = '127.0.0.1:{port}'\n");
        let node = Node::start_on_host(engine, &programs, &settings);
        let host = json!({"linux": {"security_context": {"namespace_options": {"network": 2}}}});
        let pod = node.pod("web", &host);
        let id = node.script(&pod, "main", "sleep 1000");
        node.ok(&["ps", "-a"]);
        node.ok(&["pods"]);
        node.ok(&["stop", &id]);
        node.ok(&["rm", &id]);
        node.ok(&["stopp", &pod.0]);
        node.ok(&["rmp", &pod.0]);
        metrics(port)
    });
    let upstream: BTreeSet<String> = upstream
        .into_iter()
        .filter(|name| !UPSTREAMS.iter().any(|part| name.contains(part)))
        .collect();
    assert!(upstream.len() > 50, "upstream tells of CRI: {upstream:#?}");
    let missing: Vec<&String> = upstream.difference(&ours).collect();
    assert!(
        missing.is_empty(),
        "upstream tells and we do not: {missing:#?}"
    );
    let strange: Vec<&String> = ours.difference(&upstream).collect();
    assert!(
        strange.is_empty(),
        "we tell and upstream does not: {strange:#?}"
    );
}
