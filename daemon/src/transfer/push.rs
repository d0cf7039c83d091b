//! Pushing: from the image store to a registry, what is referred to before what refers to it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tracing::Instrument;

use super::Session;
use super::remote::Remote;
use super::store::ImageStore;
use crate::error::{Context as _, Error, Kind, Result};
use crate::images::fetch::known_from;
use crate::images::track::{Job, Stage, Track};
use crate::images::walk::{Descriptor, Node, select};
use crate::media;
use crate::registry::Registry;
use crate::registry::push::Pushed;
use crate::registry::resolver::MAX_MANIFEST;

/// What is read of a blob at a time, and how many such pieces wait to be sent.
const CHUNK: usize = 256 << 10;
const WAITING: usize = 8;

/// A push that goes on.
#[derive(Clone)]
struct Push {
    session: Session,
    registry: Arc<Registry>,
    track: Track,
    permits: Arc<Semaphore>,
}

/// What an image consists of.
#[derive(Default)]
struct Contents {
    blobs: Vec<Arc<Job>>,
    /// Each after what refers to it.
    manifests: Vec<Arc<Job>>,
}

impl Session {
    pub(super) async fn push(self, store: ImageStore, remote: Remote) -> Result<()> {
        let progress = self.progress.clone();
        let named = store.clone();
        let image = self
            .blocking(move |session| named.get(&session.parts.images, &session.context))
            .await?;
        let target: Descriptor = image.target.unwrap_or_default().into();
        progress.event(format!("Pushing to {remote}"));
        progress.about("pushing content", &image.name, &target);
        let push = Push {
            registry: Arc::new(remote.open().await?),
            track: self.track(),
            permits: Arc::new(Semaphore::new(self.parts.config.uploads)),
            session: self,
        };
        let track = push.track.clone();
        let work = push.all(&target, &store);
        progress
            .follow(&track, "uploading", &image.name, work)
            .await?;
        progress.about("pushed content", &image.name, &target);
        progress.about(&format!("Completed push to {remote}"), "", &target);
        Ok(())
    }
}

impl Push {
    async fn all(&self, root: &Descriptor, store: &ImageStore) -> Result<()> {
        let (push, target, store) = (self.clone(), root.clone(), store.clone());
        let contents = self
            .session
            .blocking(move |_| push.contents(&target, &store))
            .await?;
        let mut tasks = JoinSet::new();
        for job in contents.blobs {
            let push = self.clone();
            let blob = async move { push.blob(&job).await };
            tasks.spawn(blob.in_current_span());
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap_or_else(|error| {
                let message = format!("a task ended early: {error}");
                Err(Error::new(Kind::Internal, message))
            })?;
        }
        for job in contents.manifests.iter().rev() {
            self.manifest(job, job.descriptor.digest == root.digest)
                .await?;
        }
        Ok(())
    }

    /// Returns what is to be pushed of the image that `root` stands for.
    fn contents(&self, root: &Descriptor, store: &ImageStore) -> Result<Contents> {
        let (content, context) = (&self.session.parts.content, &self.session.context);
        let mut contents = Contents::default();
        let mut pending = vec![(root.clone(), None)];
        while let Some((descriptor, parent)) = pending.pop() {
            let job = self.track.job(&descriptor, parent.as_ref());
            let children = match Node::read(content, context, &descriptor)? {
                None => {
                    let absent = content.info(context, &descriptor.digest()?).is_err();
                    // A layer that has to come from where it was published is nobody else's to push.
                    if !(media::is_foreign(&descriptor.media_type) && absent) {
                        contents.blobs.push(job);
                    }
                    continue;
                }
                Some(Node::Index(index)) => select(&index, &store.platforms, store.limit)?,
                Some(node) => node.children().into_iter().cloned().collect(),
            };
            contents.manifests.push(job);
            let children = children.into_iter();
            pending.extend(children.map(|child| (child, Some(descriptor.clone()))));
        }
        Ok(contents)
    }

    async fn blob(&self, job: &Arc<Job>) -> Result<()> {
        let permit = self.permits.acquire().await;
        let _permit = permit.map_err(|_| Error::new(Kind::Unavailable, "the daemon shuts down"))?;
        let elsewhere = self.elsewhere(&job.descriptor).await?;
        let bytes = || {
            job.set(Stage::Moving(0));
            self.read(job.clone())
        };
        let record = job.descriptor.record();
        let pushed = self.registry.push_blob(&record, &elsewhere, &bytes).await?;
        job.set(done(pushed));
        Ok(())
    }

    async fn manifest(&self, job: &Arc<Job>, tagged: bool) -> Result<()> {
        job.set(Stage::Moving(0));
        let digest = job.descriptor.digest()?;
        let bytes = self.session.blocking(move |session| {
            let content = &session.parts.content;
            content.read_all(&session.context, &digest, MAX_MANIFEST)
        });
        let (bytes, record) = (bytes.await?, job.descriptor.record());
        let pushed = self.registry.push_manifest(&record, tagged, bytes).await?;
        job.set(done(pushed));
        Ok(())
    }

    /// Returns the repositories of the registry that the blob was seen in, those most like this one first.
    async fn elsewhere(&self, descriptor: &Descriptor) -> Result<Vec<String>> {
        let digest = descriptor.digest()?;
        let info = self.session.blocking(move |session| {
            let content = &session.parts.content;
            content.info(&session.context, &digest)
        });
        let info = info.await?;
        let own = &self.registry.reference;
        let known = known_from(&info.labels, own.hostname());
        let known = known.filter(|name| *name != own.repository);
        let mut known: Vec<String> = known.map(str::to_owned).collect();
        let alike = |name: &String| {
            let pairs = name.split('/').zip(own.repository.split('/'));
            pairs.take_while(|(one, other)| one == other).count()
        };
        known.sort_by_key(|name| std::cmp::Reverse(alike(name)));
        known.truncate(2);
        Ok(known)
    }

    /// Reads a blob of the content store, piece by piece.
    fn read(&self, job: Arc<Job>) -> mpsc::Receiver<Result<Bytes>> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let session = self.session.clone();
        let read = async move {
            let work = session.blocking(move |session| {
                let content = &session.parts.content;
                let reader = content.reader(&session.context, &job.descriptor.digest()?)?;
                let mut offset = 0;
                while offset < reader.size() {
                    let size = (reader.size() - offset).min(CHUNK as u64);
                    let mut chunk = vec![0; size as usize];
                    let count = reader.read_at(&mut chunk, offset)?;
                    if (count as u64) < size {
                        let message = format!("content {} is cut short", job.descriptor.digest);
                        let _ = sender.blocking_send(Err(Error::new(Kind::DataLoss, message)));
                        return Ok(());
                    }
                    offset += size;
                    job.moved(size);
                    if sender.blocking_send(Ok(chunk.into())).is_err() {
                        return Ok(());
                    }
                }
                Ok(())
            });
            if let Err(error) = work.await.context(|| "read blob") {
                tracing::warn!("{error:#}");
            }
        };
        tokio::spawn(read.in_current_span());
        receiver
    }
}

fn done(pushed: Pushed) -> Stage {
    match pushed {
        Pushed::Existed => Stage::Exists,
        Pushed::Mounted | Pushed::Sent => Stage::Complete,
    }
}
