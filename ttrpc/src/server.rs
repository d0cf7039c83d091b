//! The server: accepts connections of one user and answers the requests of each concurrently.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::io::BufReader;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::context::Context;
use crate::error::Error;
use crate::frame::{self, Frame, Kind, MAX_MESSAGE, NO_DATA, REMOTE_CLOSED, Read};
use crate::message::{Request, Response, Status};
use crate::stream::{BACKLOG, Event, RawStream};

const INVALID_ARGUMENT: i32 = 3;
const DEADLINE_EXCEEDED: i32 = 4;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNIMPLEMENTED: i32 = 12;

/// The future of a call's answer.
///
/// It is dropped when the caller goes away or its timeout runs out, so what must be finished has to be handed to a
/// task of its own.
pub type Reply<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;

/// A service as the server sees it: methods by name, messages undecoded. Generated code implements it.
pub trait Service: Send + Sync {
    /// Returns the service's full name, such as `containerd.task.v3.Task`.
    fn name(&self) -> &str;

    /// Calls the unary method `method`, or returns `None` if there is none of that name.
    fn call(&self, context: Context, method: &str, payload: Bytes) -> Option<Reply<Vec<u8>>>;

    /// Returns whether `method` is a stream.
    fn is_stream(&self, _method: &str) -> bool {
        false
    }

    /// Opens the stream `method`, or returns `None` if there is none of that name.
    fn stream(&self, _context: Context, _method: &str, _stream: RawStream) -> Option<Reply<()>> {
        None
    }
}

/// A ttrpc server and its services.
#[derive(Clone)]
pub struct Server {
    services: Arc<HashMap<String, Box<dyn Service>>>,
    uid: Option<u32>,
    grace: Duration,
}

/// One connection: which streams are open, and where answers go.
struct Connection {
    services: Arc<HashMap<String, Box<dyn Service>>>,
    outgoing: mpsc::UnboundedSender<Frame>,
    streams: HashMap<u32, mpsc::Sender<Event>>,
    last_id: u32,
    /// Each answers with the id of its stream.
    handlers: JoinSet<u32>,
}

impl Server {
    /// Returns a server of `services`.
    pub fn new(services: impl IntoIterator<Item = Box<dyn Service>>) -> Self {
        let services = services
            .into_iter()
            .map(|service| (service.name().to_owned(), service))
            .collect();
        Self {
            services: Arc::new(services),
            uid: None,
            grace: Duration::from_secs(5),
        }
    }

    /// Returns the server so that it turns away peers of other users than `uid`.
    pub fn with_peer_uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// Returns the server so that a shutdown waits `grace` for the calls under way.
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Serves `listener` until `shutdown` completes and the calls under way have been answered.
    pub async fn serve(
        &self,
        listener: &UnixListener,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let (stop, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        let result = loop {
            tokio::select! {
                () = &mut shutdown => break Ok(()),
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((socket, _)) => {
                        connections.spawn(self.clone().connection(socket, stopped.clone()));
                    }
                    Err(error) if is_transient(&error) => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    Err(error) => break Err(error),
                },
            }
        };
        stop.send_replace(true);
        let drained = async { while connections.join_next().await.is_some() {} };
        // Who is not done by then loses the connection.
        let _ = tokio::time::timeout(self.grace, drained).await;
        result
    }

    /// Serves one connection until its end.
    pub async fn serve_connection(&self, socket: UnixStream) {
        let (_stop, stopped) = watch::channel(false);
        self.clone().connection(socket, stopped).await;
    }

    async fn connection(self, socket: UnixStream, mut stopped: watch::Receiver<bool>) {
        if let Some(uid) = self.uid {
            match socket.peer_cred() {
                Ok(peer) if peer.uid() == uid => {}
                _ => return,
            }
        }
        let (read, write) = socket.into_split();
        let (outgoing, frames) = mpsc::unbounded_channel();
        let writer = tokio::spawn(write_frames(write, frames));
        let mut connection = Connection {
            services: self.services,
            outgoing,
            streams: HashMap::new(),
            last_id: 0,
            handlers: JoinSet::new(),
        };
        let read_all = connection.read_all(read);
        let stop = async {
            // An error means that the server is gone.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        let shutting_down = tokio::select! {
            () = read_all => false,
            () = stop => true,
        };
        if shutting_down {
            while connection.handlers.join_next().await.is_some() {}
        }
        // Dropping the connection ends its handlers and, once all answers are written, the writer.
        drop(connection);
        let _ = writer.await;
    }
}

impl Connection {
    async fn read_all(&mut self, read: OwnedReadHalf) {
        // Reading a frame is not cancel-safe, so it happens in a task of its own.
        let (send, mut frames) = mpsc::channel(BACKLOG);
        let mut reader = JoinSet::new();
        reader.spawn(async move {
            let mut read = BufReader::with_capacity(1024, read);
            while let Ok(frame) = frame::read(&mut read).await {
                if frame == Read::End || send.send(frame).await.is_err() {
                    return;
                }
            }
        });
        loop {
            tokio::select! {
                Some(done) = self.handlers.join_next() => {
                    if let Ok(id) = done {
                        self.streams.remove(&id);
                    }
                }
                frame = frames.recv() => match frame {
                    Some(Read::Frame(frame)) => self.receive(frame).await,
                    Some(Read::TooLong { stream, length, .. }) => {
                        let message = Error::TooLong(length).to_string();
                        self.refuse(stream, RESOURCE_EXHAUSTED, message);
                    }
                    Some(Read::End) | None => return,
                },
            }
        }
    }

