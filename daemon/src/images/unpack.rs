//! Unpacking an image: a snapshot for each layer, all layers at the same time, each while it comes in.
//!
//! ```text
//!           ┌ layer 0: prepare ─ fetch ┬ ingest ─ commit blob ┐
//!           │                          └ inflate ─ apply ─────┴─ commit snapshot
//!  image ───┤ layer 1: prepare ─ fetch ┬ ...                                 │ parent
//!           │                          └ ...                  ┬─ wait ─▶ commit snapshot
//!           └ layer 2: ...
//! ```
//!
//! A layer is prepared without a parent and gets it when it is committed, so none waits for those below before that.
//! Snapshotters that cannot do so unpack one layer upon the other, from the content store, while later layers come in.
//!
//! What is on disk when a pull is acknowledged, as with containerd's defaults: every blob (its data before it gets its
//! name, and the name), and every record of blobs, snapshots and images. The files of a snapshot are written but not
//! synced: after a power failure they may be lost although the snapshot's record is there. `Diff.Apply` with
//! `sync_fs` does sync them.
//!
//! A snapshot that does not become whole is removed by whoever gives up on it, even if nobody waits any more.

use std::io::BufReader;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use sys::failpoint;
use sys::mount::Mount;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tracing::Instrument;

use super::fetch::{Fetcher, label};
use super::track::{Job, Stage};
use super::walk::{Config, Descriptor, Manifest, chain_ids};
use super::work::Work;
use crate::content::Digest;
use crate::context::Context;
use crate::diff::UNCOMPRESSED;
use crate::diff::pipeline::{self, Feed, Unpacked};
use crate::diff::target::{self, Target};
use crate::diff::{Diff, codec, tree};
use crate::error::{Context as _, Error, Kind, Result, invalid, precondition};
use crate::labels::{Labels, SNAPSHOT_REF};
use crate::snapshots::Snapshots;
use crate::time;

/// How much of a blob is read at a time.
const BUFFER: usize = 256 << 10;

/// Unpacks the layers of an image; clones share everything.
#[derive(Clone)]
pub struct Unpacker {
    pub fetcher: Fetcher,
    pub diff: Diff,
    pub snapshots: Snapshots,
    pub snapshotter: String,
    /// One for each layer that is being fetched or unpacked.
    pub permits: Arc<Semaphore>,
}

/// A layer and its place.
#[derive(Clone)]
struct Layer {
    descriptor: Descriptor,
    job: Arc<Job>,
    diff_id: String,
    chain: String,
    /// The chain below, empty for the lowest layer.
    parent: String,
}

/// Tells that the layer below is committed; that it is gone means that it never will be.
type Below = oneshot::Receiver<()>;

/// A layer whose files are in a snapshot that has no parent yet.
struct Extracted {
    extraction: Extraction,
    target: Target,
    implied: Vec<(PathBuf, u64)>,
}

