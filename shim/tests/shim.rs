//! The shim as a daemon sees it: started by its command line, called over ttrpc, its events taken.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod fixture;

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use api_protos::containerd::task::v3::{
    CloseIoRequest, CreateTaskRequest, DeleteResponse, PidsRequest, ResizePtyRequest, StateRequest,
};
use api_protos::containerd::v1::types::Status;
use fixture::{Fixture, call};
use prost::Message;
use sys::Kind;

/// Opens a FIFO for reading without waiting for its writer.
fn reader(path: &str) -> std::fs::File {
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut options = std::fs::File::options();
    options.read(true).custom_flags(flags).open(path).unwrap()
}

/// Reads until `done` says that it is enough, or to the end.
async fn read_until(file: &mut std::fs::File, done: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    for _ in 0..2000 {
        let mut buffer = [0; 4096];
        match file.read(&mut buffer) {
            Ok(0) => return text,
            Ok(count) => text.push_str(&String::from_utf8_lossy(&buffer[..count])),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
        if done(&text) {
            return text;
        }
    }
    panic!("no end after {text:?}");
}

#[tokio::test]
async fn a_life_is_told_in_order_with_all_its_output() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.bundle("c1", "echo out; echo err >&2; exit 3", false, "{}");
    let shim = fixture.start("c1").await;
    let (stdout, stderr) = (fixture.fifo("out"), fixture.fifo("err"));
    let (mut out, mut err) = (reader(&stdout), reader(&stderr));
    let request = CreateTaskRequest {
        stdout,
        stderr,
        ..CreateTaskRequest::default()
    };
    let pid = shim.create(&fixture, request.clone()).await.unwrap();
    let again = shim.create(&fixture, request).await.unwrap_err();
    assert_eq!(again.kind(), Kind::AlreadyExists);
    assert_eq!(shim.begin("").await.unwrap(), pid);
    assert_eq!(shim.wait("").await.unwrap(), 3);
    assert_eq!(read_until(&mut out, |_| false).await, "out\n");
    assert_eq!(read_until(&mut err, |_| false).await, "err\n");
    let late = shim.kill("", 15).await.unwrap_err();
    assert_eq!(late.kind(), Kind::NotFound);
    assert!(late.to_string().contains("process already finished"));
    let deleted = shim.delete("").await.unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 3));
    let events = fixture.events(4).await;
    assert_eq!(events, ["create", "start", "exit c1=3", "delete"]);
    shim.shutdown().await;
    shim.client.connection().closed().await;
    // The socket goes right after the connection.
    let socket = std::path::Path::new(shim.address.trim_start_matches("unix://"));
    for _ in 0..100 {
        if !socket.exists() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{socket:?} is still there");
}

#[tokio::test]
async fn the_first_process_ends_after_all_others() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.bundle("c1", "sleep 1000", false, "{}");
    let shim = fixture.start("c1").await;
    shim.create(&fixture, CreateTaskRequest::default())
        .await
        .unwrap();
    let early = shim.kill("none", 9).await.unwrap_err();
    assert_eq!(early.kind(), Kind::NotFound);
    shim.begin("").await.unwrap();
    let running = shim.delete("").await.unwrap_err();
    assert_eq!(running.to_string(), "cannot delete a running process");
    shim.exec("e1", "sleep 1000").await.unwrap();
    let twice = shim.exec("e1", "true").await.unwrap_err();
    assert_eq!(twice.kind(), Kind::AlreadyExists);
    let pid = shim.begin("e1").await.unwrap();
    let id = "c1".to_owned();
    let pids = shim
        .client
        .pids(&call(), &PidsRequest { id })
        .await
        .unwrap();
    let infos = |pid| pids.processes.iter().find(|found| found.pid == pid);
    assert!(infos(pid).unwrap().info.is_some());
    shim.kill("", 9).await.unwrap();
    assert_eq!(shim.wait("").await.unwrap(), 137);
    assert_eq!(shim.wait("e1").await.unwrap(), 137);
    assert_eq!(shim.delete("e1").await.unwrap().pid, pid);
    shim.delete("").await.unwrap();
    let expected = [
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit e1=137",
        "exit c1=137",
        "delete",
    ];
    assert_eq!(fixture.events(7).await, expected);
}

