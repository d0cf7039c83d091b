//! Counting the calls of the gRPC services, under the names that Go's gRPC servers use.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{self, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::page::Page;
use crate::histogram::Histogram;

/// The codes there are.
const CODES: usize = 17;

/// The calls of all methods; clones share them.
#[derive(Clone, Debug)]
pub struct Calls {
    methods: Arc<BTreeMap<&'static str, Arc<Method>>>,
    timed: bool,
}

#[derive(Debug)]
struct Method {
    service: &'static str,
    name: &'static str,
    kind: &'static str,
    started: AtomicU64,
    handled: [AtomicU64; CODES],
    seconds: Option<Histogram>,
}

impl Calls {
    /// Returns calls of which none was made; with `timed` it is measured how long they take.
    pub fn new(timed: bool) -> Self {
        let methods = api_protos::METHODS.iter();
        let methods = methods.filter_map(|(path, client, server)| {
            let (service, name) = path.strip_prefix('/')?.split_once('/')?;
            let method = Method {
                service,
                name,
                kind: match (client, server) {
                    (false, false) => "unary",
                    (true, false) => "client_stream",
                    (false, true) => "server_stream",
                    (true, true) => "bidi_stream",
                },
                started: AtomicU64::new(0),
                handled: Default::default(),
                seconds: timed.then(Histogram::default),
            };
            Some((*path, Arc::new(method)))
        });
        Self {
            methods: Arc::new(methods.collect()),
            timed,
        }
    }

    /// Adds what was counted of methods that have been called.
    pub fn write(&self, page: &mut Page) {
        for method in self.methods.values() {
            let started = method.started.load(Ordering::Relaxed);
            if started == 0 {
                continue;
            }
            let labels = [
                ("grpc_type", method.kind),
                ("grpc_service", method.service),
                ("grpc_method", method.name),
            ];
            page.counter(
                "grpc_server_started_total",
                "Calls that have begun.",
                &labels,
                started,
            );
            for (code, count) in method.handled.iter().enumerate() {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let code = ("grpc_code", name(code));
                    page.counter(
                        "grpc_server_handled_total",
                        "Calls that have ended, by what was answered.",
                        &[&labels[..], &[code]].concat(),
                        count,
                    );
                }
            }
            if let Some(seconds) = &method.seconds {
                page.histogram(
                    "grpc_server_handling_seconds",
                    "How long calls have taken.",
                    &labels,
                    seconds,
                );
            }
        }
    }

    /// Returns the methods of which calls are being answered, with how many.
    pub fn running(&self) -> BTreeMap<&'static str, u64> {
        let running = self.methods.iter().filter_map(|(path, method)| {
            let handled = method.handled.iter();
            let handled: u64 = handled.map(|count| count.load(Ordering::Relaxed)).sum();
            let running = method
                .started
                .load(Ordering::Relaxed)
                .saturating_sub(handled);
            (running > 0).then_some((*path, running))
        });
        running.collect()
    }

    /// Counts a call that begins; calls of methods that nobody knows are not counted.
    fn begin(&self, path: &str) -> Option<Call> {
        let method = self.methods.get(path)?.clone();
        method.started.fetch_add(1, Ordering::Relaxed);
        Some(Call {
            method,
            begun: self.timed.then(Instant::now),
            code: Code::Cancelled,
        })
    }
}

/// A call that is being answered. It is counted when it is dropped: a client may go away at any time.
#[derive(Debug)]
struct Call {
    method: Arc<Method>,
    begun: Option<Instant>,
    code: Code,
}

impl Call {
    /// Notes how the call ends, if these headers or trailers say so.
    fn note(&mut self, headers: &HeaderMap) {
        if let Some(status) = Status::from_header_map(headers) {
            self.code = status.code();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let code = usize::try_from(i32::from(self.code)).unwrap_or_default();
        if let Some(count) = self.method.handled.get(code) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let (Some(seconds), Some(begun)) = (&self.method.seconds, self.begun) {
            seconds.add(begun.elapsed());
        }
    }
}

/// Returns Go's name of a code.
fn name(code: usize) -> &'static str {
    const NAMES: [&str; CODES] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    NAMES[code]
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    calls: Calls,
}

impl<S> Layer<S> for Calls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        let calls = self.clone();
        Counted { inner, calls }
    }
}

impl<S, B> Service<http::Request<B>> for Counted<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let call = self.calls.begin(request.uri().path());
        let answering = self.inner.call(request);
        Box::pin(async move {
            let response = answering.await?;
            let Some(mut call) = call else {
                return Ok(response);
            };
            call.note(response.headers());
            Ok(response.map(|body| Body::new(CountedBody { body, call })))
        })
    }
}

/// An answer whose trailers say how the call has ended.
struct CountedBody {
    body: Body,
    call: Call,
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = task::ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.note(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "/containerd.services.containers.v1.Containers/Get";
    const WRITE: &str = "/containerd.services.content.v1.Content/Write";

    #[test]
    fn calls_are_counted_by_what_was_answered() {
        let calls = Calls::new(true);
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", "5".parse().unwrap());
        calls.begin(GET).unwrap().note(&headers);
        let vanished = calls.begin(GET).unwrap();
        let running = calls.begin(WRITE).unwrap();
        assert!(calls.begin("/a.B/C").is_none());
        assert_eq!(calls.running(), BTreeMap::from([(GET, 1), (WRITE, 1)]));
        drop(vanished);
        let mut page = Page::default();
        calls.write(&mut page);
        let text = page.finish();
        let of = |kind, service, method| {
            format!("grpc_type=\"{kind}\",grpc_service=\"{service}\",grpc_method=\"{method}\"")
        };
        let get = of(
            "unary",
            "containerd.services.containers.v1.Containers",
            "Get",
        );
        let write = of(
            "bidi_stream",
            "containerd.services.content.v1.Content",
            "Write",
        );
        for line in [
            format!("grpc_server_started_total{{{get}}} 2"),
            format!("grpc_server_started_total{{{write}}} 1"),
            format!("grpc_server_handled_total{{{get},grpc_code=\"NotFound\"}} 1"),
            format!("grpc_server_handled_total{{{get},grpc_code=\"Canceled\"}} 1"),
            format!("grpc_server_handling_seconds_count{{{get}}} 2"),
            format!("grpc_server_handling_seconds_count{{{write}}} 0"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        drop(running);
        assert!(calls.running().is_empty());
    }
}
