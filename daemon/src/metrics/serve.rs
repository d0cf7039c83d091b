//! The HTTP servers of metrics and of variables: a request, an answer, and the connection ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::Metrics;
use super::page::MEDIA_TYPE;
use crate::error::Result;
use crate::head::{self, Head};

/// How many requests are answered at a time; more wait.
const CONCURRENT: usize = 16;
/// How long a connection may last.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long nothing is accepted after that has failed, as when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

const OK: &str = "200 OK";
const NOT_FOUND: &str = "404 Not Found";
const NOT_ALLOWED: &str = "405 Method Not Allowed";
const FAILED: &str = "500 Internal Server Error";
const JSON: &str = "application/json; charset=utf-8";

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// `/v1/metrics`.
    Metrics,
    /// `/debug/vars`.
    Debug,
}

/// Accepts connections of either kind for ever and answers them.
macro_rules! serve {
    ($listener:expr, $metrics:expr, $pages:expr) => {{
        let permits = Arc::new(Semaphore::new(CONCURRENT));
        loop {
            let permit = permits.clone().acquire_owned().await;
            match $listener.accept().await {
                Ok((stream, _)) => {
                    let metrics = $metrics.clone();
                    tokio::spawn(async move {
                        let answer = connection(&metrics, $pages, stream);
                        match tokio::time::timeout(PATIENCE, answer).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => tracing::debug!("serve metrics: {error:#}"),
                            Err(_) => tracing::debug!("serve metrics: the client took too long"),
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!("accept a connection for metrics: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }};
}

/// Serves on a TCP socket.
pub async fn tcp(listener: TcpListener, metrics: Metrics, pages: Pages) {
    serve!(listener, metrics, pages)
}

/// Serves on a unix socket.
pub async fn unix(listener: UnixListener, metrics: Metrics, pages: Pages) {
    serve!(listener, metrics, pages)
}

async fn connection(
    metrics: &Metrics,
    pages: Pages,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<()> {
    let (head, _) = Head::read(&mut stream).await?;
    if head.method != "GET" {
        return head::refuse(&mut stream, NOT_ALLOWED, "only GET is answered").await;
    }
    let path = head.path.split('?').next().unwrap_or_default();
    let (media_type, page) = match (pages, path) {
        (Pages::Metrics, "/v1/metrics") => (MEDIA_TYPE, metrics.page().await),
        (Pages::Debug, "/debug/vars") => {
            let variables = metrics.variables().await;
            (JSON, variables.map(|variables| format!("{variables:#}\n")))
        }
        _ => return head::refuse(&mut stream, NOT_FOUND, "404 page not found").await,
    };
    match page {
        Ok(page) => head::answer(&mut stream, OK, media_type, &page).await,
        Err(error) => {
            tracing::error!(path, "write a page of metrics: {error:#}");
            head::refuse(&mut stream, FAILED, "see the log of the daemon").await
        }
    }
}
