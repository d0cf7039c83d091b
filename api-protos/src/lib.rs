//! Wire types of containerd's services, its shim API, CRI v1 and NRI, one module per proto package.
//!
//! `containerd::services::content::v1` is package `containerd.services.content.v1`, and so on. With feature
//! `grpc`, each service has its tonic client and server beside its messages; with feature `ttrpc`, the services that
//! shims and the daemon speak with each other have a module `..._ttrpc` with client, trait and server. With feature
//! `oci`, there is what those who write containers' configurations have in common.
#![forbid(unsafe_code)]

#[allow(clippy::all, rustdoc::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

pub use generated::*;

/// The methods of all services: path, whether the client streams, and whether the server does.
pub const METHODS: &[(&str, bool, bool)] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

pub mod any;
mod mount;
#[cfg(feature = "oci")]
pub mod oci;
pub mod status;
