//! The API that a kubelet serves itself, over TLS.

use std::fmt::Write as _;
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tests::command;

use super::{Kubelet, NAME, same, script};

/// Where it is served, in the node's network.
pub const PORT: u16 = 10250;
const LIMIT: Duration = Duration::from_secs(30);

impl Kubelet {
    /// Returns the status and the body of the answer to a request for a page.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.request("GET", path)
    }

    fn request(&self, method: &str, path: &str) -> (u16, String) {
        // An answer of this version ends with its connection.
        let answer = self.exchange(&format!("{method} {path} HTTP/1.0\r\n\r\n"));
        let (status, body) = split(&answer);
        (status, String::from_utf8_lossy(body).into_owned())
    }

    /// Returns the log of a container.
    pub fn container_log(&self, pod: &str, container: &str) -> String {
        let (status, log) = self.get(&format!("/containerLogs/default/{pod}-{NAME}/{container}"));
        assert_eq!(status, 200, "{log}");
        log
    }

    /// Waits until a container's log has this end, and returns it.
    #[track_caller]
    pub fn wait_for_log(&self, pod: &str, container: &str, end: &str) -> String {
        self.wait("the log is whole", || {
            let (status, log) =
                self.get(&format!("/containerLogs/default/{pod}-{NAME}/{container}"));
            (status == 200 && log.ends_with(end)).then_some(log)
        })
    }

    /// Runs a command in a container by one call, and returns the status and what it wrote.
    pub fn run_in(&self, pod: &str, container: &str, command: &str) -> (u16, String) {
        let command = escaped(command);
        let path = format!("/run/default/{pod}-{NAME}/{container}?cmd={command}");
        self.request("POST", &path)
    }

    /// Runs a command in a container over a WebSocket, and returns what was said on each channel: of a command its standard
    /// output and error, and how it ended.
    fn exec_in(&self, pod: &str, container: &str, command: &[&str]) -> [String; 3] {
        let words = command.iter().fold(String::new(), |mut words, word| {
            let _ = write!(words, "&command={}", escaped(word));
            words
        });
        let answer = self.exchange(&format!(
            "GET /exec/default/{pod}-{NAME}/{container}?output=1&error=1{words} HTTP/1.1\r\n\
             Host: {NAME}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
        ));
        let (status, mut frames) = split(&answer);
        assert_eq!(status, 101, "{}", String::from_utf8_lossy(&answer));
        let mut said = [const { Vec::new() }; 4];
        // A frame without a mask: the kind, the length, and of data first the channel.
        while let [kind, length, rest @ ..] = frames {
            let (length, rest) = match (length, rest) {
                (126, [high, low, rest @ ..]) => (u16::from_be_bytes([*high, *low]).into(), rest),
                (length, rest) => (usize::from(*length), rest),
            };
            let (data, rest) = rest.split_at(length);
            if let (2, [channel, data @ ..]) = (kind & 0xf, data) {
                said[usize::from(*channel)].extend_from_slice(data);
            }
            frames = rest;
        }
        let [_, out, err, end] = said.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        [out, err, end]
    }

    /// Returns all that the kubelet answers to what is sent to it.
    fn exchange(&self, request: &str) -> Vec<u8> {
        let mut answer = tempfile::tempfile().expect("make a file");
        let mut client = self.node.daemon.command("openssl");
        client
            .args(["s_client", "-quiet", "-connect"])
            .arg(format!("127.0.0.1:{PORT}"))
            .stdin(Stdio::piped())
            .stdout(answer.try_clone().expect("duplicate a descriptor"))
            .stderr(Stdio::null())
            .process_group(0);
        let mut client = client.spawn().expect("start openssl");
        let mut input = client.stdin.take().expect("asked for a pipe");
        let _ = input.write_all(request.as_bytes());
        let _ = command::wait(&mut client, LIMIT);
        drop(input);
        let mut bytes = Vec::new();
        let read = answer
            .rewind()
            .and_then(|()| answer.read_to_end(&mut bytes));
        read.expect("read a file");
        bytes
    }
}

/// Returns the status of an answer, 0 if there is none, and its body.
fn split(answer: &[u8]) -> (u16, &[u8]) {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let (head, body) = answer.split_at(end.map_or(answer.len(), |end| end + 4));
    let head = String::from_utf8_lossy(head);
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.unwrap_or(0), body)
}

fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        let _ = write!(escaped, "%{byte:02x}");
        escaped
    })
}

#[test]
fn commands_are_run_through_the_kubelet() {
    same(|kubelet| {
        kubelet.create(
            "web",
            &json!({"containers": [script("main", "sleep 1000")]}),
        );
        kubelet.ready("web", "main");
        let run = kubelet.run_in("web", "main", "echo over one call");
        let fails = kubelet.run_in("web", "main", "cat /none").0;
        let command = "echo out; echo err >&2; seq 200 >&2; exit 7";
        let [out, err, end] = kubelet.exec_in("web", "main", &["sh", "-c", command]);
        let end: Value = serde_json::from_str(&end).expect("JSON");
        let good = kubelet.exec_in("web", "main", &["true"]);
        (run, fails, out, err, end, good)
    });
}

#[test]
fn what_pods_take_is_told() {
    same(|kubelet| {
        kubelet.create(
            "web",
            &json!({"containers": [script("main", "sleep 1000")]}),
        );
        kubelet.ready("web", "main");
        kubelet.wait("the pod's use is known", || {
            let (status, summary) = kubelet.get("/stats/summary");
            let summary: Value = serde_json::from_str(&summary).ok()?;
            let pod = summary["pods"].as_array()?.first()?;
            let container = pod["containers"].as_array()?.first()?;
            let known = container["memory"]["workingSetBytes"].as_u64()? > 0
                && container["cpu"]["usageCoreNanoSeconds"].as_u64()? > 0;
            let names = [&pod["podRef"]["name"], &container["name"]].map(Value::clone);
            known.then_some((status, names))
        })
    });
}
