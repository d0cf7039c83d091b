//! A client of the daemon's gRPC services, for what no command line can ask.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use api_protos::containerd::services::containers::v1::containers_client::ContainersClient;
use api_protos::containerd::services::content::v1::content_client::ContentClient;
use api_protos::containerd::services::events::v1::events_client::EventsClient;
use api_protos::containerd::services::images::v1::images_client::ImagesClient;
use api_protos::containerd::services::leases::v1::leases_client::LeasesClient;
use api_protos::containerd::services::namespaces::v1::namespaces_client::NamespacesClient;
use api_protos::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use api_protos::containerd::services::tasks::v1::tasks_client::TasksClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

use crate::Daemon;

/// The longest that any call of a test may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A connection to a daemon, and the runtime that drives it.
#[derive(Debug)]
pub struct Api {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
    namespace: String,
}

/// Adds the namespace to each request.
#[derive(Clone, Debug)]
pub struct Namespaced(String);

/// A channel whose requests carry the namespace.
pub type Service = InterceptedService<Channel, Namespaced>;

impl Interceptor for Namespaced {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if !self.0.is_empty() {
            let value = self.0.parse().expect("namespaces are header values");
            request.metadata_mut().insert("containerd-namespace", value);
        }
        Ok(request)
    }
}

/// Makes a function that returns a client of one service.
macro_rules! client {
    ($($name:ident: $client:ident),* $(,)?) => {
        $(
            #[doc = concat!("Returns a client of the ", stringify!($name), " service.")]
            pub fn $name(&self) -> $client<Service> {
                $client::new(self.service())
            }
        )*
    };
}

impl Api {
    /// Returns a client of `daemon` in the namespace `namespace`.
    pub fn new(daemon: &Daemon, namespace: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("make a runtime");
        let channel = {
            let _entered = runtime.enter();
            connect(daemon.address())
        };
        Self {
            runtime,
            channel,
            namespace: namespace.to_owned(),
        }
    }

    /// Drives `work` to its end.
    #[track_caller]
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(LIMIT, work).await };
        self.runtime
            .block_on(limited)
            .expect("a call took a minute")
    }

    /// Drives `work` to its end, however long that takes.
    pub fn serve<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Returns the connection, whose requests carry the namespace.
    pub fn service(&self) -> Service {
        InterceptedService::new(self.channel.clone(), Namespaced(self.namespace.clone()))
    }

    client! {
        containers: ContainersClient,
        content: ContentClient,
        events: EventsClient,
        images: ImagesClient,
        leases: LeasesClient,
        namespaces: NamespacesClient,
        snapshots: SnapshotsClient,
        tasks: TasksClient,
    }
}

fn connect(path: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
}
