//! Unpacking as bytes come: one thread inflates, another hashes what comes out and applies it.

use std::io::{self, BufRead, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use bytes::Bytes;

use super::apply::{Applied, apply};
use super::codec::{self, Encoding};
use super::target::Target;
use crate::content::{Digest, Hasher};
use crate::digest::Algorithm;
use crate::error::{Context, Error, Kind, Result};

const CHUNK: usize = 256 << 10;
/// As many chunks wait between the threads.
const WAITING: usize = 8;

/// A layer that has been unpacked.
#[derive(Debug)]
pub struct Unpacked {
    /// The digest and size of the archive, uncompressed.
    pub digest: Digest,
    pub size: u64,
    /// The folders that no entry described; nothing if the layer has to be applied where what is below it is known.
    pub implied: Option<Vec<(PathBuf, u64)>>,
}

/// Unpacks the layer that `input` yields to `target`.
pub fn unpack<R>(target: &Target, input: R, encoding: Encoding) -> Result<Unpacked>
where
    R: BufRead + Send,
{
    let tree = target.tree()?;
    std::thread::scope(|scope| {
        let (chunks, received) = sync_channel(WAITING);
        let (returned, spare) = channel();
        let span = tracing::Span::current();
        std::thread::Builder::new()
            .name("inflate".into())
            .spawn_scoped(scope, move || {
                span.in_scope(|| inflate(input, encoding, &chunks, &spare));
            })
            .context(|| "start a thread")?;
        let mut archive = Archive {
            received,
            returned,
            chunk: Vec::new(),
            at: 0,
            hasher: Hasher::new(Algorithm::Sha256),
            size: 0,
        };
        let applied = apply(tree, &mut archive)?;
        io::copy(&mut archive, &mut io::sink()).context(|| "read layer")?;
        Ok(Unpacked {
            digest: archive.hasher.finish(),
            size: archive.size,
            implied: match applied {
                Applied::Whole(tree) => Some(tree.into_implied()),
                Applied::NeedsLower => None,
            },
        })
    })
}

/// Sends what `input` holds uncompressed in chunks, until nobody takes them any more.
fn inflate<R: BufRead>(
    input: R,
    encoding: Encoding,
    chunks: &SyncSender<io::Result<Vec<u8>>>,
    spare: &Receiver<Vec<u8>>,
) {
    let mut decoder = match codec::decoder(input, encoding) {
        Ok(decoder) => decoder,
        Err(error) => {
            let _ = chunks.send(Err(io::Error::other(error)));
            return;
        }
    };
    loop {
        let mut chunk = spare.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let read = fill(&mut decoder, &mut chunk);
        let last = !matches!(read, Ok(CHUNK));
        let sent = chunks.send(read.map(|length| {
            chunk.truncate(length);
            chunk
        }));
        if last || sent.is_err() {
            return;
        }
    }
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The uncompressed archive, hashed as it is read.
struct Archive {
    received: Receiver<io::Result<Vec<u8>>>,
    returned: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    hasher: Hasher,
    size: u64,
}

impl BufRead for Archive {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.chunk.len() {
            let Ok(chunk) = self.received.recv() else {
                return Ok(&[]);
            };
            let old = std::mem::replace(&mut self.chunk, chunk?);
            let _ = self.returned.send(old);
            self.at = 0;
            self.hasher.update(&self.chunk);
            self.size += self.chunk.len() as u64;
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let count = available.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// A layer as it comes from elsewhere. That its sender goes away before it said `None` is an error, not an end.
#[derive(Debug)]
pub struct Feed {
    received: tokio::sync::mpsc::Receiver<Option<Bytes>>,
    chunk: Bytes,
    ended: bool,
}

/// Feeds a layer: chunks, and at last `None`.
pub type Feeder = tokio::sync::mpsc::Sender<Option<Bytes>>;

impl Feed {
    /// Returns a feed and what fills it.
    pub fn new() -> (Feeder, Self) {
        let (sender, received) = tokio::sync::mpsc::channel(32);
        let feed = Self {
            received,
            chunk: Bytes::new(),
            ended: false,
        };
        (sender, feed)
    }
}

impl BufRead for Feed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // The first bytes tell the compression, so they must not come one by one.
        while self.chunk.len() < 4 && !self.ended {
            match self.received.blocking_recv() {
                Some(Some(chunk)) if self.chunk.is_empty() => self.chunk = chunk,
                Some(Some(chunk)) => {
                    self.chunk = [std::mem::take(&mut self.chunk), chunk].concat().into();
                }
                Some(None) => self.ended = true,
                None => return Err(io::Error::other(broken_off())),
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, amount: usize) {
        let _ = self.chunk.split_to(amount);
    }
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let count = available.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

fn broken_off() -> Error {
    Error::new(Kind::Canceled, "the layer broke off")
}
