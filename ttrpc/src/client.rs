//! The client: any number of calls at once over one connection.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use prost::Message;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::frame::{self, Frame, Kind, MAX_MESSAGE, NO_DATA, REMOTE_CLOSED, REMOTE_OPEN, Read};
use crate::message::{Request, Response};
use crate::stream::{BACKLOG, Event, RawStream};

/// A connection to a server; clones share it, and it closes with the last one.
#[derive(Clone, Debug)]
pub struct Client {
    connection: Arc<Connection>,
}

#[derive(Debug)]
struct Connection {
    calls: Arc<Mutex<Calls>>,
    outgoing: mpsc::UnboundedSender<Frame>,
    closed: watch::Receiver<bool>,
    reader: AbortHandle,
}

/// The calls without an answer. After `closed`, none is added.
#[derive(Debug, Default)]
struct Calls {
    last_id: Option<u32>,
    pending: HashMap<u32, Pending>,
    closed: bool,
}

#[derive(Debug)]
enum Pending {
    Unary(oneshot::Sender<Result<Bytes>>),
    Stream(mpsc::Sender<Event>),
}

/// Forgets a call that its caller gave up.
struct Forget<'a> {
    calls: &'a Mutex<Calls>,
    id: u32,
}

impl Client {
    /// Connects to the server that listens at `path`.
    pub async fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::new(UnixStream::connect(path).await?))
    }

    /// Returns a client on a connected socket. Must be called within a tokio runtime.
    pub fn new(socket: UnixStream) -> Self {
        let (read, write) = socket.into_split();
        let (outgoing, frames) = mpsc::unbounded_channel();
        let (close, closed) = watch::channel(false);
        let calls = Arc::new(Mutex::new(Calls::default()));
        tokio::spawn(write_frames(write, frames));
        let reader = tokio::spawn(read_frames(read, calls.clone(), close)).abort_handle();
        Self {
            connection: Arc::new(Connection {
                calls,
                outgoing,
                closed,
                reader,
            }),
        }
    }

    /// Calls a unary method and returns the undecoded answer.
    pub async fn call(
        &self,
        context: &Context,
        service: &str,
        method: &str,
        payload: Vec<u8>,
    ) -> Result<Bytes> {
        let (answer, answered) = oneshot::channel();
        let request = request(context, service, method, payload);
        let id = self.start(&request, 0, Pending::Unary(answer))?;
        let _forget = Forget {
            calls: &self.connection.calls,
            id,
        };
        let answered = async { answered.await.unwrap_or(Err(Error::Closed)) };
        match context.timeout() {
            Some(timeout) => tokio::time::timeout(timeout, answered)
                .await
                .unwrap_or(Err(Error::TimedOut)),
            None => answered.await,
        }
    }

    /// Opens a stream in which both ends send.
    pub fn stream(&self, context: &Context, service: &str, method: &str) -> Result<RawStream> {
        let (events, incoming) = mpsc::channel(BACKLOG);
        let request = request(context, service, method, Vec::new());
        let id = self.start(&request, REMOTE_OPEN, Pending::Stream(events))?;
        Ok(RawStream {
            id,
            outgoing: self.connection.outgoing.clone(),
            incoming,
            ended: false,
        })
    }

    /// Waits until the connection is lost.
    pub async fn closed(&self) {
        let mut closed = self.connection.closed.clone();
        // An error means that the reader is gone, which is the same.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// Returns whether the connection is lost.
    pub fn is_closed(&self) -> bool {
        lock(&self.connection.calls).closed
    }

    /// Registers and sends a call. Both happen under one lock: a server refuses ids that do not grow.
    fn start(&self, request: &Request, flags: u8, pending: Pending) -> Result<u32> {
        let payload = request.encode_to_vec();
        if payload.len() > MAX_MESSAGE {
            return Err(Error::TooLong(payload.len()));
        }
        let mut calls = lock(&self.connection.calls);
        if calls.closed {
            return Err(Error::Closed);
        }
        let id = match calls.last_id {
            None => 1,
            // A client's ids are odd; after the last one only a new connection helps.
            Some(last) => last.checked_add(2).ok_or(Error::Closed)?,
        };
        calls.last_id = Some(id);
        let frame = Frame {
            stream: id,
            kind: Kind::Request,
            flags,
            payload: payload.into(),
        };
        self.connection
            .outgoing
            .send(frame)
            .map_err(|_| Error::Closed)?;
        calls.pending.insert(id, pending);
        Ok(id)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.calls).pending.remove(&self.id);
    }
}

fn lock(calls: &Mutex<Calls>) -> MutexGuard<'_, Calls> {
    calls.lock().unwrap_or_else(PoisonError::into_inner)
}

fn request(context: &Context, service: &str, method: &str, payload: Vec<u8>) -> Request {
    Request {
        service: service.into(),
        method: method.into(),
        payload: payload.into(),
        timeout_nano: context.wire_timeout(),
        metadata: context.wire_metadata(),
    }
}

async fn write_frames(mut write: OwnedWriteHalf, mut frames: mpsc::UnboundedReceiver<Frame>) {
    while let Some(frame) = frames.recv().await {
        if frame::write(&mut write, &frame).await.is_err() {
            // The reader sees the loss too, and fails the calls.
            return;
        }
    }
}

async fn read_frames(read: OwnedReadHalf, calls: Arc<Mutex<Calls>>, close: watch::Sender<bool>) {
    let mut read = BufReader::with_capacity(1024, read);
    loop {
        match frame::read(&mut read).await {
            Ok(Read::Frame(frame)) => deliver(&calls, frame).await,
            Ok(Read::TooLong { stream, length, .. }) => fail(&calls, stream, length),
            Ok(Read::End) | Err(_) => break,
        }
    }
    let pending = {
        let mut calls = lock(&calls);
        calls.closed = true;
        std::mem::take(&mut calls.pending)
    };
    // Dropping a call's sender tells its caller that the connection is closed.
    drop(pending);
    close.send_replace(true);
}

async fn deliver(calls: &Mutex<Calls>, frame: Frame) {
    match frame.kind {
        Kind::Response => {
            let pending = lock(calls).pending.remove(&frame.stream);
            match (pending, Response::decode(frame.payload)) {
                (Some(Pending::Unary(answer)), response) => {
                    // The caller may have given up.
                    let _ = answer.send(result(response));
                }
                (Some(Pending::Stream(events)), Ok(response)) => {
                    let _ = events.send(Event::End(response.status)).await;
                }
                (Some(Pending::Stream(_)), Err(_)) | (None, _) => {}
            }
        }
        Kind::Data => {
            let events = match lock(calls).pending.get(&frame.stream) {
                Some(Pending::Stream(events)) => events.clone(),
                _ => return,
            };
            if frame.flags & NO_DATA == 0 {
                let _ = events.send(Event::Data(frame.payload)).await;
            }
            if frame.flags & REMOTE_CLOSED != 0 {
                lock(calls).pending.remove(&frame.stream);
                let _ = events.send(Event::End(None)).await;
            }
        }
        Kind::Request | Kind::Other(_) => {}
    }
}

fn result(response: Result<Response, prost::DecodeError>) -> Result<Bytes> {
    let response = response.map_err(|error| Error::Malformed(error.to_string()))?;
    match response.status {
        Some(status) if status.code != 0 => Err(Error::Status(status)),
        _ => Ok(response.payload),
    }
}

fn fail(calls: &Mutex<Calls>, stream: u32, length: usize) {
    if let Some(Pending::Unary(answer)) = lock(calls).pending.remove(&stream) {
        let _ = answer.send(Err(Error::TooLong(length)));
    }
}
