//! A container: what can be done with it, from its creation to its deletion.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Spec};
use sys::{Error, Kind, Result};

use crate::options::{CreateOptions, ExecOptions, Process};
use crate::state::{State, Status};

/// A container that exists: its record on disk and, until it exits, its first process.
#[derive(Debug)]
pub struct Container {
    dir: PathBuf,
    pid: i32,
    spec: Spec,
    bundle: PathBuf,
}

impl Container {
    /// Creates a container whose first process has everything but waits for [`Container::start`] to run its program.
    pub fn create(options: &CreateOptions) -> Result<(Self, Process)> {
        Err(missing(&format!("create {:?}", options.id)))
    }

    /// Loads a container that any process has created in `root`.
    pub fn load(root: &Path, id: &str) -> Result<Self> {
        Err(missing(&format!("load {id:?} from {root:?}")))
    }

    /// Lets the first process run its program.
    pub fn start(&self) -> Result<()> {
        Err(missing("start"))
    }

    /// Runs a further process in the container.
    pub fn exec(&self, options: &ExecOptions) -> Result<Process> {
        Err(missing(&format!("exec {:?}", options.process.args())))
    }

    /// Sends a signal to the first process, or to `all` processes of the container.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        Err(missing(&format!("kill {signal} {all}")))
    }

    /// Freezes all processes.
    pub fn pause(&self) -> Result<()> {
        Err(missing("pause"))
    }

    /// Thaws all processes.
    pub fn resume(&self) -> Result<()> {
        Err(missing("resume"))
    }

    /// Changes limits of the container's control group; what `resources` leaves out stays.
    pub fn update(&mut self, resources: &LinuxResources) -> Result<()> {
        Err(missing(&format!("update {:?}", resources.pids())))
    }

    /// Deletes a stopped container, its control group and its record; `force` kills one that is not stopped.
    pub fn delete(self, force: bool) -> Result<()> {
        Err(missing(&format!("delete {force}")))
    }

    /// Returns the numbers of all processes of the container.
    pub fn pids(&self) -> Result<Vec<i32>> {
        Err(missing("pids"))
    }

    /// Returns where the container is in its life.
    pub fn status(&self) -> Result<Status> {
        Err(missing("status"))
    }

    /// Returns the container's state as the specification has it.
    pub fn state(&self) -> Result<State> {
        Err(missing("state"))
    }

    /// Returns the container's name.
    pub fn id(&self) -> &str {
        let name = self.dir.file_name().and_then(|name| name.to_str());
        name.unwrap_or_default()
    }

    /// Returns the number of the first process, which may have exited.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns the configuration the container was created with.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Returns the folder the container was created from.
    pub fn bundle(&self) -> &Path {
        &self.bundle
    }
}

/// Returns the containers that `root` has a record of.
pub fn list(root: &Path) -> Result<Vec<Container>> {
    Err(missing(&format!("list {root:?}")))
}

fn missing(what: &str) -> Error {
    Error::new(Kind::Unimplemented, format!("{what} is not there yet"))
}
