//! Garbage collection: what no root reaches is deleted.
//!
//! ```text
//!  roots: leases, containers, images that have not expired, ingests that have not, whatever has the label gc.root
//!  edges: lease → what it holds       image → target        snapshot → parent      container → snapshot
//!         labels gc.ref.*: from their object                labels gc.bref.*: to their object
//! ```
//!
//! A collection looks at a view of the store while everything else goes on. Then it removes the records of what is
//! lost, a few in each write; before each it looks at what has been written meanwhile, and keeps what that leads to.
//! The files are deleted afterwards. Nobody ever waits for more than one such write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api_protos::containerd::events::SnapshotRemove;
use api_protos::containerd::services::images::v1::ImageDelete;
use sys::failpoint;
use tokio::sync::Mutex;

use crate::blocking::blocking;
use crate::content::Content;
use crate::error::Result;
use crate::events::Exchange;
use crate::histogram::Histogram;
use crate::metadata::{Read, Store, Table, Tx, leases};
use crate::snapshots::{self, Snapshots};
use crate::time::now;

pub mod mark;
pub mod scan;

use scan::{Kind, Node};

/// What a collection counts for at least, so that the next one is not at once.
const SHORTEST: Duration = Duration::from_millis(5);
/// How many records one write removes: it is as long as others have to wait.
const SLICE: usize = 100;

/// When to collect.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The largest share of time that collecting may take.
    pub pause_threshold: f64,
    /// How many removals make a collection due at once; 0 for none.
    pub deletion_threshold: u64,
    /// How many changes make a collection due with the next removal; 0 for none.
    pub mutation_threshold: u64,
    /// How long a collection that is due waits for more to come.
    pub schedule_delay: Duration,
    /// When the first collection is, after the start.
    pub startup_delay: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pause_threshold: 0.02,
            deletion_threshold: 0,
            mutation_threshold: 100,
            schedule_delay: Duration::ZERO,
            startup_delay: Duration::from_millis(100),
        }
    }
}

/// Collects when asked to, and by itself some time after something was removed.
#[derive(Clone, Debug)]
pub struct Collector {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    events: Arc<Exchange>,
    content: Content,
    snapshots: Snapshots,
    /// How many collections have begun.
    begun: AtomicU64,
    collections: Collections,
    running: Mutex<()>,
}

impl Collector {
    /// Returns a collector of the objects of `store`, and of the files of `content` and `snapshots`.
    pub fn new(
        store: Arc<Store>,
        events: Arc<Exchange>,
        content: Content,
        snapshots: Snapshots,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                events,
                content,
                snapshots,
                begun: AtomicU64::new(0),
                collections: Collections::default(),
                running: Mutex::new(()),
            }),
        }
    }

    /// Collects all that is lost now, and returns when it is gone from the disk.
    pub async fn collect(&self) -> Result<()> {
        let inner = self.inner.clone();
        let begun = inner.begun.load(Ordering::Acquire);
        let _running = inner.running.lock().await;
        // One that began after this call has seen all that the caller did before it.
        if inner.begun.load(Ordering::Acquire) > begun {
            return Ok(());
        }
        inner.begun.fetch_add(1, Ordering::AcqRel);
        let (work, start) = (inner.clone(), Instant::now());
        let collected = blocking(move || work.collect()).await;
        inner.collections.note(start.elapsed(), collected.is_ok());
        collected
    }

    /// Returns what is known of the collections so far.
    pub fn collections(&self) -> &Collections {
        &self.inner.collections
    }

    /// Collects whenever `config` says that it is time to, for ever.
    pub async fn run(self, config: Config) {
        tokio::time::sleep(config.startup_delay).await;
        loop {
            let start = Instant::now();
            let changes = self.inner.store.changes();
            let before = (changes.removals(), changes.mutations());
            if let Err(error) = self.collect().await {
                tracing::warn!("collect garbage: {error:#}");
            }
            let pause = pause(start.elapsed(), config.pause_threshold);
            self.due(&config, before, Instant::now() + pause).await;
            tokio::time::sleep(config.schedule_delay).await;
        }
    }

    /// Waits until enough has changed since `before`, and until `rested` unless very much has been removed.
    async fn due(&self, config: &Config, before: (u64, u64), rested: Instant) {
        let changes = self.inner.store.changes();
        let many = |threshold: u64, count: u64| threshold > 0 && count >= threshold;
        loop {
            let removed = changes.removals() - before.0;
            let changed = changes.mutations() - before.1;
            if many(config.deletion_threshold, removed) {
                return;
            }
            let wanted = config.deletion_threshold == 0 && removed > 0;
            if wanted || many(config.mutation_threshold, changed) {
                tokio::select! {
                    () = tokio::time::sleep_until(rested.into()) => return,
                    () = changes.changed() => {}
                }
            } else {
                changes.changed().await;
            }
        }
    }
}

