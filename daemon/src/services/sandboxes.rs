//! containerd.services.sandbox.v1: what is written down of sandboxes, and the controllers that run them.

use api_protos::containerd::services::sandbox::v1::controller_server::{
    Controller as ControllerApi, ControllerServer,
};
use api_protos::containerd::services::sandbox::v1::store_server::{Store as StoreApi, StoreServer};
use api_protos::containerd::services::sandbox::v1::*;
use api_protos::containerd::types;
use tonic::{Request, Response, Status};

use super::{open, ordered, run, unordered};
use crate::error::status;
use crate::metadata::{Sandbox as Record, Sandboxes};
use crate::sandbox::{Controller, Create, SHIM, unknown_sandboxer};

/// The store's service.
#[derive(Clone, Debug)]
pub struct Store {
    sandboxes: Sandboxes,
}

/// The controllers' service.
#[derive(Clone, Debug)]
pub struct Controllers {
    shim: Controller,
}

/// Returns the store's service as a server.
pub fn store(sandboxes: Sandboxes) -> StoreServer<Store> {
    StoreServer::new(Store { sandboxes })
}

/// Returns the controllers' service as a server.
pub fn controller(shim: Controller) -> ControllerServer<Controllers> {
    ControllerServer::new(Controllers { shim })
}

fn encode(record: Record) -> types::Sandbox {
    types::Sandbox {
        sandbox_id: record.id,
        runtime: Some(types::sandbox::Runtime {
            name: record.runtime,
            options: record.runtime_options,
        }),
        spec: record.spec,
        labels: unordered(record.labels),
        created_at: record.created_at,
        updated_at: record.updated_at,
        extensions: record.extensions.into_iter().collect(),
        sandboxer: record.sandboxer,
    }
}

fn decode(sandbox: Option<types::Sandbox>) -> Record {
    let sandbox = sandbox.unwrap_or_default();
    let runtime = sandbox.runtime.unwrap_or_default();
    Record {
        id: sandbox.sandbox_id,
        labels: ordered(sandbox.labels),
        runtime: runtime.name,
        runtime_options: runtime.options,
        spec: sandbox.spec,
        created_at: sandbox.created_at,
        updated_at: sandbox.updated_at,
        extensions: sandbox.extensions.into_iter().collect(),
        sandboxer: sandbox.sandboxer,
    }
}

