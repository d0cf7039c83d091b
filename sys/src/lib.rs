//! The kernel as safe functions: the only crate with `unsafe`. It knows nothing of containers' protocols.
#![allow(unsafe_code)]

pub mod attach;
pub mod bpf;
pub mod capability;
pub mod console;
pub mod device;
pub mod error;
pub mod executable;
pub mod failpoint;
pub mod fdpass;
pub mod fs;
pub mod keyring;
pub mod memory;
pub mod mount;
pub mod mutant;
pub mod namespace;
pub mod path;
pub mod process;
pub mod procfs;
pub mod program;
pub mod schedule;
pub mod seccomp;
pub mod signals;

pub use error::{Context, Error, Kind, Result};
