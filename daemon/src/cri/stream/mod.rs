//! The streaming server: exec, attach and port forwarding over connections of their own.
//!
//! A call of CRI answers with a URL that has a token in it; whoever connects there within a minute gets the streams
//! that the call was about, once. Connections are upgraded to SPDY/3.1, as kubelets and crictl do, or to WebSocket.
//!
//! | file | what |
//! |---|---|
//! | `head.rs` | the request that a connection begins with |
//! | `serve.rs` | from a connection to the streams, and the status at their end |
//! | `spdy/` | SPDY/3.1: frames, compressed headers, streams |
//! | `websocket.rs` | channels over WebSocket |
//! | `tls.rs` | what encrypts connections |

pub mod serve;
pub mod spdy;
pub mod tls;
pub mod websocket;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use super::config::Stream as Config;
use super::new_id;
use crate::error::{Context, Error, Kind, Result, invalid};

/// How long a token is good for.
const TTL: Duration = Duration::from_secs(60);
/// How many tokens may be waiting.
const MAX_TOKENS: usize = 1000;
/// How long a token is.
const TOKEN: usize = 16;

/// What a client may connect for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Exec {
        container: String,
        cmd: Vec<String>,
        tty: bool,
        /// Whether standard input, output and error are wanted.
        streams: [bool; 3],
    },
    Attach {
        container: String,
        tty: bool,
        streams: [bool; 3],
    },
    PortForward {
        pod: String,
    },
}

/// The streams of a client.
#[derive(Debug)]
pub struct Channels {
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    pub stdout: Option<mpsc::Sender<Bytes>>,
    pub stderr: Option<mpsc::Sender<Bytes>>,
    /// Widths and heights of the terminal.
    pub resize: Option<mpsc::Receiver<(u16, u16)>>,
    /// Its receivers are there as long as the client is.
    pub gone: watch::Sender<()>,
}

/// The tokens, and where the server listens.
#[derive(Debug, Default)]
pub struct Streams {
    base: Mutex<String>,
    tokens: Mutex<HashMap<String, (Request, Instant)>>,
}

/// Refuses combinations of streams that nobody can serve.
pub fn check(tty: bool, [stdin, stdout, stderr]: [bool; 3]) -> Result<()> {
    match () {
        () if tty && stderr => Err(invalid("tty and stderr cannot both be true")),
        () if !stdin && !stdout && !stderr => {
            Err(invalid("one of stdin, stdout, or stderr must be set"))
        }
        () => Ok(()),
    }
}

impl Request {
    fn kind(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Attach { .. } => "attach",
            Self::PortForward { .. } => "portforward",
        }
    }
}

impl Streams {
    /// Listens where the settings say, and returns what encrypts the connections, if they are to be.
    pub async fn bind(&self, config: &Config) -> Result<(TcpListener, Option<TlsAcceptor>)> {
        let host = match config.address.as_str() {
            "" => "0.0.0.0",
            host => host,
        };
        let listener = TcpListener::bind((host, config.port)).await;
        let listener = listener.context(|| format!("listen on {host}:{}", config.port))?;
        let address = listener
            .local_addr()
            .context(|| "ask for the own address")?;
        let host = match address.ip() {
            IpAddr::V6(ip) => format!("[{ip}]"),
            IpAddr::V4(ip) => ip.to_string(),
        };
        let acceptor = tls::acceptor(&config.tls, address.ip())?;
        let scheme = match &acceptor {
            Some(_) => "https",
            None => "http",
        };
        *lock(&self.base) = format!("{scheme}://{host}:{}", address.port());
        Ok((listener, acceptor))
    }

    /// Returns where a client may connect for `request`.
    pub fn url(&self, request: Request) -> Result<String> {
        let base = lock(&self.base).clone();
        if base.is_empty() {
            return Err(Error::new(
                Kind::Unavailable,
                "the streaming server does not run",
            ));
        }
        let mut tokens = lock(&self.tokens);
        tokens.retain(|_, (_, at)| at.elapsed() < TTL);
        if tokens.len() >= MAX_TOKENS {
            let message = "maximum number of in-flight requests exceeded";
            return Err(Error::new(Kind::ResourceExhausted, message));
        }
        let mut token = new_id()?;
        token.truncate(TOKEN);
        let url = format!("{base}/{}/{token}", request.kind());
        tokens.insert(token, (request, Instant::now()));
        Ok(url)
    }

    /// Returns what a token in the path `/kind/token` stands for; it is good once.
    pub fn take(&self, path: &str) -> Option<Request> {
        let path = path.split('?').next().unwrap_or_default();
        let (kind, token) = path.strip_prefix('/')?.split_once('/')?;
        let mut tokens = lock(&self.tokens);
        tokens.retain(|_, (_, at)| at.elapsed() < TTL);
        let (request, _) = tokens.remove(token)?;
        (request.kind() == kind).then_some(request)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_is_good_once_and_for_what_it_was_given() {
        let streams = Streams::default();
        let request = Request::PortForward { pod: "p1".into() };
        assert!(streams.url(request.clone()).is_err(), "nobody listens yet");
        let (listener, _) = streams.bind(&Config::default()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = streams.url(request.clone()).unwrap();
        let base = format!("http://127.0.0.1:{port}");
        let path = url.strip_prefix(&base).unwrap();
        assert_eq!(streams.take(path), Some(request.clone()));
        assert_eq!(streams.take(path), None);
        let url = streams.url(request).unwrap();
        let path = url.strip_prefix(&base).unwrap();
        assert_eq!(streams.take(&path.replace("portforward", "exec")), None);
        for path in ["", "/", "/exec", "/exec/", "/exec/x"] {
            assert_eq!(streams.take(path), None, "{path}");
        }
    }

    #[tokio::test]
    async fn the_number_of_tokens_is_limited() {
        let streams = Streams::default();
        let _listener = streams.bind(&Config::default()).await.unwrap();
        let request = Request::PortForward { pod: "p1".into() };
        for _ in 0..MAX_TOKENS {
            streams.url(request.clone()).unwrap();
        }
        let error = streams.url(request).unwrap_err();
        assert_eq!(error.kind(), Kind::ResourceExhausted);
    }

    #[test]
    fn a_terminal_has_no_standard_error() {
        assert!(check(true, [true, true, true]).is_err());
        assert!(check(false, [false; 3]).is_err());
        assert!(check(true, [true, true, false]).is_ok());
    }
}
