//! After a restart: the shims of the earlier daemon are found by their bundles and connected to again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use api_protos::containerd::task::v3::{StateRequest, StateResponse};
use api_protos::containerd::v1::types::Status;
use futures_util::{StreamExt, stream};

use super::bootstrap::Endpoint;
use super::bundle::Bundle;
use super::exit::{Exit, Last};
use super::log;
use super::shim::Shim;
use super::shims::{Hold, Shims};
use crate::blocking::blocking;
use crate::context;
use crate::error::{Error, Kind, Result};
use crate::metadata::{Containers, Sandboxes};
use sys::failpoint;

/// How many bundles are looked at at a time.
const CONCURRENT: usize = 64;
/// How long a shim's executable that outlived the daemon may take to say where the shim listens.
const STARTED: Duration = Duration::from_secs(2);

impl Shims {
    /// Connects to all shims that still run, and cleans up after those that do not.
    pub async fn reload(&self, containers: &Containers, sandboxes: &Sandboxes) -> Result<()> {
        let folders = self.folders().clone();
        let bundles = blocking(move || folders.list()).await?;
        failpoint!("tasks.reload.listed");
        stream::iter(bundles)
            .for_each_concurrent(CONCURRENT, |bundle| {
                self.load(bundle, containers, sandboxes)
            })
            .await;
        let shims = self.clone();
        blocking(move || {
            let lives = |namespace: &str, id: &str| shims.get(namespace, id).is_ok();
            shims.folders().sweep(lives)
        })
        .await
    }

    async fn load(&self, bundle: Bundle, containers: &Containers, sandboxes: &Sandboxes) {
        let (namespace, id) = (&bundle.namespace, &bundle.id);
        let Ok(hold) = self.hold(namespace, id) else {
            return;
        };
        if bundle.is_blank() {
            return self.remove(&bundle).await;
        }
        let binary = match self.binary(&bundle, containers) {
            Ok(binary) => binary,
            Err(error) => {
                tracing::error!(
                    ns = namespace,
                    id,
                    "remove a bundle without a shim: {error:#}"
                );
                return self.remove(&bundle).await;
            }
        };
        match self.reconnect(&bundle, binary.clone()).await {
            Ok(shim) => self.take_over(hold, shim, sandboxes).await,
            Err(error) => {
                tracing::warn!(
                    ns = namespace,
                    id,
                    "clean up after a shim that is gone: {error:#}"
                );
                self.lost(&bundle, &binary).await;
            }
        }
    }

    /// Takes a shim that runs back into the table, unless it has nothing to do.
    async fn take_over(&self, hold: Hold, shim: Shim, sandboxes: &Sandboxes) {
        let bundle = shim.bundle.clone();
        if let Err(error) = bundle.unmark_deletion() {
            tracing::warn!(id = bundle.id, "take back a deletion: {error:#}");
        }
        match state(&shim).await {
            Err(error) if error.kind() == Kind::NotFound && !is_sandbox(&bundle, sandboxes) => {
                tracing::debug!(id = bundle.id, "end a shim without a task: {error:#}");
                return self.give_up(&shim).await;
            }
            Err(error) => {
                // One that does not answer may well have its task, and is kept.
                tracing::warn!(id = bundle.id, "ask a shim for its task: {error:#}");
            }
            Ok(state) if state.status() == Status::Stopped => {
                let exit = Exit {
                    pid: state.pid,
                    status: state.exit_status,
                    at: state.exited_at.unwrap_or_default(),
                };
                self.ended(&bundle, exit);
                shim.told.note(Last::Exit(exit));
            }
            Ok(_) => {}
        }
        tracing::debug!(ns = bundle.namespace, id = bundle.id, "found a shim again");
        self.publish(hold, shim);
    }

    async fn reconnect(&self, bundle: &Bundle, binary: PathBuf) -> Result<Shim> {
        let endpoint = endpoint(bundle)
            .await?
            .ok_or_else(|| Error::new(Kind::NotFound, "the shim never said where it listens"))?;
        failpoint!("tasks.reload.connect");
        let log = log::follow(bundle)
            .inspect_err(|error| tracing::warn!(id = bundle.id, "{error:#}"))
            .ok();
        Shim::connect(bundle.clone(), binary, &endpoint, self.limits(), log).await
    }

    /// Returns the executable of a bundle's shim: as written down, or by the runtime of the container.
    fn binary(&self, bundle: &Bundle, containers: &Containers) -> Result<PathBuf> {
        if let Some(path) = bundle.binary()? {
            return self.resolver().resolve(&path.to_string_lossy());
        }
        let context = context::Context::new(&bundle.namespace)?;
        let container = containers.get(&context, &bundle.id)?;
        self.resolver().resolve(&container.runtime)
    }
}

/// Returns where the shim listens; one that was being started when the daemon died gets some time to say so.
async fn endpoint(bundle: &Bundle) -> Result<Option<Endpoint>> {
    let deadline = Instant::now() + STARTED;
    loop {
        let endpoint = bundle.endpoint()?;
        if endpoint.is_some() || bundle.binary()?.is_none() || Instant::now() > deadline {
            return Ok(endpoint);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Returns whether the shim was started for a sandbox, which need not have a task.
fn is_sandbox(bundle: &Bundle, sandboxes: &Sandboxes) -> bool {
    let context = context::Context::new(&bundle.namespace);
    context.is_ok_and(|context| sandboxes.get(&context, &bundle.id).is_ok())
}

/// Returns the state of the shim's task.
async fn state(shim: &Shim) -> Result<StateResponse> {
    failpoint!("tasks.reload.state");
    let request = StateRequest {
        id: shim.bundle.id.clone(),
        ..StateRequest::default()
    };
    shim.call(Some(shim.limits.load), |client, call| {
        let request = request.clone();
        async move { client.state(&call, &request).await }
    })
    .await
}
