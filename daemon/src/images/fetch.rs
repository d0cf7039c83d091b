//! Bringing blobs into the content store: each byte is read from its source once, hashed and written as it comes, and
//! handed on to whoever unpacks it at the same time.
//!
//! ```text
//!  source ──Bytes──▶ ingest thread: write, sha256 ──the same Bytes──▶ Feeder (see `diff::pipeline`)
//!                        └─ at the end: size and digest checked, fdatasync, rename, record
//! ```

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::locks::{Held, Locks};
use super::track::{Job, Stage, Track};
use super::walk::{Descriptor, Node};
use super::work::Work;
use crate::content::{Content, Digest, Writer, WriterOptions};
use crate::context::Context;
use crate::diff::pipeline::Feeder;
use crate::error::{Context as _, Error, Kind, Result, precondition};
use crate::labels::Labels;
use crate::registry::resolver::MAX_MANIFEST;

/// As many chunks wait between the network and the disk.
const WAITING: usize = 32;
/// What is read of an interrupted ingest at a time.
const CHUNK: usize = 256 << 10;
/// The longest configuration of an image that is read.
const MAX_CONFIG: u64 = 8 << 20;
/// How long a reference that another writer has is left alone before it is asked for again.
const BUSY: Duration = Duration::from_millis(100);
/// Where a blob was pulled from: the label's key ends in the host, its value lists repositories there.
const ORIGIN: &str = "containerd.io/distribution.source.";

/// Sends the bytes of a blob from an offset on.
pub type Source = Arc<
    dyn Fn(Descriptor, u64, mpsc::Sender<Bytes>) -> BoxFuture<'static, Result<()>> + Send + Sync,
>;

/// Where blobs come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub host: String,
    pub repository: String,
}

/// Brings the blobs of one image; clones share everything.
#[derive(Clone)]
pub struct Fetcher {
    pub content: Content,
    /// It has the lease that holds what is brought.
    pub context: Context,
    pub source: Source,
    pub origin: Option<Origin>,
    pub locks: Locks,
    pub track: Track,
    pub work: Work,
}

impl Fetcher {
    /// Waits until nobody else brings the blob.
    pub async fn lock(&self, descriptor: &Descriptor) -> Held {
        let name = format!("blob {} {}", self.context.namespace(), descriptor.digest);
        self.locks.lock(&name).await
    }

    /// Brings a manifest or an index with the labels that keep what it refers to; nothing if it is of another type.
    pub async fn node(&self, descriptor: &Descriptor, job: &Arc<Job>) -> Result<Option<Node>> {
        Node::parse_type(&descriptor.media_type)?;
        if u64::try_from(descriptor.size).is_ok_and(|size| size > MAX_MANIFEST) {
            let message = format!(
                "manifest {} has {} bytes, {MAX_MANIFEST} are allowed",
                descriptor.digest, descriptor.size
            );
            return Err(Error::new(Kind::ResourceExhausted, message));
        }
        let _held = self.lock(descriptor).await;
        let digest = descriptor.digest()?;
        let known = {
            let (content, context, digest) =
                (self.content.clone(), self.context.clone(), digest.clone());
            self.work
                .run(move || match content.info(&context, &digest) {
                    Ok(_) => content.read_all(&context, &digest, MAX_MANIFEST).map(Some),
                    Err(error) if error.kind() == Kind::NotFound => Ok(None),
                    Err(error) => Err(error),
                })
                .await?
        };
        let exists = known.is_some();
        let bytes = match known {
            Some(bytes) => bytes,
            None => {
                job.set(Stage::Moving(0));
                self.bytes(descriptor).await?
            }
        };
        let node = Node::parse(&descriptor.media_type, &bytes)
            .context(|| format!("manifest {}", descriptor.digest))?;
        let labels = node.as_ref().map(Node::labels).unwrap_or_default();
        let (fetcher, reference) = (self.clone(), descriptor.reference());
        self.work
            .run(move || {
                let (content, context) = (&fetcher.content, &fetcher.context);
                let mut all = fetcher.origin_labels(&digest);
                all.extend(labels);
                // Where it is there already, this makes the lease hold it.
                content.put(context, &reference, &bytes, Some(&digest), all.clone())?;
                label(content, context, &digest, all)
            })
            .await?;
        job.set(if exists {
            Stage::Exists
        } else {
            Stage::Complete
        });
        Ok(node)
    }

    /// Returns the bytes that a descriptor stands for, from its source.
    async fn bytes(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let (sink, mut received) = mpsc::channel::<Bytes>(WAITING);
        let fetch = (self.source)(descriptor.clone(), 0, sink);
        let collect = async move {
            let mut bytes = Vec::new();
            while bytes.len() as u64 <= MAX_MANIFEST
                && let Some(chunk) = received.recv().await
            {
                bytes.extend_from_slice(&chunk);
            }
            bytes
        };
        let (fetched, bytes) = tokio::join!(fetch, collect);
        if bytes.len() as u64 > MAX_MANIFEST {
            let message = format!(
                "manifest {} has more than {MAX_MANIFEST} bytes",
                descriptor.digest
            );
            return Err(Error::new(Kind::ResourceExhausted, message));
        }
        fetched?;
        if bytes.len() as i64 != descriptor.size {
            return Err(precondition(format!(
                "{} failed size validation: {} != {}",
                descriptor.digest,
                bytes.len(),
                descriptor.size
            )));
        }
        verify(&descriptor.digest()?, &bytes)?;
        Ok(bytes)
    }

