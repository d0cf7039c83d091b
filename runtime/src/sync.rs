//! What the maker of a process and the process tell each other until its program runs.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use sys::process::Child;
use sys::{Context, Error, Kind, Result, fdpass};

use crate::wording;

/// The longest text of an error that is passed on.
const TEXT_MAX: usize = 8 * 1024;

/// Kinds of errors by their number in a message.
const KINDS: [Kind; 6] = [
    Kind::Unknown,
    Kind::InvalidArgument,
    Kind::NotFound,
    Kind::PermissionDenied,
    Kind::FailedPrecondition,
    Kind::Unimplemented,
];

/// What a new process says.
#[derive(Debug)]
pub(crate) enum Message {
    /// The master of its terminal.
    Console(OwnedFd),
    /// The number and a descriptor of the process that is the new one in its place.
    Sibling(i32, OwnedFd),
    /// The descriptor by which its system calls are supervised.
    Listener(OwnedFd),
    /// It has made a time namespace, whose clocks are to be set, and waits.
    Clocks,
    /// Everything is mounted: the hooks that run outside are due, and it waits.
    Mounted,
    /// It has become what it should be, and waits to be started.
    Ready,
    /// It could not, and ends.
    Failed(Error),
    /// It has closed its end: it runs its program, or died.
    End,
}

/// The maker's end.
#[derive(Debug)]
pub(crate) struct Maker(OwnedFd);

/// The new process's end.
#[derive(Debug)]
pub(crate) struct Made(OwnedFd);

/// Returns both ends of a new connection.
pub(crate) fn pair() -> Result<(Maker, Made)> {
    let (maker, made) = fdpass::pair()?;
    Ok((Maker(maker), Made(made)))
}

impl Maker {
    /// Waits for the next message.
    pub fn receive(&self) -> Result<Message> {
        let mut buffer = [0; TEXT_MAX + 2];
        let (length, fd) = match fdpass::receive(&self.0, &mut buffer) {
            // What the process left unread when it ended tells nothing.
            Err(rustix::io::Errno::CONNRESET) => (0, None),
            received => received.context(|| "hear from the new process")?,
        };
        Ok(match (&buffer[..length], fd) {
            ([b'c'], Some(fd)) => Message::Console(fd),
            ([b'l'], Some(fd)) => Message::Listener(fd),
            ([b's', number @ ..], Some(fd)) => match number.try_into() {
                Ok(number) => Message::Sibling(i32::from_ne_bytes(number), fd),
                Err(_) => Message::End,
            },
            ([b't'], _) => Message::Clocks,
            ([b'm'], _) => Message::Mounted,
            ([b'r'], _) => Message::Ready,
            ([b'f', kind, text @ ..], _) => {
                let kind = KINDS.get(usize::from(*kind)).copied();
                let text = String::from_utf8_lossy(text);
                Message::Failed(Error::new(kind.unwrap_or(Kind::Unknown), text))
            }
            _ => Message::End,
        })
    }

    /// Lets the process go on.
    pub fn go(&self) -> Result<()> {
        fdpass::send(&self.0, b"g", None).context(|| "let the new process go on")
    }
}

impl Made {
    /// Waits until the maker lets this process go on.
    pub fn wait(&self) -> Result<()> {
        let (length, _) =
            fdpass::receive(&self.0, &mut [0; 1]).context(|| "hear from the maker")?;
        match length {
            0 => Err(Error::new(
                Kind::Unknown,
                "the maker of this process is gone",
            )),
            _ => Ok(()),
        }
    }

    /// Hands over the master of the terminal.
    pub fn console(&self, master: BorrowedFd<'_>) -> Result<()> {
        fdpass::send(&self.0, b"c", Some(master)).context(|| "hand over the terminal")
    }

    /// Hands over the descriptor by which system calls are supervised.
    pub fn listener(&self, listener: BorrowedFd<'_>) -> Result<()> {
        fdpass::send(&self.0, b"l", Some(listener)).context(|| "hand over the seccomp listener")
    }

    /// Hands over the process that is the new one in this one's place.
    pub fn sibling(&self, sibling: &Child) -> Result<()> {
        let mut message = vec![b's'];
        message.extend(sibling.pid.to_ne_bytes());
        fdpass::send(&self.0, &message, Some(sibling.pidfd.as_fd()))
            .context(|| "hand over the new process")
    }

    /// Says that there is a time namespace, and waits until its clocks are set.
    pub fn clocks(&self) -> Result<()> {
        fdpass::send(&self.0, b"t", None).context(|| "say that there is a time namespace")?;
        self.wait()
    }

    /// Says that everything is mounted, and waits for the hooks outside.
    pub fn mounted(&self) -> Result<()> {
        fdpass::send(&self.0, b"m", None).context(|| "say that all is mounted")?;
        self.wait()
    }

    /// Says that this process waits to be started.
    pub fn ready(&self) -> Result<()> {
        fdpass::send(&self.0, b"r", None).context(|| "say that all is ready")
    }

    /// Says why this process ends; tells whether anyone heard.
    pub fn fail(&self, error: &Error) -> bool {
        let kind = KINDS.iter().position(|kind| *kind == error.kind());
        let mut message = vec![b'f', kind.unwrap_or_default() as u8];
        let text = wording::render(error);
        message.extend(text.bytes().take(TEXT_MAX));
        fdpass::send(&self.0, &message, None).is_ok()
    }

    /// Returns the descriptor's number, to keep it open.
    pub fn raw(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_arrives_with_its_kind() {
        let (maker, made) = pair().unwrap();
        made.ready().unwrap();
        assert!(made.fail(&wording::not_in_path("frob")));
        drop(made);
        assert!(matches!(maker.receive().unwrap(), Message::Ready));
        let Message::Failed(error) = maker.receive().unwrap() else {
            panic!("no error");
        };
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.to_string().ends_with("not found in $PATH"));
        assert!(matches!(maker.receive().unwrap(), Message::End));
    }
}
