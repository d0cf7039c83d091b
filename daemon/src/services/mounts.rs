//! containerd.services.mounts.v1: mounts that the daemon makes for its clients. Of those it makes none: clients that
//! are told so mount by themselves, as they do with overlay mounts under containerd.

use api_protos::containerd::services::mounts::v1::mounts_server::{Mounts as Api, MountsServer};
use api_protos::containerd::services::mounts::v1::*;
use tonic::{Request, Response, Status};

use super::{Stream, open};
use crate::error::{Error, Kind, Result, invalid, not_found, status};
use crate::filter::Filter;

/// The service.
#[derive(Clone, Copy, Debug)]
pub struct Service;

/// Returns the service as a server.
pub fn server() -> MountsServer<Service> {
    MountsServer::new(Service)
}

/// The answer about the mount `name`: it was never activated.
fn unknown<T>(name: &str) -> Result<T, Status> {
    Err(status(not_found("mount", name)))
}

#[tonic::async_trait]
impl Api for Service {
    async fn activate(
        &self,
        request: Request<ActivateRequest>,
    ) -> Result<Response<ActivateResponse>, Status> {
        let (_, request) = open(request)?;
        if request.name.is_empty() {
            return Err(status(invalid("mount name must not be empty")));
        }
        let none = Error::new(
            Kind::Unimplemented,
            "no mount of these has to be made by the daemon",
        );
        Err(status(none))
    }

    async fn deactivate(
        &self,
        request: Request<DeactivateRequest>,
    ) -> Result<Response<()>, Status> {
        let (_, request) = open(request)?;
        unknown(&request.name)
    }

    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let (_, request) = open(request)?;
        unknown(&request.name)
    }

    async fn update(
        &self,
        request: Request<UpdateRequest>,
    ) -> Result<Response<UpdateResponse>, Status> {
        let (_, request) = open(request)?;
        unknown(&request.info.unwrap_or_default().name)
    }

    type ListStream = Stream<ListMessage>;

    async fn list(
        &self,
        request: Request<ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let (_, request) = open(request)?;
        Filter::parse(&request.filters).map_err(status)?;
        Ok(Response::new(Box::pin(futures_util::stream::empty())))
    }
}