    /// Brings a configuration and returns it.
    pub async fn config(&self, descriptor: &Descriptor, job: &Arc<Job>) -> Result<Vec<u8>> {
        if u64::try_from(descriptor.size).is_ok_and(|size| size > MAX_CONFIG) {
            let message = format!(
                "config {} has {} bytes, {MAX_CONFIG} are allowed",
                descriptor.digest, descriptor.size
            );
            return Err(Error::new(Kind::ResourceExhausted, message));
        }
        self.blob(descriptor, job).await?;
        let (content, context) = (self.content.clone(), self.context.clone());
        let digest = descriptor.digest()?;
        self.work
            .run(move || content.read_all(&context, &digest, MAX_CONFIG))
            .await
    }

    /// Brings a blob, if it is not there.
    pub async fn blob(&self, descriptor: &Descriptor, job: &Arc<Job>) -> Result<()> {
        let _held = self.lock(descriptor).await;
        match self.open(descriptor).await? {
            None => job.set(Stage::Exists),
            Some(writer) => self.fill(descriptor, writer, job, None).await?,
        }
        Ok(())
    }

    /// Opens a writer for a blob, or returns nothing, having leased and labelled the blob, if it is there.
    pub async fn open(&self, descriptor: &Descriptor) -> Result<Option<Writer>> {
        let digest = descriptor.digest()?;
        loop {
            let (fetcher, digest) = (self.clone(), digest.clone());
            let options = options(descriptor, &digest);
            let opened = self
                .work
                .run(
                    move || match fetcher.content.writer(&fetcher.context, options) {
                        Ok(writer) => Ok(Some(Some(writer))),
                        Err(error) if error.kind() == Kind::AlreadyExists => {
                            let labels = fetcher.origin_labels(&digest);
                            label(&fetcher.content, &fetcher.context, &digest, labels)?;
                            Ok(Some(None))
                        }
                        // A client is writing it by itself.
                        Err(error) if error.kind() == Kind::Unavailable => Ok(None),
                        Err(error) => Err(error),
                    },
                )
                .await?;
            match opened {
                Some(opened) => return Ok(opened),
                None => tokio::time::sleep(BUSY).await,
            }
        }
    }

    /// Fetches what `writer` lacks of a blob and commits it; all bytes go to `feed` too.
    ///
    /// What broke off is kept for a later try; what turned out to be something else than it should is not.
    pub async fn fill(
        &self,
        descriptor: &Descriptor,
        writer: Writer,
        job: &Arc<Job>,
        feed: Option<Feeder>,
    ) -> Result<()> {
        let size = descriptor.size.max(0);
        let offset = writer.status().offset;
        job.set(Stage::Moving(offset as u64));
        if offset > size {
            drop(writer);
            self.abort(descriptor).await;
            let message = format!("an earlier try has {offset} of {size} bytes");
            return Err(precondition(message)).context(|| format!("fetch {}", descriptor.digest));
        }
        let (sink, received) = mpsc::channel::<Bytes>(WAITING);
        let fetch = async {
            match offset < size {
                true => (self.source)(descriptor.clone(), offset as u64, sink).await,
                false => {
                    drop(sink);
                    Ok(())
                }
            }
        };
        let counted = job.clone();
        let ingest = self.work.run(move || {
            let mut ingest = Ingest { writer, feed };
            ingest.run(received, size, &counted)?;
            Ok(ingest.writer)
        });
        let (fetched, ingested) = tokio::join!(fetch, ingest);
        let done = match (fetched, ingested) {
            (_, Err(error)) => Err(error),
            (Err(error), Ok(writer)) => {
                drop(writer);
                Err(error)
            }
            (Ok(()), Ok(writer)) => self.commit(descriptor, writer).await,
        };
        match done {
            Ok(()) => job.set(Stage::Complete),
            Err(error) => {
                let wrong = matches!(error.kind(), Kind::FailedPrecondition | Kind::DataLoss);
                match wrong {
                    true => self.abort(descriptor).await,
                    false => self.keep(descriptor).await,
                }
                return Err(error);
            }
        }
        Ok(())
    }

    async fn commit(&self, descriptor: &Descriptor, writer: Writer) -> Result<()> {
        let (fetcher, digest) = (self.clone(), descriptor.digest()?);
        let size = descriptor.size;
        self.work
            .run(move || {
                let labels = fetcher.origin_labels(&digest);
                match writer.commit(size, Some(&digest), labels) {
                    Err(error) if error.kind() != Kind::AlreadyExists => Err(error),
                    _ => Ok(()),
                }
            })
            .await
    }

