//! A registry that lies: it serves one image over plain HTTP, with the faults that a test asks for.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::content::Digest;
use crate::diff::codec::{Compression, Encoder};
use crate::diff::write::{Archive, Header};
use crate::media;

/// Where the token server answers.
pub const TOKEN: &str = "/token";

/// What is wrong with an answer.
#[derive(Clone, Debug, Default)]
pub struct Fault {
    /// Only so many bytes of the body are sent, and nothing more comes.
    pub stops_after: Option<usize>,
    /// Only so many bytes of the body are sent, and the connection is closed.
    pub closes_after: Option<usize>,
    /// The length that is told.
    pub length: Option<usize>,
    /// The body that is sent in place of the right one.
    pub body: Option<Vec<u8>>,
    /// How often it happens; 0 is always.
    pub times: usize,
    pub status: Option<u16>,
    pub location: Option<String>,
    pub challenge: Option<String>,
}

/// A media type and the bytes that have it.
type Blob = (String, Vec<u8>);

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
}

#[derive(Default)]
struct State {
    blobs: HashMap<String, Blob>,
    faults: HashMap<String, Fault>,
    seen: Vec<Seen>,
    /// The header without which nothing is served.
    wants: Option<(String, String)>,
}

/// The registry; it ends with the runtime.
#[derive(Clone)]
pub struct Registry {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

/// An image of a few layers.
pub struct Image {
    pub manifest: String,
    pub layers: Vec<String>,
    pub config: String,
}

impl Registry {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
        };
        let served = registry.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let served = served.clone();
                tokio::spawn(async move {
                    let _ = served.connection(socket).await;
                });
            }
        });
        registry
    }

    /// Puts something under a path of the registry.
    pub fn put(&self, path: &str, media_type: &str, body: Vec<u8>) {
        let blob = (media_type.to_owned(), body);
        self.state
            .lock()
            .unwrap()
            .blobs
            .insert(path.to_owned(), blob);
    }

    /// Makes answers to a path wrong.
    pub fn fault(&self, path: &str, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        state.faults.insert(path.to_owned(), fault);
    }

    /// Serves nothing without this header, and answers with `challenge` then.
    pub fn wants(&self, challenge: &str, authorization: &str) {
        let wants = (challenge.to_owned(), authorization.to_owned());
        self.state.lock().unwrap().wants = Some(wants);
    }

    /// Returns how many bytes there are under a path.
    pub fn size(&self, path: &str) -> usize {
        self.state.lock().unwrap().blobs[path].1.len()
    }

    /// Returns the document under a path.
    pub fn json(&self, path: &str) -> serde_json::Value {
        serde_json::from_slice(&self.state.lock().unwrap().blobs[path].1).unwrap()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    /// Returns how often a path was asked for by GET.
    pub fn gets(&self, path: &str) -> usize {
        let seen = self.seen();
        let gets = seen
            .iter()
            .filter(|seen| seen.method == "GET" && seen.path == path);
        gets.count()
    }

    /// Puts a manifest under a tag and under its digest.
    pub fn manifest(&self, tag: &str, media_type: &str, manifest: &serde_json::Value) -> String {
        let bytes = manifest.to_string().into_bytes();
        let digest = Digest::of(&bytes).to_string();
        for object in [tag, &digest] {
            let path = format!("/v2/a/b/manifests/{object}");
            self.put(&path, media_type, bytes.clone());
        }
        digest
    }

    /// Serves an image of so many layers, each with one file of `size` bytes.
    pub fn image(&self, count: usize, size: usize) -> Image {
        let mut layers = Vec::new();
        let mut descriptors = Vec::new();
        let mut diff_ids = Vec::new();
        for number in 0..count {
            let tar = layer(&format!("file-{number}"), size, number as u8);
            diff_ids.push(Digest::of(&tar).to_string());
            let mut encoder = Encoder::new(Vec::new(), Compression::Gzip).unwrap();
            std::io::Write::write_all(&mut encoder, &tar).unwrap();
            let bytes = encoder.finish().unwrap();
            let digest = Digest::of(&bytes).to_string();
            descriptors.push(
                json!({"mediaType": media::OCI_LAYER_GZIP, "digest": digest, "size": bytes.len()}),
            );
            self.put(&blob(&digest), "application/octet-stream", bytes);
            layers.push(digest);
        }
        let config = json!({
            "architecture": crate::images::platform::Platform::host().architecture,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let digest = Digest::of(&config).to_string();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::OCI_MANIFEST,
            "config": {"mediaType": media::OCI_CONFIG, "digest": digest, "size": config.len()},
            "layers": descriptors,
        });
        self.put(&blob(&digest), "application/octet-stream", config);
        Image {
            manifest: self.manifest("1", media::OCI_MANIFEST, &manifest),
            layers,
            config: digest,
        }
    }

    async fn connection(&self, socket: TcpStream) -> std::io::Result<()> {
        let mut socket = BufReader::new(socket);
        loop {
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                if socket.read_line(&mut line).await? == 0 {
                    return Ok(());
                }
                let line = line.trim_end().to_owned();
                if line.is_empty() {
                    break;
                }
                head.push(line);
            }
            let mut words = head[0].split(' ');
            let method = words.next().unwrap_or_default().to_owned();
            let target = words.next().unwrap_or_default();
            let path = target.split('?').next().unwrap_or_default().to_owned();
            let headers = head[1..].iter().filter_map(|line| line.split_once(": "));
            let headers = headers.map(|(key, value)| (key.to_lowercase(), value.to_owned()));
            let seen = Seen {
                method,
                path,
                headers: headers.collect(),
            };
            let length = seen.headers.get("content-length");
            let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            socket.read_exact(&mut body).await?;
            self.state.lock().unwrap().seen.push(seen.clone());
            if !self.answer(&seen, socket.get_mut()).await? {
                return Ok(());
            }
        }
    }

    fn plan(&self, seen: &Seen) -> (Option<Blob>, Fault, Option<String>) {
        let mut state = self.state.lock().unwrap();
        let found = state.blobs.get(&seen.path).cloned();
        let mut fault = Fault::default();
        if seen.method == "GET"
            && let Some(planned) = state.faults.get_mut(&seen.path)
        {
            fault = planned.clone();
            planned.times = planned.times.saturating_sub(1);
            if fault.times == 1 {
                state.faults.remove(&seen.path);
            }
        }
        let refused = state.wants.as_ref().and_then(|(challenge, wanted)| {
            let given = seen.headers.get("authorization");
            (given != Some(wanted) && seen.path != TOKEN).then(|| challenge.clone())
        });
        (found, fault, refused)
    }

    /// Answers a request, and returns whether the connection goes on.
    async fn answer(&self, seen: &Seen, socket: &mut TcpStream) -> std::io::Result<bool> {
        let (found, fault, refused) = self.plan(seen);
        let challenge = refused.or(fault.challenge.clone());
        let status = match (&found, &challenge) {
            (_, Some(_)) => 401,
            (None, _) => fault.status.unwrap_or(404),
            (Some(_), _) => fault.status.unwrap_or(200),
        };
        let (media_type, right) = found.unwrap_or_default();
        let mut body = fault.body.clone().unwrap_or_else(|| right.clone());
        let mut head = String::new();
        let range = seen.headers.get("range");
        let start = range.and_then(|range| {
            let start = range.strip_prefix("bytes=")?.strip_suffix('-')?;
            start.parse::<usize>().ok()
        });
        let status = match start.filter(|_| status == 200) {
            Some(start) => {
                let last = body.len() - 1;
                head.push_str(&format!(
                    "Content-Range: bytes {start}-{last}/{}\r\n",
                    body.len()
                ));
                body.drain(..start);
                206
            }
            None => status,
        };
        if !matches!(status, 200 | 206) {
            body.clear();
        }
        if let Some(challenge) = challenge {
            head.push_str(&format!("WWW-Authenticate: {challenge}\r\n"));
        }
        if let Some(location) = &fault.location {
            head.push_str(&format!("Location: {location}\r\n"));
        }
        if seen.path.contains("/manifests/") {
            head.push_str(&format!(
                "Docker-Content-Digest: {}\r\n",
                Digest::of(&right)
            ));
        }
        let length = fault.length.unwrap_or(body.len());
        let head = format!(
            "HTTP/1.1 {status} Any\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n{head}\r\n"
        );
        socket.write_all(head.as_bytes()).await?;
        if seen.method == "HEAD" {
            return Ok(true);
        }
        // Faults are at a place of the blob, wherever the answer begins.
        let before = start.unwrap_or(0);
        if let Some(count) = fault.closes_after {
            let count = count.saturating_sub(before);
            socket.write_all(&body[..count.min(body.len())]).await?;
            return Ok(false);
        }
        if let Some(count) = fault.stops_after {
            let count = count.saturating_sub(before);
            socket.write_all(&body[..count.min(body.len())]).await?;
            tokio::time::sleep(Duration::from_secs(60)).await;
            return Ok(false);
        }
        socket.write_all(&body).await?;
        Ok(fault.length.is_none())
    }
}

/// Returns the path of a blob.
pub fn blob(digest: &str) -> String {
    format!("/v2/a/b/blobs/{digest}")
}

/// Returns a layer with one file.
pub fn layer(name: &str, size: usize, seed: u8) -> Vec<u8> {
    let mut archive = Archive::new(Vec::new());
    let header = Header {
        path: name.as_bytes().to_vec(),
        mode: 0o644,
        size: size as u64,
        ..Header::default()
    };
    archive.entry(&header).unwrap();
    // It must not compress to nothing, since faults happen in the middle.
    let mut state = u64::from(seed) | 0x9e37_79b9_7f4a_7c00;
    let bytes: Vec<u8> = (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    std::io::Write::write_all(&mut archive, &bytes).unwrap();
    archive.finish().unwrap()
}
