use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::CWD;
use rustix::io::Errno;

use super::*;

const SUBJECT: Subject<'_> = Subject {
    namespace: "ns",
    id: "c1",
    owner: (0, 0),
};

fn fifo(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    rustix::fs::mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
    path
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn client(path: &Path) -> std::fs::File {
    let flags = OFlags::NONBLOCK.bits() as i32;
    let mut options = std::fs::File::options();
    options.read(true).custom_flags(flags).open(path).unwrap()
}

async fn read_all(mut from: std::fs::File) -> Vec<u8> {
    let mut bytes = Vec::new();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let mut buffer = [0; 4096];
        match from.read(&mut buffer) {
            Ok(0) => return bytes,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(tokio::time::Instant::now() < deadline, "no end of output");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn output_reaches_a_client_whole_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let stdio = Stdio {
        stdout: text(&fifo(dir.path(), "out")),
        stderr: text(&fifo(dir.path(), "err")),
        ..Stdio::default()
    };
    let (mut streams, io) = Streams::open(&stdio, SUBJECT).await.unwrap();
    let Io::Fds { stdout, stderr, .. } = io else {
        panic!("no descriptors");
    };
    streams.start(None).unwrap();
    let (out, err) = (
        client(Path::new(&stdio.stdout)),
        client(Path::new(&stdio.stderr)),
    );
    // More than both the pipe and the FIFO hold.
    let writer = std::thread::spawn(move || {
        let mut stdout = std::fs::File::from(stdout);
        let data: Vec<u8> = (0..300_000u32).map(|number| number as u8).collect();
        stdout.write_all(&data).unwrap();
        std::fs::File::from(stderr).write_all(b"oops").unwrap();
        data
    });
    let read = read_all(out).await;
    assert_eq!(read_all(err).await, b"oops");
    assert!(read == writer.join().unwrap());
    assert!(
        streams
            .take_drain()
            .unwrap()
            .wait(Duration::from_secs(5))
            .await
    );
}

#[tokio::test]
async fn output_waits_for_the_next_client() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path(), "out");
    let stdio = Stdio {
        stdout: text(&path),
        ..Stdio::default()
    };
    let (mut streams, io) = Streams::open(&stdio, SUBJECT).await.unwrap();
    let Io::Fds { stdout, .. } = io else {
        panic!("no descriptors");
    };
    streams.start(None).unwrap();
    drop(client(&path));
    let mut stdout = std::fs::File::from(stdout);
    stdout.write_all(b"kept").unwrap();
    let next = client(&path);
    drop(stdout);
    assert_eq!(read_all(next).await, b"kept");
    assert!(
        streams
            .take_drain()
            .unwrap()
            .wait(Duration::from_secs(5))
            .await
    );
}

#[tokio::test]
async fn stdin_ends_only_when_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path(), "in");
    let stdio = Stdio {
        stdin: text(&path),
        ..Stdio::default()
    };
    let (mut streams, io) = Streams::open(&stdio, SUBJECT).await.unwrap();
    let Io::Fds { stdin, .. } = io else {
        panic!("no descriptors");
    };
    streams.start(None).unwrap();
    let write = |bytes: &[u8]| {
        let mut client = std::fs::File::options().write(true).open(&path).unwrap();
        client.write_all(bytes).unwrap();
    };
    write(b"a");
    write(b"b");
    rustix::fs::fcntl_setfl(&stdin, OFlags::NONBLOCK).unwrap();
    let mut stdin = std::fs::File::from(stdin);
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let _ = stdin.read_to_end(&mut heard);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(heard, b"ab");
    assert_eq!(rustix::io::read(&stdin, &mut [0; 8]), Err(Errno::AGAIN));
    streams.close_stdin();
    assert_eq!(read_all(stdin).await, b"");
}

#[tokio::test]
async fn a_file_is_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logs/c1.log");
    std::fs::create_dir(dir.path().join("logs")).unwrap();
    std::fs::write(&path, "old\n").unwrap();
    let uri = format!("file://{}", path.display());
    let stdio = Stdio {
        stdout: uri.clone(),
        stderr: uri,
        ..Stdio::default()
    };
    let (mut streams, io) = Streams::open(&stdio, SUBJECT).await.unwrap();
    streams.start(None).unwrap();
    let Io::Fds { stdout, stderr, .. } = io else {
        panic!("no descriptors");
    };
    std::fs::File::from(stdout).write_all(b"out\n").unwrap();
    std::fs::File::from(stderr).write_all(b"err\n").unwrap();
    assert!(
        streams
            .take_drain()
            .unwrap()
            .wait(Duration::from_secs(5))
            .await
    );
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("old\n") && text.contains("out\n") && text.contains("err\n"));
}

#[tokio::test]
async fn a_logger_gets_both_outputs() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let script = "exec 5>&-; (cat <&3; cat <&4) > $1";
    let script = script.replace("$1", &text(&log)).replace(' ', "+");
    let script = script.replace('&', "%26").replace('>', "%3E");
    let stdio = Stdio {
        stdout: format!("binary:///bin/sh?-c={script}"),
        ..Stdio::default()
    };
    let (mut streams, io) = Streams::open(&stdio, SUBJECT).await.unwrap();
    streams.start(None).unwrap();
    let Io::Fds { stdout, stderr, .. } = io else {
        panic!("no descriptors");
    };
    std::fs::File::from(stdout).write_all(b"out\n").unwrap();
    std::fs::File::from(stderr).write_all(b"err\n").unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while std::fs::read_to_string(&log).unwrap_or_default() != "out\nerr\n" {
        assert!(tokio::time::Instant::now() < deadline, "nothing was logged");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_unknown_scheme_is_refused() {
    let stdio = Stdio {
        stdout: "gopher:///x".into(),
        ..Stdio::default()
    };
    let error = Streams::open(&stdio, SUBJECT).await.unwrap_err();
    assert_eq!(error.kind(), sys::Kind::InvalidArgument);
}
