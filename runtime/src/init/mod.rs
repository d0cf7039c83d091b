//! A new process on its way to the user's program: each stage consumes the one before, so that none can be skipped.
//!
//! ```text
//! first process   Namespaced ─mount─▶ Mounted ─pivot─▶ Rooted ─┐
//! further process Joined ──────────────────────────────────────┴─drop─▶ Dropped ─start─▶ Started ─exec─▶ program
//! ```
//!
//! Everything here runs in a child of the caller, before its program. It allocates, which after a plain clone3(2) is
//! sound only because callers have one thread.
//!
//! # What a container could reach of the new process
//!
//! The process enters the container as a copy of its maker: with the maker's program as `/proc/<pid>/exe`, and with what
//! is open. Three things keep the container from the host's files meanwhile.
//!
//! - The program is sealed ([`crate::seal`]): whoever gets hold of it, even by executing `/proc/self/exe`, finds a file
//!   that nobody can write. This is the one that counts, for the two others end with the process's own exec.
//! - The process is hidden (`PR_SET_DUMPABLE`) from all who lack CAP_SYS_PTRACE in the host's user namespace, from
//!   before it joins anything. A container in a user namespace of its own never has that; one that was given the
//!   capability in the host's sees a process with a sealed program and nothing of the host open.
//! - Descriptors of the host are closed as soon as they have served ([`Plan::close_ways_in`]), all that are not to be
//!   inherited close on exec, and the working folder is checked to be inside right before it.
//!
//! With an ordinary user as the maker the process hides only once its maps are written: until then the maker itself
//! would not be allowed to.

mod command;
mod identity;
mod labels;
mod namespaces;
mod schedule;
mod stages;

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use oci_spec::runtime::{Process, Spec};
use sys::procfs::Procfs;
use sys::{Context, Error, Result};

use crate::cgroup::Entrance;
use crate::options::Io;
use crate::rootfs::BindTrees;
use crate::seccomp::Program;
use crate::state::State;
use crate::sync::Made;

pub(crate) use command::{Command, Found};
pub(crate) use identity::Identity;
pub(crate) use labels::Labels;
pub(crate) use namespaces::Namespaces;
pub(crate) use stages::{Joined, Namespaced};

/// What both kinds of processes need.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub spec: &'a Spec,
    pub process: &'a Process,
    pub command: Command,
    pub identity: Identity,
    pub labels: Labels,
    pub namespaces: Namespaces,
    pub io: Stdio<'a>,
    pub preserve_fds: u32,
    pub keyring: Option<String>,
    pub procfs: Procfs,
    pub entrance: Entrance,
    pub seccomp: Option<Program>,
    pub sync: Made,
    /// Whether the maker is an ordinary user, who has rights over the process only until it hides.
    pub by_user: bool,
}

/// What only a container's first process needs.
#[derive(Debug)]
pub(crate) struct InitPlan<'a> {
    pub plan: Plan<'a>,
    pub bundle: &'a Path,
    pub rootfs: &'a Path,
    pub no_pivot: bool,
    pub bind_trees: BindTrees,
    pub gate: OwnedFd,
    /// Whether someone outside has something to do before the first stage.
    pub wait_first: bool,
    /// The state for the hooks that this process runs itself; its number is not in it.
    pub state: State,
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

impl Plan<'_> {
    /// Returns the descriptors of the host by which the process gets to where it belongs.
    fn ways_in(&self) -> impl Iterator<Item = RawFd> {
        self.namespaces.raw().chain(self.entrance.raw())
    }

    /// Closes them: nothing of the host is to be open where the container's processes are.
    fn close_ways_in(&self) -> Result<()> {
        sys::process::close_copies(self.ways_in())
    }
}

/// Runs the stages of a container's first process; returns only if one fails.
pub(crate) fn run_init(plan: &InitPlan<'_>) -> i32 {
    let mut keep = vec![plan.gate.as_raw_fd()];
    keep.extend(plan.bind_trees.iter().map(AsRawFd::as_raw_fd));
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
    keep.extend(plan.ways_in());
    if let Stdio::Fds(fds) = &plan.io {
        take_stdio(fds)?;
    }
    keep.extend((0..plan.preserve_fds as RawFd).map(|fd| fd + 3));
    sys::process::close_all_except(keep)?;
    sys::process::reset_signals();
    sys::process::end_on_signals();
    if !plan.by_user {
        sys::process::hide()?;
    }
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
