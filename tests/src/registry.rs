//! A real registry on loopback: Debian's `docker-registry`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::image::Image;
use crate::{Daemon, command, eventually};

/// Where a registry with a certificate is: not on loopback, where clients verify none.
const ADDRESS: &str = "10.9.9.9";
/// What lets `user` in with the password `secret`.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A running registry; dropping it ends it.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    child: Child,
    folder: TempDir,
}

/// What is between clients and a registry.
#[derive(Debug, Clone, Copy)]
enum Door<'a> {
    Open,
    Password,
    /// A certificate that signs itself, in the network of a daemon.
    Tls(&'a Daemon),
}

impl Door<'_> {
    fn address(self) -> SocketAddr {
        let host = match self {
            Door::Tls(_) => return format!("{ADDRESS}:5443").parse().expect("an address"),
            _ => "127.0.0.1:0",
        };
        TcpListener::bind(host)
            .and_then(|socket| socket.local_addr())
            .expect("find a port")
    }

    /// Returns what a configuration has below `http` and beside it, and writes the files that it names.
    fn configuration(self, folder: &Path) -> (String, String) {
        let folder = folder.display();
        match self {
            Door::Open => Default::default(),
            Door::Password => {
                let file = format!("{folder}/htpasswd");
                fs::write(&file, HTPASSWD).expect("write a file");
                let auth = format!("auth: {{htpasswd: {{realm: tests, path: {file}}}}}\n");
                (String::new(), auth)
            }
            Door::Tls(daemon) => {
                let (certificate, key) = (format!("{folder}/tls.crt"), format!("{folder}/tls.key"));
                let openssl = format!(
                    "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tests \
                     -addext subjectAltName=IP:{ADDRESS} -out {certificate} -keyout {key}"
                );
                let address = format!("ip address add {ADDRESS}/32 dev lo");
                for line in [&openssl, &address] {
                    let mut command = daemon.command("sh");
                    command::run(command.args(["-c", line])).ok();
                }
                let tls = format!(", tls: {{certificate: {certificate}, key: {key}}}");
                (tls, String::new())
            }
        }
    }

    fn command(self, program: &str) -> Command {
        match self {
            Door::Tls(daemon) => daemon.command(program),
            _ => Command::new(program),
        }
    }

    /// Tells whether a registry with this door answers.
    fn answers(self, address: SocketAddr) -> bool {
        let status = |status| {
            let answer = request(address, "GET", "/v2/", &[], b"");
            answer.is_ok_and(|answer| answer.status == status)
        };
        match self {
            Door::Open => status(200),
            Door::Password => status(401),
            Door::Tls(_) => {
                let port = format!(": </dev/tcp/{}/{}", address.ip(), address.port());
                command::run(self.command("bash").args(["-c", &port])).code == Some(0)
            }
        }
    }
}

impl Registry {
    /// Starts a registry on a free port of loopback and waits until it answers.
    pub fn start() -> Registry {
        Registry::start_with(Door::Open, None)
    }

    /// Starts a further registry with this one's images, which lets in only `user` with the password `secret`.
    pub fn with_password(&self) -> Registry {
        Registry::start_with(Door::Password, Some(self.data()))
    }

    /// Starts a further registry with this one's images in a daemon's network, with a certificate that nobody signed.
    pub fn with_tls(&self, daemon: &Daemon) -> Registry {
        Registry::start_with(Door::Tls(daemon), Some(self.data()))
    }

    fn start_with(door: Door<'_>, data: Option<PathBuf>) -> Registry {
        let folder = tempfile::Builder::new()
            .prefix("corten-registry-")
            .tempdir()
            .expect("make a folder");
        let data = data.unwrap_or_else(|| folder.path().join("data"));
        let (http, more) = door.configuration(folder.path());
        // The port is free at this moment; another process could take it before the registry does, so try again.
        for _ in 0..5 {
            let address = door.address();
            let config = folder.path().join("config.yml");
            let text = format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'{http}}}\n{more}",
                data.display()
            );
            fs::write(&config, text).expect("write the configuration");
            let log = File::create(folder.path().join("log")).expect("make the log");
            let mut child = door
                .command("docker-registry")
                .arg("serve")
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("duplicate a descriptor"))
                .stderr(log)
                .spawn()
                .expect("start docker-registry");
            let serves = eventually("the registry serves", Duration::from_secs(20), || {
                let ended = child
                    .try_wait()
                    .expect("wait for a child of ours")
                    .is_some();
                let serves = door.answers(address);
                (ended || serves).then_some(serves)
            });
            if serves {
                return Registry {
                    address,
                    child,
                    folder,
                };
            }
        }
        panic!(
            "no port for the registry: {:?}",
            fs::read_to_string(folder.path().join("log"))
        );
    }

    /// Returns its host and port, as a reference has them.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Returns the folder that the images are in, which another registry may serve too.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Pushes an image and returns the reference by which to pull it.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> String {
        push(self.address, repository, tag, image)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- log of the registry\n{}",
                fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
            );
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pushes an image to a registry without TLS and returns the reference by which to pull it.
pub fn push(address: SocketAddr, repository: &str, tag: &str, image: &Image) -> String {
    for blob in image.blobs() {
        let start = format!("/v2/{repository}/blobs/uploads/");
        let answer = request(address, "POST", &start, &[], b"").expect("start an upload");
        assert_eq!(answer.status, 202, "{answer:?}");
        let location = answer.header("location").expect("an upload has a place");
        let path = match location.split_once("//") {
            Some((_, rest)) => &rest[rest.find('/').unwrap_or(0)..],
            None => location,
        };
        let separator = if path.contains('?') { '&' } else { '?' };
        let target = format!("{path}{separator}digest={}", blob.digest);
        let headers = [("Content-Type", "application/octet-stream")];
        let answer =
            request(address, "PUT", &target, &headers, &blob.bytes).expect("upload a blob");
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let target = format!("/v2/{repository}/manifests/{tag}");
    let headers = [("Content-Type", image.manifest.media_type.as_str())];
    let answer =
        request(address, "PUT", &target, &headers, &image.manifest.bytes).expect("push a manifest");
    assert_eq!(answer.status, 201, "{answer:?}");
    format!("{address}/{repository}:{tag}")
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// One HTTP/1.1 request on a connection of its own; the body of the answer is not needed.
fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Answer> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    socket.write_all(head.as_bytes())?;
    socket.write_all(body)?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok());
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": "));
    Ok(Answer {
        status: status.ok_or_else(|| std::io::Error::other("no status line"))?,
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    })
}
