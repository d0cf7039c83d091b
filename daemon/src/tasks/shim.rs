//! A running shim: the connection to it and the calls over it.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api_protos::containerd::runtime::sandbox::v1::sandbox_ttrpc::SandboxClient;
use api_protos::containerd::task::v2::task_ttrpc::NAME as V2;
use api_protos::containerd::task::v3::task_ttrpc::{NAME as V3, TaskClient};
use corten_ttrpc::{Client, Context as Call};
use tokio::sync::watch;

use super::bootstrap::Endpoint;
use super::bundle::Bundle;
use super::exit::{Exit, Told};
use super::limits::Limits;
use super::log::Follower;
use crate::error::{Context, Error, Kind, Result};

/// How long a call may take that only asks for what the shim knows.
pub const ASK: Duration = Duration::from_secs(2);
/// How long a call may take that changes something.
pub const CHANGE: Duration = Duration::from_secs(120);
/// How long a call may take that runs hooks or writes the memory of all processes.
pub const LONG: Duration = Duration::from_secs(600);
/// How long a shim may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

const NAMESPACE: &str = "containerd-namespace-ttrpc";

/// A shim that serves one task.
#[derive(Debug)]
pub struct Shim {
    pub bundle: Bundle,
    /// The executable.
    pub binary: PathBuf,
    /// Which of the task's last events have been published.
    pub told: Told,
    /// How long it may take.
    pub limits: Limits,
    client: Client,
    endpoint: Endpoint,
    /// Whether the shim knows only version 2 of the task API; both have the same messages.
    old: AtomicBool,
    /// How the task ended, once the shim is gone.
    gone: watch::Sender<Option<Exit>>,
    _log: Option<Follower>,
}

impl Shim {
    /// Connects to the shim that listens at `endpoint`.
    pub async fn connect(
        bundle: Bundle,
        binary: PathBuf,
        endpoint: &Endpoint,
        limits: Limits,
        log: Option<Follower>,
    ) -> Result<Self> {
        let path = endpoint.path()?;
        let client = tokio::time::timeout(CONNECT, Client::connect(path))
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
            .context(|| format!("connect to the shim at {path:?}"))?;
        Ok(Self {
            bundle,
            binary,
            told: Told::default(),
            limits,
            client,
            endpoint: endpoint.clone(),
            old: AtomicBool::new(endpoint.version < 3),
            gone: watch::Sender::new(None),
            _log: log,
        })
    }

    /// Makes a call; a shim that does not know the newer version of the API is called by the older one from then on.
    pub async fn call<T, F>(
        &self,
        limit: Option<Duration>,
        make: impl Fn(TaskClient, Call) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let call = self.request(limit);
        let client = |name| TaskClient::named(self.client.clone(), name);
        let result = match self.old.load(Ordering::Relaxed) {
            true => make(client(V2), call).await,
            false => match make(client(V3), call.clone()).await {
                Err(error) if is_unknown_service(&error) => {
                    tracing::debug!(
                        id = self.bundle.id,
                        "the shim serves version 2 of the task API"
                    );
                    self.old.store(true, Ordering::Relaxed);
                    make(client(V2), call).await
                }
                result => result,
            },
        };
        result.map_err(|error| self.explain(error))
    }

    fn request(&self, limit: Option<Duration>) -> Call {
        let call = Call::new().with_metadata(NAMESPACE, &self.bundle.namespace);
        match limit {
            Some(limit) => call.with_timeout(limit),
            None => call,
        }
    }

    /// Makes a call of the sandbox API, which not every shim serves.
    pub async fn call_sandbox<T, F>(
        &self,
        limit: Option<Duration>,
        make: impl FnOnce(SandboxClient, Call) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let client = SandboxClient::new(self.client.clone());
        make(client, self.request(limit))
            .await
            .map_err(|error| match error.kind() {
                Kind::Unimplemented => error.context("the shim serves no sandboxes"),
                _ => self.explain(error),
            })
    }

    /// Returns where the shim listens, and the version of the task API there.
    pub fn endpoint(&self) -> (String, u32) {
        (self.endpoint.address.clone(), self.endpoint.version)
    }

    /// Waits until the connection is lost.
    pub async fn closed(&self) {
        self.client.closed().await;
    }

    /// Returns whether the connection is lost.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Says how the task ended to those who wait for it.
    pub fn set_gone(&self, exit: Exit) {
        self.gone.send_replace(Some(exit));
    }

    /// Waits until the shim is gone and cleaned up after, and returns how its task ended.
    pub async fn gone(&self) -> Exit {
        let mut gone = self.gone.subscribe();
        match gone.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or_else(Exit::unseen),
            Err(_) => Exit::unseen(),
        }
    }

    /// A task whose shim is gone is not there any more.
    fn explain(&self, error: Error) -> Error {
        match error.kind() {
            Kind::Unavailable if self.is_closed() => not_found(&self.bundle.id),
            _ => error,
        }
    }
}

/// Returns the error for a task that is not there.
pub fn not_found(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("task {id} not found"))
}

/// Tells a service that is not there from a method that is not implemented.
fn is_unknown_service(error: &Error) -> bool {
    error.kind() == Kind::Unimplemented && format!("{error:#}").contains("service")
}
