//! Why a call has no answer.

use std::fmt;

use crate::message::Status;

/// The result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// The peer answered with a status other than success.
    Status(Status),
    /// The connection is closed; the peer may or may not have seen the request.
    Closed,
    /// The call's timeout ran out; the peer may or may not have carried it out.
    TimedOut,
    /// The message is longer than [`crate::frame::MAX_MESSAGE`].
    TooLong(usize),
    /// The peer sent bytes that are not the message they should be.
    Malformed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => f.write_str(&status.message),
            Self::Closed => f.write_str("ttrpc: closed"),
            Self::TimedOut => f.write_str("ttrpc: timed out"),
            Self::TooLong(length) => write!(
                f,
                "message length {length} exceed maximum message size of {}",
                crate::frame::MAX_MESSAGE
            ),
            Self::Malformed(what) => write!(f, "ttrpc: malformed message: {what}"),
        }
    }
}

impl std::error::Error for Error {}
