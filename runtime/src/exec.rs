//! Running a further process in a container.

use std::os::fd::OwnedFd;

use oci_spec::runtime::{Process as ProcessSpec, Spec};
use rustix::io::Errno;
use sys::procfs::Procfs;
use sys::{Context, Error, Kind, Result};

use crate::create::{check_preserved, hand_over, set_oom_score, write_pid};
use crate::init::{Command, Identity, Labels, Namespaces, Plan, Stdio, run_exec};
use crate::options::{ExecOptions, Process};
use crate::record::Record;
use crate::state::Status;
use crate::sync::{self, Maker, Message};
use crate::{rootless, seccomp, spec, wording};

/// Runs a process in the container whose first process `init` is.
pub(crate) fn exec(record: &Record, init: OwnedFd, options: &ExecOptions) -> Result<Process> {
    run(record, init, options)
        .map_err(|error| error.context("exec failed: unable to start container process"))
}

fn run(record: &Record, init: OwnedFd, options: &ExecOptions) -> Result<Process> {
    check_preserved(options.preserve_fds)?;
    let spec = &record.spec;
    let process = complete(&options.process, spec);
    spec::validate_process(&process)?;
    let profile = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().as_ref());
    let (maker, made) = sync::pair()?;
    let mut plan = Plan {
        spec,
        process: &process,
        command: Command::new(&process, 0)?,
        identity: Identity::new(&process),
        labels: Labels::new(&process)?,
        namespaces: Namespaces::of_process(spec, init)?,
        io: Stdio::new(&options.io),
        preserve_fds: options.preserve_fds,
        keyring: None,
        procfs: Procfs::open()?,
        entrance: match options.cgroups.as_slice() {
            [] => record.cgroup.entrance()?,
            below => record
                .cgroup
                .entrance_below(below)
                .context(|| "error adding pid to cgroups")?,
        },
        seccomp: profile.map(seccomp::compile).transpose()?,
        sync: made,
        by_user: rootless::is_user(),
    };
    let made = plan
        .namespaces
        .spawn(plan.entrance.clone_fd(), || run_exec(&plan));
    let child = match made {
        // The container has given its controllers to groups below its own, which then can have no process.
        Err(error) if error.errno() == Some(Errno::BUSY) && options.cgroups.is_empty() => {
            plan.entrance = record.cgroup.entrance_beside(record.pid)?;
            plan.namespaces
                .spawn(plan.entrance.clone_fd(), || run_exec(&plan))?
        }
        made => made?,
    };
    let result =
        set_oom_score(&plan.procfs, child.pid, process.oom_score_adj()).and_then(|()| maker.go());
    drop(plan);
    let followed = result.and_then(|()| follow(&maker, record, child.pid));
    let result = followed.and_then(|console| {
        if let Some(path) = &options.pid_file {
            write_pid(path, child.pid)?;
        }
        Ok(console)
    });
    match result {
        Ok(console) => Ok(Process {
            pid: child.pid,
            pidfd: child.pidfd,
            console,
        }),
        Err(error) => {
            let _ = sys::process::kill_and_wait(&child);
            Err(error)
        }
    }
}

/// Serves the process until it runs its program.
fn follow(maker: &Maker, record: &Record, pid: i32) -> Result<Option<OwnedFd>> {
    let mut console = None;
    loop {
        match maker.receive()? {
            Message::Console(master) => console = Some(master),
            Message::Failed(error) => return Err(error),
            Message::End => return Ok(console),
            Message::Listener(listener) => {
                hand_over(&listener, record, Status::Running, record.pid, pid)?;
            }
            Message::Clocks | Message::Mounted | Message::Ready | Message::Sibling(..) => {}
        }
    }
}

/// Fills in from the container's first process what a further one leaves out.
fn complete(process: &ProcessSpec, spec: &Spec) -> ProcessSpec {
    let mut process = process.clone();
    let Some(first) = spec.process() else {
        return process;
    };
    if process.capabilities().is_none() {
        process.set_capabilities(first.capabilities().clone());
    }
    if process.rlimits().is_none() {
        process.set_rlimits(first.rlimits().clone());
    }
    if process.apparmor_profile().is_none() {
        process.set_apparmor_profile(first.apparmor_profile().clone());
    }
    if process.selinux_label().is_none() {
        process.set_selinux_label(first.selinux_label().clone());
    }
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(first.oom_score_adj());
    }
    process
}

/// Opens the container's first process, and makes sure that it is still that one.
pub(crate) fn open_init(record: &Record) -> Result<OwnedFd> {
    let pidfd = match sys::process::open(record.pid) {
        Err(Errno::SRCH) => return Err(wording::not_running()),
        opened => opened.context(|| format!("open process {}", record.pid))?,
    };
    // Asked after opening, so that the descriptor cannot be of a later process with this number.
    match sys::process::Stat::read(record.pid) {
        Some(stat) if stat.is_alive() && stat.start_time == record.start_time => Ok(pidfd),
        _ => Err(wording::not_running()),
    }
}

/// Says that a container is in a state in which something cannot be done to it.
pub(crate) fn refused(message: &str) -> Error {
    Error::new(Kind::FailedPrecondition, message)
}