    async fn receive(&mut self, frame: Frame) {
        match frame.kind {
            Kind::Request => {
                if frame.stream.is_multiple_of(2) {
                    let message = format!("stream id {} is even", frame.stream);
                    return self.refuse(frame.stream, INVALID_ARGUMENT, message);
                }
                if frame.stream <= self.last_id {
                    let message = format!("stream id {} was used before", frame.stream);
                    return self.refuse(frame.stream, INVALID_ARGUMENT, message);
                }
                self.last_id = frame.stream;
                match Request::decode(frame.payload) {
                    Ok(request) => self.start(frame.stream, frame.flags, request).await,
                    Err(error) => {
                        self.refuse(frame.stream, INVALID_ARGUMENT, format!("request: {error}"));
                    }
                }
            }
            Kind::Data => match self.streams.get(&frame.stream) {
                Some(events) => {
                    let events = events.clone();
                    if frame.flags & NO_DATA == 0 {
                        let _ = events.send(Event::Data(frame.payload)).await;
                    }
                    if frame.flags & REMOTE_CLOSED != 0 {
                        let _ = events.send(Event::End(None)).await;
                    }
                }
                None => {
                    let message = format!("stream {} is not open", frame.stream);
                    self.refuse(frame.stream, INVALID_ARGUMENT, message);
                }
            },
            Kind::Response | Kind::Other(_) => {}
        }
    }

    async fn start(&mut self, id: u32, flags: u8, mut request: Request) {
        let context = Context::from_request(&mut request);
        let timeout = context.timeout();
        let services = self.services.clone();
        let Some(service) = services.get(&request.service) else {
            return self.refuse(id, UNIMPLEMENTED, format!("service {}", request.service));
        };
        if service.is_stream(&request.method) {
            return self.open(id, flags, request, context).await;
        }
        let Some(reply) = service.call(context, &request.method, request.payload) else {
            return self.refuse(id, UNIMPLEMENTED, format!("method {}", request.method));
        };
        let outgoing = self.outgoing.clone();
        self.handlers.spawn(async move {
            let answer = match timeout {
                Some(timeout) => tokio::time::timeout(timeout, reply)
                    .await
                    .unwrap_or_else(|_| {
                        Err(Status::new(DEADLINE_EXCEEDED, "context deadline exceeded"))
                    }),
                None => reply.await,
            };
            let _ = outgoing.send(response(id, answer));
            id
        });
    }

    async fn open(&mut self, id: u32, flags: u8, request: Request, context: Context) {
        let (events, incoming) = mpsc::channel(BACKLOG);
        let stream = RawStream {
            id,
            outgoing: self.outgoing.clone(),
            incoming,
            ended: false,
        };
        let services = self.services.clone();
        let reply = services
            .get(&request.service)
            .and_then(|service| service.stream(context, &request.method, stream));
        let Some(reply) = reply else {
            return self.refuse(id, UNIMPLEMENTED, format!("method {}", request.method));
        };
        if !request.payload.is_empty() {
            let _ = events.send(Event::Data(request.payload)).await;
        }
        if flags & REMOTE_CLOSED != 0 {
            let _ = events.send(Event::End(None)).await;
        }
        self.streams.insert(id, events);
        let outgoing = self.outgoing.clone();
        self.handlers.spawn(async move {
            let frame = match reply.await {
                Ok(()) => Frame {
                    stream: id,
                    kind: Kind::Data,
                    flags: REMOTE_CLOSED | NO_DATA,
                    payload: Bytes::new(),
                },
                Err(status) => response(id, Err(status)),
            };
            let _ = outgoing.send(frame);
            id
        });
    }

    fn refuse(&self, id: u32, code: i32, message: String) {
        let _ = self
            .outgoing
            .send(response(id, Err(Status::new(code, message))));
    }
}

fn response(id: u32, answer: Result<Vec<u8>, Status>) -> Frame {
    let response = match answer {
        Ok(payload) => Response {
            status: None,
            payload: payload.into(),
        },
        Err(status) => Response {
            status: Some(status),
            payload: Bytes::new(),
        },
    };
    let mut payload = response.encode_to_vec();
    if payload.len() > MAX_MESSAGE {
        let status = Status::new(
            RESOURCE_EXHAUSTED,
            Error::TooLong(payload.len()).to_string(),
        );
        payload = Response {
            status: Some(status),
            payload: Bytes::new(),
        }
        .encode_to_vec();
    }
    Frame {
        stream: id,
        kind: Kind::Response,
        flags: 0,
        payload: payload.into(),
    }
}

/// Returns whether accepting may work again later: the process or system is out of descriptors or memory, or the
/// peer was gone before it was accepted.
fn is_transient(error: &io::Error) -> bool {
    const ECONNABORTED: i32 = 103;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    const ENOMEM: i32 = 12;
    matches!(
        error.raw_os_error(),
        Some(ECONNABORTED | ENFILE | EMFILE | ENOBUFS | ENOMEM)
    )
}

async fn write_frames(mut write: OwnedWriteHalf, mut frames: mpsc::UnboundedReceiver<Frame>) {
    while let Some(frame) = frames.recv().await {
        if frame::write(&mut write, &frame).await.is_err() {
            return;
        }
    }
}
