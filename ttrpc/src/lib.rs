//! ttrpc: the protocol between daemon and shim, client and server, unary calls and streams.
//!
//! A connection is a unix socket that carries [frames](frame); each call is a stream of them with an id of its own.
#![forbid(unsafe_code)]

mod client;
mod context;
mod error;
pub mod frame;
pub mod message;
pub mod mux;
mod server;
mod stream;

pub use client::Client;
pub use context::Context;
pub use error::{Error, Result};
pub use message::Status;
pub use server::{Reply, Server, Service};
pub use stream::{RawStream, Stream};
