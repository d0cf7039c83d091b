//! A snapshotter in another process, spoken to over containerd's own snapshots service.
//!
//! The other process may be absent, hang or lie. Every call has a deadline, and few wait at a time: each takes a thread
//! of the blocking pool, which everybody else needs as well.

use std::future::Future;
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use api_protos::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use api_protos::containerd::services::snapshots::v1::{
    self as wire, CleanupRequest, CommitSnapshotRequest, ListSnapshotsRequest, MountsRequest,
    PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest,
    UsageRequest, ViewSnapshotRequest,
};
use api_protos::containerd::types;
use hyper_util::rt::TokioIo;
use prost_types::{FieldMask, Timestamp};
use snapshotter::{CommitOptions, Info, Kind, Labels, Snapshotter, Usage};
use sys::mount::Mount;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::context::NAMESPACE_HEADER;
use crate::error::{Error, Kind as ErrorKind, Result};

/// How many calls of one proxy wait for its answers at a time; more are refused.
const WAITING: usize = 32;
/// How long a call may take that asks for what the proxy knows.
const ASK: Duration = Duration::from_secs(10);
/// How long a call may take that lists, measures or removes.
const WORK: Duration = Duration::from_secs(60);
/// How long a call may take that may have to fetch an image.
const MAKE: Duration = Duration::from_secs(600);
/// The largest message, as containerd has it.
const MESSAGE: usize = 16 << 20;

type Client = SnapshotsClient<Channel>;

/// A snapshotter in another process. It is connected to when it is needed, and again when it was lost.
#[derive(Debug)]
pub struct Proxy {
    name: String,
    client: Client,
    runtime: Handle,
    permits: Semaphore,
    capabilities: Vec<String>,
    /// Shared by those that make snapshots, and taken by who removes lost ones: a snapshot that the proxy already has is
    /// nobody's until it is recorded.
    making: RwLock<()>,
}

impl Proxy {
    /// Returns the snapshotter `name` that listens at `address`; it must be called within a tokio runtime.
    ///
    /// What it is capable of is for the configuration to say: the service has no question for it.
    pub fn new(name: &str, address: &Path, capabilities: Vec<String>) -> Self {
        let address = address.to_owned();
        let connector = tower::service_fn(move |_| {
            let address = address.clone();
            async move { UnixStream::connect(address).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector_lazy(connector);
        Self {
            name: name.to_owned(),
            client: Client::new(channel)
                .max_decoding_message_size(MESSAGE)
                .max_encoding_message_size(MESSAGE),
            runtime: Handle::current(),
            permits: Semaphore::new(WAITING),
            capabilities,
            making: RwLock::new(()),
        }
    }

    /// Keeps lost snapshots from being removed until it is dropped.
    pub(super) fn keep(&self) -> Result<RwLockReadGuard<'_, ()>> {
        let _waiting = self.permit()?;
        Ok(self.making.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns leave to remove lost snapshots, unless somebody does or some are being made.
    pub(super) fn try_sweep(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        self.making.try_write().ok()
    }

    /// Makes a call and waits for its answer; not to be used by threads of the async runtime.
    fn call<T, F>(&self, limit: Duration, make: impl FnOnce(Client) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let _permit = self.permit()?;
        let call = make(self.client.clone());
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(limit, call).await });
        match answer {
            Ok(answer) => answer.map_err(|status| api_protos::status::from_grpc(&status)),
            Err(_) => Err(self.failed(ErrorKind::DeadlineExceeded, "does not answer")),
        }
    }

    /// Returns leave to wait, unless too many do.
    fn permit(&self) -> Result<SemaphorePermit<'_>> {
        self.permits.try_acquire().map_err(|error| {
            let what = match error {
                TryAcquireError::NoPermits => "has too many calls that it has not answered",
                TryAcquireError::Closed => "is not used any more",
            };
            self.failed(ErrorKind::Unavailable, what)
        })
    }

    fn failed(&self, kind: ErrorKind, what: &str) -> Error {
        Error::new(kind, format!("proxy plugin {:?} {what}", self.name))
    }
}

/// Makes a unary call about the snapshot `$key`, and returns the answer's message.
macro_rules! call {
    ($proxy:expr, $limit:expr, $method:ident, $key:expr, $message:expr) => {{
        let request = request($key, $message);
        $proxy.call($limit, |mut client| async move {
            client.$method(request).await.map(Response::into_inner)
        })
    }};
}

impl Snapshotter for Proxy {
    fn stat(&self, key: &str) -> Result<Info> {
        let message = StatSnapshotRequest {
            snapshotter: self.name.clone(),
            key: key.to_owned(),
        };
        decode(call!(self, ASK, stat, key, message)?.info)
    }

