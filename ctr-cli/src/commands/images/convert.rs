//! `corten images convert`

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::pin::Pin;

use anyhow::{Context as _, Result, bail};
use api_protos::containerd::services::content::v1::{InfoRequest, ReadContentRequest};
use api_protos::containerd::services::images::v1::{CreateImageRequest, DeleteImageRequest, Image};
use api_protos::containerd::types::{Descriptor as ImageTarget, Platform};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tonic::Code;

use crate::blob::Writer;
use crate::cli::Session;
use crate::client::{Client, Doing as _, error};
use crate::commands::output::print_line;
use crate::{image, platform};

/// Indexes and manifests are smaller than this.
const JSON_MAX: i64 = 8 << 20;
const GC: &str = "containerd.io/gc.ref.content";
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// Docker's media types and OCI's for the same.
const DOCKER_TO_OCI: [(&str, &str); 7] = [
    (
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.index.v1+json",
    ),
    (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
    ),
    (
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.oci.image.config.v1+json",
    ),
    (
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ),
    (
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.oci.image.layer.v1.tar",
    ),
    (
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ),
    (
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
    ),
];

/// Make another image of an image, with other media types or with uncompressed layers
///
/// Prints the digest of the new image. What stays the same is shared with the old one.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:
  corten images convert --uncompress --oci example.org/app:1 example.org/app:plain")]
pub struct Options {
    /// Write the layers uncompressed
    #[arg(long)]
    uncompress: bool,
    /// Say by OCI's media types what Docker's say
    #[arg(long)]
    oci: bool,
    /// For these platforms, as linux/arm64; may be repeated [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Vec<String>,
    /// For all platforms that the image has
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// The image
    source: String,
    /// The name of the new one
    target: String,
}

/// A descriptor, its fields in the order in which they are written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: i64,
    #[serde(flatten)]
    rest: Rest,
}

/// What is carried over as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rest {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    urls: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<InJson>,
    #[serde(skip_serializing_if = "String::is_empty")]
    artifact_type: String,
}

/// A platform, as a manifest has it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct InJson {
    architecture: String,
    os: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    os_version: String,
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    os_features: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
}

/// A manifest or an index.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    media_type: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    artifact_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<Descriptor>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifests: Option<Vec<Descriptor>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// What is to be done to each blob.
struct Converter<'a> {
    client: &'a Client,
    uncompress: bool,
    oci: bool,
    /// Nothing is all.
    platforms: Option<Vec<Platform>>,
}

/// Converts, and prints the digest of the new image.
pub async fn run(session: &Session, options: Options) -> Result<()> {
    let client = &session.client;
    let platforms: Vec<Platform> = match options.platform.as_slice() {
        [] => vec![platform::own()],
        all => all
            .iter()
            .map(|text| platform::parse(text))
            .collect::<Result<_>>()?,
    };
    let converter = Converter {
        client,
        uncompress: options.uncompress,
        oci: options.oci,
        platforms: (!options.all_platforms).then_some(platforms),
    };
    let what = || format!("convert {}", options.source);
    let found = image::get(client, &options.source).await?;
    let target = found.target.clone().unwrap_or_default();
    let old = Descriptor {
        media_type: target.media_type,
        digest: target.digest,
        size: target.size,
        rest: Rest {
            annotations: target.annotations.into_iter().collect(),
            ..Rest::default()
        },
    };
    let new = converter.document(old).await.with_context(what)?;
    let image = Image {
        name: options.target.clone(),
        target: Some(ImageTarget {
            media_type: new.media_type,
            digest: new.digest.clone(),
            size: new.size,
            annotations: new.rest.annotations.into_iter().collect(),
        }),
        ..found
    };
    store(client, image).await.with_context(what)?;
    print_line(&new.digest)
}

/// Gives the new image its name, which may be another one's until now.
async fn store(client: &Client, image: Image) -> Result<()> {
    let name = image.name.clone();
    let request = DeleteImageRequest {
        name: name.clone(),
        ..Default::default()
    };
    match client.images().delete(request).await {
        Err(status) if status.code() != Code::NotFound => return Err(error(&status)),
        _ => {}
    }
    let request = CreateImageRequest {
        image: Some(image),
        ..Default::default()
    };
    let created = client.images().create(request).await;
    created.map(drop).doing(|| format!("create image {name}"))
}

