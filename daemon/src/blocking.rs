//! The crossing from async to blocking work: disk, kernel and metadata calls run on tokio's bounded blocking pool.

use tracing::Span;

use crate::error::{Error, Kind, Result};
use crate::trace;

/// Runs `work` on a thread that may block and returns its result.
pub async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let (span, trace) = (Span::current(), trace::current());
    tokio::task::spawn_blocking(move || span.in_scope(|| trace::within(trace, work)))
        .await
        .unwrap_or_else(|error| {
            Err(Error::new(
                Kind::Internal,
                format!("blocking work ended early: {error}"),
            ))
        })
}