impl Unpacker {
    /// Unpacks the image of a manifest, whose configuration is `config`, and returns the name of its topmost snapshot.
    pub async fn image(
        &self,
        descriptor: &Descriptor,
        manifest: &Manifest,
        config: &Config,
    ) -> Result<String> {
        let diff_ids = &config.rootfs.diff_ids;
        if manifest.layers.len() != diff_ids.len() {
            return Err(invalid(format!(
                "number of layers and diffIDs don't match: {} != {}",
                manifest.layers.len(),
                diff_ids.len()
            )));
        }
        for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
            codec::encoding(&layer.media_type)?;
            Digest::parse(diff_id).context(|| format!("diff id {diff_id:?}"))?;
        }
        let chain = chain_ids(diff_ids);
        let streamed = self.snapshots.rebases(&self.snapshotter)?;
        let mut tasks = JoinSet::new();
        let mut below: Option<Below> = None;
        for (at, blob) in manifest.layers.iter().enumerate() {
            let layer = Layer {
                descriptor: blob.clone(),
                job: self.fetcher.track.job(blob, Some(descriptor)),
                diff_id: diff_ids[at].clone(),
                chain: chain[at].clone(),
                parent: at
                    .checked_sub(1)
                    .map(|at| chain[at].clone())
                    .unwrap_or_default(),
            };
            let (done, next) = oneshot::channel();
            let (unpacker, below) = (self.clone(), below.replace(next));
            let digest = blob.digest.clone();
            let unpack = async move {
                match streamed {
                    true => unpacker.streamed(&layer, below).await,
                    false => unpacker.in_turn(&layer, below).await,
                }
                .context(|| format!("unpack layer {digest}"))?;
                let _ = done.send(());
                Ok(())
            };
            tasks.spawn(unpack.in_current_span());
        }
        first_failure(tasks).await?;
        let top = chain.last().cloned().unwrap_or_default();
        failpoint!("images.unpack.committed");
        if !top.is_empty() {
            let key = format!("containerd.io/gc.ref.snapshot.{}", self.snapshotter);
            self.label(&manifest.config, [(key, top.clone())].into())
                .await?;
        }
        Ok(top)
    }

    async fn label(&self, descriptor: &Descriptor, labels: Labels) -> Result<()> {
        let (fetcher, digest) = (self.fetcher.clone(), descriptor.digest()?);
        let work = &self.fetcher.work;
        work.run(move || label(&fetcher.content, &fetcher.context, &digest, labels))
            .await
    }

    /// Unpacks a layer while it comes in, and commits it when the layer below is committed.
    async fn streamed(&self, layer: &Layer, below: Option<Below>) -> Result<()> {
        let _turn = self.turn(layer).await;
        let Some((extraction, mounts)) = self.prepare(layer, "").await? else {
            layer.job.set(Stage::Exists);
            return Ok(());
        };
        let unpacked = {
            let _held = self.fetcher.lock(&layer.descriptor).await;
            let _permit = self.permit().await?;
            self.bring(layer, extraction, mounts).await?
        };
        wait_for(below).await?;
        let done = match unpacked {
            Some(extracted) => self.complete_and_commit(layer, extracted).await?,
            None => false,
        };
        // The layer needs what is below it, which is rare: it is applied anew, where that is to be seen.
        if !done && let Some((extraction, mounts)) = self.prepare(layer, &layer.parent).await? {
            self.apply(layer, extraction, mounts).await?;
        }
        self.finish(layer).await
    }

    /// Fetches a layer and, when the layer below is committed, unpacks it upon that.
    async fn in_turn(&self, layer: &Layer, below: Option<Below>) -> Result<()> {
        let _turn = self.turn(layer).await;
        if self.exists(layer).await? {
            layer.job.set(Stage::Exists);
            return Ok(());
        }
        {
            let _permit = self.permit().await?;
            self.fetcher.blob(&layer.descriptor, &layer.job).await?;
        }
        wait_for(below).await?;
        if let Some((extraction, mounts)) = self.prepare(layer, &layer.parent).await? {
            self.apply(layer, extraction, mounts).await?;
        }
        self.finish(layer).await
    }

    async fn turn(&self, layer: &Layer) -> super::locks::Held {
        let namespace = self.fetcher.context.namespace();
        let name = format!("snapshot {namespace} {} {}", self.snapshotter, layer.chain);
        self.fetcher.locks.lock(&name).await
    }

    async fn permit(&self) -> Result<tokio::sync::OwnedSemaphorePermit> {
        let permit = self.permits.clone().acquire_owned().await;
        permit.map_err(|_| Error::new(Kind::Unavailable, "the daemon shuts down"))
    }

    /// Returns whether the layer's snapshot is there; if so, the lease holds it.
    async fn exists(&self, layer: &Layer) -> Result<bool> {
        // Only preparing leases what is there; an empty snapshot that it makes otherwise is gone at once.
        let prepared = self.prepare(layer, "").await?;
        let work = &self.fetcher.work;
        work.run(move || Ok(prepared.is_none())).await
    }

    /// Prepares a snapshot to unpack to, or returns nothing if there is one of the layer already.
    async fn prepare(
        &self,
        layer: &Layer,
        parent: &str,
    ) -> Result<Option<(Extraction, Vec<Mount>)>> {
        let (unpacker, chain, parent) = (self.clone(), layer.chain.clone(), parent.to_owned());
        let work = &self.fetcher.work;
        work.run(move || {
            let extraction = Extraction {
                snapshots: unpacker.snapshots.clone(),
                context: unpacker.fetcher.context.clone(),
                snapshotter: unpacker.snapshotter.clone(),
                key: format!("extract-{} {chain}", time::unique()),
                _work: unpacker.fetcher.work.clone(),
            };
            let labels = Labels::from([(SNAPSHOT_REF.to_owned(), chain)]);
            let (context, sn, key) = (
                &extraction.context,
                &extraction.snapshotter,
                &extraction.key,
            );
            match unpacker
                .snapshots
                .prepare(context, sn, key, &parent, labels)
            {
                Ok(mounts) => Ok(Some((extraction, mounts))),
                Err(error) => {
                    let exists = error.kind() == Kind::AlreadyExists;
                    extraction.forget();
                    match exists {
                        true => Ok(None),
                        false => Err(error),
                    }
                }
            }
        })
        .await
    }

    /// Brings a layer's blob and unpacks it at the same time; nothing comes back if that needs what is below it.
    async fn bring(
        &self,
        layer: &Layer,
        extraction: Extraction,
        mounts: Vec<Mount>,
    ) -> Result<Option<Extracted>> {
        let fetcher = &self.fetcher;
        let lowest = layer.parent.is_empty();
        let Some(writer) = fetcher.open(&layer.descriptor).await? else {
            layer.job.set(Stage::Exists);
            let (unpacker, layer) = (self.clone(), layer.clone());
            return fetcher
                .work
                .run(move || {
                    let digest = layer.descriptor.digest()?;
                    let (content, context) = (&unpacker.fetcher.content, &unpacker.fetcher.context);
                    let file = content.reader(context, &digest)?.into_file();
                    let input = BufReader::with_capacity(BUFFER, file);
                    extract(&layer, extraction, &mounts, input)
                })
                .await;
        };
        let (feeder, feed) = Feed::new();
        let unpacked = fetcher.work.run({
            let layer = layer.clone();
            move || extract(&layer, extraction, &mounts, feed)
        });
        let fetched = fetcher.fill(&layer.descriptor, writer, &layer.job, Some(feeder));
        let (fetched, unpacked) = tokio::join!(fetched, unpacked);
        // Bytes that are not those that were asked for explain every failure to unpack them.
        fetched?;
        let unpacked = unpacked?;
        debug_assert!(unpacked.is_some() || !lowest);
        Ok(unpacked)
    }

    /// Commits a layer upon the one below it, or returns `false`, having removed it, if it does not fit there.
    async fn complete_and_commit(&self, layer: &Layer, extracted: Extracted) -> Result<bool> {
        let (unpacker, layer) = (self.clone(), layer.clone());
        let work = &self.fetcher.work;
        work.run(move || {
            let Extracted {
                extraction,
                target,
                implied,
            } = extracted;
            let fits = implied.is_empty()
                || layer.parent.is_empty()
                || unpacker.complete(&layer, &target, &implied)?;
            target.close()?;
            failpoint!("images.unpack.whole");
            if fits {
                extraction.commit(&layer.chain, &layer.parent)?;
            }
            Ok(fits)
        })
        .await
    }

    /// Gives the folders that no entry of the layer described what those below them have.
    fn complete(&self, layer: &Layer, target: &Target, implied: &[(PathBuf, u64)]) -> Result<bool> {
        let (context, sn) = (&self.fetcher.context, &self.snapshotter);
        let view = Extraction {
            snapshots: self.snapshots.clone(),
            context: context.clone(),
            snapshotter: sn.clone(),
            key: format!("below-{} {}", time::unique(), layer.chain),
            _work: self.fetcher.work.clone(),
        };
        let mounts = self
            .snapshots
            .view(context, sn, &view.key, &layer.parent, Labels::new());
        let mounts = match mounts {
            Ok(mounts) => mounts,
            Err(error) => {
                view.forget();
                return Err(error);
            }
        };
        let [mount] = mounts.as_slice() else {
            return Ok(false);
        };
        match target::open_lower(mount)? {
            Some(lower) => tree::complete(target.as_fd(), implied, lower.as_fd()),
            None => Ok(true),
        }
    }

    /// Unpacks a layer from the content store upon the one below it.
    async fn apply(&self, layer: &Layer, extraction: Extraction, mounts: Vec<Mount>) -> Result<()> {
        let (unpacker, layer) = (self.clone(), layer.clone());
        let work = &self.fetcher.work;
        work.run(move || {
            let context = &unpacker.fetcher.context;
            let record = layer.descriptor.record();
            let applied = unpacker.diff.apply(context, &record, &mounts, false)?;
            layer.check(&applied.digest)?;
            extraction.commit(&layer.chain, &layer.parent)
        })
        .await
    }

    /// Notes what the layer holds, now that it has been seen.
    async fn finish(&self, layer: &Layer) -> Result<()> {
        let labels = Labels::from([(UNCOMPRESSED.to_owned(), layer.diff_id.clone())]);
        self.label(&layer.descriptor, labels).await?;
        layer.job.set(Stage::Extracted);
        Ok(())
    }
}