impl Converter<'_> {
    /// Converts an index or a manifest and all that it names.
    fn document(&self, old: Descriptor) -> Pin<Box<dyn Future<Output = Result<Descriptor>> + '_>> {
        Box::pin(async move {
            let bytes = image::read(self.client, &old.digest, JSON_MAX).await?;
            let parsed = serde_json::from_slice(&bytes);
            let mut document: Document =
                parsed.with_context(|| format!("parse content {}", old.digest))?;
            let mut labels = self.labels(&old.digest).await?;
            let before = serde_json::to_value(&document)?;
            if !document.media_type.is_empty() {
                document.media_type = self.media_type(&document.media_type);
            }
            if let Some(manifests) = document.manifests.take() {
                let mut kept = Vec::new();
                for (number, manifest) in manifests.into_iter().enumerate() {
                    if !self.wants(&manifest) {
                        forget(&mut labels, &manifest.digest);
                        continue;
                    }
                    let new = self.document(manifest.clone()).await?;
                    renew(&mut labels, &format!("{GC}.m.{number}"), &manifest, &new);
                    kept.push(new);
                }
                document.manifests = Some(kept);
            }
            if let Some(layers) = &mut document.layers {
                for (number, layer) in layers.iter_mut().enumerate() {
                    let new = self.layer(layer).await?;
                    renew(&mut labels, &format!("{GC}.l.{number}"), layer, &new);
                    *layer = new;
                }
            }
            if let Some(config) = &mut document.config {
                *config = self.retyped(config.clone());
            }
            let new = match before == serde_json::to_value(&document)? {
                true => old,
                false => self.write(&old, &document, labels).await?,
            };
            Ok(self.retyped(new))
        })
    }

    /// Writes a changed index or manifest.
    async fn write(
        &self,
        old: &Descriptor,
        document: &Document,
        labels: HashMap<String, String>,
    ) -> Result<Descriptor> {
        let bytes = serde_json::to_vec(document)?;
        let size = bytes.len() as i64;
        let reference = reference("document", &old.digest);
        let mut writer = Writer::open(self.client, &reference, size, "").await?;
        writer.write(bytes).await?;
        let digest = writer.commit(labels).await?;
        Ok(Descriptor {
            digest,
            size,
            ..old.clone()
        })
    }

    async fn layer(&self, old: &Descriptor) -> Result<Descriptor> {
        let plain = self.uncompress.then(|| plain(&old.media_type)).flatten();
        let new = match plain {
            Some(media_type) => self.inflate(old, media_type).await?,
            None => old.clone(),
        };
        Ok(self.retyped(new))
    }

    /// Writes a compressed layer as it was before that.
    async fn inflate(&self, old: &Descriptor, media_type: String) -> Result<Descriptor> {
        let what = || format!("uncompress {}", old.digest);
        let mut labels = self.labels(&old.digest).await?;
        let known = labels.remove(UNCOMPRESSED);
        let request = ReadContentRequest {
            digest: old.digest.clone(),
            ..Default::default()
        };
        let answer = self.client.content().read(request).await;
        let mut parts = answer.doing(what)?.into_inner();
        let mut writer = Writer::open(self.client, &reference("layer", &old.digest), 0, "").await?;
        let (mut inflater, mut size) = (None, 0);
        while let Some(part) = parts.message().await.doing(what)? {
            let inflater = match &mut inflater {
                Some(inflater) => inflater,
                none => none.insert(Inflater::of(&part.data)?),
            };
            let plain = inflater.push(&part.data).with_context(what)?;
            size += plain.len() as i64;
            if !plain.is_empty() {
                writer.write(plain).await.with_context(what)?;
            }
        }
        let rest = inflater
            .map(Inflater::finish)
            .transpose()
            .with_context(what)?;
        let rest = rest.unwrap_or_default();
        size += rest.len() as i64;
        writer.write(rest).await.with_context(what)?;
        let digest = writer.commit(labels).await.with_context(what)?;
        if known.is_some_and(|known| known != digest) {
            bail!("{} is cut short or damaged", old.digest);
        }
        Ok(Descriptor {
            media_type,
            digest,
            size,
            rest: old.rest.clone(),
        })
    }

    async fn labels(&self, digest: &str) -> Result<HashMap<String, String>> {
        let request = InfoRequest {
            digest: digest.to_owned(),
        };
        let answer = self.client.content().info(request).await;
        let info = answer.doing(|| format!("ask for content {digest}"))?;
        Ok(info.into_inner().info.unwrap_or_default().labels)
    }

    /// Returns a descriptor with its media type as it is to be; Docker's have no annotations.
    fn retyped(&self, mut descriptor: Descriptor) -> Descriptor {
        let docker = DOCKER_TO_OCI
            .iter()
            .any(|(docker, _)| *docker == descriptor.media_type);
        match (docker, self.oci) {
            (true, true) => descriptor.media_type = self.media_type(&descriptor.media_type),
            (true, false) => descriptor.rest.annotations.clear(),
            _ => {}
        }
        descriptor
    }

    fn media_type(&self, old: &str) -> String {
        let mut known = DOCKER_TO_OCI.iter();
        match known.find(|(docker, _)| self.oci && *docker == old) {
            Some((_, oci)) => (*oci).to_owned(),
            None => old.to_owned(),
        }
    }

    /// Returns whether a manifest of an index is for a wanted platform, or for none in particular.
    fn wants(&self, manifest: &Descriptor) -> bool {
        let (Some(wanted), Some(has)) = (&self.platforms, &manifest.rest.platform) else {
            return true;
        };
        let has = serde_json::to_value(has).ok();
        let has = has
            .as_ref()
            .and_then(|has: &Value| platform::from_json(has));
        has.is_some_and(|has| {
            wanted
                .iter()
                .any(|wanted| platform::rank(wanted, &has) == Some(0))
        })
    }
}

