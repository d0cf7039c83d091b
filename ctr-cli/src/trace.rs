//! Calls that are noted as they are made: when each began, how long it took, and what the daemon says it did meanwhile.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response};
use tonic::transport::{self, Channel};
use tower::Service;

/// The header by which the daemon is asked for spans, and the one they come in.
const ASK: &str = "corten-trace";
const SPANS: &str = "corten-spans";

/// What took time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// What it was, such as `Tasks/Create`.
    pub name: String,
    /// When it began, from when noting began.
    pub began: Duration,
    /// How long it took.
    pub took: Duration,
    /// What the daemon did in it, each from the same begin.
    pub inside: Vec<Span>,
}

/// Notes calls; clones note into the same list.
#[derive(Clone, Debug)]
pub struct Recorder {
    began: Instant,
    calls: Arc<Mutex<Vec<Span>>>,
}

impl Recorder {
    /// Begins to note.
    pub fn begin() -> Recorder {
        Recorder {
            began: Instant::now(),
            calls: Arc::default(),
        }
    }

    /// Returns the calls that have been answered, in the order of their begin.
    pub fn calls(&self) -> Vec<Span> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let mut calls = calls.clone();
        calls.sort_by_key(|call| call.began);
        calls
    }

    fn note(&self, path: &str, began: Instant, headers: &HeaderMap) {
        let began_after = began.duration_since(self.began);
        let spans = headers.get(SPANS).and_then(|spans| spans.to_str().ok());
        let call = Span {
            name: short(path),
            began: began_after,
            took: began.elapsed(),
            inside: spans
                .map(|spans| inside(spans, began_after))
                .unwrap_or_default(),
        };
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push(call);
    }
}

/// Returns `Tasks/Create` for `/containerd.services.tasks.v1.Tasks/Create`.
fn short(path: &str) -> String {
    path.rsplit('.').next().unwrap_or(path).to_owned()
}

/// Reads the daemon's spans; a daemon that has none sends no header.
fn inside(spans: &str, began: Duration) -> Vec<Span> {
    let spans: Vec<(String, u64, u64)> = serde_json::from_str(spans).unwrap_or_default();
    let mut spans: Vec<Span> = spans
        .into_iter()
        .map(|(name, after, took)| Span {
            name,
            began: began + Duration::from_micros(after),
            took: Duration::from_micros(took),
            inside: Vec::new(),
        })
        .collect();
    spans.sort_by_key(|span| (span.began, std::cmp::Reverse(span.took)));
    spans
}

/// A channel that notes calls if it has a recorder.
#[derive(Clone, Debug)]
pub struct Noted {
    /// Where calls go.
    pub channel: Channel,
    /// Who notes them.
    pub recorder: Option<Recorder>,
}

impl Service<Request<Body>> for Noted {
    type Response = Response<Body>;
    type Error = transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, transport::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), transport::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(recorder) = self.recorder.clone() else {
            return Box::pin(self.channel.call(request));
        };
        let asks = HeaderValue::from_static("1");
        request.headers_mut().insert(ASK, asks);
        let (path, began) = (request.uri().path().to_owned(), Instant::now());
        let answer = self.channel.call(request);
        Box::pin(async move {
            let response = answer.await?;
            recorder.note(&path, began, response.headers());
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemon_says_is_put_where_the_call_is() {
        let recorder = Recorder::begin();
        let mut headers = HeaderMap::new();
        let path = "/containerd.services.tasks.v1.Tasks/Create";
        recorder.note(path, Instant::now(), &headers);
        headers.insert(
            SPANS,
            HeaderValue::from_static(r#"[["b",300,5],["a",100,250]]"#),
        );
        recorder.note(path, Instant::now(), &headers);
        let calls = recorder.calls();
        assert_eq!(calls[0].name, "Tasks/Create");
        assert!(calls[0].inside.is_empty());
        let names: Vec<&str> = calls[1]
            .inside
            .iter()
            .map(|span| span.name.as_str())
            .collect();
        assert_eq!(names, ["a", "b"]);
        let first = calls[1].began + Duration::from_micros(100);
        assert_eq!(calls[1].inside[0].began, first);
        assert!(inside("no list", Duration::ZERO).is_empty());
    }
}
