//! A new process on its way to the user's program: each stage consumes the one before, so that none can be skipped.
//!
//! ```text
//! first process   Namespaced ─mount─▶ Mounted ─pivot─▶ Rooted ─┐
//! further process Joined ──────────────────────────────────────┴─drop─▶ Dropped ─start─▶ Started ─exec─▶ program
//! ```
//!
//! Everything here runs in a child of the caller, before its program. It allocates, which after a plain clone3(2) is
//! sound only because callers have one thread.

mod command;
mod identity;
mod namespaces;
mod stages;

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use oci_spec::runtime::{Process, Spec};
use sys::procfs::Procfs;
use sys::{Context, Error, Result};

use crate::options::Io;
use crate::seccomp::Program;
use crate::sync::Made;

pub(crate) use command::Command;
pub(crate) use identity::Identity;
pub(crate) use namespaces::Namespaces;
pub(crate) use stages::{Joined, Namespaced};

/// What both kinds of processes need.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub spec: &'a Spec,
    pub process: &'a Process,
    pub command: Command,
    pub identity: Identity,
    pub namespaces: Namespaces,
    pub io: Stdio<'a>,
    pub preserve_fds: u32,
    pub keyring: Option<String>,
    pub procfs: Procfs,
    pub seccomp: Option<Program>,
    pub sync: Made,
}

/// What only a container's first process needs.
#[derive(Debug)]
pub(crate) struct InitPlan<'a> {
    pub plan: Plan<'a>,
    pub bundle: &'a Path,
    pub rootfs: &'a Path,
    pub no_pivot: bool,
    pub gate: OwnedFd,
    /// Whether someone outside has something to do before the first stage.
    pub wait_first: bool,
    /// The state for hooks, in the form in which they read it.
    pub state: String,
}

/// Where the process's stdin, stdout and stderr come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stdio<'a> {
    Inherit,
    Fds([BorrowedFd<'a>; 3]),
    Console,
}

impl<'a> Stdio<'a> {
    /// Borrows what the caller gave.
    pub fn new(io: &'a Io) -> Self {
        use std::os::fd::AsFd;
        match io {
            Io::Inherit => Self::Inherit,
            Io::Fds {
                stdin,
                stdout,
                stderr,
            } => Self::Fds([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]),
            Io::Console => Self::Console,
        }
    }
}

/// Runs the stages of a container's first process; returns only if one fails.
pub(crate) fn run_init(plan: &InitPlan<'_>) -> i32 {
    let mut keep = vec![plan.gate.as_raw_fd()];
    let result = settle(&plan.plan, &mut keep)
        .and_then(|()| Namespaced::enter(plan))
        .and_then(Namespaced::mount)
        .and_then(stages::Mounted::pivot)
        .and_then(stages::Rooted::drop_privileges)
        .and_then(stages::Dropped::start);
    end(&plan.plan, result)
}

/// Runs the stages of a further process; returns only if one fails.
pub(crate) fn run_exec(plan: &Plan<'_>) -> i32 {
    let result = settle(plan, &mut Vec::new())
        .and_then(|()| Joined::enter(plan))
        .and_then(Joined::drop_privileges)
        .and_then(stages::Dropped::go);
    end(plan, result)
}

fn end(plan: &Plan<'_>, result: Result<stages::Started<'_>>) -> i32 {
    let error = match result {
        Ok(started) => started.execute(),
        Err(error) => error,
    };
    if !plan.sync.fail(&error) {
        // The maker is gone, as after `create`: the reader of stderr is the only one left to tell.
        let text = format!("{}\n", crate::wording::render(&error));
        let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
    }
    255
}

/// Takes the new process out of what it has from its maker: descriptors, signals, the session.
fn settle(plan: &Plan<'_>, keep: &mut Vec<RawFd>) -> Result<()> {
    keep.push(plan.sync.raw());
    keep.push(plan.procfs.raw());
    keep.extend(plan.namespaces.raw());
    if let Stdio::Fds(fds) = &plan.io {
        take_stdio(fds)?;
    }
    keep.extend((0..plan.preserve_fds as RawFd).map(|fd| fd + 3));
    sys::process::close_all_except(keep)?;
    sys::process::reset_signals();
    rustix::process::setsid()
        .context(|| "make a session")
        .map(drop)
}

/// Makes three descriptors stdin, stdout and stderr.
fn take_stdio(fds: &[BorrowedFd<'_>; 3]) -> Result<()> {
    let take = || {
        // Each is moved out of the way first: one of them may be where another has to go.
        let [stdin, stdout, stderr] = fds.map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3));
        let (stdin, stdout, stderr) = (stdin?, stdout?, stderr?);
        rustix::stdio::dup2_stdin(stdin)?;
        rustix::stdio::dup2_stdout(stdout)?;
        rustix::stdio::dup2_stderr(stderr)
    };
    take().context(|| "set up stdin, stdout and stderr")
}

/// Returns an error that says in which process it was.
pub(crate) fn failed_in_init(error: Error) -> Error {
    error.context("unable to start container process: error during container init")
}
