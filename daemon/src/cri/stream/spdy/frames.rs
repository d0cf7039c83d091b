//! SPDY/3.1 frames, and the header blocks in them, which are compressed over the whole connection.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::{Context, Error, Kind, Result};

/// What both sides know of headers before the first one.
const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");
const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;
/// The longest control frame, and the longest header block when it is inflated.
const MAX_CONTROL: usize = 64 << 10;
/// How much of a data frame is handed on at a time.
const CHUNK: usize = 32 << 10;

/// A frame, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// SYN_STREAM
    Open {
        id: u32,
        headers: HashMap<String, String>,
        last: bool,
    },
    /// SYN_REPLY without headers
    Reply {
        id: u32,
    },
    /// RST_STREAM
    Reset {
        id: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// A data frame, or a part of one.
    Data {
        id: u32,
        bytes: Bytes,
        last: bool,
    },
    /// Settings, windows and headers that come later, none of which mean anything to Kubernetes.
    Other,
}

/// Reads frames.
pub struct Reader<R> {
    io: R,
    buffer: BytesMut,
    inflate: Inflate,
    /// The data frame that is being handed on: its stream, what is left of it, and whether it is the last.
    data: Option<(u32, usize, bool)>,
}

/// Encodes frames.
pub struct Writer {
    deflate: Compress,
    begun: bool,
}

struct Inflate(Decompress);

impl Default for Writer {
    fn default() -> Self {
        Self {
            deflate: Compress::new(Compression::default(), true),
            begun: false,
        }
    }
}

