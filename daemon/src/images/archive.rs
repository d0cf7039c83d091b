//! Reading archives of images: OCI layouts, and what `docker save` writes.
//!
//! Every file of the archive becomes a blob as it comes by, whatever its place in the archive; what they are to each
//! other is known at the end, from `index.json` or `manifest.json`.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};

use serde::{Deserialize, Serialize};

use super::names;
use super::platform::Platform;
use super::walk::{Config, Descriptor, Index, Manifest};
use crate::content::{Content, Digest, WriterOptions};
use crate::context::Context;
use crate::diff::codec::{self, Compression, Encoder, Encoding};
use crate::diff::entries::{Entries, Entry, Type};
use crate::error::{Context as _, Error, Kind, Result, invalid};
use crate::labels::Labels;
use crate::media;

/// The longest document of an archive that is read.
const MAX_DOCUMENT: u64 = 8 << 20;
/// The most files that an archive may have.
const MAX_FILES: usize = 1 << 16;
const BUFFER: usize = 256 << 10;

/// What an archive has had so far.
struct Import<'a> {
    content: &'a Content,
    context: &'a Context,
    /// Set before the name of an ingest, so that two imports do not get in each other's way.
    unique: String,
    compress: bool,
    layout: Option<Vec<u8>>,
    manifests: Option<Vec<u8>>,
    blobs: HashMap<Vec<u8>, Descriptor>,
    links: HashMap<Vec<u8>, Vec<u8>>,
}

#[derive(Deserialize)]
struct Layout {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

/// An image as `docker save` describes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Brings what an archive holds into the content store and returns the descriptor of its index.
///
/// With `compress`, layers that come uncompressed are compressed.
pub fn import<R: BufRead>(
    content: &Content,
    context: &Context,
    input: R,
    unique: String,
    compress: bool,
) -> Result<Descriptor> {
    let input = codec::decoder(input, Encoding::Detect)?;
    let mut import = Import {
        content,
        context,
        unique,
        compress,
        layout: None,
        manifests: None,
        blobs: HashMap::new(),
        links: HashMap::new(),
    };
    let mut entries = Entries::new(BufReader::with_capacity(BUFFER, input));
    while let Some(entry) = entries.next_entry()? {
        import.entry(&entry, &mut entries)?;
        if import.blobs.len() + import.links.len() > MAX_FILES {
            return Err(invalid(format!(
                "an archive of more than {MAX_FILES} files"
            )));
        }
    }
    entries.finish()?;
    match (&import.layout, &import.manifests) {
        (Some(layout), _) => import.layout(layout),
        (None, Some(manifests)) => import.saved(manifests),
        (None, None) => Err(invalid("unrecognized image format")),
    }
}

impl Import<'_> {
    fn entry<R: BufRead>(&mut self, entry: &Entry, entries: &mut Entries<R>) -> Result<()> {
        let path = clean(&entry.path);
        match entry.kind {
            Type::Symlink => {
                let folder = path.iter().rposition(|byte| *byte == b'/');
                let folder = folder.map_or(&b""[..], |slash| &path[..slash + 1]);
                let target = clean(&[folder, entry.link.as_slice()].concat());
                self.links.insert(path, target);
            }
            Type::Hardlink => {
                self.links.insert(path, clean(&entry.link));
            }
            Type::Regular => match path.as_slice() {
                b"oci-layout" => self.layout = Some(document(entry, entries)?),
                b"manifest.json" => self.manifests = Some(document(entry, entries)?),
                _ => {
                    let name = String::from_utf8_lossy(&path).into_owned();
                    let blob = self.blob(&name, entry, entries);
                    let blob = blob.context(|| format!("import {name:?}"))?;
                    self.blobs.insert(path, blob);
                }
            },
            _ => {}
        }
        Ok(())
    }

    /// Makes the data of an entry a blob.
    fn blob<R: BufRead>(
        &self,
        name: &str,
        entry: &Entry,
        entries: &mut Entries<R>,
    ) -> Result<Descriptor> {
        // In an OCI layout the name says what the data has to be.
        let named = name.strip_prefix("blobs/").unwrap_or_default();
        let expected = named
            .split_once('/')
            .and_then(|(algorithm, hex)| Digest::parse(&format!("{algorithm}:{hex}")).ok());
        let options = WriterOptions {
            reference: format!("{}-{name}", self.unique),
            total: entry.size as i64,
            expected: expected.clone(),
        };
        let known = |digest: &Digest| Descriptor {
            digest: digest.to_string(),
            size: entry.size as i64,
            ..Descriptor::default()
        };
        let exists = |error: &Error| error.kind() == Kind::AlreadyExists;
        let mut writer = match self.content.writer(self.context, options) {
            Ok(writer) => writer,
            Err(error) if exists(&error) => {
                return Ok(known(&expected.expect("only what is expected exists")));
            }
            Err(error) => return Err(error),
        };
        writer.truncate(0)?;
        entries.read(entry, |bytes| writer.write(bytes))?;
        let digest = writer.digest();
        match writer.commit(entry.size as i64, expected.as_ref(), Labels::new()) {
            Err(error) if !exists(&error) => Err(error),
            _ => Ok(known(&expected.unwrap_or(digest))),
        }
    }

    fn layout(&self, layout: &[u8]) -> Result<Descriptor> {
        let layout: Layout = parse("oci-layout", layout)?;
        if layout.version != "1.0.0" {
            let message = format!("unsupported OCI layout version {:?}", layout.version);
            return Err(invalid(message));
        }
        let index = self.blobs.get(&b"index.json"[..]);
        let index = index.ok_or_else(|| invalid("missing index.json in OCI layout"))?;
        Ok(Descriptor {
            media_type: media::OCI_INDEX.to_owned(),
            ..index.clone()
        })
    }

