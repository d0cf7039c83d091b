//! Images as CRI sees them: one for each configuration, with all the names that lead to it.

pub mod fs_info;
pub mod list;
pub mod pull;
pub mod reference;
pub mod remove;
pub mod status;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use api_protos::runtime::v1::{Image, ImageSpec, Int64Value};

use super::spec::ImageConfig;
use crate::blocking::blocking;
use crate::content::Content;
use crate::context::Context;
use crate::error::{Context as _, Error, Kind, Result, invalid, not_found};
use crate::images::platform::Platform;
use crate::images::walk::{self, Descriptor, Node};
use crate::labels::Labels;
use crate::metadata::{self, Images};

/// The label of images that CRI knows of.
pub const MANAGED: (&str, &str) = ("io.cri-containerd.image", "managed");
/// The label of images that are not to be collected.
pub const PINNED: (&str, &str) = ("io.cri-containerd.pinned", "pinned");
/// The longest configuration of an image that is read.
const MAX_CONFIG: u64 = 8 << 20;

/// The images; clones share them.
#[derive(Clone, Debug)]
pub struct Library {
    pub images: Images,
    content: Content,
    context: Context,
    /// What is known of a target that was looked at, by its digest, which it cannot outgrow.
    known: Arc<Mutex<HashMap<String, Arc<Details>>>>,
}

/// What an image is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// The digest of its configuration.
    pub id: String,
    /// The name of its topmost snapshot.
    pub chain: String,
    pub config: ImageConfig,
    /// The configuration as it is.
    pub raw: String,
    /// The bytes of all its blobs.
    pub size: u64,
}

/// An image and its names.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub details: Arc<Details>,
    pub names: Vec<String>,
    pub pinned: bool,
}

impl Library {
    /// Returns the images of a namespace.
    pub fn new(images: Images, content: Content, context: Context) -> Self {
        Self {
            images,
            content,
            context,
            known: Arc::default(),
        }
    }

    /// Returns all images of this machine's platform.
    pub async fn list(&self) -> Result<Vec<Found>> {
        let library = self.clone();
        blocking(move || library.scan()).await
    }

    /// Returns the image that an id, a name or the beginning of an id stands for.
    pub async fn find(&self, reference: &str) -> Result<Found> {
        if reference.is_empty() {
            return Err(invalid("image reference is empty"));
        }
        let mut images = self.list().await?;
        let name = reference::normalize(reference).ok();
        let named = |image: &Found| {
            let mut names = image.names.iter();
            names.any(|other| Some(other) == name.as_ref() || other == reference)
        };
        if let Some(at) = images.iter().position(named) {
            return Ok(images.swap_remove(at));
        }
        let id = reference.strip_prefix("sha256:").unwrap_or(reference);
        let mut of_id = images.into_iter().filter(|image| {
            let own = image.details.id.strip_prefix("sha256:");
            own.is_some_and(|own| own.starts_with(id))
        });
        match (of_id.next(), of_id.next()) {
            (Some(found), None) if reference::is_id(reference) => Ok(found),
            _ => Err(not_found("image", reference)),
        }
    }

    fn scan(&self) -> Result<Vec<Found>> {
        let mut found: BTreeMap<String, Found> = BTreeMap::new();
        for image in self.images.list::<&str>(&self.context, &[])? {
            let Ok(details) = self.details(&image) else {
                // What is for another platform, or not all there, cannot be run here.
                continue;
            };
            let pinned = image
                .labels
                .get(PINNED.0)
                .is_some_and(|value| value == PINNED.1);
            let entry = found.entry(details.id.clone()).or_insert_with(|| Found {
                details,
                names: Vec::new(),
                pinned: false,
            });
            entry.names.push(image.name);
            entry.pinned |= pinned;
        }
        Ok(found.into_values().collect())
    }

    /// Returns what the image of a record is made of.
    pub fn details(&self, image: &metadata::Image) -> Result<Arc<Details>> {
        let target = Descriptor::from(image.target.clone().unwrap_or_default());
        let known = |library: &Self| {
            let known = library.known.lock();
            let known = known.unwrap_or_else(PoisonError::into_inner);
            known.get(&target.digest).cloned()
        };
        if let Some(details) = known(self) {
            return Ok(details);
        }
        let details = Arc::new(self.read(&target)?);
        let known = self.known.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        known.insert(target.digest, details.clone());
        Ok(details)
    }