#[tokio::test]
async fn short_processes_end_after_they_started() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.bundle("c1", "sleep 1000", false, "{}");
    let shim = fixture.start("c1").await;
    shim.create(&fixture, CreateTaskRequest::default())
        .await
        .unwrap();
    shim.begin("").await.unwrap();
    let mut expected = vec!["create".to_owned(), "start".to_owned()];
    for number in 0..10 {
        let id = format!("e{number}");
        shim.exec(&id, &format!("exit {number}")).await.unwrap();
        shim.begin(&id).await.unwrap();
        assert_eq!(shim.wait(&id).await.unwrap(), number);
        shim.delete(&id).await.unwrap();
        expected.extend([
            "exec-added".into(),
            "exec-started".into(),
            format!("exit {id}={number}"),
        ]);
    }
    assert_eq!(fixture.events(32).await, expected);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_refused_in_the_words_of_runc() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let bundle = fixture.bundle("c1", "true", false, "{}");
    let config = std::fs::read_to_string(bundle.join("config.json")).unwrap();
    let config = config.replace("\"/bin/sh\"", "\"frob\"");
    std::fs::write(bundle.join("config.json"), config).unwrap();
    let shim = fixture.start("c1").await;
    let request = CreateTaskRequest::default();
    let error = shim.create(&fixture, request.clone()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unknown);
    assert_eq!(
        error.to_string(),
        "OCI runtime create failed: runc create failed: unable to start container process: \
         error during container init: exec: \"frob\": executable file not found in $PATH"
    );
    let state = StateRequest {
        id: "c1".into(),
        ..StateRequest::default()
    };
    let gone = shim.client.state(&call(), &state).await.unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_terminal_shows_and_takes_its_size() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.bundle("c1", "read line; stty size; echo \"<$line>\"", true, "{}");
    let shim = fixture.start("c1").await;
    let (stdin, stdout) = (fixture.fifo("in"), fixture.fifo("out"));
    let mut out = reader(&stdout);
    let request = CreateTaskRequest {
        stdin: stdin.clone(),
        stdout,
        terminal: true,
        ..CreateTaskRequest::default()
    };
    shim.create(&fixture, request).await.unwrap();
    let size = ResizePtyRequest {
        id: "c1".into(),
        width: 101,
        height: 33,
        ..ResizePtyRequest::default()
    };
    shim.client.resize_pty(&call(), &size).await.unwrap();
    shim.begin("").await.unwrap();
    let mut stdin = std::fs::File::options().write(true).open(stdin).unwrap();
    stdin.write_all(b"hello\n").unwrap();
    let shown = read_until(&mut out, |_| false).await;
    assert!(shown.contains("33 101\r\n<hello>\r\n"), "{shown:?}");
    assert_eq!(shim.wait("").await.unwrap(), 0);
}

#[tokio::test]
async fn stdin_outlives_a_client_and_ends_when_it_is_closed() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.bundle("c1", "cat; echo end", false, "{}");
    let shim = fixture.start("c1").await;
    let (stdin, stdout) = (fixture.fifo("in"), fixture.fifo("out"));
    let mut out = reader(&stdout);
    let request = CreateTaskRequest {
        stdin: stdin.clone(),
        stdout,
        ..CreateTaskRequest::default()
    };
    shim.create(&fixture, request).await.unwrap();
    shim.begin("").await.unwrap();
    for text in ["one\n", "two\n"] {
        let mut client = std::fs::File::options().write(true).open(&stdin).unwrap();
        client.write_all(text.as_bytes()).unwrap();
        drop(client);
        assert_eq!(read_until(&mut out, |read| read == text).await, text);
    }
    let close = CloseIoRequest {
        id: "c1".into(),
        stdin: true,
        ..CloseIoRequest::default()
    };
    shim.client.close_io(&call(), &close).await.unwrap();
    assert_eq!(read_until(&mut out, |_| false).await, "end\n");
    assert_eq!(shim.wait("").await.unwrap(), 0);
}

#[tokio::test]
async fn what_is_left_of_a_lost_shim_is_cleaned_up() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.bundle("c1", "sleep 1000", false, "{}");
    let shim = fixture.start("c1").await;
    let pid = shim
        .create(&fixture, CreateTaskRequest::default())
        .await
        .unwrap();
    shim.begin("").await.unwrap();
    let pidfd = sys::process::open(fixture.shim_pid("c1")).unwrap();
    sys::process::signal(&pidfd, 9).unwrap();
    shim.client.connection().closed().await;
    let output = fixture.run("c1", "delete", &[]);
    assert!(output.status.success(), "{output:?}");
    let response = DeleteResponse::decode(output.stdout.as_slice()).unwrap();
    assert_eq!((response.pid, response.exit_status), (pid, 137));
    let alive = sys::process::Stat::read(pid as i32).is_some_and(|stat| stat.is_alive());
    assert!(!alive);
    assert!(!std::path::Path::new(shim.address.trim_start_matches("unix://")).exists());
    // Once more, with nothing left.
    assert!(fixture.run("c1", "delete", &[]).status.success());
}

