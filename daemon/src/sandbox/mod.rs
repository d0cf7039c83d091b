//! Sandboxes that shims run: each call goes to the shim that was started for the sandbox.
//!
//! A shim that serves containers only, such as containerd's own for runc, answers `Unimplemented` to the first call,
//! and is ended again. Containers of a sandbox find its shim by the sandbox's id.

use std::sync::Arc;
use std::time::Duration;

use api_protos::containerd::events::{SandboxCreate, SandboxExit, SandboxStart};
use api_protos::containerd::runtime::sandbox::v1::sandbox_ttrpc::SandboxClient;
use api_protos::containerd::runtime::sandbox::v1::*;
use api_protos::containerd::types::{Metric, Mount, Platform};
use corten_ttrpc::Context as Call;
use prost_types::Any;

use crate::blocking::blocking;
use crate::context::Context;
use crate::error::{Context as _, Error, Kind, Result, invalid, not_found};
use crate::events::Exchange;
use crate::metadata::{Sandbox, Sandboxes};
use crate::tasks::shim::{ASK, CHANGE, LONG, Shim};
use crate::tasks::shims::Shims;

/// The name of this controller.
pub const SHIM: &str = "shim";

/// The sandboxes of shims; clones share them.
#[derive(Clone, Debug)]
pub struct Controller {
    shims: Shims,
    sandboxes: Sandboxes,
    events: Arc<Exchange>,
}

/// What a sandbox is made of, beside what is written down of it.
#[derive(Clone, Debug, Default)]
pub struct Create {
    pub rootfs: Vec<Mount>,
    pub options: Option<Any>,
    pub netns_path: String,
    pub annotations: std::collections::HashMap<String, String>,
}

/// Makes a call of a shim's sandbox API about the sandbox `$id`.
macro_rules! call {
    ($shim:expr, $limit:expr, $method:ident, $request:expr) => {{
        let request = $request;
        $shim
            .call_sandbox($limit, |client: SandboxClient, call: Call| async move {
                client.$method(&call, &request).await
            })
            .await
    }};
}

impl Controller {
    /// Returns a controller that starts `shims` for `sandboxes`.
    pub fn new(shims: Shims, sandboxes: Sandboxes, events: Arc<Exchange>) -> Self {
        Self {
            shims,
            sandboxes,
            events,
        }
    }

    /// Starts a shim and has it make a sandbox.
    pub async fn create(&self, context: &Context, id: &str, create: Create) -> Result<()> {
        let sandbox = self.sandbox(context, id).await?;
        let hold = self.shims.hold(context.namespace(), id)?;
        let spec = sandbox.spec.unwrap_or_default().value;
        let spec = match spec.is_empty() {
            true => b"{}".to_vec(),
            false => spec,
        };
        let options = sandbox.runtime_options;
        let shim = self
            .shims
            .start(&hold, &sandbox.runtime, spec, options.as_ref())
            .await
            .context(|| "failed to start new shim")?;
        let request = CreateSandboxRequest {
            sandbox_id: id.to_owned(),
            bundle_path: shim.bundle.path.to_string_lossy().into_owned(),
            rootfs: create.rootfs,
            options: create.options,
            netns_path: create.netns_path,
            annotations: create.annotations,
        };
        if let Err(error) = call!(shim, Some(LONG), create_sandbox, request) {
            self.shims.end(shim).await;
            return Err(error.context(format!("failed to create sandbox {id}")));
        }
        self.shims.publish(hold, shim);
        let event = SandboxCreate {
            sandbox_id: id.to_owned(),
        };
        self.events
            .publish(context.namespace(), "/sandboxes/create", &event)
    }

    /// Starts a sandbox; returns what its shim says and where that listens.
    pub async fn start(
        &self,
        context: &Context,
        id: &str,
    ) -> Result<(StartSandboxResponse, String, u32)> {
        let shim = self.shim(context, id)?;
        let request = StartSandboxRequest {
            sandbox_id: id.to_owned(),
        };
        let started = call!(shim, Some(LONG), start_sandbox, request)?;
        let event = SandboxStart {
            sandbox_id: id.to_owned(),
        };
        self.events
            .publish(context.namespace(), "/sandboxes/start", &event)?;
        let (address, version) = shim.endpoint();
        Ok((started, address, version))
    }

