//! A container: what can be done with it, from its creation to its deletion.

use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
use rustix::io::Errno;
use rustix::process::Signal;
use sys::process::Stat;
use sys::{Context, Kind, Result};

use crate::cgroup::{Cgroup, stats::Stats};
use crate::criu::{CheckpointOptions, RestoreOptions};
use crate::exec::refused;
use crate::options::{CreateOptions, ExecOptions, Process};
use crate::record::{self, Dir, Record};
use crate::state::{State, Status};
use crate::{create, criu, exec, hooks, spec, wording};

/// A container that exists: its record on disk and, until it exits, its first process.
#[derive(Debug)]
pub struct Container {
    dir: Dir,
    record: Record,
}

impl Container {
    /// Creates a container whose first process has everything but waits for [`Container::start`] to run its program.
    pub fn create(options: &CreateOptions) -> Result<(Self, Process)> {
        let (dir, record, process) = create::create(options)?;
        Ok((Self { dir, record }, process))
    }

    /// Loads a container that any process has created in `root`.
    pub fn load(root: &Path, id: &str) -> Result<Self> {
        let (dir, record) = Dir::load(root, id)?;
        Ok(Self { dir, record })
    }

    /// Makes a container of what [`Container::checkpoint`] has written; its first process runs.
    pub fn restore(options: &RestoreOptions) -> Result<(Self, Process)> {
        let (dir, record, process) = criu::restore(options)?;
        Ok((Self { dir, record }, process))
    }

    /// Lets the first process run its program.
    pub fn start(&self) -> Result<()> {
        match self.status()? {
            Status::Created => {}
            Status::Stopped => return Err(refused("cannot start a container that has stopped")),
            _ => return Err(refused("cannot start an already running container")),
        }
        if !self.dir.open_gate()? {
            return Err(refused("cannot start a container that has stopped"));
        }
        let poststart = hooks::poststart(&self.record.spec);
        if poststart.is_empty() {
            return Ok(());
        }
        let state = self.hook_state(Status::Running)?;
        hooks::run(poststart, "poststart", &state)
    }

    /// Runs a further process in the container.
    pub fn exec(&self, options: &ExecOptions) -> Result<Process> {
        if !options.ignore_paused && self.cgroup().is_frozen().unwrap_or(false) {
            return Err(refused(
                "cannot exec in a paused container (use --ignore-paused to override)",
            ));
        }
        let init = match exec::open_init(&self.record) {
            Err(error) if error.kind() == Kind::NotFound => {
                return Err(refused("cannot exec in a stopped container"));
            }
            init => init?,
        };
        exec::exec(&self.record, init, options)
    }

