//! Transfers: images between registries, archives and the image store.
//!
//! ```text
//!             to  registry   store    archive
//!  from registry     -        pull       -
//!       store       push      tag      export
//!       archive      -       import      -
//! ```
//!
//! A transfer works under a lease of its own, unless the client has one. When its client goes away it ends: what is
//! being written is taken back first, then the lease goes, and last a collection removes what the transfer left.

pub mod bytes;
pub mod config;
pub mod export;
pub mod import;
pub mod progress;
pub mod pull;
pub mod push;
pub mod remote;
pub mod store;
pub mod tag;

use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};
use tracing::Instrument;

use crate::blocking::blocking;
use crate::content::Content;
use crate::context::Context;
use crate::diff::Diff;
use crate::error::{Error, Kind, Result};
use crate::gc::Collector;
use crate::images::fetch::Fetcher;
use crate::images::locks::Locks;
use crate::images::track::Track;
use crate::images::unpack::Unpacker;
use crate::images::work::Work;
use crate::metadata::{Images, Leases};
use crate::snapshots::Snapshots;
pub use config::Config;
use export::Outgoing;
use import::Incoming;
use progress::Progress;
use remote::Remote;
use store::ImageStore;

/// Transfers images; clones share everything.
#[derive(Clone)]
pub struct Transfer {
    parts: Arc<Parts>,
}

/// What transfers are made from.
pub struct Parts {
    pub content: Content,
    pub images: Images,
    pub leases: Leases,
    pub snapshots: Snapshots,
    pub diff: Diff,
    pub collector: Collector,
    pub locks: Locks,
    pub config: Config,
}

/// A source or destination.
pub enum Side {
    Registry(Remote),
    Store(ImageStore),
    Import(Incoming),
    Export(Outgoing),
}

/// A transfer that goes on.
#[derive(Clone)]
pub struct Session {
    parts: Arc<Parts>,
    /// It has the lease.
    context: Context,
    work: Work,
    progress: Progress,
}

impl Transfer {
    /// Returns what transfers with these parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
        }
    }

    /// Returns the settings.
    pub fn config(&self) -> &Config {
        &self.parts.config
    }

    /// Transfers an image; it ends with the future that waits for it.
    pub async fn transfer(
        &self,
        context: Context,
        source: Side,
        destination: Side,
        progress: Progress,
    ) -> Result<()> {
        let (_waiting, gone) = oneshot::channel::<()>();
        let work = self
            .clone()
            .run(context, source, destination, progress, gone);
        let task = tokio::spawn(work.in_current_span());
        task.await.unwrap_or_else(|error| {
            let message = format!("the transfer ended early: {error}");
            Err(Error::new(Kind::Internal, message))
        })
    }

    async fn run(
        self,
        context: Context,
        source: Side,
        destination: Side,
        progress: Progress,
        gone: oneshot::Receiver<()>,
    ) -> Result<()> {
        let leases = self.parts.leases.clone();
        let (context, lease) = blocking(move || match context.lease() {
            Some(_) => Ok((context, None)),
            None => {
                let lease = leases.guard(&context)?;
                Ok((lease.context().clone(), Some(lease)))
            }
        })
        .await?;
        let (work, ended) = Work::new();
        let session = Session {
            parts: self.parts.clone(),
            context,
            work,
            progress,
        };
        let result = tokio::select! {
            result = session.between(source, destination) => result,
            _ = gone => Err(Error::new(Kind::Canceled, "the client has gone")),
        };
        ended.wait().await;
        blocking(move || {
            drop(lease);
            Ok(())
        })
        .await?;
        if result.is_err() {
            // What was left half-made is nobody's now.
            if let Err(error) = self.parts.collector.collect().await {
                tracing::warn!("collect after a failed transfer: {error:#}");
            }
        }
        result
    }
}

impl Session {
    async fn between(self, source: Side, destination: Side) -> Result<()> {
        match (source, destination) {
            (Side::Registry(remote), Side::Store(store)) => self.pull(remote, store).await,
            (Side::Store(store), Side::Registry(remote)) => self.push(store, remote).await,
            (Side::Store(from), Side::Store(to)) => self.tag(from, to).await,
            (Side::Import(archive), Side::Store(store)) => self.import(archive, store).await,
            (Side::Store(store), Side::Export(archive)) => self.export(store, archive).await,
            (source, destination) => {
                let (from, to) = (source.name(), destination.name());
                let message = format!("unable to transfer from {from} to {to}");
                Err(Error::new(Kind::Unimplemented, message))
            }
        }
    }

    /// Returns what unpacks images to a snapshotter.
    fn unpacker(&self, fetcher: &Fetcher, snapshotter: &str, permits: &Arc<Semaphore>) -> Unpacker {
        let parts = &self.parts;
        let snapshotter = match snapshotter {
            "" => parts.config.snapshotter.clone(),
            name => name.to_owned(),
        };
        Unpacker {
            fetcher: fetcher.clone(),
            diff: parts.diff.clone(),
            snapshots: parts.snapshots.clone(),
            snapshotter,
            permits: permits.clone(),
        }
    }

    /// Runs `work` where it may block, with this session.
    async fn blocking<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Self) -> Result<T> + Send + 'static,
    {
        let session = self.clone();
        self.work.run(move || work(&session)).await
    }

    fn track(&self) -> Track {
        Track::default()
    }
}

impl Side {
    fn name(&self) -> String {
        match self {
            Self::Registry(remote) => remote.to_string(),
            Self::Store(store) => format!("Local Image Store ({})", store.name),
            Self::Import(_) => "Archive to import".to_owned(),
            Self::Export(_) => "Archive to export to".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