    /// Returns the platform that a sandbox runs.
    pub async fn platform(&self, context: &Context, id: &str) -> Result<Option<Platform>> {
        let request = PlatformRequest {
            sandbox_id: id.to_owned(),
        };
        Ok(call!(self.shim(context, id)?, Some(ASK), platform, request)?.platform)
    }

    /// Stops a sandbox with all that runs in it.
    pub async fn stop(&self, context: &Context, id: &str, timeout_secs: u32) -> Result<()> {
        let request = StopSandboxRequest {
            sandbox_id: id.to_owned(),
            timeout_secs,
        };
        let limit = CHANGE + Duration::from_secs(timeout_secs.into());
        call!(self.shim(context, id)?, Some(limit), stop_sandbox, request).map(drop)
    }

    /// Waits for the end of a sandbox, and tells it to those who follow the events.
    pub async fn wait(&self, context: &Context, id: &str) -> Result<WaitSandboxResponse> {
        let request = WaitSandboxRequest {
            sandbox_id: id.to_owned(),
        };
        let ended = call!(self.shim(context, id)?, None, wait_sandbox, request)?;
        let event = SandboxExit {
            sandbox_id: id.to_owned(),
            exit_status: ended.exit_status,
            exited_at: ended.exited_at,
        };
        self.events
            .publish(context.namespace(), "/sandboxes/exit", &event)?;
        Ok(ended)
    }

    /// Returns how a sandbox is, and where its shim listens.
    pub async fn status(
        &self,
        context: &Context,
        id: &str,
        verbose: bool,
    ) -> Result<(SandboxStatusResponse, String, u32)> {
        let shim = self.shim(context, id)?;
        let request = SandboxStatusRequest {
            sandbox_id: id.to_owned(),
            verbose,
        };
        let status = call!(shim, Some(ASK), sandbox_status, request)?;
        let (address, version) = shim.endpoint();
        Ok((status, address, version))
    }

    /// Ends a sandbox and its shim.
    pub async fn shutdown(&self, context: &Context, id: &str) -> Result<()> {
        let shim = self.shim(context, id)?;
        let request = ShutdownSandboxRequest {
            sandbox_id: id.to_owned(),
        };
        match call!(shim, Some(CHANGE), shutdown_sandbox, request) {
            Err(_) if shim.is_closed() => {}
            Err(error) if error.kind() == Kind::NotFound => {}
            result => drop(result?),
        }
        if let Some(hold) = self.shims.retire(&shim) {
            self.shims.end_deleted(&shim).await;
            shim.set_gone(crate::tasks::Exit::unseen());
            drop(hold);
        }
        Ok(())
    }

    /// Returns what a sandbox has used.
    pub async fn metrics(&self, context: &Context, id: &str) -> Result<Option<Metric>> {
        let request = SandboxMetricsRequest {
            sandbox_id: id.to_owned(),
        };
        Ok(call!(self.shim(context, id)?, Some(ASK), sandbox_metrics, request)?.metrics)
    }

    /// Returns the shim of a sandbox.
    fn shim(&self, context: &Context, id: &str) -> Result<Arc<Shim>> {
        if id.is_empty() {
            return Err(invalid("sandbox id must not be empty"));
        }
        self.shims
            .get(context.namespace(), id)
            .map_err(|_| not_found("sandbox", id))
    }

    async fn sandbox(&self, context: &Context, id: &str) -> Result<Sandbox> {
        let (sandboxes, context, id) = (self.sandboxes.clone(), context.clone(), id.to_owned());
        blocking(move || sandboxes.get(&context, &id)).await
    }
}

/// Returns the error for a controller that is not there.
pub fn unknown_sandboxer(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("sandbox controller {name:?}"))
}
