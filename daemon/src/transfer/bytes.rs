//! Bytes over streams: the side that receives says how many the other may send.

use std::io::{self, Write};

use api_protos::any;
use api_protos::containerd::types::transfer::{Data, WindowUpdate};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::diff::pipeline::Feed;
use crate::error::{Error, Kind, Result, invalid};
use crate::streaming::Stream;

/// How many bytes the client may send ahead.
const WINDOW: i32 = 2 << 20;
/// How many bytes a message has at most; clients keep whole messages in memory.
const CHUNK: usize = 256 << 10;
/// As many pieces wait to be sent.
const WAITING: usize = 4;

/// Returns what reads, where it may block, the bytes that the client sends.
pub fn reader(mut stream: Stream) -> Feed {
    let (feeder, feed) = Feed::new();
    let pump = async move {
        let mut granted = 0i64;
        loop {
            if granted < i64::from(WINDOW) / 2 {
                let update = WindowUpdate { update: WINDOW };
                // A client that has sent all it had needs no leave any more.
                let _ = stream.send(any::pack(&update)).await;
                granted += i64::from(WINDOW);
            }
            let sent = match stream.receive().await {
                Ok(Some(message)) => match any::unpack::<Data>(&message) {
                    Some(Ok(data)) => {
                        granted -= data.data.len() as i64;
                        feeder.send(Some(data.data.into())).await
                    }
                    _ => {
                        tracing::debug!(message.type_url, "ignored a message");
                        Ok(())
                    }
                },
                Ok(None) => {
                    let _ = feeder.send(None).await;
                    return;
                }
                // The reader learns of it by the end of the feed without its `None`.
                Err(error) => {
                    tracing::debug!("receive: {error:#}");
                    return;
                }
            };
            if sent.is_err() {
                return;
            }
        }
    };
    tokio::spawn(pump.in_current_span());
    feed
}

/// Writes bytes, where it may block, for a client to receive.
#[derive(Debug)]
pub struct Output {
    sender: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

/// The sending of what an [`Output`] is given.
#[derive(Debug)]
pub struct Sending(JoinHandle<Result<()>>);

/// Returns what writes to the client, and what tells when all has been sent.
pub fn writer(stream: Stream) -> (Output, Sending) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let sending = tokio::spawn(send(stream, receiver).in_current_span());
    let output = Output {
        sender,
        buffer: Vec::with_capacity(CHUNK),
    };
    (output, Sending(sending))
}

async fn send(stream: Stream, mut received: mpsc::Receiver<Bytes>) -> Result<()> {
    let (mut incoming, outgoing) = stream.split();
    let mut window = 0usize;
    while let Some(mut bytes) = received.recv().await {
        while !bytes.is_empty() {
            if window == 0 {
                let message = incoming.next().await.transpose()?;
                let message = message.ok_or_else(|| {
                    Error::new(Kind::Canceled, "the client takes no more of the archive")
                })?;
                match any::unpack::<WindowUpdate>(&message) {
                    Some(Ok(update)) => window += usize::try_from(update.update).unwrap_or(0),
                    _ => return Err(invalid(format!("unexpected {:?}", message.type_url))),
                }
                continue;
            }
            let data = bytes.split_to(bytes.len().min(window).min(CHUNK)).to_vec();
            window -= data.len();
            outgoing.send(any::pack(&Data { data })).await?;
        }
    }
    outgoing.drained().await
}

impl Sending {
    /// Waits until all has been sent.
    pub async fn done(self) -> Result<()> {
        self.0.await.unwrap_or_else(|error| {
            let message = format!("sending ended early: {error}");
            Err(Error::new(Kind::Internal, message))
        })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        let sent = self.sender.blocking_send(full.into());
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;
    use crate::streaming::Streams;
    use futures_util::stream;
    use prost_types::Any;
    use std::io::Read;

    fn open(messages: Vec<Result<Any>>) -> (crate::streaming::Answers, Stream) {
        let streams = Streams::default();
        let context = Context::new("a").unwrap();
        let incoming = Box::pin(stream::iter(messages));
        let answers = streams.register(&context, "id", incoming).unwrap();
        let stream = streams.take(&context, "id").unwrap();
        (answers, stream)
    }

    fn data(text: &str) -> Result<Any> {
        Ok(any::pack(&Data {
            data: text.as_bytes().to_vec(),
        }))
    }

    #[tokio::test]
    async fn what_breaks_off_is_not_taken_for_the_end() {
        let read = |mut feed: Feed| async {
            let read = move || {
                let mut text = String::new();
                feed.read_to_string(&mut text).map(|_| text)
            };
            tokio::task::spawn_blocking(read).await.unwrap()
        };
        let (_answers, whole) = open(vec![data("one "), data("two")]);
        assert_eq!(read(reader(whole)).await.unwrap(), "one two");
        let broken = Err(Error::new(Kind::Canceled, "gone"));
        let (_answers, stream) = open(vec![data("one "), broken]);
        assert!(read(reader(stream)).await.is_err());
    }

    #[tokio::test]
    async fn no_more_is_sent_than_the_client_allows() {
        let update = |update| Ok(any::pack(&WindowUpdate { update }));
        let (mut answers, stream) = open(vec![update(3), update(0), update(4)]);
        let (mut output, sending) = writer(stream);
        let write = move || {
            output.write_all(b"0123456").unwrap();
            output.flush().unwrap();
        };
        tokio::task::spawn_blocking(write).await.unwrap();
        let mut received = Vec::new();
        let collect = async {
            while let Some(message) = answers.next().await {
                let Some(Ok(data)) = any::unpack::<Data>(&message) else {
                    panic!("{message:?}");
                };
                received.push(String::from_utf8(data.data).unwrap());
            }
        };
        let (sent, ()) = tokio::join!(sending.done(), collect);
        sent.unwrap();
        assert_eq!(received, ["012", "3456"]);
    }
}
