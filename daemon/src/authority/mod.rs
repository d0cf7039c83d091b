//! Clients that dial a socket path put it, escaped or not, or nothing at all, into `:authority`, where HTTP/2 wants a
//! host; the server would reset their streams. Here such an `:authority` becomes `localhost` before the server sees it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use frames::Frames;

mod frames;
mod hpack;
mod huffman;

const BUFFER: usize = 16 << 10;

/// A connection whose requests all name a host.
#[derive(Debug)]
pub struct Named<IO> {
    io: IO,
    frames: Frames,
    /// What the server is to read next, from `read` on.
    ready: Vec<u8>,
    read: usize,
}

impl<IO> Named<IO> {
    /// Returns the connection `io`, from its first byte on.
    pub fn new(io: IO) -> Self {
        Self {
            io,
            frames: Frames::default(),
            ready: Vec::new(),
            read: 0,
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Named<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let ready = &this.ready[this.read..];
            if !ready.is_empty() {
                let count = ready.len().min(buffer.remaining());
                buffer.put_slice(&ready[..count]);
                this.read += count;
                if this.read == this.ready.len() {
                    this.ready.clear();
                    this.read = 0;
                }
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [0; BUFFER];
            let mut input = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.io).poll_read(context, &mut input))?;
            if input.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.frames
                .feed(input.filled(), &mut this.ready)
                .map_err(|_| {
                    io::Error::new(io::ErrorKind::InvalidData, "malformed header block")
                })?;
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Named<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

impl<IO: Connected> Connected for Named<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

#[cfg(test)]
mod tests;
