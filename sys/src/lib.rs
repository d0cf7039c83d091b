//! The kernel as safe functions: the only crate with `unsafe`. It knows nothing of containers' protocols.
#![allow(unsafe_code)]

pub mod bpf;
pub mod error;
pub mod fs;
pub mod mount;
pub mod seccomp;

pub use error::{Context, Error, Kind, Result};
