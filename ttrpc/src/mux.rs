//! Two connections over one socket, as plugins of the Node Resource Interface have them: they serve on the first, the
//! runtime on the second.
//!
//! ```text
//!  0            4        8
//!  +------------+--------+----------------
//!  | connection | length | length bytes ...
//!  +------------+--------+----------------
//! ```
//!
//! Plugins written in Go read a message as one or two pieces, no other way: what fits into 4096 bytes in one, of what
//! is longer the first 4096 bytes and then all the rest.

use std::io;

use crate::frame::{self, Read};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The connection on which plugins serve.
pub const PLUGIN: u32 = 1;
/// The connection on which the runtime serves.
pub const RUNTIME: u32 = 2;

/// The size of the buffer that plugins read into.
const PIECE: usize = 4096;
/// The longest piece that is taken: a ttrpc message and its header.
const LONGEST: usize = 10 + frame::MAX_MESSAGE;
/// How many pieces may wait to be sent.
const WAITING: usize = 16;

/// Both connections; they last as long as this does, and end with the socket.
#[derive(Debug)]
pub struct Mux {
    /// The first.
    pub plugin: UnixStream,
    /// The second.
    pub runtime: UnixStream,
    /// What carries bytes from one to the other.
    pub carriers: JoinSet<()>,
}

impl Mux {
    /// Divides a socket.
    pub fn new(trunk: UnixStream) -> io::Result<Self> {
        let (plugin, own_plugin) = UnixStream::pair()?;
        let (runtime, own_runtime) = UnixStream::pair()?;
        let (from_trunk, to_trunk) = trunk.into_split();
        let (from_plugin, to_plugin) = own_plugin.into_split();
        let (from_runtime, to_runtime) = own_runtime.into_split();
        let (pieces, waiting) = mpsc::channel(WAITING);
        let mut carriers = JoinSet::new();
        carriers.spawn(divide(from_trunk, to_plugin, to_runtime));
        carriers.spawn(collect(PLUGIN, from_plugin, pieces.clone()));
        carriers.spawn(collect(RUNTIME, from_runtime, pieces));
        carriers.spawn(send(waiting, to_trunk));
        Ok(Self {
            plugin,
            runtime,
            carriers,
        })
    }
}

/// Carries pieces from the socket to the connection that each is for, until the socket or a connection is closed.
async fn divide(trunk: OwnedReadHalf, mut plugin: OwnedWriteHalf, mut runtime: OwnedWriteHalf) {
    let mut trunk = BufReader::new(trunk);
    while let Ok(connection) = trunk.read_u32().await {
        let Ok(length) = trunk.read_u32().await else {
            return;
        };
        if length as usize > LONGEST {
            return;
        }
        let mut piece = vec![0; length as usize];
        if trunk.read_exact(&mut piece).await.is_err() {
            return;
        }
        let carried = match connection {
            PLUGIN => plugin.write_all(&piece).await,
            RUNTIME => runtime.write_all(&piece).await,
            // Of connections that nobody has opened nothing is known.
            _ => Ok(()),
        };
        if carried.is_err() {
            return;
        }
    }
}

/// Carries the messages of a connection to whoever sends.
async fn collect(connection: u32, from: OwnedReadHalf, pieces: mpsc::Sender<Vec<u8>>) {
    let mut from = BufReader::new(from);
    while let Ok(Read::Frame(message)) = frame::read(&mut from).await {
        let mut bytes = Vec::new();
        if frame::write(&mut bytes, &message).await.is_err() {
            return;
        }
        for piece in divided(connection, &bytes) {
            if pieces.send(piece).await.is_err() {
                return;
            }
        }
    }
}

/// Returns the pieces of a message, each with its header.
fn divided(connection: u32, message: &[u8]) -> Vec<Vec<u8>> {
    let (first, rest) = message.split_at(message.len().min(PIECE));
    let parts = [first, rest].into_iter().filter(|part| !part.is_empty());
    let pieces = parts.map(|part| {
        let length = u32::try_from(part.len()).expect("a message is no longer than 4 MiB");
        let mut piece = Vec::with_capacity(8 + part.len());
        piece.extend_from_slice(&connection.to_be_bytes());
        piece.extend_from_slice(&length.to_be_bytes());
        piece.extend_from_slice(part);
        piece
    });
    pieces.collect()
}

async fn send(mut pieces: mpsc::Receiver<Vec<u8>>, mut trunk: OwnedWriteHalf) {
    while let Some(piece) = pieces.recv().await {
        if trunk.write_all(&piece).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, Kind};

    #[test]
    fn a_message_is_sent_in_one_piece_or_two() {
        for (length, wanted) in [
            (1, vec![1]),
            (4096, vec![4096]),
            (4097, vec![4096, 1]),
            (100_000, vec![4096, 95_904]),
        ] {
            let pieces = divided(2, &vec![7; length]);
            let lengths: Vec<usize> = pieces.iter().map(|piece| piece.len() - 8).collect();
            assert_eq!(lengths, wanted);
            for piece in pieces {
                assert_eq!(piece[..4], [0, 0, 0, 2]);
                assert_eq!(
                    piece[4..8],
                    u32::try_from(piece.len() - 8).unwrap().to_be_bytes()
                );
            }
        }
    }

    #[tokio::test]
    async fn each_connection_has_its_own_messages() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut one, mut other) = (Mux::new(one).unwrap(), Mux::new(other).unwrap());
        let message = |payload: Vec<u8>| Frame {
            stream: 1,
            kind: Kind::Request,
            flags: 0,
            payload: payload.into(),
        };
        for length in [0, 10, 5000, 3_000_000] {
            let (to_plugin, to_runtime) = (message(vec![1; length]), message(vec![2; length]));
            let (sent, sent_back, at_plugin, at_runtime) = tokio::join!(
                frame::write(&mut one.plugin, &to_plugin),
                frame::write(&mut other.runtime, &to_runtime),
                frame::read(&mut other.plugin),
                frame::read(&mut one.runtime),
            );
            sent.and(sent_back).unwrap();
            assert_eq!(at_plugin.unwrap(), Read::Frame(to_plugin));
            assert_eq!(at_runtime.unwrap(), Read::Frame(to_runtime));
        }
    }

    #[tokio::test]
    async fn what_is_too_long_ends_the_connection() {
        let (one, mut other) = UnixStream::pair().unwrap();
        let mut mux = Mux::new(one).unwrap();
        other.write_all(&[0, 0, 0, 1, 0xff, 0, 0, 0]).await.unwrap();
        assert_eq!(frame::read(&mut mux.plugin).await.unwrap(), Read::End);
    }
}
