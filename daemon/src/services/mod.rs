//! The gRPC services: each method decodes, calls one function of a part, and encodes.

pub mod containers;
pub mod content;
pub mod diff;
pub mod events;
pub mod health;
pub mod images;
pub mod introspection;
pub mod leases;
pub mod mounts;
pub mod namespaces;
pub mod sandboxes;
pub mod snapshots;
pub mod snapshotter;
pub mod streaming;
pub mod tasks;
pub mod transfer;
pub mod ttrpc_events;
pub mod version;

use std::collections::HashMap;
use std::pin::Pin;

use futures_util::stream;
use prost_types::FieldMask;
use tonic::{Request, Response, Status};

use crate::blocking::blocking;
use crate::context::Context;
use crate::error::{Result, status};
use crate::labels::Labels;

/// What a streaming method answers with.
pub type Stream<T> = Pin<Box<dyn futures_util::Stream<Item = Result<T, Status>> + Send>>;

/// Runs `work` where it may block and answers with its result.
pub async fn run<T, F>(work: F) -> Result<Response<T>, Status>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    blocking(work).await.map(Response::new).map_err(status)
}

/// Runs `work` where it may block and answers with a stream of its results.
pub async fn run_stream<T, F>(work: F) -> Result<Response<Stream<T>>, Status>
where
    T: Send + 'static,
    F: FnOnce() -> Result<Vec<T>> + Send + 'static,
{
    let items = blocking(work).await.map_err(status)?;
    let items = stream::iter(items.into_iter().map(Ok));
    Ok(Response::new(Box::pin(items)))
}

/// Returns the namespace and lease of a request, and its message.
pub fn open<T>(request: Request<T>) -> Result<(Context, T), Status> {
    let context = Context::from_headers(request.metadata()).map_err(status)?;
    Ok((context, request.into_inner()))
}

/// Returns the paths of a field mask; no mask has none.
pub fn paths(mask: Option<FieldMask>) -> Vec<String> {
    mask.unwrap_or_default().paths
}

/// Returns labels as the wire has them, in no order.
pub fn unordered(labels: Labels) -> HashMap<String, String> {
    labels.into_iter().collect()
}

/// Returns labels of the wire in order.
pub fn ordered(labels: HashMap<String, String>) -> Labels {
    labels.into_iter().collect()
}