#[tonic::async_trait]
impl StoreApi for Store {
    async fn create(
        &self,
        request: Request<StoreCreateRequest>,
    ) -> Result<Response<StoreCreateResponse>, Status> {
        let (sandboxes, (context, request)) = (self.sandboxes.clone(), open(request)?);
        run(move || {
            let created = sandboxes.create(&context, decode(request.sandbox))?;
            Ok(StoreCreateResponse {
                sandbox: Some(encode(created)),
            })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<StoreUpdateRequest>,
    ) -> Result<Response<StoreUpdateResponse>, Status> {
        let (sandboxes, (context, request)) = (self.sandboxes.clone(), open(request)?);
        run(move || {
            let updated = sandboxes.update(&context, decode(request.sandbox), request.fields)?;
            Ok(StoreUpdateResponse {
                sandbox: Some(encode(updated)),
            })
        })
        .await
    }

    async fn delete(
        &self,
        request: Request<StoreDeleteRequest>,
    ) -> Result<Response<StoreDeleteResponse>, Status> {
        let (sandboxes, (context, request)) = (self.sandboxes.clone(), open(request)?);
        run(move || {
            sandboxes.delete(&context, &request.sandbox_id)?;
            Ok(StoreDeleteResponse {})
        })
        .await
    }

    async fn list(
        &self,
        request: Request<StoreListRequest>,
    ) -> Result<Response<StoreListResponse>, Status> {
        let (sandboxes, (context, request)) = (self.sandboxes.clone(), open(request)?);
        run(move || {
            let all = sandboxes.list(&context, &request.filters)?.into_iter();
            Ok(StoreListResponse {
                list: all.map(encode).collect(),
            })
        })
        .await
    }

    async fn get(
        &self,
        request: Request<StoreGetRequest>,
    ) -> Result<Response<StoreGetResponse>, Status> {
        let (sandboxes, (context, request)) = (self.sandboxes.clone(), open(request)?);
        run(move || {
            let sandbox = sandboxes.get(&context, &request.sandbox_id)?;
            Ok(StoreGetResponse {
                sandbox: Some(encode(sandbox)),
            })
        })
        .await
    }
}

/// Returns the namespace, the message and the controller that it asks for.
macro_rules! asked {
    ($service:expr, $request:expr) => {{
        let (context, request) = open($request)?;
        // Clients of containerd 1.7 name no controller.
        if !request.sandboxer.is_empty() && request.sandboxer != SHIM {
            return Err(status(unknown_sandboxer(&request.sandboxer)));
        }
        (&$service.shim, context, request)
    }};
}

#[tonic::async_trait]
impl ControllerApi for Controllers {
    async fn create(
        &self,
        request: Request<ControllerCreateRequest>,
    ) -> Result<Response<ControllerCreateResponse>, Status> {
        let (shim, context, request) = asked!(self, request);
        let create = Create {
            rootfs: request.rootfs,
            options: request.options,
            netns_path: request.netns_path,
            annotations: request.annotations,
        };
        let sandbox_id = request.sandbox_id;
        let created = shim.create(&context, &sandbox_id, create).await;
        created.map_err(status)?;
        Ok(Response::new(ControllerCreateResponse { sandbox_id }))
    }

    async fn start(
        &self,
        request: Request<ControllerStartRequest>,
    ) -> Result<Response<ControllerStartResponse>, Status> {
        let (shim, context, request) = asked!(self, request);
        let started = shim.start(&context, &request.sandbox_id).await;
        let (started, address, version) = started.map_err(status)?;
        Ok(Response::new(ControllerStartResponse {
            sandbox_id: request.sandbox_id,
            pid: started.pid,
            created_at: started.created_at,
            labels: Default::default(),
            address,
            version,
            spec: started.spec,
        }))
    }

    async fn platform(
        &self,
        request: Request<ControllerPlatformRequest>,
    ) -> Result<Response<ControllerPlatformResponse>, Status> {
        let (shim, context, request) = asked!(self, request);
        let platform = shim.platform(&context, &request.sandbox_id).await;
        Ok(Response::new(ControllerPlatformResponse {
            platform: platform.map_err(status)?,
        }))
    }

    async fn stop(
        &self,
        request: Request<ControllerStopRequest>,
    ) -> Result<Response<ControllerStopResponse>, Status> {
        let (shim, context, request) = asked!(self, request);
        let stopped = shim.stop(&context, &request.sandbox_id, request.timeout_secs);
        stopped.await.map_err(status)?;
        Ok(Response::new(ControllerStopResponse {}))
    }

    async fn wait(
        &self,
        request: Request<ControllerWaitRequest>,
    ) -> Result<Response<ControllerWaitResponse>, Status> {
        let (shim, context, request) = asked!(self, request);
        let ended = shim.wait(&context, &request.sandbox_id).await;
        let ended = ended.map_err(status)?;
        Ok(Response::new(ControllerWaitResponse {
            exit_status: ended.exit_status,
            exited_at: ended.exited_at,
        }))
    }

    async fn status(
        &self,
        request: Request<ControllerStatusRequest>,
    ) -> Result<Response<ControllerStatusResponse>, Status> {
        let (shim, context, request) = asked!(self, request);
        let found = shim.status(&context, &request.sandbox_id, request.verbose);
        let (found, address, version) = found.await.map_err(status)?;
        Ok(Response::new(ControllerStatusResponse {
            sandbox_id: request.sandbox_id,
            pid: found.pid,
            state: found.state,
            info: found.info,
            created_at: found.created_at,
            exited_at: found.exited_at,
            extra: found.extra,
            address,
            version,
        }))
    }

    async fn shutdown(
        &self,
        request: Request<ControllerShutdownRequest>,
    ) -> Result<Response<ControllerShutdownResponse>, Status> {
        let (shim, context, request) = asked!(self, request);
        let ended = shim.shutdown(&context, &request.sandbox_id).await;
        ended.map_err(status)?;
        Ok(Response::new(ControllerShutdownResponse {}))
    }

    async fn metrics(
        &self,
        request: Request<ControllerMetricsRequest>,
    ) -> Result<Response<ControllerMetricsResponse>, Status> {
        let (shim, context, request) = asked!(self, request);
        let metrics = shim.metrics(&context, &request.sandbox_id).await;
        Ok(Response::new(ControllerMetricsResponse {
            metrics: metrics.map_err(status)?,
        }))
    }

    async fn update(
        &self,
        request: Request<ControllerUpdateRequest>,
    ) -> Result<Response<ControllerUpdateResponse>, Status> {
        let _ = asked!(self, request);
        Err(Status::unimplemented(
            "the sandbox API of shims has no update",
        ))
    }
}