impl Layer {
    fn check(&self, found: &str) -> Result<()> {
        if found == self.diff_id {
            return Ok(());
        }
        Err(precondition(format!(
            "wrong diff id {found} calculated on extraction, expected {}",
            self.diff_id
        )))
    }
}

/// Unpacks what `input` yields to a prepared snapshot without a parent.
fn extract<R>(
    layer: &Layer,
    extraction: Extraction,
    mounts: &[Mount],
    input: R,
) -> Result<Option<Extracted>>
where
    R: std::io::BufRead + Send,
{
    let encoding = codec::encoding(&layer.descriptor.media_type)?;
    let target = match layer.parent.is_empty() {
        true => Some(Target::open(mounts)?),
        false => Target::detached(mounts)?,
    };
    let target = target.ok_or_else(|| {
        let message = format!("snapshot {} is no plain folder", extraction.key);
        Error::new(Kind::Internal, message)
    })?;
    failpoint!("images.unpack.begun");
    let Unpacked {
        digest, implied, ..
    } = pipeline::unpack(&target, input, encoding)?;
    layer.check(digest.as_str())?;
    layer
        .job
        .set(Stage::Extracting(layer.descriptor.size.max(0) as u64));
    let Some(implied) = implied else {
        target.close()?;
        return Ok(None);
    };
    Ok(Some(Extracted {
        extraction,
        target,
        implied,
    }))
}

