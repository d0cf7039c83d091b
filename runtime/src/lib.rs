//! The OCI runtime as a library: containers from bundles, in the calling process, without threads.
//!
//! Start with [`Container`]. Made processes are children of the caller, who reaps them; the library itself waits only
//! for a child whose making failed. A container's state is on disk, so any later caller can go on where one stopped.
#![forbid(unsafe_code)]

pub mod cgroup;
mod container;
mod options;
pub mod seccomp;
mod state;

pub use container::{Container, list};
pub use oci_spec;
pub use options::{CreateOptions, ExecOptions, Io, Process};
pub use state::{State, Status};