/// The collections so far.
#[derive(Debug, Default)]
pub struct Collections {
    failed: AtomicU64,
    /// How long those have taken that succeeded.
    pub seconds: Histogram,
}

impl Collections {
    /// Returns how many have succeeded.
    pub fn succeeded(&self) -> u64 {
        self.seconds.count()
    }

    /// Returns how many have failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn note(&self, took: Duration, succeeded: bool) {
        match succeeded {
            true => self.seconds.add(took),
            false => drop(self.failed.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

/// Returns how long to wait after a collection so that collecting takes no more than `share` of the time.
fn pause(took: Duration, share: f64) -> Duration {
    let share = share.clamp(0.001, 0.5);
    took.max(SHORTEST).mul_f64(1.0 / share - 1.0)
}

impl Inner {
    fn collect(&self) -> Result<()> {
        // Watching begins before the view is made: whatever the view does not show is seen here.
        let watch = Arc::new(self.store.watch());
        let mut marked = self.store.read(|view| scan::mark(view, now().seconds))?;
        failpoint!("gc.marked");
        let mut count = 0;
        while !marked.is_empty() {
            let watch = watch.clone();
            let (rest, removed) = self.store.write(move |tx| {
                tx.housekeeping();
                let written = watch.take();
                written.iter().try_for_each(|new| marked.keep(new))?;
                let mut lost = marked.take(SLICE);
                let mut failed = Ok(());
                lost.retain(|node| {
                    remove(tx, node).unwrap_or_else(|error| {
                        failed = Err(error);
                        false
                    })
                });
                failed.map(|()| (marked, lost))
            })?;
            failpoint!("gc.unrecorded");
            marked = rest;
            count += removed.len();
            removed.iter().try_for_each(|node| self.publish(node))?;
        }
        drop(watch);
        if count > 0 {
            tracing::debug!(objects = count, "removed garbage");
        }
        failpoint!("gc.sweep");
        self.content.sweep()?;
        failpoint!("gc.swept.content");
        self.snapshots.sweep();
        failpoint!("gc.swept.snapshots");
        Ok(())
    }

    fn publish(&self, node: &Node) -> Result<()> {
        let (namespace, key) = (&node.namespace, node.key.clone());
        match node.kind {
            Kind::Image => {
                let event = ImageDelete { name: key };
                self.events.publish(namespace, "/images/delete", &event)
            }
            Kind::Snapshot => {
                let (snapshotter, key) = key.split_once('/').unwrap_or_default();
                let event = SnapshotRemove {
                    key: key.to_owned(),
                    snapshotter: snapshotter.to_owned(),
                };
                self.events.publish(namespace, "/snapshot/remove", &event)
            }
            _ => Ok(()),
        }
    }
}

/// Removes the record of an object and returns whether it was still there.
fn remove(tx: &mut Tx<'_, '_>, node: &Node) -> Result<bool> {
    let (namespace, key) = (&*node.namespace, node.key.as_str());
    let table = match node.kind {
        Kind::Content => Table::Blobs,
        Kind::Image => Table::Images,
        Kind::Ingest => Table::Ingests,
        Kind::Lease => Table::Leases,
        Kind::Snapshot => Table::Snapshots,
        Kind::Container
        | Kind::Sandbox
        | Kind::FlatContent
        | Kind::FlatImage
        | Kind::FlatSnapshot => return Ok(false),
    };
    if tx.bytes(table, namespace, key)?.is_none() {
        return Ok(false);
    }
    match node.kind {
        Kind::Lease => leases::delete(tx, namespace, key)?,
        Kind::Snapshot => {
            let (snapshotter, key) = key.split_once('/').unwrap_or_default();
            snapshots::remove(tx, namespace, snapshotter, key)?;
        }
        _ => tx.remove(table, namespace, key),
    }
    Ok(true)
}

#[cfg(test)]
mod stall;
#[cfg(test)]
mod tests;
