//! What the driver knows of one process, the first one of its container or a further one.

use std::os::fd::OwnedFd;
use std::time::Duration;

use api_protos::containerd::v1::types::Status;
use rustix::io::Errno;
use sys::{Context, Error, Kind, Result};
use tokio::sync::oneshot;

use super::state::{Action, End, State};
use super::{Reply, View};
use crate::io::{Drain, Stdio, Streams};
use crate::runtime::Made;

/// How long a deletion waits for output that something else may still write.
const DRAIN: Duration = Duration::from_secs(2);

/// A process.
#[derive(Debug)]
pub struct Process {
    pub state: State,
    pub pid: i32,
    pub stdio: Stdio,
    pub streams: Streams,
    /// The rest of its output, once the process has ended.
    pub drain: Option<Drain>,
    /// The specification of a process that is not started yet.
    pub spec: Vec<u8>,
    pidfd: Option<OwnedFd>,
    end: Option<oneshot::Receiver<End>>,
    waiting: Vec<Reply<End>>,
}

impl Process {
    /// Returns a process that is not made yet.
    pub fn new(stdio: Stdio, spec: Vec<u8>) -> Self {
        Self {
            state: State::Created,
            pid: 0,
            stdio,
            streams: Streams::default(),
            drain: None,
            spec,
            pidfd: None,
            end: None,
            waiting: Vec::new(),
        }
    }

    /// Takes in the process that was made, and starts to copy what it writes.
    pub fn made(&mut self, made: Made, mut streams: Streams) -> Result<()> {
        self.pid = made.pid;
        self.pidfd = made.pidfd;
        self.end = Some(made.end);
        let started = streams.start(made.console);
        self.streams = streams;
        started
    }

    /// Returns what completes with the end of the process that was made, the first time it is asked for.
    pub fn take_end(&mut self) -> Option<oneshot::Receiver<End>> {
        self.end.take()
    }

    /// Answers at once if the process has ended, later if not.
    pub fn wait(&mut self, reply: Reply<End>) {
        match self.state.end() {
            Some(end) => drop(reply.send(Ok(end))),
            None => {
                // Clients come and go; the process may outlive many of them.
                self.waiting.retain(|waiting| !waiting.is_closed());
                self.waiting.push(reply);
            }
        }
    }

    /// Notes the end and tells those who wait for it.
    pub fn ended(&mut self, end: End) {
        if let Ok(stopped) = self.state.apply(Action::Exit(end)) {
            self.state = stopped;
        }
        self.pidfd = None;
        self.streams.close_stdin();
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(Ok(end));
        }
    }

    /// Sends a signal to this very process.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.state.apply(Action::Signal)?;
        if self.pid == 0 {
            return Err(Error::new(Kind::NotFound, "process not created"));
        }
        let gone = || Error::new(Kind::NotFound, "process already finished");
        let pidfd = self.pidfd.as_ref().ok_or_else(gone)?;
        match sys::process::signal(pidfd, signal) {
            Err(Errno::SRCH) => Err(gone()),
            result => result.context(|| format!("send signal {signal} to process {}", self.pid)),
        }
    }

    /// Returns the future of the last output, which is independent of the process.
    pub fn finish(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let streams = std::mem::take(&mut self.streams);
        let drain = self.drain.take();
        async move {
            if let Some(mut drain) = drain {
                drain.wait(DRAIN).await;
            }
            drop(streams);
        }
    }

    /// Returns what a client may know.
    pub fn view(&self, bundle: &std::path::Path) -> View {
        View {
            bundle: bundle.to_owned(),
            pid: self.pid as u32,
            status: match self.state {
                State::Created => Status::Created,
                State::Running => Status::Running,
                State::Paused => Status::Paused,
                State::Stopped(_) | State::Deleted => Status::Stopped,
            },
            end: self.state.end(),
            stdio: self.stdio.clone(),
        }
    }
}
