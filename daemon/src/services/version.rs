//! containerd.services.version.v1: which containerd this daemon stands in for.

use api_protos::containerd::services::version::v1::VersionResponse;
use api_protos::containerd::services::version::v1::version_server::{Version, VersionServer};
use tonic::{Request, Response, Status};

/// The containerd whose API this is, with our own version behind it: clients compare it as a semantic version.
pub const VERSION: &str = concat!("v2.1.9+corten.", env!("CARGO_PKG_VERSION"));
/// The revision that the daemon was built from, where the build says so.
pub const REVISION: &str = match option_env!("CORTEN_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// The service.
#[derive(Clone, Copy, Debug)]
pub struct Service;

/// Returns the service as a server.
pub fn server() -> VersionServer<Service> {
    VersionServer::new(Service)
}

#[tonic::async_trait]
impl Version for Service {
    async fn version(&self, _: Request<()>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: VERSION.into(),
            revision: REVISION.into(),
        }))
    }
}