    fn update(&self, info: &Info, fieldpaths: &[String]) -> Result<Info> {
        let paths = fieldpaths.to_vec();
        let message = UpdateSnapshotRequest {
            snapshotter: self.name.clone(),
            info: Some(encode(info)),
            update_mask: (!paths.is_empty()).then_some(FieldMask { paths }),
        };
        decode(call!(self, ASK, update, &info.name, message)?.info)
    }

    fn usage(&self, key: &str) -> Result<Usage> {
        let message = UsageRequest {
            snapshotter: self.name.clone(),
            key: key.to_owned(),
        };
        let usage = call!(self, WORK, usage, key, message)?;
        let (inodes, size) = (usage.inodes, usage.size);
        Ok(Usage { inodes, size })
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let message = MountsRequest {
            snapshotter: self.name.clone(),
            key: key.to_owned(),
        };
        Ok(mounts(call!(self, ASK, mounts, key, message)?.mounts))
    }

    fn prepare(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        let message = PrepareSnapshotRequest {
            snapshotter: self.name.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: labels.clone().into_iter().collect(),
        };
        Ok(mounts(call!(self, MAKE, prepare, key, message)?.mounts))
    }

    fn view(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        let message = ViewSnapshotRequest {
            snapshotter: self.name.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: labels.clone().into_iter().collect(),
        };
        Ok(mounts(call!(self, MAKE, view, key, message)?.mounts))
    }

    fn commit(&self, name: &str, key: &str, options: &CommitOptions) -> Result<()> {
        let message = CommitSnapshotRequest {
            snapshotter: self.name.clone(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels: options.labels.clone().into_iter().collect(),
            parent: options.parent.clone(),
        };
        call!(self, MAKE, commit, key, message)
    }

    fn remove(&self, key: &str) -> Result<()> {
        let message = RemoveSnapshotRequest {
            snapshotter: self.name.clone(),
            key: key.to_owned(),
        };
        call!(self, WORK, remove, key, message)
    }

    fn walk(&self, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()> {
        let message = ListSnapshotsRequest {
            snapshotter: self.name.clone(),
            filters: Vec::new(),
        };
        let mut found = self.call(WORK, |mut client| async move {
            let mut messages = client.list(message).await?.into_inner();
            let mut found = Vec::new();
            while let Some(message) = messages.message().await? {
                found.extend(message.info);
            }
            Ok(found)
        })?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
            .into_iter()
            .try_for_each(|info| visit(decode(Some(info))?))
    }

    fn cleanup(&self) -> Result<()> {
        let message = CleanupRequest {
            snapshotter: self.name.clone(),
        };
        match call!(self, WORK, cleanup, "", message) {
            // Not every snapshotter has something to do then.
            Err(error) if error.kind() == ErrorKind::Unimplemented => Ok(()),
            other => other,
        }
    }

    /// The other process goes on: it may serve others too.
    fn close(&self) -> Result<()> {
        self.permits.close();
        Ok(())
    }

    fn capabilities(&self) -> Vec<&str> {
        self.capabilities.iter().map(String::as_str).collect()
    }
}

/// Returns a request in the namespace that the name of a snapshot begins with.
fn request<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let namespace = key.split('/').next().unwrap_or_default();
    if let Ok(value) = namespace.parse()
        && !namespace.is_empty()
    {
        request.metadata_mut().insert(NAMESPACE_HEADER, value);
    }
    request
}

fn mounts(mounts: Vec<types::Mount>) -> Vec<Mount> {
    mounts.into_iter().map(Into::into).collect()
}

fn encode(info: &Info) -> wire::Info {
    let kind = match info.kind {
        Kind::View => wire::Kind::View,
        Kind::Active => wire::Kind::Active,
        Kind::Committed => wire::Kind::Committed,
    };
    wire::Info {
        name: info.name.clone(),
        parent: info.parent.clone(),
        kind: kind.into(),
        created_at: Some(info.created.into()),
        updated_at: Some(info.updated.into()),
        labels: info.labels.clone().into_iter().collect(),
    }
}

fn decode(info: Option<wire::Info>) -> Result<Info> {
    let wrong = |what: &str| Error::new(ErrorKind::Internal, format!("a snapshot without {what}"));
    let info = info.ok_or_else(|| wrong("a record"))?;
    let time = |time: Option<Timestamp>| {
        let time = time.and_then(|time| SystemTime::try_from(time).ok());
        time.unwrap_or(SystemTime::UNIX_EPOCH)
    };
    Ok(Info {
        kind: match info.kind() {
            wire::Kind::View => Kind::View,
            wire::Kind::Active => Kind::Active,
            wire::Kind::Committed => Kind::Committed,
            wire::Kind::Unknown => return Err(wrong("a kind")),
        },
        name: info.name,
        parent: info.parent,
        labels: info.labels.into_iter().collect(),
        created: time(info.created_at),
        updated: time(info.updated_at),
    })
}
