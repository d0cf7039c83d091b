//! containerd.services.diff.v1: layers applied to mounts, and made from them.

use api_protos::containerd::services::diff::v1::diff_server::{Diff as Api, DiffServer};
use api_protos::containerd::services::diff::v1::*;
use api_protos::containerd::types;
use sys::mount::Mount;
use tonic::{Request, Response, Status};

use super::{open, ordered, run};
use crate::diff::Diff;
use crate::diff::compare::Options;
use crate::metadata::Descriptor;

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    diff: Diff,
}

/// Returns the service as a server.
pub fn server(diff: Diff) -> DiffServer<Service> {
    DiffServer::new(Service { diff })
}

/// Returns a descriptor of the wire.
pub fn decode(descriptor: Option<types::Descriptor>) -> Descriptor {
    let descriptor = descriptor.unwrap_or_default();
    Descriptor {
        media_type: descriptor.media_type,
        digest: descriptor.digest,
        size: descriptor.size,
        annotations: descriptor.annotations.into_iter().collect(),
    }
}

/// Returns a descriptor as the wire has it.
pub fn encode(descriptor: Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type,
        digest: descriptor.digest,
        size: descriptor.size,
        annotations: descriptor.annotations.into_iter().collect(),
    }
}

fn mounts(mounts: Vec<types::Mount>) -> Vec<Mount> {
    mounts.into_iter().map(Into::into).collect()
}

#[tonic::async_trait]
impl Api for Service {
    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let (context, request) = open(request)?;
        let diff = self.diff.clone();
        run(move || {
            let layer = decode(request.diff);
            let mounts = mounts(request.mounts);
            let applied = diff.apply(&context, &layer, &mounts, request.sync_fs)?;
            Ok(ApplyResponse {
                applied: Some(encode(applied)),
            })
        })
        .await
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Result<Response<DiffResponse>, Status> {
        let (context, request) = open(request)?;
        let diff = self.diff.clone();
        run(move || {
            let left = mounts(request.left);
            let right = mounts(request.right);
            let options = Options {
                media_type: request.media_type,
                reference: request.r#ref,
                labels: ordered(request.labels),
                source_date_epoch: request.source_date_epoch.map(|time| time.seconds),
            };
            let layer = diff.compare(&context, &left, &right, options)?;
            Ok(DiffResponse {
                diff: Some(encode(layer)),
            })
        })
        .await
    }
}
