//! containerd.services.streaming.v1: streams that transfers name and take.

use api_protos::any;
use api_protos::containerd::services::streaming::v1::StreamInit;
use api_protos::containerd::services::streaming::v1::streaming_server::{
    Streaming as Api, StreamingServer,
};
use futures_util::{StreamExt, stream};
use prost_types::Any;
use tonic::{Request, Response, Status, Streaming};

use super::{Stream, open};
use crate::error::{Error, Kind, invalid, status};
use crate::streaming::Streams;

/// The type of the message that confirms a stream.
const EMPTY: &str = "google.protobuf.Empty";

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    streams: Streams,
}

/// Returns the service as a server.
pub fn server(streams: Streams) -> StreamingServer<Service> {
    StreamingServer::new(Service { streams })
}

/// Returns the error that a broken call stands for: its client has gone, by intent or not.
fn gone(status: Status) -> Error {
    Error::new(
        Kind::Canceled,
        format!("the stream broke off: {}", status.message()),
    )
}

#[tonic::async_trait]
impl Api for Service {
    type StreamStream = Stream<Any>;

    async fn stream(
        &self,
        request: Request<Streaming<Any>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (context, mut messages) = open(request)?;
        let first = messages.message().await?;
        let init = first.as_ref().and_then(any::unpack::<StreamInit>);
        let Some(Ok(init)) = init else {
            let error = invalid("the first message of a stream must be its StreamInit");
            return Err(status(error));
        };
        let incoming = messages.map(|message| message.map_err(gone));
        let registered = self
            .streams
            .register(&context, &init.id, Box::pin(incoming));
        let answers = registered.map_err(status)?;
        let confirmed = Any {
            type_url: EMPTY.to_owned(),
            value: Vec::new(),
        };
        let rest = stream::unfold(answers, |mut answers| async {
            let message = answers.next().await?;
            Some((Ok(message), answers))
        });
        let all = stream::iter([Ok(confirmed)]).chain(rest);
        Ok(Response::new(Box::pin(all)))
    }
}
