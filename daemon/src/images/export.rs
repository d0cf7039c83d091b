//! Writing archives of images: an OCI layout, with the `manifest.json` that makes `docker load` understand it.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;

use serde_json::json;

use super::names;
use super::platform::Platform;
use super::walk::{Descriptor, Manifest, Node, select};
use crate::content::{Content, Hasher};
use crate::context::Context;
use crate::diff::entries::Type;
use crate::diff::write::{Archive, Header};
use crate::error::{Context as _, Error, Kind, Result, invalid};
use crate::media;
use crate::metadata::Image;

/// What is read of a blob at a time.
const CHUNK: usize = 256 << 10;
/// The labels that say where a blob is from go along.
const ORIGIN: &str = "containerd.io/distribution.source.";

/// What is wanted of images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The platforms to choose by; without any, this machine's.
    pub platforms: Vec<Platform>,
    /// Whether the other platforms' parts go along too.
    pub all_platforms: bool,
    pub skip_docker_manifest: bool,
    pub skip_foreign: bool,
}

/// An archive that is being written.
struct Export<'a, W> {
    content: &'a Content,
    context: &'a Context,
    options: &'a Options,
    archive: Archive<W>,
    /// The blobs that are in the archive.
    written: HashSet<String>,
    /// The manifests that Docker is told of, and their names.
    docker: BTreeMap<String, (Descriptor, Vec<String>)>,
}

/// Writes `images` to `output`.
pub fn export<W: Write>(
    content: &Content,
    context: &Context,
    images: &[Image],
    options: &Options,
    output: W,
) -> Result<()> {
    let mut export = Export {
        content,
        context,
        options,
        archive: Archive::new(output),
        written: HashSet::new(),
        docker: BTreeMap::new(),
    };
    export.folder("blobs/")?;
    export.folder("blobs/sha256/")?;
    let mut index = Vec::new();
    for image in images {
        let target: Descriptor = image.target.clone().unwrap_or_default().into();
        let exported = export.image(&image.name, target);
        index.push(exported.context(|| format!("export image {:?}", image.name))?);
    }
    let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": index});
    export.document("index.json", 0o644, &index)?;
    if !options.skip_docker_manifest && !export.docker.is_empty() {
        let manifests = export.docker_manifests()?;
        export.document("manifest.json", 0o644, &manifests)?;
    }
    export.document("oci-layout", 0o444, &json!({"imageLayoutVersion": "1.0.0"}))?;
    let mut output = export.archive.finish()?;
    output.flush().context(|| "write archive")
}

impl<W: Write> Export<'_, W> {
    /// Writes an image and returns its entry in the index.
    fn image(&mut self, name: &str, mut target: Descriptor) -> Result<Descriptor> {
        let info = self.content.info(self.context, &target.digest()?)?;
        let origins = info.labels.into_iter();
        target
            .annotations
            .extend(origins.filter(|(key, _)| key.starts_with(ORIGIN)));
        let tag = names::tag(name).to_owned();
        target.annotations.extend([
            ("io.containerd.image.name".to_owned(), name.to_owned()),
            ("org.opencontainers.image.ref.name".to_owned(), tag),
        ]);
        let chosen = match Node::read(self.content, self.context, &target)? {
            Some(Node::Manifest(_)) => {
                self.tree(&target)?;
                target.clone()
            }
            Some(Node::Index(index)) => {
                self.blob(&target)?;
                let wanted = match self.options.platforms.as_slice() {
                    [] => vec![Platform::host()],
                    named => named.to_vec(),
                };
                let chosen = select(&index, &wanted, 0);
                let all = self.options.all_platforms;
                let parts = match &chosen {
                    Ok(_) if all => index.manifests.clone(),
                    Ok(chosen) => chosen.clone(),
                    Err(_) if all => index.manifests.clone(),
                    Err(_) => Vec::new(),
                };
                for part in &parts {
                    self.tree(part)?;
                }
                match (chosen, parts.into_iter().next()) {
                    (Ok(chosen), _) => chosen.into_iter().next().unwrap_or_default(),
                    (Err(_), Some(first)) => first,
                    (Err(error), None) => return Err(error),
                }
            }
            None => return Err(invalid("only manifests may be exported")),
        };
        if media::is_manifest(&chosen.media_type) {
            let (_, names) = self
                .docker
                .entry(chosen.digest.clone())
                .or_insert_with(|| (chosen, Vec::new()));
            names.push(names::short(name));
        }
        Ok(target)
    }

    /// Writes a blob and all that it refers to.
    fn tree(&mut self, root: &Descriptor) -> Result<()> {
        let mut pending = vec![root.clone()];
        while let Some(descriptor) = pending.pop() {
            if self.options.skip_foreign && media::is_foreign(&descriptor.media_type) {
                continue;
            }
            self.blob(&descriptor)?;
            if let Some(node) = Node::read(self.content, self.context, &descriptor)? {
                pending.extend(node.children().into_iter().rev().cloned());
            }
        }
        Ok(())
    }

    fn blob(&mut self, descriptor: &Descriptor) -> Result<()> {
        let digest = descriptor.digest()?;
        if !self.written.insert(digest.to_string()) {
            return Ok(());
        }
        let reader = self.content.reader(self.context, &digest)?;
        self.archive.entry(&Header {
            path: path(descriptor).into_bytes(),
            mode: 0o444,
            size: reader.size(),
            ..Header::default()
        })?;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; CHUNK];
        let mut offset = 0;
        while offset < reader.size() {
            let count = reader.read_at(&mut buffer, offset)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            self.archive
                .write_all(&buffer[..count])
                .context(|| "write archive")?;
            offset += count as u64;
        }
        if hasher.finish() != digest {
            let message = format!("content {digest} is not what it was");
            return Err(Error::new(Kind::DataLoss, message));
        }
        Ok(())
    }

    fn docker_manifests(&self) -> Result<serde_json::Value> {
        let mut manifests = Vec::new();
        for (descriptor, names) in self.docker.values() {
            let node = Node::read(self.content, self.context, descriptor)?;
            let Some(Node::Manifest(Manifest { config, layers, .. })) = node else {
                continue;
            };
            let layers: Vec<String> = layers.iter().map(path).collect();
            manifests.push(json!({"Config": path(&config), "RepoTags": names, "Layers": layers}));
        }
        Ok(manifests.into())
    }

    fn folder(&mut self, path: &str) -> Result<()> {
        self.archive.entry(&Header {
            kind: Type::Directory,
            path: path.as_bytes().to_vec(),
            mode: 0o755,
            ..Header::default()
        })
    }

    fn document(&mut self, path: &str, mode: u32, document: &serde_json::Value) -> Result<()> {
        let bytes = document.to_string().into_bytes();
        self.archive.entry(&Header {
            path: path.as_bytes().to_vec(),
            mode,
            size: bytes.len() as u64,
            ..Header::default()
        })?;
        self.archive.write_all(&bytes).context(|| "write archive")
    }
}

fn path(descriptor: &Descriptor) -> String {
    format!("blobs/{}", descriptor.digest.replacen(':', "/", 1))
}
