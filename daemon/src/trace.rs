//! Where the time of a call goes, for a client that asks: it sends the header `corten-trace`, and the answer's header
//! `corten-spans` has a JSON list of `[name, microseconds from the call's begin, microseconds it took]`.
//!
//! Without the header a span costs a look at a variable of the task.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Poll};
use std::time::Instant;

use futures_util::future::{BoxFuture, Either, FutureExt};
use http::{HeaderValue, Request, Response};
use tower::{Layer, Service};

/// The header by which a client asks.
pub const ASK: &str = "corten-trace";
/// The header of the answer.
pub const SPANS: &str = "corten-spans";
/// Headers have a limit; no call has as many spans that are worth a look.
const MOST: usize = 100;

tokio::task_local! {
    static TRACE: Trace;
}

/// A span as it is told: its name, when it began and how long it took, in microseconds.
type Told = (&'static str, u64, u64);

/// The spans of one call; clones share them.
#[derive(Clone, Debug)]
pub struct Trace {
    began: Instant,
    spans: Arc<Mutex<Vec<Told>>>,
}

/// A span that lasts until it is dropped.
#[derive(Debug)]
pub struct Span {
    trace: Trace,
    name: &'static str,
    began: Instant,
}

/// Begins a span of the present call, if its client asks for them.
pub fn span(name: &'static str) -> Option<Span> {
    current().map(|trace| Span {
        trace,
        name,
        began: Instant::now(),
    })
}

/// Returns the trace of the present call, if there is one.
pub fn current() -> Option<Trace> {
    TRACE.try_with(Clone::clone).ok()
}

/// Runs `work`, on whichever thread, as a part of the call that `trace` is of.
pub fn within<T>(trace: Option<Trace>, work: impl FnOnce() -> T) -> T {
    match trace {
        Some(trace) => TRACE.sync_scope(trace, work),
        None => work(),
    }
}

/// Has `work` done by itself, as a part of the present call.
pub fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    match current() {
        Some(trace) => tokio::spawn(TRACE.scope(trace, work)),
        None => tokio::spawn(work),
    };
}

impl Trace {
    fn begin() -> Self {
        Self {
            began: Instant::now(),
            spans: Arc::default(),
        }
    }

    /// Returns the spans as the header has them.
    fn header(&self) -> Option<HeaderValue> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let json = serde_json::to_string(&*spans).ok()?;
        HeaderValue::from_str(&json).ok()
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let micros = |span: std::time::Duration| span.as_micros() as u64;
        let after = micros(self.began.duration_since(self.trace.began));
        let took = micros(self.began.elapsed());
        let spans = self.trace.spans.lock();
        let mut spans = spans.unwrap_or_else(PoisonError::into_inner);
        if spans.len() < MOST {
            spans.push((self.name, after, took));
        }
    }
}

/// Has calls that ask for their spans answered with them.
#[derive(Clone, Copy, Debug)]
pub struct Traced;

impl<S> Layer<S> for Traced {
    type Service = TracedService<S>;

    fn layer(&self, inner: S) -> TracedService<S> {
        TracedService(inner)
    }
}

/// A service whose calls can be traced.
#[derive(Clone, Debug)]
pub struct TracedService<S>(S);

impl<S, B, R> Service<Request<B>> for TracedService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    R: 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if !request.headers().contains_key(ASK) {
            return Either::Left(self.0.call(request));
        }
        let trace = Trace::begin();
        let answer = TRACE.sync_scope(trace.clone(), || self.0.call(request));
        Either::Right(answered(trace, answer).boxed())
    }
}

async fn answered<R, E>(
    trace: Trace,
    answer: impl Future<Output = Result<Response<R>, E>>,
) -> Result<Response<R>, E> {
    let mut response = TRACE.scope(trace.clone(), answer).await?;
    if let Some(spans) = trace.header() {
        response.headers_mut().insert(SPANS, spans);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::ServiceExt;

    use super::*;
    use crate::blocking::blocking;

    async fn answer(_: Request<()>) -> Result<Response<()>, Infallible> {
        let _whole = span("whole");
        let worked = blocking(|| {
            drop(span("part"));
            Ok(())
        });
        worked.await.expect("it does nothing that fails");
        Ok(Response::new(()))
    }

    #[tokio::test]
    async fn spans_are_told_to_who_asks_and_to_nobody_else() {
        let service = || Traced.layer(tower::service_fn(answer));
        let asking = Request::builder().header(ASK, "1").body(()).unwrap();
        let answered = service().oneshot(asking).await.unwrap();
        let spans = answered.headers()[SPANS].to_str().unwrap();
        let spans: Vec<(String, u64, u64)> = serde_json::from_str(spans).unwrap();
        let names: Vec<&str> = spans.iter().map(|span| span.0.as_str()).collect();
        assert_eq!(names, ["part", "whole"]);
        assert!(spans[1].1 <= spans[0].1 && spans[1].2 >= spans[0].2);

        let answered = service().oneshot(Request::new(())).await.unwrap();
        assert!(answered.headers().get(SPANS).is_none());
    }
}
