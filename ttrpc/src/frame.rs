//! Frames: a header of ten bytes, then the message.
//!
//! ```text
//!  0       4           8      9       10
//!  +-------+-----------+------+-------+----------------
//!  | length| stream id | kind | flags | length bytes ...
//!  +-------+-----------+------+-------+----------------
//! ```

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest message that either end sends or takes.
pub const MAX_MESSAGE: usize = 4 << 20;

/// Set by the end that sends no more data on a stream.
pub const REMOTE_CLOSED: u8 = 1;
/// Set on a request whose sender goes on to send data.
pub const REMOTE_OPEN: u8 = 2;
/// Set on a data frame that carries no message, as opposed to an empty one.
pub const NO_DATA: u8 = 4;

const HEADER: usize = 10;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Response,
    Data,
    /// A kind of a later protocol: the receiver skips it.
    Other(u8),
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub stream: u32,
    pub kind: Kind,
    pub flags: u8,
    pub payload: Bytes,
}

/// What a reader found.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Frame(Frame),
    /// A message over [`MAX_MESSAGE`], skipped: the stream it was for must be told.
    TooLong {
        stream: u32,
        kind: Kind,
        length: usize,
    },
    /// The peer closed the connection between two frames.
    End,
}

impl Kind {
    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Data,
            other => Self::Other(other),
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Data => 3,
            Self::Other(byte) => byte,
        }
    }
}

/// Reads the next frame.
pub async fn read<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<Read> {
    let mut header = [0; HEADER];
    // Only an end before the first byte is a clean one.
    if reader.read(&mut header[..1]).await? == 0 {
        return Ok(Read::End);
    }
    reader.read_exact(&mut header[1..]).await?;
    let [l0, l1, l2, l3, s0, s1, s2, s3, kind, flags] = header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    let stream = u32::from_be_bytes([s0, s1, s2, s3]);
    let kind = Kind::from_byte(kind);
    if length > MAX_MESSAGE {
        skip(reader, length).await?;
        return Ok(Read::TooLong {
            stream,
            kind,
            length,
        });
    }
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await?;
    Ok(Read::Frame(Frame {
        stream,
        kind,
        flags,
        payload: payload.into(),
    }))
}

/// Writes `frame` in one write where the socket takes it.
pub async fn write<W: AsyncWrite + Unpin>(writer: &mut W, frame: &Frame) -> io::Result<()> {
    let length = u32::try_from(frame.payload.len())
        .ok()
        .filter(|length| *length as usize <= MAX_MESSAGE)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let mut bytes = Vec::with_capacity(HEADER + frame.payload.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&frame.stream.to_be_bytes());
    bytes.extend_from_slice(&[frame.kind.byte(), frame.flags]);
    bytes.extend_from_slice(&frame.payload);
    writer.write_all(&bytes).await
}

async fn skip<R: AsyncRead + Unpin>(reader: &mut R, length: usize) -> io::Result<()> {
    let mut rest = reader.take(length as u64);
    let skipped = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    if skipped < length as u64 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &'static [u8]) -> Frame {
        Frame {
            stream: 3,
            kind: Kind::Request,
            flags: REMOTE_OPEN,
            payload: Bytes::from_static(payload),
        }
    }

    #[tokio::test]
    async fn a_frame_is_laid_out_as_the_protocol_says() {
        let mut bytes = Vec::new();
        write(&mut bytes, &frame(b"hi")).await.unwrap();
        assert_eq!(bytes, b"\0\0\0\x02\0\0\0\x03\x01\x02hi");
        let mut reader = bytes.as_slice();
        assert_eq!(read(&mut reader).await.unwrap(), Read::Frame(frame(b"hi")));
        assert_eq!(read(&mut reader).await.unwrap(), Read::End);
    }

    #[tokio::test]
    async fn a_cut_frame_is_an_error_at_every_byte() {
        let mut bytes = Vec::new();
        write(&mut bytes, &frame(b"hi")).await.unwrap();
        for cut in 1..bytes.len() {
            let error = read(&mut &bytes[..cut]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn a_message_over_the_limit_is_skipped_and_the_next_one_is_read() {
        let length = MAX_MESSAGE + 1;
        let mut bytes = (length as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0, 0, 0, 9, 2, 0]);
        bytes.resize(bytes.len() + length, 7);
        write(&mut bytes, &frame(b"next")).await.unwrap();
        let mut reader = bytes.as_slice();
        let too_long = Read::TooLong {
            stream: 9,
            kind: Kind::Response,
            length,
        };
        assert_eq!(read(&mut reader).await.unwrap(), too_long);
        assert_eq!(
            read(&mut reader).await.unwrap(),
            Read::Frame(frame(b"next"))
        );
    }

    #[tokio::test]
    async fn nothing_over_the_limit_is_written() {
        let long = Frame {
            payload: vec![0; MAX_MESSAGE + 1].into(),
            ..frame(b"")
        };
        let mut bytes = Vec::new();
        assert!(write(&mut bytes, &long).await.is_err());
        assert!(bytes.is_empty());
    }
}
