//! containerd.services.leases.v1: what keeps objects from garbage collection.

use api_protos::containerd::services::leases::v1::leases_server::{Leases as Api, LeasesServer};
use api_protos::containerd::services::leases::v1::*;
use tonic::{Request, Response, Status};

use super::{open, ordered, run, unordered};
use crate::error::status;
use crate::gc::Collector;
use crate::metadata::leases::Resource as Held;
use crate::metadata::{Lease as Record, Leases};

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    leases: Leases,
    collector: Collector,
}

/// Returns the service as a server.
pub fn server(leases: Leases, collector: Collector) -> LeasesServer<Service> {
    LeasesServer::new(Service { leases, collector })
}

fn encode(record: Record) -> Lease {
    Lease {
        id: record.id,
        created_at: record.created_at,
        labels: unordered(record.labels),
    }
}

fn decode(resource: Option<Resource>) -> Held {
    let Resource { id, r#type: kind } = resource.unwrap_or_default();
    Held { kind, id }
}

#[tonic::async_trait]
impl Api for Service {
    async fn create(
        &self,
        request: Request<CreateRequest>,
    ) -> Result<Response<CreateResponse>, Status> {
        let (leases, (context, request)) = (self.leases.clone(), open(request)?);
        run(move || {
            let lease = leases.create(&context, &request.id, ordered(request.labels))?;
            Ok(CreateResponse {
                lease: Some(encode(lease)),
            })
        })
        .await
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<()>, Status> {
        let (leases, (context, request)) = (self.leases.clone(), open(request)?);
        let answer = run(move || leases.delete(&context, &request.id)).await?;
        if request.sync {
            self.collector.collect().await.map_err(status)?;
        }
        Ok(answer)
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let (leases, (context, request)) = (self.leases.clone(), open(request)?);
        run(move || {
            let records = leases.list(&context, &request.filters)?;
            Ok(ListResponse {
                leases: records.into_iter().map(encode).collect(),
            })
        })
        .await
    }

    async fn add_resource(
        &self,
        request: Request<AddResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let (leases, (context, request)) = (self.leases.clone(), open(request)?);
        run(move || leases.add(&context, &request.id, decode(request.resource))).await
    }

    async fn delete_resource(
        &self,
        request: Request<DeleteResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let (leases, (context, request)) = (self.leases.clone(), open(request)?);
        run(move || leases.remove(&context, &request.id, decode(request.resource))).await
    }

    async fn list_resources(
        &self,
        request: Request<ListResourcesRequest>,
    ) -> Result<Response<ListResourcesResponse>, Status> {
        let (leases, (context, request)) = (self.leases.clone(), open(request)?);
        run(move || {
            let held = leases.resources(&context, &request.id)?.into_iter();
            let encode = |Held { kind, id }| Resource { id, r#type: kind };
            Ok(ListResourcesResponse {
                resources: held.map(encode).collect(),
            })
        })
        .await
    }
}
