//! Streams: a client opens one under an id of its choice, and a transfer that names the id takes it.
//!
//! ```text
//!  client ──Stream(StreamInit id)──▶ register ── waits here ──▶ take(id) ──▶ a transfer sends and receives
//!         ◀──one empty message─────                              its end closes the client's call
//! ```
//!
//! A stream lives as long as its call: when the client goes away, one that nobody took is forgotten, and one that was
//! taken says so to whoever receives from it or sends to it.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use prost_types::Any;
use tokio::sync::mpsc;

use crate::context::Context;
use crate::error::{Error, Kind, Result, already_exists, invalid, not_found};

/// As many messages wait to be sent; the sender waits for its client beyond that.
const WAITING: usize = 16;

/// What a client sends, until it closes its side.
pub type Incoming = Pin<Box<dyn futures_util::Stream<Item = Result<Any>> + Send>>;

/// The streams that wait to be taken; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    waiting: Arc<Mutex<HashMap<Key, Waiting>>>,
}

type Key = (String, String);

#[derive(Debug)]
struct Waiting {
    stream: Stream,
    /// Tells one registration from a later one under the same id.
    number: u64,
}

/// A stream between a client and a transfer; dropping it ends the client's call.
pub struct Stream {
    incoming: Incoming,
    outgoing: mpsc::Sender<Any>,
}

/// The sending side of a stream.
#[derive(Clone, Debug)]
pub struct Outgoing(mpsc::Sender<Any>);

/// What is to be sent to the client; dropping it ends the stream.
#[derive(Debug)]
pub struct Answers {
    outgoing: mpsc::Receiver<Any>,
    streams: Streams,
    key: Key,
    number: u64,
}

impl Streams {
    /// Makes a stream known under `id` and returns what its client is to be sent.
    pub fn register(&self, context: &Context, id: &str, incoming: Incoming) -> Result<Answers> {
        if id.is_empty() {
            return Err(invalid("stream id must not be empty"));
        }
        let key = (context.namespace().to_owned(), id.to_owned());
        let (sender, outgoing) = mpsc::channel(WAITING);
        let stream = Stream {
            incoming,
            outgoing: sender,
        };
        let mut waiting = self.waiting();
        if waiting.contains_key(&key) {
            return Err(already_exists("stream", id));
        }
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        waiting.insert(key.clone(), Waiting { stream, number });
        drop(waiting);
        Ok(Answers {
            outgoing,
            streams: self.clone(),
            key,
            number,
        })
    }

    /// Takes the stream that waits under `id`.
    pub fn take(&self, context: &Context, id: &str) -> Result<Stream> {
        let key = (context.namespace().to_owned(), id.to_owned());
        let taken = self.waiting().remove(&key);
        taken
            .map(|waiting| waiting.stream)
            .ok_or_else(|| not_found("stream", id))
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    /// Returns the next message, or nothing when the client has closed its side.
    pub async fn receive(&mut self) -> Result<Option<Any>> {
        self.incoming.next().await.transpose()
    }

    /// Sends a message; it waits while the client does not keep up.
    pub async fn send(&mut self, message: Any) -> Result<()> {
        let sent = self.outgoing.send(message).await;
        sent.map_err(|_| Error::new(Kind::Canceled, "the client has left the stream"))
    }

    /// Returns both sides, each to be used on its own; the call ends when both are gone.
    pub fn split(self) -> (Incoming, Outgoing) {
        (self.incoming, Outgoing(self.outgoing))
    }
}

impl Outgoing {
    /// Sends a message; it waits while the client does not keep up.
    pub async fn send(&self, message: Any) -> Result<()> {
        let sent = self.0.send(message).await;
        sent.map_err(|_| Error::new(Kind::Canceled, "the client has left the stream"))
    }
}

impl Outgoing {
    /// Waits until nothing waits to be sent any more.
    pub async fn drained(&self) -> Result<()> {
        let all = self.0.reserve_many(WAITING).await;
        let all = all.map(drop);
        all.map_err(|_| Error::new(Kind::Canceled, "the client has left the stream"))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl Answers {
    /// Returns the next message, or nothing when the transfer has ended its side.
    pub async fn next(&mut self) -> Option<Any> {
        self.outgoing.recv().await
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        let mut waiting = self.streams.waiting();
        if waiting
            .get(&self.key)
            .is_some_and(|waiting| waiting.number == self.number)
        {
            waiting.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    fn message(text: &str) -> Any {
        Any {
            type_url: text.to_owned(),
            value: Vec::new(),
        }
    }

    fn incoming(texts: &[&str]) -> Incoming {
        let messages: Vec<_> = texts.iter().map(|text| Ok(message(text))).collect();
        Box::pin(stream::iter(messages))
    }

    #[tokio::test]
    async fn a_stream_is_taken_once_and_carries_messages_both_ways() {
        let streams = Streams::default();
        let context = Context::new("a").unwrap();
        let other = Context::new("b").unwrap();
        let mut answers = streams.register(&context, "id", incoming(&["x"])).unwrap();
        let twice = streams.register(&context, "id", incoming(&[]));
        assert_eq!(twice.unwrap_err().kind(), Kind::AlreadyExists);
        assert_eq!(
            streams.take(&other, "id").unwrap_err().kind(),
            Kind::NotFound
        );
        let mut stream = streams.take(&context, "id").unwrap();
        assert_eq!(stream.receive().await.unwrap(), Some(message("x")));
        assert_eq!(stream.receive().await.unwrap(), None);
        stream.send(message("y")).await.unwrap();
        drop(stream);
        assert_eq!(answers.next().await, Some(message("y")));
        assert_eq!(answers.next().await, None);
    }

    #[tokio::test]
    async fn a_client_that_goes_away_leaves_nothing() {
        let streams = Streams::default();
        let context = Context::new("a").unwrap();
        let first = streams.register(&context, "id", incoming(&[])).unwrap();
        let mut taken = streams.take(&context, "id").unwrap();
        let second = streams.register(&context, "id", incoming(&[])).unwrap();
        drop(first);
        let error = taken.send(message("y")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Canceled);
        assert_eq!(streams.waiting().len(), 1);
        drop(second);
        assert!(streams.waiting().is_empty());
    }
}