fn broken(what: &str) -> Error {
    Error::new(Kind::InvalidArgument, format!("SPDY: {what}"))
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Returns what reads frames from `io`, of which `read` has been read already.
    pub fn new(io: R, read: Vec<u8>) -> Self {
        Self {
            io,
            buffer: BytesMut::from(read.as_slice()),
            inflate: Inflate(Decompress::new(true)),
            data: None,
        }
    }

    /// Returns the next frame, or nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        if let Some((id, left, last)) = self.data.take() {
            return self.part(id, left, last).await.map(Some);
        }
        if !self.fill(8).await? {
            return match self.buffer.is_empty() {
                true => Ok(None),
                false => Err(broken("the connection ends within a frame")),
            };
        }
        let head = self.buffer.split_to(8);
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if first & 0x8000_0000 == 0 {
            return self.part(first, length, flags & FIN != 0).await.map(Some);
        }
        if length > MAX_CONTROL {
            return Err(broken("a control frame is too long"));
        }
        if !self.fill(length).await? {
            return Err(broken("the connection ends within a frame"));
        }
        let (version, kind) = ((first >> 16) as u16 & 0x7fff, first as u16);
        if version != VERSION {
            return Err(broken("a frame of another version"));
        }
        let body = self.buffer.split_to(length).freeze();
        self.control(kind, flags, &body).map(Some)
    }

    /// Returns a part of a data frame.
    async fn part(&mut self, id: u32, left: usize, last: bool) -> Result<Frame> {
        if left > 0 && self.buffer.is_empty() && !self.fill(1).await? {
            return Err(broken("the connection ends within a frame"));
        }
        let now = left.min(self.buffer.len()).min(CHUNK);
        let bytes = self.buffer.split_to(now).freeze();
        let left = left - now;
        if left > 0 {
            self.data = Some((id, left, last));
        }
        Ok(Frame::Data {
            id,
            bytes,
            last: last && left == 0,
        })
    }

    fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> Result<Frame> {
        let word = |at: usize| -> Result<u32> {
            let bytes = body.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            Ok(u32::from_be_bytes(
                bytes.ok_or_else(|| broken("a frame is too short"))?,
            ))
        };
        Ok(match kind {
            SYN_STREAM => {
                let id = word(0)? & 0x7fff_ffff;
                let block = body
                    .get(10..)
                    .ok_or_else(|| broken("a frame is too short"))?;
                Frame::Open {
                    id,
                    headers: self.inflate.headers(block)?,
                    last: flags & FIN != 0,
                }
            }
            RST_STREAM => Frame::Reset {
                id: word(0)? & 0x7fff_ffff,
                status: word(4)?,
            },
            PING => Frame::Ping { id: word(0)? },
            GOAWAY => Frame::GoAway,
            SYN_REPLY | 8 => {
                // The block must be read even so: those after it depend on it.
                let block = body
                    .get(4..)
                    .ok_or_else(|| broken("a frame is too short"))?;
                self.inflate.headers(block)?;
                Frame::Other
            }
            _ => Frame::Other,
        })
    }

    /// Reads until the buffer has `wanted` bytes; `false` at the end of the connection.
    async fn fill(&mut self, wanted: usize) -> Result<bool> {
        while self.buffer.len() < wanted {
            self.buffer.reserve(CHUNK);
            let read = self.io.read_buf(&mut self.buffer).await;
            if read.context(|| "read from the client")? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Inflate {
    fn headers(&mut self, block: &[u8]) -> Result<HashMap<String, String>> {
        let plain = self.inflate(block)?;
        let mut rest = plain.as_slice();
        let mut number = || -> Result<usize> {
            let (head, tail) = rest
                .split_at_checked(4)
                .ok_or_else(|| broken("headers are cut short"))?;
            rest = tail;
            Ok(u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize)
        };
        let count = number()?;
        let mut headers = HashMap::new();
        for _ in 0..count {
            let mut text = || -> Result<String> {
                let (length, tail) = rest
                    .split_at_checked(4)
                    .ok_or_else(|| broken("headers are cut short"))?;
                let length =
                    u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
                let (text, tail) = tail
                    .split_at_checked(length)
                    .ok_or_else(|| broken("headers are cut short"))?;
                rest = tail;
                Ok(String::from_utf8_lossy(text).into_owned())
            };
            let (name, value) = (text()?, text()?);
            headers.insert(name.to_ascii_lowercase(), value);
        }
        Ok(headers)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>> {
        let mut plain = Vec::new();
        let mut rest = block;
        while !rest.is_empty() {
            if plain.len() >= MAX_CONTROL {
                return Err(broken("headers are too long"));
            }
            plain.reserve(4096);
            let before = (self.0.total_in(), plain.len());
            let result = self
                .0
                .decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            rest = &rest[(self.0.total_in() - before.0) as usize..];
            match result {
                Ok(_) if rest.is_empty() => break,
                Ok(_) if self.0.total_in() == before.0 && plain.len() == before.1 => {
                    return Err(broken("headers cannot be inflated"));
                }
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(DICTIONARY)
                        .map_err(|_| broken("headers need another dictionary"))?;
                }
                Err(_) => return Err(broken("headers cannot be inflated")),
            }
        }
        Ok(plain)
    }
}

impl Writer {
    /// Returns a frame as it goes over the wire.
    pub fn encode(&mut self, frame: &Frame) -> Result<Vec<u8>> {
        Ok(match frame {
            Frame::Open { id, headers, last } => {
                let mut body = Vec::new();
                body.put_u32(*id);
                body.put_u32(0);
                body.put_u16(0);
                body.extend(self.headers(headers)?);
                control(SYN_STREAM, if *last { FIN } else { 0 }, &body)
            }
            Frame::Reply { id } => {
                let mut body = id.to_be_bytes().to_vec();
                body.extend(self.headers(&HashMap::new())?);
                control(SYN_REPLY, 0, &body)
            }
            Frame::Reset { id, status } => control(
                RST_STREAM,
                0,
                &[id.to_be_bytes(), status.to_be_bytes()].concat(),
            ),
            Frame::Ping { id } => control(PING, 0, &id.to_be_bytes()),
            Frame::GoAway => control(GOAWAY, 0, &[0; 8]),
            Frame::Data { id, bytes, last } => {
                let mut frame = Vec::with_capacity(8 + bytes.len());
                frame.put_u32(*id);
                frame.put_u32((u32::from(*last) << 24) | bytes.len() as u32);
                frame.extend_from_slice(bytes);
                frame
            }
            Frame::Other => Vec::new(),
        })
    }

    fn headers(&mut self, headers: &HashMap<String, String>) -> Result<Vec<u8>> {
        let mut plain = Vec::new();
        plain.put_u32(headers.len() as u32);
        for (name, value) in headers {
            for text in [name, value] {
                plain.put_u32(text.len() as u32);
                plain.extend_from_slice(text.as_bytes());
            }
        }
        if !std::mem::replace(&mut self.begun, true) {
            let set = self.deflate.set_dictionary(DICTIONARY);
            set.map_err(|error| Error::other("SPDY: set dictionary", error))?;
        }
        let mut block = Vec::with_capacity(plain.len() + 128);
        let mut rest = plain.as_slice();
        loop {
            block.reserve(128);
            let before = self.deflate.total_in();
            let deflated = self
                .deflate
                .compress_vec(rest, &mut block, FlushCompress::Sync);
            deflated.map_err(|error| Error::other("SPDY: compress headers", error))?;
            rest = &rest[(self.deflate.total_in() - before) as usize..];
            // All is out when there was room for more.
            if rest.is_empty() && block.len() < block.capacity() {
                return Ok(block);
            }
        }
    }
}

fn control(kind: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(8 + body.len());
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    frame.put_u32((u32::from(flags) << 24) | body.len() as u32);
    frame.extend_from_slice(body);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: Vec<u8>) -> Result<Vec<Frame>> {
        let mut reader = Reader::new(std::io::Cursor::new(bytes), Vec::new());
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    fn open(id: u32, kind: &str) -> Frame {
        Frame::Open {
            id,
            headers: HashMap::from([("streamtype".to_owned(), kind.to_owned())]),
            last: false,
        }
    }

    #[tokio::test]
    async fn frames_survive_the_wire() {
        let frames = [
            open(1, "error"),
            open(3, "stdout"),
            Frame::Ping { id: 7 },
            Frame::Data {
                id: 3,
                bytes: Bytes::from_static(b"hello"),
                last: true,
            },
            Frame::Reset { id: 1, status: 3 },
            Frame::GoAway,
        ];
        let mut writer = Writer::default();
        let bytes = frames
            .iter()
            .flat_map(|frame| writer.encode(frame).unwrap());
        assert_eq!(read(bytes.collect()).await.unwrap(), frames);
    }

    #[tokio::test]
    async fn long_data_comes_in_parts() {
        let mut writer = Writer::default();
        let frame = Frame::Data {
            id: 1,
            bytes: vec![7; 100_000].into(),
            last: true,
        };
        let parts = read(writer.encode(&frame).unwrap()).await.unwrap();
        let mut total = 0;
        for (number, part) in parts.iter().enumerate() {
            let Frame::Data { bytes, last, .. } = part else {
                panic!("{part:?}");
            };
            assert!(bytes.len() <= CHUNK);
            assert_eq!(*last, number + 1 == parts.len());
            total += bytes.len();
        }
        assert_eq!(total, 100_000);
    }

    #[tokio::test]
    async fn what_is_too_long_or_broken_ends_the_connection() {
        let long = control(PING, 0, &vec![0; MAX_CONTROL + 1]);
        let short = control(SYN_STREAM, 0, &[0; 4]);
        let nonsense = control(SYN_STREAM, 0, &[0xff; 40]);
        let cut = control(PING, 0, &[0; 4])[..10].to_vec();
        let mut other = control(PING, 0, &[0; 4]);
        other[1] = 2;
        for bytes in [long, short, nonsense, cut, other] {
            assert!(read(bytes).await.is_err());
        }
        // A small block that inflates to much.
        let huge = Frame::Open {
            id: 1,
            headers: HashMap::from([("a".to_owned(), "a".repeat(1 << 20))]),
            last: false,
        };
        let bytes = Writer::default().encode(&huge).unwrap();
        assert!(bytes.len() < MAX_CONTROL);
        assert!(read(bytes).await.is_err());
    }
}
