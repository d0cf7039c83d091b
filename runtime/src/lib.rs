//! The OCI runtime as a library: containers from bundles, in the calling process, without threads.
//!
//! Start with [`Container`]. Made processes are children of the caller, who reaps them; the library itself waits only
//! for a child whose making failed. A container's state is on disk, so any later caller can go on where one stopped.
#![forbid(unsafe_code)]

pub mod cgroup;
mod clock;
mod container;
mod create;
mod criu;
mod exec;
mod hooks;
mod init;
mod options;
mod record;
mod rootfs;
mod rootless;
pub mod seccomp;
pub mod spec;
mod state;
mod sync;
mod wording;

/// Makes the calling program's file unreachable for containers, before anything is created or executed in one: the
/// program executes itself once from a sealed view of the file. To be called first of all, with one thread.
pub use sys::executable::seal;

pub use clock::now;
pub use container::{Container, list};
pub use criu::{
    CgroupsMode, CheckpointOptions, CriuOptions, RestoreOptions, check_empty_namespaces,
};
pub use oci_spec;
pub use options::{CreateOptions, ExecOptions, Io, Process};
pub use rootless::is_rootless;
pub use state::{SPEC_VERSION, State, Status};
pub use wording::render;
