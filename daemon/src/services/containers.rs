//! containerd.services.containers.v1: what tasks are made from.

use api_protos::containerd::services::containers::v1::containers_server::{
    Containers as Api, ContainersServer,
};
use api_protos::containerd::services::containers::v1::*;
use tonic::{Request, Response, Status};

use super::{Stream, open, ordered, paths, run, run_stream, unordered};
use crate::metadata::{Container as Record, Containers};
use crate::restart::origin::Origin;

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    containers: Containers,
    origin: Origin,
}

/// Returns the service as a server.
pub fn server(containers: Containers, origin: Origin) -> ContainersServer<Service> {
    ContainersServer::new(Service { containers, origin })
}

fn encode(record: Record) -> Container {
    Container {
        id: record.id,
        labels: unordered(record.labels),
        image: record.image,
        runtime: Some(container::Runtime {
            name: record.runtime,
            options: record.runtime_options,
        }),
        spec: record.spec,
        snapshotter: record.snapshotter,
        snapshot_key: record.snapshot_key,
        created_at: record.created_at,
        updated_at: record.updated_at,
        extensions: record.extensions.into_iter().collect(),
        sandbox: record.sandbox,
    }
}

fn decode(container: Container) -> Record {
    let runtime = container.runtime.unwrap_or_default();
    Record {
        id: container.id,
        labels: ordered(container.labels),
        image: container.image,
        runtime: runtime.name,
        runtime_options: runtime.options,
        spec: container.spec,
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        created_at: container.created_at,
        updated_at: container.updated_at,
        extensions: container.extensions.into_iter().collect(),
        sandbox: container.sandbox,
    }
}

#[tonic::async_trait]
impl Api for Service {
    async fn get(
        &self,
        request: Request<GetContainerRequest>,
    ) -> Result<Response<GetContainerResponse>, Status> {
        let (containers, (context, request)) = (self.containers.clone(), open(request)?);
        run(move || {
            let container = Some(encode(containers.get(&context, &request.id)?));
            Ok(GetContainerResponse { container })
        })
        .await
    }

    async fn list(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let (containers, (context, request)) = (self.containers.clone(), open(request)?);
        run(move || {
            let records = containers.list(&context, &request.filters)?;
            Ok(ListContainersResponse {
                containers: records.into_iter().map(encode).collect(),
            })
        })
        .await
    }

    type ListStreamStream = Stream<ListContainerMessage>;

    async fn list_stream(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<Self::ListStreamStream>, Status> {
        let (containers, (context, request)) = (self.containers.clone(), open(request)?);
        run_stream(move || {
            let records = containers.list(&context, &request.filters)?.into_iter();
            let message = |record| ListContainerMessage {
                container: Some(encode(record)),
            };
            Ok(records.map(message).collect())
        })
        .await
    }

    async fn create(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Result<Response<CreateContainerResponse>, Status> {
        let (service, (context, request)) = (self.clone(), open(request)?);
        run(move || {
            let mut record = decode(request.container.unwrap_or_default());
            service.origin.drop_labels_of_image(&context, &mut record)?;
            let container = Some(encode(service.containers.create(&context, record)?));
            Ok(CreateContainerResponse { container })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<UpdateContainerRequest>,
    ) -> Result<Response<UpdateContainerResponse>, Status> {
        let (containers, (context, request)) = (self.containers.clone(), open(request)?);
        run(move || {
            let record = decode(request.container.unwrap_or_default());
            let updated = containers.update(&context, record, paths(request.update_mask))?;
            Ok(UpdateContainerResponse {
                container: Some(encode(updated)),
            })
        })
        .await
    }

    async fn delete(
        &self,
        request: Request<DeleteContainerRequest>,
    ) -> Result<Response<()>, Status> {
        let (containers, (context, request)) = (self.containers.clone(), open(request)?);
        run(move || containers.delete(&context, &request.id)).await
    }
}