async fn wait_for(below: Option<Below>) -> Result<()> {
    match below {
        Some(below) => below
            .await
            .map_err(|_| Error::new(Kind::Aborted, "the layer below has failed")),
        None => Ok(()),
    }
}

/// Waits for all tasks; the first failure that is one by itself ends the others.
async fn first_failure(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    let mut failed: Option<Error> = None;
    while let Some(ended) = tasks.join_next().await {
        let error = match ended {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(error) if error.is_cancelled() => continue,
            Err(error) => Error::new(Kind::Internal, format!("a task ended early: {error}")),
        };
        let aborted = error.kind() == Kind::Aborted;
        if !aborted {
            tasks.abort_all();
        }
        match &failed {
            Some(first) if aborted || first.kind() != Kind::Aborted => {}
            _ => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// A snapshot that is being unpacked to; dropping it removes it.
struct Extraction {
    snapshots: Snapshots,
    context: Context,
    snapshotter: String,
    key: String,
    /// Its removal is work too.
    _work: Work,
}

impl Extraction {
    /// Makes it the snapshot `chain` upon `parent`; that there is one by now is no error.
    fn commit(self, chain: &str, parent: &str) -> Result<()> {
        let labels = Labels::from([(SNAPSHOT_REF.to_owned(), chain.to_owned())]);
        let (context, sn) = (&self.context, &self.snapshotter);
        let names = [chain, self.key.as_str()];
        match self.snapshots.commit(context, sn, names, labels, parent) {
            Ok(()) => {
                self.forget();
                Ok(())
            }
            Err(error) if error.kind() == Kind::AlreadyExists => Ok(()),
            Err(error) => Err(error).context(|| format!("failed to commit snapshot {}", self.key)),
        }
    }

    /// Leaves it as it is, or it does not exist any more.
    fn forget(mut self) {
        self.key = String::new();
    }
}

impl Drop for Extraction {
    fn drop(&mut self) {
        if self.key.is_empty() {
            return;
        }
        let removed = self
            .snapshots
            .remove(&self.context, &self.snapshotter, &self.key);
        match removed {
            Err(error) if error.kind() != Kind::NotFound => {
                tracing::warn!("remove snapshot {}: {error:#}", self.key);
            }
            _ => {}
        }
    }
}
