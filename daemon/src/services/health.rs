//! grpc.health.v1: whether the daemon serves.

use api_protos::grpc::health::v1::health_check_response::ServingStatus;
use api_protos::grpc::health::v1::health_server::{Health, HealthServer};
use api_protos::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use futures_util::{StreamExt, stream};
use tonic::{Request, Response, Status};

use super::Stream;

/// The service: while the daemon answers at all, it serves.
#[derive(Clone, Copy, Debug)]
pub struct Service;

/// Returns the service as a server.
pub fn server() -> HealthServer<Service> {
    HealthServer::new(Service)
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl Health for Service {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match request.into_inner().service.as_str() {
            "" => Ok(Response::new(response(ServingStatus::Serving))),
            _ => Err(Status::not_found("unknown service")),
        }
    }

    type WatchStream = Stream<HealthCheckResponse>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let status = match request.into_inner().service.as_str() {
            "" => ServingStatus::Serving,
            _ => ServingStatus::ServiceUnknown,
        };
        let now = stream::iter([Ok(response(status))]);
        Ok(Response::new(Box::pin(now.chain(stream::pending()))))
    }
}
