//! The daemon: containerd's gRPC services.
#![forbid(unsafe_code)]

pub mod blocking;
pub mod content;
pub mod context;
pub mod error;
pub mod events;
pub mod filter;
pub mod gc;
pub mod labels;
pub mod metadata;