    /// Sends a signal to the first process, or to `all` processes of the container.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        // Without a group nobody knows the others.
        let grouped = self.cgroup().is_made();
        if all && grouped {
            return self.cgroup().kill_all(signal);
        }
        let own_pids = spec::namespace(self.spec(), LinuxNamespaceType::Pid) == Some(None);
        if signal == Signal::KILL.as_raw() && !own_pids && grouped {
            // The others do not end with the first one, and may still be there when it is not.
            return match self.cgroup().pids()?.is_empty() {
                true => Err(wording::not_running()),
                false => self.cgroup().kill_all(signal),
            };
        }
        let init = exec::open_init(&self.record)?;
        match sys::process::signal(&init, signal) {
            Ok(()) => {}
            Err(Errno::SRCH) => return Err(wording::not_running()),
            Err(errno) => {
                return Err(errno)
                    .context(|| format!("send signal {signal} to process {}", self.record.pid));
            }
        }
        // A frozen process of cgroup v1 dies only once it is thawed.
        if signal == Signal::KILL.as_raw() && self.cgroup().is_frozen().unwrap_or(false) {
            return self.cgroup().thaw();
        }
        Ok(())
    }

    /// Freezes all processes.
    pub fn pause(&self) -> Result<()> {
        match self.status()? {
            Status::Running | Status::Created => self.cgroup().freeze(),
            _ => Err(refused("container not running or created: cannot pause")),
        }
    }

    /// Thaws all processes.
    pub fn resume(&self) -> Result<()> {
        match self.status()? {
            Status::Paused => self.cgroup().thaw(),
            _ => Err(refused("container not paused")),
        }
    }

    /// Changes limits of the container's control group; what `resources` leaves out stays.
    pub fn update(&mut self, resources: &LinuxResources) -> Result<()> {
        if self.status()? == Status::Stopped {
            return Err(wording::not_running());
        }
        self.cgroup().update(resources)
    }

    /// Writes all processes to disk, from where [`Container::restore`] brings them back; unless they are left running,
    /// they end.
    pub fn checkpoint(&self, options: &CheckpointOptions) -> Result<()> {
        match self.status()? {
            Status::Running | Status::Paused => criu::checkpoint(&self.record, options),
            status => {
                let message = format!("Container cannot be checkpointed in {status} state");
                Err(refused(&message))
            }
        }
    }

    /// Deletes a stopped container, its control group and its record; `force` kills one that is not stopped.
    pub fn delete(self, force: bool) -> Result<()> {
        let status = self.status()?;
        if status != Status::Stopped {
            if !force && status != Status::Created {
                let id = &self.record.id;
                let message = format!("cannot delete container {id} that is not stopped: {status}");
                return Err(refused(&message));
            }
            self.end()?;
        }
        // Processes of a container without its own pid namespace outlive the first one.
        self.cgroup().kill_all(Signal::KILL.as_raw())?;
        self.cgroup().remove()?;
        self.dir.remove()?;
        let poststop = hooks::poststop(&self.record.spec);
        if poststop.is_empty() {
            return Ok(());
        }
        hooks::run(poststop, "poststop", &self.hook_state(Status::Stopped)?)
    }

    /// Kills all processes and waits until the first one has exited.
    fn end(&self) -> Result<()> {
        let init = match exec::open_init(&self.record) {
            Ok(init) => init,
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        self.cgroup().kill_all(Signal::KILL.as_raw())?;
        match sys::process::signal(&init, Signal::KILL.as_raw()) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno).context(|| "kill the first process"),
        }
        let _ = self.cgroup().thaw();
        sys::process::wait_exit(&init, std::time::Duration::from_secs(10))
    }

    /// Returns the numbers of all processes of the container.
    pub fn pids(&self) -> Result<Vec<i32>> {
        self.cgroup().pids()
    }

    /// Returns what the container uses.
    pub fn stats(&self) -> Result<Stats> {
        self.cgroup().stats()
    }

    /// Returns where the container is in its life.
    pub fn status(&self) -> Result<Status> {
        let alive = Stat::read(self.record.pid)
            .is_some_and(|stat| stat.is_alive() && stat.start_time == self.record.start_time);
        Ok(if !alive {
            Status::Stopped
        } else if self.cgroup().is_frozen().unwrap_or(false) {
            Status::Paused
        } else if self.dir.has_gate() {
            Status::Created
        } else {
            Status::Running
        })
    }

    /// Returns the container's state as the specification has it.
    pub fn state(&self) -> Result<State> {
        let status = self.status()?;
        let pid = if status == Status::Stopped {
            0
        } else {
            self.record.pid
        };
        Ok(State::new(&self.record, status, pid))
    }

    fn hook_state(&self, status: Status) -> Result<String> {
        let pid = if status == Status::Stopped {
            0
        } else {
            self.record.pid
        };
        State::new(&self.record, status, pid).text()
    }

    /// Returns the container's name.
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// Returns the number of the first process, which may have exited.
    pub fn pid(&self) -> i32 {
        self.record.pid
    }

    /// Returns the configuration the container was created with.
    pub fn spec(&self) -> &Spec {
        &self.record.spec
    }

    /// Returns the folder the container was created from.
    pub fn bundle(&self) -> &Path {
        &self.record.bundle
    }

    /// Returns the container's control group.
    pub fn cgroup(&self) -> &Cgroup {
        &self.record.cgroup
    }
}

/// Returns the containers that `root` has a record of.
pub fn list(root: &Path) -> Result<Vec<Container>> {
    let mut containers = Vec::new();
    for name in record::names(root)? {
        match Container::load(root, &name) {
            Ok(container) => containers.push(container),
            // It is just being created, or deleted.
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(containers)
}