#[tokio::test]
async fn how_a_container_ended_that_nobody_saw_is_said_to_be_unknown() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.bundle("c1", "sleep 1000", false, "{}");
    let shim = fixture.start("c1").await;
    let pid = shim
        .create(&fixture, CreateTaskRequest::default())
        .await
        .unwrap();
    shim.begin("").await.unwrap();
    let server = sys::process::open(fixture.shim_pid("c1")).unwrap();
    sys::process::signal(&server, 19).unwrap();
    let container = sys::process::open(pid as i32).unwrap();
    sys::process::signal(&container, 9).unwrap();
    while sys::process::Stat::read(pid as i32).is_some_and(|stat| stat.is_alive()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sys::process::signal(&server, 9).unwrap();
    shim.client.connection().closed().await;
    let output = fixture.run("c1", "delete", &[]);
    let response = DeleteResponse::decode(output.stdout.as_slice()).unwrap();
    assert_eq!((response.pid, response.exit_status), (pid, 255));
}

#[tokio::test]
async fn a_start_that_was_cut_short_leaves_no_socket() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let bundle = fixture.bundle("c1", "true", false, "{}");
    // Where the daemon says nothing, `delete` can find the socket without having been told.
    let output = fixture.run("c1", "start", &[]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let socket = answer["address"].as_str().unwrap();
    let socket = std::path::Path::new(socket.trim_start_matches("unix://"));
    let pidfd = sys::process::open(fixture.shim_pid("c1")).unwrap();
    sys::process::signal(&pidfd, 9).unwrap();
    sys::process::wait_exit(&pidfd, Duration::from_secs(5)).unwrap();
    std::fs::remove_file(bundle.join("address")).unwrap();
    assert!(socket.exists());
    assert!(fixture.run("c1", "delete", &[]).status.success());
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_start_that_cannot_say_where_it_listens_serves_nothing() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    for name in ["address", "shim.pid"] {
        let bundle = fixture.bundle(name, "true", false, "{}");
        std::fs::create_dir(bundle.join(name)).unwrap();
        let output = fixture.run(name, "start", &fixture.params(name));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(name),
            "{output:?}"
        );
        let sockets = std::fs::read_dir(fixture.sockets()).unwrap();
        assert_eq!(sockets.count(), 0, "after {name}");
        assert!(fixture.processes().is_empty(), "after {name}");
    }
}

#[tokio::test]
async fn events_wait_for_a_daemon_that_is_away() {
    let Some(mut fixture) = Fixture::new() else {
        return;
    };
    fixture.bundle("c1", "exit 4", false, "{}");
    let shim = fixture.start("c1").await;
    shim.create(&fixture, CreateTaskRequest::default())
        .await
        .unwrap();
    fixture.events(1).await;
    fixture.deafen().await;
    shim.begin("").await.unwrap();
    assert_eq!(shim.wait("").await.unwrap(), 4);
    shim.delete("").await.unwrap();
    fixture.listen();
    let events = fixture.events(4).await;
    assert_eq!(events, ["create", "start", "exit c1=4", "delete"]);
}

#[tokio::test]
async fn a_pod_has_one_shim_until_its_last_container_is_gone() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let pod = r#"{"io.kubernetes.cri.sandbox-id":"pod"}"#;
    fixture.bundle("c1", "sleep 1000", false, pod);
    fixture.bundle("c2", "exit 5", false, pod);
    let first = fixture.start("c1").await;
    first
        .create(&fixture, CreateTaskRequest::default())
        .await
        .unwrap();
    let second = fixture.start("c2").await;
    assert_eq!(first.address, second.address);
    second
        .create(&fixture, CreateTaskRequest::default())
        .await
        .unwrap();
    second.begin("").await.unwrap();
    assert_eq!(second.wait("").await.unwrap(), 5);
    second.delete("").await.unwrap();
    second.shutdown().await;
    let state = StateRequest {
        id: "c1".into(),
        ..StateRequest::default()
    };
    let state = first.client.state(&call(), &state).await.unwrap();
    assert_eq!(state.status(), Status::Created);
    first.kill("", 9).await.unwrap();
    assert_eq!(first.wait("").await.unwrap(), 137);
    first.delete("").await.unwrap();
    first.shutdown().await;
    first.client.connection().closed().await;
}
