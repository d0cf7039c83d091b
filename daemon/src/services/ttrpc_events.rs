//! containerd.services.events.ttrpc.v1: the events of shims, over the socket that only they use.

use std::sync::Arc;

use api_protos::containerd::services::events::ttrpc::v1::ForwardRequest;
use api_protos::containerd::services::events::ttrpc::v1::events_ttrpc::{Events, EventsServer};
use corten_ttrpc::{Context, Server};

use crate::error::{Result, invalid};
use crate::tasks::shims::Shims;

/// The service.
#[derive(Debug)]
pub struct Service {
    shims: Shims,
}

/// Returns a server that takes the events of `shims`, from processes of the daemon's own user only.
pub fn server(shims: Shims) -> Server {
    let service = EventsServer::new(Arc::new(Service { shims }));
    let services: [Box<dyn corten_ttrpc::Service>; 1] = [Box::new(service)];
    Server::new(services).with_peer_uid(rustix::process::geteuid().as_raw())
}

impl Events for Service {
    async fn forward(&self, _: Context, request: ForwardRequest) -> Result<()> {
        let envelope = request.envelope;
        self.shims
            .forward(envelope.ok_or_else(|| invalid("envelope must be set"))?)
    }
}
