//! Error kinds on the wire: the only table between [`sys::Kind`] and the status codes of gRPC and ttrpc.

use sys::{Error, Kind};

/// Every kind with its status code, the same number in gRPC and ttrpc, and containerd's text for the class.
const TABLE: [(Kind, i32, &str); 16] = [
    (Kind::Canceled, 1, "context canceled"),
    (Kind::Unknown, 2, "unknown"),
    (Kind::InvalidArgument, 3, "invalid argument"),
    (Kind::DeadlineExceeded, 4, "context deadline exceeded"),
    (Kind::NotFound, 5, "not found"),
    (Kind::AlreadyExists, 6, "already exists"),
    (Kind::PermissionDenied, 7, "permission denied"),
    (Kind::ResourceExhausted, 8, "resource exhausted"),
    (Kind::FailedPrecondition, 9, "failed precondition"),
    (Kind::Aborted, 10, "aborted"),
    (Kind::OutOfRange, 11, "out of range"),
    (Kind::Unimplemented, 12, "not implemented"),
    (Kind::Internal, 13, "internal"),
    (Kind::Unavailable, 14, "unavailable"),
    (Kind::DataLoss, 15, "data loss"),
    (Kind::Unauthenticated, 16, "unauthenticated"),
];

/// Returns the status code of `kind`.
pub fn code(kind: Kind) -> i32 {
    TABLE
        .iter()
        .find(|row| row.0 == kind)
        .map_or(2, |row| row.1)
}

/// Returns the kind that `code` stands for; a code that is none of ours is `Unknown`.
pub fn kind(code: i32) -> Kind {
    TABLE
        .iter()
        .find(|row| row.1 == code)
        .map_or(Kind::Unknown, |row| row.0)
}

/// Returns the message that goes on the wire: the error's chain, then the text of its class.
///
/// Clients strip the class text from the end to get at the bare message, so it is appended once and only once.
fn message(error: &Error) -> String {
    let chain = format!("{error:#}");
    let class = TABLE
        .iter()
        .find(|row| row.0 == error.kind())
        .map_or("unknown", |row| row.2);
    // "task a not found" says it as well, and is what containerd says.
    if error.kind() == Kind::Unknown || chain.ends_with(class) {
        chain
    } else {
        format!("{chain}: {class}")
    }
}

/// Returns the error that a status from the wire stands for.
pub fn error(code: i32, message: impl Into<String>) -> Error {
    Error::new(kind(code), message.into())
}

/// Returns `error` as a gRPC status.
#[cfg(feature = "grpc")]
pub fn grpc(error: &Error) -> tonic::Status {
    tonic::Status::new(tonic::Code::from_i32(code(error.kind())), message(error))
}

/// Returns the error of a gRPC call that has failed.
#[cfg(feature = "grpc")]
pub fn from_grpc(status: &tonic::Status) -> Error {
    error(status.code().into(), status.message())
}

/// Returns `error` as a ttrpc status.
pub fn ttrpc(error: &Error) -> corten_ttrpc::Status {
    corten_ttrpc::Status::new(code(error.kind()), message(error))
}

/// Returns the error of a ttrpc call that has no answer.
pub fn from_ttrpc(failed: corten_ttrpc::Error) -> Error {
    match failed {
        corten_ttrpc::Error::Status(status) => error(status.code, status.message),
        corten_ttrpc::Error::Closed => Error::new(Kind::Unavailable, failed.to_string()),
        corten_ttrpc::Error::TimedOut => Error::new(Kind::DeadlineExceeded, failed.to_string()),
        corten_ttrpc::Error::TooLong(_) => Error::new(Kind::ResourceExhausted, failed.to_string()),
        corten_ttrpc::Error::Malformed(_) => Error::new(Kind::Internal, failed.to_string()),
    }
}

/// Decodes the answer to a ttrpc call.
#[cfg(feature = "ttrpc")]
pub(crate) fn decode_answer<M: prost::Message + Default>(
    answer: corten_ttrpc::Result<prost::bytes::Bytes>,
) -> sys::Result<M> {
    let payload = answer.map_err(from_ttrpc)?;
    M::decode(payload).map_err(|error| Error::other("decode the answer", error))
}

/// Decodes the request of a ttrpc call.
#[cfg(feature = "ttrpc")]
pub(crate) fn decode_request<M: prost::Message + Default>(
    payload: prost::bytes::Bytes,
) -> Result<M, corten_ttrpc::Status> {
    M::decode(payload).map_err(|error| {
        let error = Error::new(
            Kind::InvalidArgument,
            format!("decode the request: {error}"),
        );
        ttrpc(&error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_kinds_are_one_to_one() {
        for (row, expected, _) in TABLE {
            assert_eq!(code(row), expected);
            assert_eq!(kind(expected), row);
        }
        assert_eq!(kind(99), Kind::Unknown);
    }

    #[test]
    fn the_class_text_is_appended_once() {
        let error = Error::new(Kind::NotFound, "container \"a\"");
        assert_eq!(message(&error), "container \"a\": not found");
        let again = Error::new(Kind::NotFound, message(&error));
        assert_eq!(message(&again), "container \"a\": not found");
        let said = Error::new(Kind::NotFound, "task a not found");
        assert_eq!(message(&said), "task a not found");
    }

    #[test]
    fn unknown_errors_go_out_as_they_are() {
        let error = Error::new(Kind::Unknown, "cannot delete a running process");
        assert_eq!(message(&error), "cannot delete a running process");
    }
}
