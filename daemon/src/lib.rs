//! The daemon: containerd's gRPC services.
#![forbid(unsafe_code)]