    fn read(&self, target: &Descriptor) -> Result<Details> {
        let mut size = target.size.max(0) as u64;
        let mut descriptor = target.clone();
        // An index may name another, but nobody has a reason to go deep.
        for _ in 0..4 {
            match Node::read(&self.content, &self.context, &descriptor)? {
                Some(Node::Index(index)) => {
                    let mut best = walk::select(&index, &[Platform::host()], 1)?;
                    descriptor = best.pop().ok_or_else(|| invalid("an index of nothing"))?;
                    size += descriptor.size.max(0) as u64;
                }
                Some(Node::Manifest(manifest)) => {
                    let blobs = manifest.layers.iter().chain([&manifest.config]);
                    size += blobs.map(|blob| blob.size.max(0) as u64).sum::<u64>();
                    return self.described(&manifest.config, size);
                }
                None => break,
            }
        }
        Err(Error::new(
            Kind::InvalidArgument,
            format!("{} is no image", target.digest),
        ))
    }

    fn described(&self, descriptor: &Descriptor, size: u64) -> Result<Details> {
        let digest = descriptor.digest()?;
        let raw = self.content.read_all(&self.context, &digest, MAX_CONFIG)?;
        let broken = |error| invalid(format!("decode config {digest}: {error}"));
        let config: walk::Config = serde_json::from_slice(&raw).map_err(broken)?;
        if Platform::host()
            .rank(&config.platform.normalized())
            .is_none()
        {
            return Err(invalid(format!("config {digest} is for another platform")));
        }
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Run {
            config: Option<ImageConfig>,
        }
        let run: Run = serde_json::from_slice(&raw).map_err(broken)?;
        let chain = walk::chain_ids(&config.rootfs.diff_ids);
        Ok(Details {
            id: digest.to_string(),
            chain: chain.last().cloned().unwrap_or_default(),
            config: run.config.unwrap_or_default(),
            raw: String::from_utf8_lossy(&raw).into_owned(),
            size,
        })
    }

    /// Gives an image another name.
    pub async fn name(
        &self,
        name: &str,
        target: metadata::Descriptor,
        labels: Labels,
    ) -> Result<()> {
        let image = metadata::Image {
            name: name.to_owned(),
            labels,
            target: Some(target),
            ..metadata::Image::default()
        };
        let (images, context) = (self.images.clone(), self.context.clone());
        let doing = format!("create image reference {name:?}");
        blocking(move || images.create_or_update(&context, image).map(drop))
            .await
            .context(|| doing)
    }
}

impl Found {
    /// Returns the names with a tag.
    pub fn tags(&self) -> Vec<String> {
        let names = self.names.iter();
        let tags = names.filter(|name| !name.contains('@') && !name.starts_with("sha256:"));
        tags.cloned().collect()
    }

    /// Returns the names with a digest.
    pub fn digests(&self) -> Vec<String> {
        let names = self.names.iter();
        names.filter(|name| name.contains('@')).cloned().collect()
    }

    /// Returns the image by its repository and digest, or, without one, by its id.
    pub fn image_ref(&self) -> String {
        let mut digests = self.digests();
        match digests.is_empty() {
            true => self.details.id.clone(),
            false => digests.swap_remove(0),
        }
    }

    /// Returns the image as CRI has it.
    pub fn cri(&self) -> Image {
        let user = self
            .details
            .config
            .user
            .split(':')
            .next()
            .unwrap_or_default();
        let number = user.parse::<i64>().ok();
        Image {
            id: self.details.id.clone(),
            repo_tags: self.tags(),
            repo_digests: self.digests(),
            size: self.details.size,
            uid: number.map(|value| Int64Value { value }),
            username: number.map_or(user.to_owned(), |_| String::new()),
            spec: Some(ImageSpec::default()),
            pinned: self.pinned,
        }
    }
}
