//! The connection to the daemon: one channel over a unix socket, and each service with the namespace it acts in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use api_protos::containerd::services::{
    containers::v1::containers_client::ContainersClient,
    content::v1::content_client::ContentClient, diff::v1::diff_client::DiffClient,
    events::v1::events_client::EventsClient, images::v1::images_client::ImagesClient,
    introspection::v1::introspection_client::IntrospectionClient,
    leases::v1::leases_client::LeasesClient, namespaces::v1::namespaces_client::NamespacesClient,
    snapshots::v1::snapshots_client::SnapshotsClient,
    streaming::v1::streaming_client::StreamingClient, tasks::v1::tasks_client::TasksClient,
    transfer::v1::transfer_client::TransferClient, version::v1::version_client::VersionClient,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::trace::{Noted, Recorder};

/// What containerd and its clients accept as one message.
const MESSAGE_MAX: usize = 16 << 20;

/// A channel whose requests say who asks.
pub type Service = InterceptedService<Noted, Identity>;

/// What every request carries.
#[derive(Debug, Clone)]
pub struct Identity {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
    timeout: Option<Duration>,
}

impl Interceptor for Identity {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            metadata.insert("containerd-lease", lease.clone());
        }
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        Ok(request)
    }
}

/// The daemon, as one namespace sees it.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Noted,
    identity: Identity,
}

macro_rules! services {
    ($($name:ident: $client:ident;)*) => {
        impl Client {
            $(
                #[doc = concat!("Returns the service `", stringify!($name), "`.")]
                pub fn $name(&self) -> $client<Service> {
                    $client::with_interceptor(self.channel.clone(), self.identity.clone())
                        .max_decoding_message_size(MESSAGE_MAX)
                        .max_encoding_message_size(MESSAGE_MAX)
                }
            )*
        }
    };
}

services! {
    containers: ContainersClient;
    content: ContentClient;
    diff: DiffClient;
    events: EventsClient;
    images: ImagesClient;
    introspection: IntrospectionClient;
    leases: LeasesClient;
    namespaces: NamespacesClient;
    snapshots: SnapshotsClient;
    streaming: StreamingClient;
    tasks: TasksClient;
    transfer: TransferClient;
    version: VersionClient;
}

impl Client {
    /// Connects to the socket at `address`, which may be written as `unix://PATH`.
    pub async fn connect(
        address: &str,
        namespace: &str,
        connect_timeout: Option<Duration>,
        timeout: Option<Duration>,
    ) -> Result<Client> {
        let path = PathBuf::from(address.strip_prefix("unix://").unwrap_or(address));
        let namespace = namespace
            .parse()
            .map_err(|_| anyhow!("namespace {namespace:?} cannot be sent in a header"))?;
        let connecting = channel(&path);
        let channel = match connect_timeout {
            None => connecting.await,
            Some(limit) => tokio::time::timeout(limit, connecting)
                .await
                .unwrap_or_else(|_| Err(anyhow!("no answer within {limit:?}"))),
        };
        Ok(Client {
            channel: Noted {
                channel: channel.with_context(|| {
                    format!(
                        "connect to the daemon at {} (another: --address)",
                        path.display()
                    )
                })?,
                recorder: None,
            },
            identity: Identity {
                namespace,
                lease: None,
                timeout,
            },
        })
    }

    /// Returns the namespace that requests act in.
    pub fn namespace(&self) -> &str {
        self.identity.namespace.to_str().unwrap_or_default()
    }

    /// Returns this client with a lease, which keeps what its requests make from being collected.
    pub fn with_lease(&self, lease: &str) -> Result<Client> {
        let mut client = self.clone();
        client.identity.lease = Some(lease.parse().context("a lease's name is a header")?);
        Ok(client)
    }

    /// Returns this client with somebody who notes its calls.
    pub fn recorded(&self, recorder: Recorder) -> Client {
        let mut client = self.clone();
        client.channel.recorder = Some(recorder);
        client
    }

    /// Returns this client without a limit of time, for what lasts as long as a container does.
    pub fn without_timeout(&self) -> Client {
        let mut client = self.clone();
        client.identity.timeout = None;
        client
    }
}

async fn channel(path: &Path) -> Result<Channel> {
    // The first dial is ours, so that a missing socket is told as such and not as a transport error.
    drop(UnixStream::connect(path).await?);
    let path = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await?;
    Ok(channel)
}

/// Turns the status of a failed call into an error that says what was being done.
pub trait Doing<T> {
    /// Adds `what` was being done, to what.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for Result<T, Status> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|status| error(&status).context(what()))
    }
}

/// Returns a failed call's message as an error.
pub fn error(status: &Status) -> anyhow::Error {
    match (status.code(), status.message()) {
        (Code::Unimplemented, "") => anyhow!("the daemon does not serve this"),
        (code, "") => anyhow!("{code:?}"),
        (_, message) => anyhow!("{}", message.trim_end().replace('\n', " ")),
    }
}