/// Returns the media type of a compressed layer when it is not compressed any more.
fn plain(media_type: &str) -> Option<String> {
    ["+gzip", "+zstd", ".gzip"]
        .iter()
        .find_map(|end| media_type.strip_suffix(end))
        .map(str::to_owned)
}

/// Has a label name the new blob in place of the old one.
fn renew(labels: &mut HashMap<String, String>, key: &str, old: &Descriptor, new: &Descriptor) {
    if old.digest != new.digest {
        forget(labels, &old.digest);
        labels.insert(key.to_owned(), new.digest.clone());
    }
}

/// Takes off the labels that keep a blob.
fn forget(labels: &mut HashMap<String, String>, digest: &str) {
    labels.retain(|key, value| value != digest || !key.starts_with(GC));
}

/// Returns a name for a write that no other has, not even one that was interrupted.
fn reference(what: &str, digest: &str) -> String {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let unique = since.as_nanos();
    format!("convert-{what}-{digest}-{}-{unique}", std::process::id())
}

/// Undoes a layer's compression piece by piece.
enum Inflater {
    Gzip(Box<flate2::write::MultiGzDecoder<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Vec<u8>>>),
    Plain(Vec<u8>),
}

impl Inflater {
    /// Returns what undoes the compression that the first bytes show.
    fn of(start: &[u8]) -> Result<Inflater> {
        if start.starts_with(&[0x1f, 0x8b]) {
            let decoder = flate2::write::MultiGzDecoder::new(Vec::new());
            return Ok(Inflater::Gzip(Box::new(decoder)));
        }
        if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            let decoder = zstd::stream::write::Decoder::new(Vec::new())?;
            return Ok(Inflater::Zstd(Box::new(decoder)));
        }
        Ok(Inflater::Plain(Vec::new()))
    }

    /// Takes bytes and returns what they have given.
    fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        let plain = match self {
            Inflater::Gzip(decoder) => {
                decoder.write_all(bytes)?;
                decoder.get_mut()
            }
            Inflater::Zstd(decoder) => {
                decoder.write_all(bytes)?;
                decoder.get_mut()
            }
            Inflater::Plain(plain) => {
                plain.extend_from_slice(bytes);
                plain
            }
        };
        Ok(std::mem::take(plain))
    }

    /// Returns what is left.
    fn finish(self) -> Result<Vec<u8>> {
        match self {
            Inflater::Gzip(mut decoder) => {
                decoder.try_finish()?;
                Ok(std::mem::take(decoder.get_mut()))
            }
            Inflater::Zstd(mut decoder) => {
                decoder.flush()?;
                Ok(std::mem::take(decoder.get_mut()))
            }
            Inflater::Plain(plain) => Ok(plain),
        }
    }
}
