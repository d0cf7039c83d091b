//! Images made on the spot: layers from a list of files, as an OCI archive or pushed to a registry.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Bytes with the digest and the media type by which a manifest names them.
#[derive(Debug, Clone)]
pub struct Blob {
    /// The media type.
    pub media_type: String,
    /// `sha256:` and the hexadecimal digest.
    pub digest: String,
    /// The content.
    pub bytes: Vec<u8>,
}

impl Blob {
    /// Returns a blob of these bytes.
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Blob {
        Blob {
            media_type: media_type.to_owned(),
            digest: digest(&bytes),
            bytes,
        }
    }

    /// Returns the descriptor that names this blob.
    pub fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// An image of one platform.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest.
    pub manifest: Blob,
    /// The configuration.
    pub config: Blob,
    /// The layers, lowest first.
    pub layers: Vec<Blob>,
}

/// What an image is made of.
#[derive(Debug, Clone, Default)]
pub struct Recipe {
    layers: Vec<(String, Blob)>,
    config: serde_json::Map<String, Value>,
    architecture: Option<String>,
}

impl Recipe {
    /// Adds an uncompressed layer, which the image will have compressed.
    pub fn layer(mut self, tar: Vec<u8>) -> Recipe {
        self.layers
            .push((digest(&tar), Blob::new(LAYER, gzip(&tar))));
        self
    }

    /// Adds a layer that is compressed already.
    pub fn gzip_layer(mut self, bytes: Vec<u8>) -> Recipe {
        self.layers
            .push((digest(&gunzip(&bytes)), Blob::new(LAYER, bytes)));
        self
    }

    /// Adds a layer as it is, whose uncompressed bytes have this digest.
    pub fn packed_layer(mut self, diff_id: String, layer: Blob) -> Recipe {
        self.layers.push((diff_id, layer));
        self
    }

    /// Sets a key of the configuration's `config`, such as `Cmd`.
    pub fn config(mut self, key: &str, value: Value) -> Recipe {
        self.config.insert(key.to_owned(), value);
        self
    }

    /// Says that the image is for another architecture than this machine's.
    pub fn architecture(mut self, name: &str) -> Recipe {
        self.architecture = Some(name.to_owned());
        self
    }

    /// Writes configuration and manifest.
    pub fn build(self) -> Image {
        let (diff_ids, layers): (Vec<String>, Vec<Blob>) = self.layers.into_iter().unzip();
        let history: Vec<Value> = layers
            .iter()
            .map(|_| json!({"created_by": "tests"}))
            .collect();
        let config = json!({
            "created": "2026-01-01T00:00:00Z",
            "architecture": self.architecture.as_deref().unwrap_or(architecture()),
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        let config = Blob::new(
            "application/vnd.oci.image.config.v1+json",
            to_bytes(&config),
        );
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        Image {
            manifest: Blob::new(media_type, to_bytes(&manifest)),
            config,
            layers,
        }
    }
}

impl Image {
    /// Returns an image of one layer: Debian's static busybox with the links, users and folders that tests use.
    pub fn busybox() -> Image {
        Image::busybox_recipe().build()
    }

    /// Returns the recipe of [`Image::busybox`], to be built upon.
    pub fn busybox_recipe() -> Recipe {
        Recipe::default()
            .layer(busybox_layer())
            .config("Env", json!(["PATH=/bin:/usr/bin", "MADE=here"]))
            .config("Cmd", json!(["/bin/sh", "-c", "echo hello from busybox"]))
    }

    /// Returns busybox with `count` more layers, each with a file of `size` bytes and one that replaces the layer's below.
    pub fn many_layers(count: usize, size: usize) -> Image {
        let mut recipe = Image::busybox_recipe();
        for number in 0..count {
            let mut layer = Layer::new();
            layer.file(
                &format!("data/{number}"),
                0o644,
                &noise(number as u64 + 1, size),
            );
            layer.file("data/last", 0o644, format!("{number}\n").as_bytes());
            if number > 0 {
                layer.file(&format!("data/.wh.gone-{}", number - 1), 0o644, b"");
            }
            layer.file(
                &format!("data/gone-{number}"),
                0o644,
                b"hidden by the next layer\n",
            );
            recipe = recipe.layer(layer.finish());
        }
        recipe.build()
    }

    /// Returns configuration and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// Writes the image as an OCI archive, named `name`, to a new file in `folder`.
    pub fn write_archive(&self, folder: &Path, name: &str) -> PathBuf {
        let mut descriptor = self.manifest.descriptor();
        descriptor["annotations"] =
            json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [descriptor],
        });
        let mut archive = Layer::new();
        archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
        archive.file("index.json", 0o644, &to_bytes(&index));
        for blob in self.blobs().chain([&self.manifest]) {
            archive.file(
                &format!("blobs/{}", blob.digest.replace(':', "/")),
                0o644,
                &blob.bytes,
            );
        }
        write_new(folder, &archive.finish())
    }

