//! Pulling: from a registry to the image store, unpacked on the way.

use std::collections::VecDeque;
use std::sync::Arc;

use sys::failpoint;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::Session;
use super::remote::Remote;
use super::store::ImageStore;
use crate::error::{Context as _, Error, Kind, Result, invalid};
use crate::images::fetch::{Fetcher, Origin, Source};
use crate::images::walk::{Config, Descriptor, Manifest, Node, select};
use crate::media;
use crate::registry::Registry;

/// What an image is taken apart with.
pub(super) struct Walk {
    pub session: Session,
    pub fetcher: Fetcher,
    pub store: ImageStore,
    /// One for each layer at work.
    pub permits: Arc<Semaphore>,
}

/// A manifest or index that has still to be looked at.
struct Pending {
    descriptor: Descriptor,
    parent: Option<Descriptor>,
    /// Whether its layers are wanted, or only what describes them.
    whole: bool,
}

impl Session {
    pub(super) async fn pull(self, remote: Remote, store: ImageStore) -> Result<()> {
        let progress = self.progress.clone();
        progress.event(format!("Resolving from {remote}"));
        let registry = remote.open().await?;
        let target = registry.resolve().await;
        let target: Descriptor = target.context(|| "failed to resolve image")?.into();
        progress.event(format!("Pulling from {remote}"));
        failpoint!("transfer.pull.resolved");
        progress.about("fetching image content", &remote.reference, &target);
        let walk = self.walk(source(&registry), Some(origin(&registry)), store);
        let track = walk.fetcher.track.clone();
        let work = walk.all(&target);
        progress
            .follow(&track, "downloading", &remote.reference, work)
            .await?;
        failpoint!("transfer.pull.brought");
        let kept = walk.keep(&target).await?;
        failpoint!("transfer.pull.kept");
        for name in kept {
            progress.about("saved", &name, &target);
        }
        progress.event(format!("Completed pull from {remote}"));
        Ok(())
    }

    /// Returns what takes apart images whose blobs come from `source`.
    pub(super) fn walk(&self, source: Source, origin: Option<Origin>, store: ImageStore) -> Walk {
        let fetcher = Fetcher {
            content: self.parts.content.clone(),
            context: self.context.clone(),
            source,
            origin,
            locks: self.parts.locks.clone(),
            track: self.track(),
            work: self.work.clone(),
        };
        Walk {
            session: self.clone(),
            fetcher,
            store,
            permits: Arc::new(Semaphore::new(self.parts.config.downloads)),
        }
    }
}

impl Walk {
    /// Brings all that is wanted of what `root` stands for.
    pub async fn all(&self, root: &Descriptor) -> Result<()> {
        self.from(VecDeque::from([Pending {
            descriptor: root.clone(),
            parent: None,
            whole: true,
        }]))
        .await
    }

    /// Takes in the images of an archive, of which there may be many for one platform, and returns those it took.
    pub async fn archive(&self, root: &Descriptor) -> Result<Vec<Descriptor>> {
        let job = self.fetcher.track.job(root, None);
        let Some(Node::Index(index)) = self.fetcher.node(root, &job).await? else {
            return Err(invalid("the archive has no index"));
        };
        let platforms = &self.store.platforms;
        let wanted = |image: &Descriptor| match &image.platform {
            Some(image) if !platforms.is_empty() => {
                platforms.iter().any(|wanted| wanted.rank(image).is_some())
            }
            _ => true,
        };
        let images: Vec<_> = index.manifests.into_iter().filter(wanted).collect();
        if images.is_empty() {
            let message = "no match for platform in the archive's index";
            return Err(Error::new(Kind::NotFound, message));
        }
        let pending = images.iter().map(|image| Pending {
            descriptor: image.clone(),
            parent: Some(root.clone()),
            whole: true,
        });
        self.from(pending.collect()).await?;
        Ok(images)
    }

