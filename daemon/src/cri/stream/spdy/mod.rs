//! SPDY/3.1 as a server: the client opens streams, each with headers that say what it is for.
//!
//! ```text
//!  reader ── frames ──▶ SYN_STREAM: a new Stream, handed out ── data ──▶ Stream::input
//!  writer ◀── Sender::send, Sender::finish, replies, answers to pings
//! ```
//!
//! Neither side of Kubernetes uses SPDY's windows; what slows a stream down is the connection under it. One stream
//! whose data nobody takes therefore holds up the others, as it does there.

pub mod frames;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::{Mutex, mpsc, watch};

use crate::error::{Context, Error, Kind, Result};
use frames::{Frame, Reader, Writer};

/// How many chunks of a stream wait to be taken.
const BEHIND: usize = 16;
/// How many streams a client may have open.
const MAX_STREAMS: usize = 1000;
/// How many new streams wait to be taken.
const NEW: usize = 64;
/// The status of a stream that is refused.
const REFUSED: u32 = 3;

/// A connection.
pub struct Connection {
    /// The streams that the client opens.
    pub streams: mpsc::Receiver<Stream>,
    /// It closes when the connection ends.
    pub alive: watch::Receiver<()>,
    writer: Arc<Mutex<Output>>,
    reader: tokio::task::JoinHandle<()>,
}

/// A stream that the client has opened.
pub struct Stream {
    pub headers: HashMap<String, String>,
    /// What the client sends; it ends when the client has no more to send.
    pub input: mpsc::Receiver<Bytes>,
    pub output: Sender,
}

/// Sends on one stream.
#[derive(Clone)]
pub struct Sender {
    id: u32,
    writer: Arc<Mutex<Output>>,
}

struct Output {
    io: Box<dyn AsyncWrite + Send + Unpin>,
    frames: Writer,
}

impl Output {
    async fn write(&mut self, frame: &Frame) -> Result<()> {
        let bytes = self.frames.encode(frame)?;
        let written = self.io.write_all(&bytes).await;
        written.context(|| "write to the client")?;
        self.io.flush().await.context(|| "write to the client")
    }
}

impl Connection {
    /// Speaks SPDY over `io`, of which `read` has been read already.
    pub fn new<T>(io: T, read: Vec<u8>) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (input, output): (_, WriteHalf<T>) = tokio::io::split(io);
        let writer = Arc::new(Mutex::new(Output {
            io: Box::new(output),
            frames: Writer::default(),
        }));
        let (sender, streams) = mpsc::channel(NEW);
        let (life, alive) = watch::channel(());
        let demux = Demux {
            open: HashMap::new(),
            new: sender,
            writer: writer.clone(),
        };
        let reader = tokio::spawn(async move {
            let ended = demux.run(Reader::new(input, read)).await;
            if let Err(error) = ended {
                tracing::debug!("a connection of the streaming server ends: {error:#}");
            }
            drop(life);
        });
        Self {
            streams,
            alive,
            writer,
            reader,
        }
    }

    /// Ends the connection.
    pub async fn close(self) {
        let mut writer = self.writer.lock().await;
        let _ = writer.write(&Frame::GoAway).await;
        let _ = writer.io.shutdown().await;
        // The client closes its side when it has read all.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), self.reader).await;
    }
}

impl Sender {
    /// Sends bytes.
    pub async fn send(&self, bytes: Bytes) -> Result<()> {
        self.data(bytes, false).await
    }

    /// Tells that no more comes.
    pub async fn finish(&self) -> Result<()> {
        self.data(Bytes::new(), true).await
    }

    async fn data(&self, bytes: Bytes, last: bool) -> Result<()> {
        let frame = Frame::Data {
            id: self.id,
            bytes,
            last,
        };
        self.writer.lock().await.write(&frame).await
    }
}

/// Hands what comes in to the streams.
struct Demux {
    open: HashMap<u32, mpsc::Sender<Bytes>>,
    new: mpsc::Sender<Stream>,
    writer: Arc<Mutex<Output>>,
}

impl Demux {
    async fn run<R: AsyncRead + Send + Unpin>(mut self, mut reader: Reader<R>) -> Result<()> {
        while let Some(frame) = reader.next().await? {
            match frame {
                Frame::Open { id, headers, last } => self.open(id, headers, last).await?,
                Frame::Data { id, bytes, last } => {
                    if let Some(stream) = self.open.get(&id).filter(|_| !bytes.is_empty()) {
                        // That nobody reads the stream any more is the client's loss.
                        let _ = stream.send(bytes).await;
                    }
                    if last {
                        self.open.remove(&id);
                    }
                }
                Frame::Reset { id, .. } => drop(self.open.remove(&id)),
                Frame::Ping { id } => self.writer.lock().await.write(&Frame::Ping { id }).await?,
                Frame::GoAway => return Ok(()),
                Frame::Reply { .. } | Frame::Other => {}
            }
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, headers: HashMap<String, String>, last: bool) -> Result<()> {
        if id.is_multiple_of(2) || self.open.contains_key(&id) || self.open.len() >= MAX_STREAMS {
            let reset = Frame::Reset {
                id,
                status: REFUSED,
            };
            return self.writer.lock().await.write(&reset).await;
        }
        let (sender, input) = mpsc::channel(BEHIND);
        if !last {
            self.open.insert(id, sender);
        }
        self.writer.lock().await.write(&Frame::Reply { id }).await?;
        let output = Sender {
            id,
            writer: self.writer.clone(),
        };
        let stream = Stream {
            headers,
            input,
            output,
        };
        let taken = self.new.send(stream).await;
        taken.map_err(|_| Error::new(Kind::Canceled, "no more streams are wanted"))
    }
}