    /// Writes the image as `docker save` does, named `name`, to a new file in `folder`.
    pub fn write_docker_archive(&self, folder: &Path, name: &str) -> PathBuf {
        let hex = |blob: &Blob| blob.digest.trim_start_matches("sha256:").to_owned();
        let mut archive = Layer::new();
        let mut paths = Vec::new();
        for layer in &self.layers {
            let path = format!("{}/layer.tar", hex(layer));
            archive.file(&path, 0o644, &gunzip(&layer.bytes));
            paths.push(path);
        }
        let config = format!("{}.json", hex(&self.config));
        archive.file(&config, 0o644, &self.config.bytes);
        let manifest = json!([{"Config": config, "RepoTags": [name], "Layers": paths}]);
        archive.file("manifest.json", 0o644, &to_bytes(&manifest));
        write_new(folder, &archive.finish())
    }
}

/// A tar archive in the making, as a layer or an image archive.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

impl Layer {
    /// Returns an empty archive.
    pub fn new() -> Layer {
        Layer {
            tar: tar::Builder::new(Vec::new()),
        }
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> &mut Layer {
        self.entry(tar::EntryType::Regular, path, mode, None, bytes)
    }

    /// Adds a folder.
    pub fn folder(&mut self, path: &str, mode: u32) -> &mut Layer {
        self.entry(tar::EntryType::Directory, path, mode, None, b"")
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Layer {
        self.entry(tar::EntryType::Symlink, path, 0o777, Some(target), b"")
    }

    /// Adds a hard link.
    pub fn hardlink(&mut self, path: &str, target: &str) -> &mut Layer {
        self.entry(tar::EntryType::Link, path, 0o644, Some(target), b"")
    }

    /// Adds an entry of any type; paths are written as they are, also those that climb out.
    pub fn entry(
        &mut self,
        kind: tar::EntryType,
        path: &str,
        mode: u32,
        target: Option<&str>,
        bytes: &[u8],
    ) -> &mut Layer {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        // The crate's own setters refuse `..` and absolute paths, which are what some tests are about.
        assert!(
            path.len() < 100 && target.is_none_or(|target| target.len() < 100),
            "a short name"
        );
        let fields = header.as_old_mut();
        fields.name[..path.len()].copy_from_slice(path.as_bytes());
        if let Some(target) = target {
            fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
        }
        header.set_cksum();
        self.tar.append(&header, bytes).expect("write to memory");
        self
    }

    /// Returns the archive's bytes.
    pub fn finish(self) -> Vec<u8> {
        self.tar.into_inner().expect("write to memory")
    }
}

impl Default for Layer {
    fn default() -> Layer {
        Layer::new()
    }
}

/// Returns the layer of [`Image::busybox`].
pub fn busybox_layer() -> Vec<u8> {
    const LINKS: &[&str] = &[
        "cat", "chmod", "cp", "dd", "df", "echo", "env", "false", "grep", "head", "hostname", "id",
        "kill", "ln", "ls", "mkdir", "mount", "nc", "od", "ps", "pwd", "readlink", "rm", "seq",
        "sh", "sleep", "stat", "stty", "sync", "tail", "test", "top", "touch", "tr", "true", "tty",
        "uname", "wc", "yes",
    ];
    let busybox = std::fs::read("/bin/busybox").expect("read Debian's busybox-static");
    let mut layer = Layer::new();
    for folder in [
        "bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var",
    ] {
        layer.folder(folder, if folder == "tmp" { 0o1777 } else { 0o755 });
    }
    layer.file("bin/busybox", 0o755, &busybox);
    for link in LINKS {
        layer.symlink(&format!("bin/{link}"), "busybox");
    }
    layer.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n");
    layer.file(
        "etc/group",
        0o644,
        b"root:x:0:\nnogroup:x:65534:\nuser:x:1000:\nextra:x:2000:user\n",
    );
    layer.finish()
}

/// Returns `sha256:` and the hexadecimal digest of these bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// Returns these bytes compressed.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder
        .write_all(bytes)
        .and_then(|()| encoder.finish())
        .expect("write to memory")
}

/// Returns the architecture of this machine as images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut decoder = flate2::write::GzDecoder::new(Vec::new());
    decoder
        .write_all(bytes)
        .and_then(|()| decoder.finish())
        .expect("what we compressed")
}

fn to_bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a value is JSON")
}

/// Returns bytes that do not compress and are the same in every run.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn write_new(folder: &Path, bytes: &[u8]) -> PathBuf {
    let file = tempfile::Builder::new()
        .suffix(".tar")
        .tempfile_in(folder)
        .expect("make a file");
    let (mut file, path) = file.keep().expect("keep a file");
    file.write_all(bytes).expect("write an archive");
    path
}
