//! Streams: calls in which either end sends any number of messages.

use std::marker::PhantomData;

use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::frame::{Frame, Kind, MAX_MESSAGE, NO_DATA, REMOTE_CLOSED};
use crate::message::Status;

/// How many messages wait for a slow receiver before the whole connection waits for it.
pub(crate) const BACKLOG: usize = 16;

/// What arrives on a stream.
#[derive(Debug)]
pub(crate) enum Event {
    Data(Bytes),
    /// The peer sends no more; a server's last word has its status.
    End(Option<Status>),
}

/// A stream of undecoded messages, one end of it.
#[derive(Debug)]
pub struct RawStream {
    pub(crate) id: u32,
    pub(crate) outgoing: mpsc::UnboundedSender<Frame>,
    pub(crate) incoming: mpsc::Receiver<Event>,
    pub(crate) ended: bool,
}

/// A stream that sends `Out` and receives `In`.
#[derive(Debug)]
pub struct Stream<Out, In> {
    raw: RawStream,
    messages: PhantomData<fn(Out) -> In>,
}

impl RawStream {
    /// Sends one message.
    pub fn send(&self, payload: Vec<u8>) -> Result<()> {
        self.frame(0, payload)
    }

    /// Tells the peer that no more messages follow.
    pub fn close_send(&self) -> Result<()> {
        self.frame(REMOTE_CLOSED | NO_DATA, Vec::new())
    }

    /// Returns the next message, or `None` after the peer's last one.
    pub async fn recv(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        match self.incoming.recv().await {
            Some(Event::Data(payload)) => Ok(Some(payload)),
            Some(Event::End(status)) => {
                self.ended = true;
                match status {
                    Some(status) if status.code != 0 => Err(Error::Status(status)),
                    _ => Ok(None),
                }
            }
            None => Err(Error::Closed),
        }
    }

    fn frame(&self, flags: u8, payload: Vec<u8>) -> Result<()> {
        if payload.len() > MAX_MESSAGE {
            return Err(Error::TooLong(payload.len()));
        }
        let frame = Frame {
            stream: self.id,
            kind: Kind::Data,
            flags,
            payload: payload.into(),
        };
        self.outgoing.send(frame).map_err(|_| Error::Closed)
    }
}

impl<Out: Message, In: Message + Default> Stream<Out, In> {
    /// Returns `raw` as a stream of messages.
    pub fn new(raw: RawStream) -> Self {
        Self {
            raw,
            messages: PhantomData,
        }
    }

    /// Sends one message.
    pub fn send(&self, message: &Out) -> Result<()> {
        self.raw.send(message.encode_to_vec())
    }

    /// Tells the peer that no more messages follow.
    pub fn close_send(&self) -> Result<()> {
        self.raw.close_send()
    }

    /// Returns the next message, or `None` after the peer's last one.
    pub async fn recv(&mut self) -> Result<Option<In>> {
        match self.raw.recv().await? {
            Some(payload) => In::decode(payload)
                .map(Some)
                .map_err(|error| Error::Malformed(error.to_string())),
            None => Ok(None),
        }
    }
}