    async fn abort(&self, descriptor: &Descriptor) {
        let (fetcher, reference) = (self.clone(), descriptor.reference());
        let aborted = self
            .work
            .run(move || fetcher.content.abort(&fetcher.context, &reference));
        if let Err(error) = aborted.await {
            tracing::warn!("abort ingest of {}: {error:#}", descriptor.digest);
        }
    }

    /// Keeps an ingest beyond the lease, so that another try can resume it.
    async fn keep(&self, descriptor: &Descriptor) {
        let Ok(digest) = descriptor.digest() else {
            return;
        };
        let options = options(descriptor, &digest);
        let content = self.content.clone();
        let namespace = self.context.namespace().to_owned();
        let kept = self.work.run(move || {
            let context = Context::new(namespace)?;
            content.writer(&context, options).map(drop)
        });
        if let Err(error) = kept.await {
            tracing::debug!("keep ingest of {}: {error:#}", descriptor.digest);
        }
    }

    /// Returns the label that says where the blob is from, with the repositories that it is known from already.
    fn origin_labels(&self, digest: &Digest) -> Labels {
        let Some(origin) = &self.origin else {
            return Labels::new();
        };
        let key = format!("{ORIGIN}{}", origin.host);
        let known = self.content.info(&self.context, digest).ok();
        let known = known.and_then(|info| info.labels.get(&key).cloned());
        let known = known.unwrap_or_default();
        let mut all: Vec<&str> = known.split(',').filter(|name| !name.is_empty()).collect();
        all.push(&origin.repository);
        all.sort_unstable();
        all.dedup();
        let all = all.join(",");
        // A label has an end; what is known already is then worth more.
        match key.len() + all.len() > 4096 {
            true => Labels::new(),
            false => Labels::from([(key, all)]),
        }
    }
}

/// Returns the repositories of `host` that a blob with these labels is known from.
pub fn known_from<'a>(labels: &'a Labels, host: &str) -> impl Iterator<Item = &'a str> {
    let known = labels.get(&format!("{ORIGIN}{host}"));
    let known = known.map_or("", String::as_str).split(',');
    known.filter(|name| !name.is_empty())
}

/// Sets those of `labels` that a blob has otherwise or not at all.
pub fn label(content: &Content, context: &Context, digest: &Digest, labels: Labels) -> Result<()> {
    let known = content.info(context, digest)?.labels;
    let differs = labels
        .iter()
        .filter(|(key, value)| known.get(*key) != Some(value));
    let paths: Vec<String> = differs.map(|(key, _)| format!("labels.{key}")).collect();
    if paths.is_empty() {
        return Ok(());
    }
    content.update(context, digest, labels, paths).map(drop)
}

/// Fails unless `bytes` have the digest.
pub fn verify(digest: &Digest, bytes: &[u8]) -> Result<()> {
    let mut hasher = crate::content::Hasher::new(digest.algorithm());
    hasher.update(bytes);
    let found = hasher.finish();
    if found == *digest {
        return Ok(());
    }
    Err(precondition(format!(
        "unexpected commit digest {found}, expected {digest}"
    )))
}

fn options(descriptor: &Descriptor, digest: &Digest) -> WriterOptions {
    WriterOptions {
        reference: descriptor.reference(),
        total: descriptor.size.max(0),
        expected: Some(digest.clone()),
    }
}

/// A blob that is being written.
struct Ingest {
    writer: Writer,
    feed: Option<Feeder>,
}

impl Ingest {
    /// Writes what comes until no more comes, and says on the feed that it is all if it is.
    fn run(&mut self, mut received: mpsc::Receiver<Bytes>, size: i64, job: &Job) -> Result<()> {
        self.feed_written()?;
        while let Some(bytes) = received.blocking_recv() {
            self.writer.write(&bytes)?;
            job.moved(bytes.len() as u64);
            self.hand_on(Some(bytes));
        }
        if self.writer.status().offset == size {
            self.hand_on(None);
        }
        Ok(())
    }

    /// Hands on what an earlier try has written.
    fn feed_written(&mut self) -> Result<()> {
        if self.feed.is_none() || self.writer.status().offset == 0 {
            return Ok(());
        }
        let mut written = self.writer.written()?;
        loop {
            let mut chunk = vec![0; CHUNK];
            let count = written
                .read(&mut chunk)
                .context(|| "read what was written before")?;
            if count == 0 {
                return Ok(());
            }
            chunk.truncate(count);
            self.hand_on(Some(chunk.into()));
        }
    }

    /// That nobody unpacks any more is for the unpacker to tell: the blob is still wanted.
    fn hand_on(&mut self, bytes: Option<Bytes>) {
        if let Some(feed) = &self.feed
            && feed.blocking_send(bytes).is_err()
        {
            self.feed = None;
        }
    }
}
