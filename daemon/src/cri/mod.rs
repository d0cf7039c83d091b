//! CRI v1: what a kubelet asks of its node's runtime. The two services are lists of one-line calls.
//!
//! | folder or file | what |
//! |---|---|
//! | `pod/`, `container/`, `image/` | one file for each call |
//! | `spec/` | from what CRI says to OCI specifications: pure |
//! | `state.rs`, `store.rs` | the states of a container; pods and containers, in memory and on disk |
//! | `launch.rs`, `rootfs.rs`, `io.rs`, `log.rs` | snapshots, records and tasks; users and volumes; output |
//! | `cdi.rs`, `nri/` | devices by their names; what plugins are told, and what they want |
//! | `cni.rs`, `netns.rs`, `userns.rs` | networks and the namespaces that are made before a pod |
//! | `usage.rs` | what containers take of the disk, measured now and then |
//! | `stream/` | exec, attach and port forwarding |
//! | `restart.rs` | finding what an earlier daemon has left running |
//!
//! What a call begins is carried to its end even if the client goes away: half a pod would be nobody's.

pub mod cdi;
pub mod cni;
pub mod config;
pub mod container;
pub mod events;
pub mod folders;
pub mod host;
pub mod image;
pub mod io;
pub mod launch;
pub mod log;
pub mod metrics;
pub mod netns;
pub mod nri;
pub mod pod;
pub mod profile;
pub mod restart;
pub mod rootfs;
pub mod runtime;
pub mod service;
pub mod spec;
pub mod state;
pub mod store;
pub mod stream;
pub mod usage;
pub mod userns;

use std::future::Future;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use api_protos::runtime::v1::ContainerEventResponse;
use tokio::sync::{broadcast, mpsc};

use crate::content::Content;
use crate::error::{Context, Error, Kind, Result};
use crate::events::Exchange;
use crate::gc::Collector;
use crate::metadata::{Containers, Images, Leases, Sandboxes};
use crate::metrics::operations::{Operation, Operations};
use crate::nri::{Ask, Nri};
use crate::snapshots::Snapshots;
use crate::tasks::Tasks;
use crate::transfer::Transfer;
use cni::Cni;
use config::Config;
use folders::Folders;
use image::Library;
use io::Io;
use spec::Host;
use store::{ContainerRecord, Store};
use stream::Streams;
use usage::Usages;

/// The daemon's parts that CRI works with.
#[derive(Clone)]
pub struct Parts {
    pub events: Arc<Exchange>,
    pub content: Content,
    pub images: Images,
    pub containers: Containers,
    pub sandboxes: Sandboxes,
    pub leases: Leases,
    pub snapshots: Snapshots,
    pub collector: Collector,
    pub tasks: Tasks,
    pub transfer: Transfer,
    /// The settings of what tells plugins.
    pub nri: crate::nri::Config,
    /// The version that clients are told.
    pub version: &'static str,
}

/// What the services are made from.
pub struct Cri {
    pub parts: Parts,
    pub config: Config,
    pub store: Arc<Store>,
    pub library: Library,
    pub cni: Cni,
    pub folders: Folders,
    pub host: Host,
    /// Behind pointers, since the channel's whole room is allocated at once.
    pub events: broadcast::Sender<Arc<ContainerEventResponse>>,
    pub streams: Streams,
    pub usages: Usages,
    pub operations: Arc<Operations>,
    pub nri: Nri,
    /// What plugins ask, until it is answered.
    asks: Mutex<Option<mpsc::Receiver<Ask>>>,
}

impl Cri {
    /// Returns CRI upon the daemon's parts, whose folders are `root` and `state`.
    pub fn new(parts: Parts, config: Config, root: &Path, state: &Path) -> Result<Self> {
        let store = Store::new(parts.sandboxes.clone(), parts.containers.clone())?;
        let library = Library::new(
            parts.images.clone(),
            parts.content.clone(),
            store.context.clone(),
        );
        let (snapshots, context) = (parts.snapshots.clone(), store.context.clone());
        let usages = Usages::new(snapshots, context, config.stats_period);
        let (nri, asks) = Nri::new(parts.nri.clone(), parts.version);
        Ok(Self {
            store: Arc::new(store),
            library,
            cni: Cni::new(config.cni.clone()),
            folders: Folders::open(root, state, config.netns_under_state)?,
            host: host::read()?,
            events: broadcast::Sender::new(events::BEHIND),
            streams: Streams::default(),
            usages,
            operations: Arc::default(),
            nri,
            asks: Mutex::new(Some(asks)),
            parts,
            config,
        })
    }

    /// Goes on with what an earlier daemon has left, and serves streams.
    pub async fn start(self: &Arc<Self>) -> Result<()> {
        restart::recover(self).await?;
        let asks = self.asks.lock();
        let asks = asks.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(asks) = asks {
            tokio::spawn(nri::serve(self.clone(), asks));
        }
        self.nri.start().await;
        let cri = self.clone();
        tokio::spawn(async move {
            if let Err(error) = events::watch_memory(cri).await {
                tracing::error!("watch for memory that runs out: {error:#}");
            }
        });
        match self.streams.bind(&self.config.stream).await {
            Ok((listener, tls)) => {
                tokio::spawn(stream::serve::run(self.clone(), listener, tls));
            }
            Err(error) => tracing::error!("start the streaming server: {error:#}"),
        }
        Ok(())
    }

    /// Counts what was done to a container of this pod.
    pub fn done(&self, operation: Operation, pod: &str, begun: Instant) {
        let handler = self.store.pod(pod).map(|pod| pod.record().handler);
        let runtime = handler.and_then(|handler| self.config.runtime(&handler));
        let runtime = runtime.map_or("", |runtime| runtime.kind.as_str());
        self.operations.succeeded(operation, runtime, begun);
    }

    /// Returns the streams of a container.
    pub fn io(&self, id: &str, record: &ContainerRecord) -> Io {
        let config = record.config.clone().unwrap_or_default();
        let folder = self.folders.pipes(id);
        let log = Path::new(&record.log);
        Io::new(&folder, config.tty, config.stdin, log, self.config.max_line)
    }
}

/// Carries work to its end even if nobody waits for it any more.
async fn whole<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    tokio::spawn(work).await.unwrap_or_else(|error| {
        let message = format!("a call ended early: {error}");
        Err(Error::new(Kind::Internal, message))
    })
}

/// Returns the present time in nanoseconds after the epoch.
pub fn nanoseconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as i64)
}

/// Returns an id that nobody has: 64 digits of chance.
pub fn new_id() -> Result<String> {
    let mut bytes = [0; 32];
    let mut source = std::fs::File::open("/dev/urandom").context(|| "open /dev/urandom")?;
    source
        .read_exact(&mut bytes)
        .context(|| "read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_are_long() {
        let (one, two) = (new_id().unwrap(), new_id().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), 64);
    }
}
