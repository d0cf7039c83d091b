//! Programs that log: started by the shim with a container's stdout and stderr to read from.
//!
//! `binary:///path?key=value` runs `/path key value` with stdout as descriptor 3, stderr as 4, and a pipe as 5, on which
//! it says that it is ready: by closing it, or with `binary-v2://` by writing a byte.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use sys::program::Program;
use sys::{Context, Error, Kind, Result};

use super::Subject;
use super::copy::asynchronous;

/// How long a logger may take to get ready.
const READY: Duration = Duration::from_secs(10);
/// How long a logger may read on after the last writer is gone.
const LINGER: Duration = Duration::from_secs(12);

/// A logger that runs; when it is dropped, it has a little time to finish.
#[derive(Debug)]
pub struct Logger(Option<OwnedFd>);

/// Returns the program and its arguments if `uri` names one, and whether it must write a byte to be ready.
pub fn parse(uri: &str) -> Option<(Vec<String>, bool)> {
    let (rest, strict) = match uri.split_once("://")? {
        ("binary", rest) => (rest, false),
        ("binary-v2", rest) => (rest, true),
        _ => return None,
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut words = vec![decode(path, false)];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        words.push(decode(key, true));
        words.push(decode(value, true));
    }
    Some((words, strict))
}

impl Logger {
    /// Starts a logger that reads stdout and stderr from `outputs`, and waits until it is ready.
    pub async fn start(
        words: &[String],
        strict: bool,
        outputs: [BorrowedFd<'_>; 2],
        subject: Subject<'_>,
    ) -> Result<Self> {
        let Some((path, args)) = words.split_first() else {
            return Err(Error::new(Kind::InvalidArgument, "a logger needs a path"));
        };
        let (ready, say_ready) = pipe_with(PipeFlags::CLOEXEC).context(|| "make a pipe")?;
        let null = super::null(rustix::fs::OFlags::RDWR)?;
        let mut program = Program::new(Path::new(path))?;
        for arg in args {
            program.arg(arg)?;
        }
        program.env("CONTAINER_ID", subject.id)?;
        program.env("CONTAINER_NAMESPACE", subject.namespace)?;
        let stderr = rustix::stdio::stderr();
        program.fd(null.as_fd(), 0).fd(null.as_fd(), 1);
        program.fd(stderr, 2).fd(outputs[0], 3).fd(outputs[1], 4);
        program.fd(say_ready.as_fd(), 5);
        let child = program.start().context(|| "start the logger")?;
        drop(say_ready);
        let logger = Self(Some(child.pidfd));
        let answered = tokio::time::timeout(READY, answer(ready)).await;
        match answered {
            Ok(Ok(0)) if strict => Err(Error::new(
                Kind::Unknown,
                format!("logger {path:?} ended before it was ready"),
            )),
            Ok(result) => result.map(|_| logger),
            Err(_) => Err(Error::new(
                Kind::DeadlineExceeded,
                format!("logger {path:?} did not get ready"),
            )),
        }
    }
}

/// Returns how many bytes the logger wrote before it closed its end: one is enough.
async fn answer(ready: OwnedFd) -> Result<usize> {
    let ready = asynchronous(ready)?;
    loop {
        let mut readable = ready.readable().await.context(|| "wait for the logger")?;
        match rustix::io::read(ready.get_ref(), &mut [0; 1]) {
            Ok(count) => return Ok(count),
            Err(rustix::io::Errno::AGAIN) => readable.clear_ready(),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context(|| "hear from the logger"),
        }
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        let Some(pidfd) = self.0.take() else {
            return;
        };
        // It ends by itself once it has read all there is.
        tokio::spawn(async move {
            let Ok(pidfd) = asynchronous(pidfd) else {
                return;
            };
            if tokio::time::timeout(LINGER, pidfd.readable())
                .await
                .is_err()
            {
                let kill = rustix::process::Signal::KILL.as_raw();
                let _ = sys::process::signal(pidfd.get_ref(), kill);
            }
        });
    }
}

/// Undoes the escapes of a URI; in a query a plus is a blank.
fn decode(text: &str, query: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| byte == b'%');
        let number = escaped
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match number {
            Some(number) => {
                bytes.push(number);
                rest = &after[2..];
            }
            None => {
                bytes.push(if query && byte == b'+' { b' ' } else { byte });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_a_program_with_arguments() {
        let cases = [
            ("binary:///bin/log", Some((vec!["/bin/log"], false))),
            (
                "binary:///bin/log?-n=5&a+b=%2Fx",
                Some((vec!["/bin/log", "-n", "5", "a b", "/x"], false)),
            ),
            ("binary-v2:///bin/l%20g", Some((vec!["/bin/l g"], true))),
            ("file:///x", None),
            ("/run/fifo", None),
        ];
        for (uri, expected) in cases {
            let expected = expected.map(|(words, strict)| {
                let words = words.into_iter().map(str::to_owned).collect::<Vec<_>>();
                (words, strict)
            });
            assert_eq!(parse(uri), expected, "{uri}");
        }
    }
}