    async fn from(&self, mut pending: VecDeque<Pending>) -> Result<()> {
        while let Some(next) = pending.pop_front() {
            let Pending {
                descriptor,
                parent,
                whole,
            } = next;
            let track = &self.fetcher.track;
            let job = track.job(&descriptor, parent.as_ref());
            let children = match self.fetcher.node(&descriptor, &job).await? {
                Some(Node::Index(index)) => {
                    let wanted = select(&index, &self.store.platforms, self.store.limit)?;
                    let others = index.manifests.into_iter();
                    let others =
                        others.filter(|child| self.store.all_metadata && !wanted.contains(child));
                    let others: Vec<_> = others.map(|child| (child, false)).collect();
                    let wanted = wanted.into_iter().map(|child| (child, whole));
                    wanted.chain(others).collect()
                }
                Some(Node::Manifest(manifest)) => {
                    self.manifest(&descriptor, &manifest, whole).await?;
                    Vec::new()
                }
                None => {
                    self.fetcher.blob(&descriptor, &job).await?;
                    Vec::new()
                }
            };
            pending.extend(children.into_iter().map(|(child, whole)| Pending {
                descriptor: child,
                parent: Some(descriptor.clone()),
                whole,
            }));
        }
        Ok(())
    }

    /// Brings what a manifest refers to, and unpacks it if that was asked for.
    async fn manifest(
        &self,
        descriptor: &Descriptor,
        manifest: &Manifest,
        whole: bool,
    ) -> Result<()> {
        let job = self.fetcher.track.job(&manifest.config, Some(descriptor));
        if !media::is_config(&manifest.config.media_type) {
            self.fetcher.blob(&manifest.config, &job).await?;
            return match whole {
                true => self.layers(descriptor, manifest).await,
                false => Ok(()),
            };
        }
        let config = self.fetcher.config(&manifest.config, &job).await?;
        if !whole {
            return Ok(());
        }
        let config: Config = serde_json::from_slice(&config).map_err(|error| {
            invalid(format!("decode config {}: {error}", manifest.config.digest))
        })?;
        let mut unpacks = self.store.unpacks.iter();
        match unpacks.find(|unpack| unpack.platform.rank(&config.platform).is_some()) {
            Some(unpack) => {
                let unpacker =
                    self.session
                        .unpacker(&self.fetcher, &unpack.snapshotter, &self.permits);
                unpacker.image(descriptor, manifest, &config).await?;
                Ok(())
            }
            None => self.layers(descriptor, manifest).await,
        }
    }

    /// Brings layers that are not unpacked.
    async fn layers(&self, descriptor: &Descriptor, manifest: &Manifest) -> Result<()> {
        let mut tasks = JoinSet::new();
        for layer in &manifest.layers {
            let job = self.fetcher.track.job(layer, Some(descriptor));
            let (fetcher, layer) = (self.fetcher.clone(), layer.clone());
            let permits = self.permits.clone();
            let fetch = async move {
                let _permit = permits.acquire_owned().await;
                fetcher.blob(&layer, &job).await
            };
            tasks.spawn(fetch.in_current_span());
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap_or_else(|error| {
                let message = format!("a task ended early: {error}");
                Err(Error::new(Kind::Internal, message))
            })?;
        }
        Ok(())
    }

    /// Gives what was brought its names and returns them.
    async fn keep(&self, target: &Descriptor) -> Result<Vec<String>> {
        let (store, target) = (self.store.clone(), target.clone());
        let keep = self.session.blocking(move |session| {
            let images = &session.parts.images;
            store.keep(images, &session.context, &target)
        });
        let kept = keep.await?.into_iter();
        Ok(kept.map(|image| image.name).collect())
    }
}

/// Returns what fetches from a registry.
fn source(registry: &Registry) -> Source {
    let registry = Arc::new(registry.clone());
    Arc::new(move |descriptor, offset, sink| {
        let registry = registry.clone();
        Box::pin(async move {
            let record = descriptor.record();
            registry
                .fetch(&record, &descriptor.urls, offset, &sink)
                .await
        })
    })
}

fn origin(registry: &Registry) -> Origin {
    Origin {
        host: registry.reference.hostname().to_owned(),
        repository: registry.reference.repository.clone(),
    }
}