    /// Writes the manifests that `docker save` leaves out, and an index of them.
    fn saved(&self, manifests: &[u8]) -> Result<Descriptor> {
        let images: Vec<Saved> = parse("manifest.json", manifests)?;
        let mut index = Vec::new();
        for image in images {
            let mut config = self.find(&image.config)?;
            config.media_type = media::DOCKER_CONFIG.to_owned();
            let layers = image.layers.unwrap_or_default();
            let layers: Result<Vec<_>> = layers.iter().map(|path| self.layer(path)).collect();
            let platform = self.platform(&config)?;
            let manifest = Manifest {
                schema_version: 2,
                media_type: media::DOCKER_MANIFEST.to_owned(),
                config,
                layers: layers?,
            };
            let mut descriptor = self.put(media::DOCKER_MANIFEST, &manifest)?;
            descriptor.platform = Some(platform);
            let names = image.repo_tags.unwrap_or_default();
            if names.is_empty() {
                index.push(descriptor.clone());
            }
            for name in names {
                let name = names::whole(&name);
                let tag = names::tag(&name).to_owned();
                let mut named = descriptor.clone();
                named.annotations.extend([
                    ("io.containerd.image.name".to_owned(), name),
                    ("org.opencontainers.image.ref.name".to_owned(), tag),
                ]);
                index.push(named);
            }
        }
        let index = Index {
            schema_version: 2,
            media_type: media::OCI_INDEX.to_owned(),
            manifests: index,
        };
        self.put(media::OCI_INDEX, &index)
    }

    /// Returns the blob of a file, following the links by which an archive shares files.
    fn find(&self, path: &str) -> Result<Descriptor> {
        let mut path = clean(path.as_bytes());
        for _ in 0..8 {
            if let Some(blob) = self.blobs.get(&path) {
                return Ok(blob.clone());
            }
            match self.links.get(&path) {
                Some(target) => path.clone_from(target),
                None => break,
            }
        }
        let path = String::from_utf8_lossy(&path).into_owned();
        Err(Error::new(
            Kind::NotFound,
            format!("no {path:?} in the archive"),
        ))
    }

    fn layer(&self, path: &str) -> Result<Descriptor> {
        let mut layer = self.find(path)?;
        let digest = layer.digest()?;
        let reader = self.content.reader(self.context, &digest)?;
        let mut start = [0; 4];
        let count = reader.read_at(&mut start, 0)?;
        layer.media_type = match Compression::detect(&start[..count]) {
            Compression::Gzip => media::DOCKER_LAYER_GZIP.to_owned(),
            Compression::Zstd => media::OCI_LAYER_ZSTD.to_owned(),
            Compression::None if self.compress => {
                return self
                    .compressed(&digest)
                    .context(|| format!("compress layer {digest}"));
            }
            Compression::None => media::DOCKER_LAYER.to_owned(),
        };
        Ok(layer)
    }

    fn compressed(&self, plain: &Digest) -> Result<Descriptor> {
        let mut file = self.content.reader(self.context, plain)?.into_file();
        let options = WriterOptions {
            reference: format!("{}-compress-{plain}", self.unique),
            ..WriterOptions::default()
        };
        let mut writer = self.content.writer(self.context, options)?;
        writer.truncate(0)?;
        let mut encoder = Encoder::new(writer, Compression::Gzip)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            match file.read(&mut buffer).context(|| "read layer")? {
                0 => break,
                count => encoder
                    .write_all(&buffer[..count])
                    .context(|| "compress layer")?,
            }
        }
        let writer = encoder.finish()?;
        let (digest, size) = (writer.digest(), writer.status().offset);
        let labels = [(crate::diff::UNCOMPRESSED.to_owned(), plain.to_string())];
        match writer.commit(size, None, labels.into()) {
            Err(error) if error.kind() != Kind::AlreadyExists => return Err(error),
            _ => {}
        }
        Ok(Descriptor {
            media_type: media::DOCKER_LAYER_GZIP.to_owned(),
            digest: digest.to_string(),
            size,
            ..Descriptor::default()
        })
    }

    fn platform(&self, config: &Descriptor) -> Result<Platform> {
        let bytes = self
            .content
            .read_all(self.context, &config.digest()?, MAX_DOCUMENT)?;
        let config: Config = parse("config", &bytes)?;
        Ok(config.platform.normalized())
    }

    fn put(&self, media_type: &str, document: &impl Serialize) -> Result<Descriptor> {
        let bytes = serde_json::to_vec(document).map_err(encoding)?;
        let digest = Digest::of(&bytes);
        let reference = format!("{}-{digest}", self.unique);
        self.content.put(
            self.context,
            &reference,
            &bytes,
            Some(&digest),
            Labels::new(),
        )?;
        Ok(Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.to_string(),
            size: bytes.len() as i64,
            ..Descriptor::default()
        })
    }
}

fn document<R: BufRead>(entry: &Entry, entries: &mut Entries<R>) -> Result<Vec<u8>> {
    if entry.size > MAX_DOCUMENT {
        let message = format!("{} bytes where {MAX_DOCUMENT} are allowed", entry.size);
        return Err(Error::new(Kind::ResourceExhausted, message));
    }
    let mut document = Vec::new();
    entries.read(entry, |bytes| {
        document.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(document)
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| invalid(format!("decode {what}: {error}")))
}

fn encoding(error: serde_json::Error) -> Error {
    Error::other("encode manifest", error)
}

/// Returns a path without `.` and empty names, and without `..` and what that takes back.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.join(&b'/')
}
