//! containerd.services.events.v1: publishing and following events.

use std::sync::Arc;

use api_protos::containerd::services::events::v1::events_server::{Events, EventsServer};
use api_protos::containerd::services::events::v1::*;
use api_protos::containerd::types::Envelope;
use futures_util::stream;
use tonic::{Request, Response, Status};

use super::{Stream, open};
use crate::error::{invalid, status};
use crate::events::Exchange;

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    exchange: Arc<Exchange>,
}

/// Returns the service as a server.
pub fn server(exchange: Arc<Exchange>) -> EventsServer<Service> {
    EventsServer::new(Service { exchange })
}

#[tonic::async_trait]
impl Events for Service {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<()>, Status> {
        let (context, request) = open(request)?;
        let event = request.event.unwrap_or_default();
        self.exchange
            .publish_any(context.namespace(), &request.topic, event)
            .map(Response::new)
            .map_err(status)
    }

    async fn forward(&self, request: Request<ForwardRequest>) -> Result<Response<()>, Status> {
        let envelope = request.into_inner().envelope;
        envelope
            .ok_or_else(|| invalid("envelope must be set"))
            .and_then(|envelope| self.exchange.forward(envelope))
            .map(Response::new)
            .map_err(status)
    }

    type SubscribeStream = Stream<Envelope>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let filters = request.into_inner().filters;
        let subscription = self.exchange.subscribe(&filters).map_err(status)?;
        let events = stream::unfold(subscription, |mut subscription| async {
            let envelope = subscription.next().await?;
            Some((Ok(envelope), subscription))
        });
        Ok(Response::new(Box::pin(events)))
    }
}
