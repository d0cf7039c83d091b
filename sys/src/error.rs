//! The error of every library crate: a kind that callers match on, and a chain of what was being done to what.

use std::fmt;
use std::io;

use rustix::io::Errno;

/// The result of an operation that can fail with an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Classes of errors; the names and meanings are those of containerd's errdefs and of gRPC's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Canceled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

/// An error: its [`Kind`], what was being done, and the error that caused it.
///
/// `{}` prints the outermost message, `{:#}` the whole chain joined by `: `.
pub struct Error(Box<Repr>);

struct Repr {
    kind: Kind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Returns an error of `kind` without a cause.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Repr {
            kind,
            message: message.into(),
            source: None,
        }))
    }

    /// Returns an error of class `Unknown` that `source` caused.
    pub fn other(
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self(Box::new(Repr {
            kind: Kind::Unknown,
            message: message.into(),
            source: Some(source.into()),
        }))
    }

    /// Returns the error's class.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Returns the same error in another class.
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Returns the error number of the system call at the root of the chain, if there is one.
    pub fn errno(&self) -> Option<Errno> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(errno) = error.downcast_ref::<Errno>() {
                return Some(*errno);
            }
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return io.raw_os_error().map(Errno::from_raw_os_error);
            }
            cause = error.source();
        }
        None
    }

    /// Returns this error wrapped in what was being done.
    pub fn context(self, message: impl Into<String>) -> Self {
        Self(Box::new(Repr {
            kind: self.0.kind,
            message: message.into(),
            source: Some(Box::new(self)),
        }))
    }
}

/// A full disk is the one errno with a class of its own: callers may free space and try again.
fn kind_of(errno: Option<Errno>) -> Kind {
    match errno {
        Some(Errno::NOSPC | Errno::DQUOT) => Kind::ResourceExhausted,
        _ => Kind::Unknown,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if f.alternate() {
            let mut cause = std::error::Error::source(self);
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self:#})", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// Adds to an error what was being done, as it passes up.
pub trait Context<T> {
    /// Wraps the error in the message that `message` makes.
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T> Context<T> for Result<T, Error> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| error.context(message()))
    }
}

impl<T> Context<T> for Result<T, io::Error> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| {
            let kind = kind_of(error.raw_os_error().map(Errno::from_raw_os_error));
            Error::other(message(), error).with_kind(kind)
        })
    }
}

impl<T> Context<T> for Result<T, Errno> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|errno| Error::other(message(), errno).with_kind(kind_of(Some(errno))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_printed_once_and_the_errno_is_found() {
        let failed: Result<(), Errno> = Err(Errno::NOSPC);
        let error = failed
            .context(|| "write \"/a\"")
            .context(|| "unpack layer")
            .unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "unpack layer: write \"/a\": No space left on device (os error 28)"
        );
        assert_eq!(error.to_string(), "unpack layer");
        assert_eq!(error.kind(), Kind::ResourceExhausted);
        assert_eq!(error.errno(), Some(Errno::NOSPC));
    }

    #[test]
    fn wrapping_keeps_the_kind() {
        let error = Error::new(Kind::NotFound, "snapshot \"a\"").context("stat");
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(error.errno(), None);
    }
}
