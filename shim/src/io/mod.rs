//! What a process reads and writes, and how that reaches the client.
//!
//! ```text
//!  client ────▶ stdin FIFO ───copy─▶ pipe ──▶ process
//!  client ◀──── stdout FIFO ◀──copy── pipe ◀── process
//!  log file ◀────────────────copy── pipe ◀── process
//!  logger program ◀─────────────── pipe ◀── process
//!
//!  client ──── stdin FIFO ───copy──▶ master ─┐
//!                                            ├ terminal ─ process
//!  client ◀─── stdout FIFO ◀──copy── master ─┘
//! ```
//!
//! The shim holds each FIFO open for reading and writing: a client may go and another come without the process noticing.
//! Output is copied rather than handed through, so that a client gets its end of file when the process is deleted, even
//! if something that the process left behind still has the pipe open; input is, because a process that has a file of
//! outside open could not be checkpointed.

mod copy;
mod fifo;
mod logger;

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::runtime::Io;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::pipe::{PipeFlags, pipe_with};
use sys::{Context, Result};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::log;
use copy::Sink;
pub use copy::asynchronous;
use logger::Logger;

/// Where a client wants a process's input from and its output to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

/// Whose process the input and output are of.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub namespace: &'a str,
    pub id: &'a str,
    /// Who shall own the pipes.
    pub owner: (u32, u32),
}

/// The shim's side of a process's input and output; dropping it closes everything.
#[derive(Debug, Default)]
pub struct Streams {
    /// Keeps the stdin FIFO from ending while no client has it open.
    stdin: Option<OwnedFd>,
    /// Where input comes from: the terminal's, or that of a pipe.
    typed: Option<OwnedFd>,
    /// The pipe that input goes to.
    fed: Option<Sink>,
    /// What is copied once the process runs.
    pipes: Vec<(OwnedFd, Sink)>,
    /// Where the terminal's output goes.
    shown: Option<Sink>,
    console: Option<Arc<AsyncFd<OwnedFd>>>,
    copies: Vec<AbortHandle>,
    drain: Option<Drain>,
    _logger: Option<Logger>,
}

/// Completes when all output has been copied.
#[derive(Debug)]
pub struct Drain(mpsc::Receiver<Infallible>);

impl Streams {
    /// Opens everything that `stdio` names; returns what the process gets beside the shim's own side.
    pub async fn open(stdio: &Stdio, subject: Subject<'_>) -> Result<(Self, Io)> {
        let mut streams = Self::default();
        let io = match stdio.terminal {
            true => streams.open_terminal(stdio, subject).await?,
            false => streams.open_pipes(stdio, subject).await?,
        };
        Ok((streams, io))
    }

    async fn open_pipes(&mut self, stdio: &Stdio, subject: Subject<'_>) -> Result<Io> {
        let stdin = match stdio.stdin.as_str() {
            "" => null(OFlags::RDONLY)?,
            path => {
                self.open_input(Path::new(path))?;
                let (read, write) = pipe(subject.owner)?;
                self.fed = Some(Sink::pipe(write)?);
                read
            }
        };
        if let Some((program, strict)) = logger::parse(&stdio.stdout) {
            let (stdout_read, stdout) = pipe(subject.owner)?;
            let (stderr_read, stderr) = pipe(subject.owner)?;
            let outputs = [stdout_read.as_fd(), stderr_read.as_fd()];
            self._logger = Some(Logger::start(&program, strict, outputs, subject).await?);
            return Ok(Io::Fds {
                stdin,
                stdout,
                stderr,
            });
        }
        let stdout = self.open_output(&stdio.stdout, subject)?;
        let stderr = self.open_output(&stdio.stderr, subject)?;
        Ok(Io::Fds {
            stdin,
            stdout,
            stderr,
        })
    }

    fn open_input(&mut self, path: &Path) -> Result<()> {
        self.stdin = Some(fifo::hold(path)?);
        self.typed = Some(fifo::open(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        Ok(())
    }

    fn open_output(&mut self, uri: &str, subject: Subject<'_>) -> Result<OwnedFd> {
        if uri.is_empty() {
            return null(OFlags::WRONLY);
        }
        let sink = Sink::open(uri)?;
        let (read, write) = pipe(subject.owner)?;
        self.pipes.push((read, sink));
        Ok(write)
    }

    async fn open_terminal(&mut self, stdio: &Stdio, subject: Subject<'_>) -> Result<Io> {
        if !stdio.stdin.is_empty() {
            self.open_input(Path::new(&stdio.stdin))?;
        }
        self.shown = Some(match logger::parse(&stdio.stdout) {
            Some((program, strict)) => {
                let (read, write) = pipe(subject.owner)?;
                let empty = null(OFlags::RDONLY)?;
                let outputs = [read.as_fd(), empty.as_fd()];
                self._logger = Some(Logger::start(&program, strict, outputs, subject).await?);
                Sink::pipe(write)?
            }
            None => Sink::open(&stdio.stdout)?,
        });
        Ok(Io::Console)
    }

    /// Starts to copy, to and from the terminal's master if the process has one.
    pub fn start(&mut self, console: Option<OwnedFd>) -> Result<()> {
        let (alive, drain) = mpsc::channel(1);
        for (pipe, sink) in std::mem::take(&mut self.pipes) {
            let from = Arc::new(asynchronous(pipe)?);
            self.spawn(Some(alive.clone()), copy::copy(from, sink));
        }
        if let Some(fed) = self.fed.take()
            && let Some(typed) = self.typed.take()
        {
            let from = Arc::new(asynchronous(typed)?);
            self.spawn(None, copy::copy(from, fed));
        }
        if let Some(console) = console {
            let master = Arc::new(asynchronous(console)?);
            self.console = Some(master.clone());
            if let Some(typed) = self.typed.take() {
                let from = Arc::new(asynchronous(typed)?);
                self.spawn(None, copy::copy(from, Sink::Stream(master.clone())));
            }
            if let Some(sink) = self.shown.take() {
                self.spawn(Some(alive), copy::copy(master, sink));
            }
        }
        self.drain = Some(Drain(drain));
        Ok(())
    }

    fn spawn(
        &mut self,
        alive: Option<mpsc::Sender<Infallible>>,
        copy: impl Future<Output = std::io::Result<()>> + Send + 'static,
    ) {
        let task = tokio::spawn(async move {
            let _alive = alive;
            if let Err(error) = copy.await {
                log::debug(format_args!("copy input or output: {error}"));
            }
        });
        self.copies.push(task.abort_handle());
    }

    /// Returns what completes when all output has been copied, the first time it is asked for.
    pub fn take_drain(&mut self) -> Option<Drain> {
        self.drain.take()
    }

    /// Lets stdin end as soon as no client has it open.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sets the size of the terminal; a process without one has none to set.
    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        match &self.console {
            Some(master) => sys::console::resize(master.get_ref(), cells(height), cells(width)),
            None => Ok(()),
        }
    }
}

impl Drain {
    /// Waits until all output has been copied, for at most `limit`; tells whether it has.
    pub async fn wait(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.0.recv()).await.is_ok()
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for copy in &self.copies {
            copy.abort();
        }
    }
}

fn null(flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::open("/dev/null", flags | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open \"/dev/null\"")
}

/// Returns the reading and the writing end of a pipe that `owner` may open again by its name in `/proc`.
fn pipe(owner: (u32, u32)) -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).context(|| "make a pipe")?;
    if owner != (0, 0) {
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        rustix::fs::fchown(&write, Some(uid), Some(gid)).context(|| "chown a pipe")?;
    }
    Ok((read, write))
}

#[cfg(test)]
mod tests;
