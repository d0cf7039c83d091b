//! The daemon's errors: the library crates' own, with the wordings that containerd's clients know.

pub use sys::{Context, Error, Kind, Result};

/// Returns the error for an object that is not there, such as `image "a"`.
pub fn not_found(what: &str, name: &str) -> Error {
    Error::new(Kind::NotFound, format!("{what} {name:?}"))
}

/// Returns the error for an object that is there already.
pub fn already_exists(what: &str, name: &str) -> Error {
    Error::new(Kind::AlreadyExists, format!("{what} {name:?}"))
}

/// Returns an `InvalidArgument` error.
pub fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, message)
}

/// Returns a `FailedPrecondition` error.
pub fn precondition(message: impl Into<String>) -> Error {
    Error::new(Kind::FailedPrecondition, message)
}

/// Returns `error` as a gRPC status; the one place where errors leave the daemon.
pub fn status(error: Error) -> tonic::Status {
    tracing::debug!(kind = ?error.kind(), "request failed: {error:#}");
    api_protos::status::grpc(&error)
}
