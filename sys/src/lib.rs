//! The kernel as safe functions: the only crate with `unsafe`. It knows nothing of containers' protocols.

pub mod error;

pub use error::{Context, Error, Kind, Result};
