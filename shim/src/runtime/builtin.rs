//! The built-in runtime: containers made by this very process, without executing anything.

use std::path::PathBuf;

use ::runtime::{Container, CreateOptions, ExecOptions, Io};
use oci_spec::runtime::Process;
use sys::{Error, Kind, Result};

use super::{Made, Subject, parse};
use crate::options::Options;
use crate::reaper::Reaper;

/// A container of the built-in runtime.
#[derive(Debug)]
pub struct BuiltIn {
    subject: Subject,
    root: PathBuf,
    no_pivot: bool,
    no_new_keyring: bool,
    systemd_cgroup: bool,
    reaper: Reaper,
    container: Option<Box<Container>>,
}

impl BuiltIn {
    /// Returns the runtime without a container.
    pub fn new(subject: Subject, options: &Options, reaper: Reaper) -> Self {
        Self {
            root: options.records(&subject.namespace, &subject.bundle),
            no_pivot: options.no_pivot,
            no_new_keyring: options.no_new_keyring,
            systemd_cgroup: options.systemd_cgroup,
            subject,
            reaper,
            container: None,
        }
    }

    /// Loads the container that another process has made.
    pub fn load(&mut self) -> Result<()> {
        self.container = Some(Box::new(Container::load(&self.root, &self.subject.id)?));
        Ok(())
    }

    /// Returns the container.
    pub fn container(&mut self) -> Result<&mut Container> {
        self.container.as_deref_mut().ok_or_else(missing)
    }

    pub(super) fn cgroup(&self) -> Result<::runtime::cgroup::Cgroup> {
        let container = self.container.as_ref().ok_or_else(missing)?;
        Ok(container.cgroup().clone())
    }

    pub(super) fn create(&mut self, io: Io) -> Result<Made> {
        let mut options = CreateOptions::new(&self.root, &self.subject.id, &self.subject.bundle);
        options.io = io;
        options.pid_file = Some(self.subject.bundle.join("init.pid"));
        options.no_pivot = self.no_pivot;
        options.no_new_keyring = self.no_new_keyring;
        options.systemd_cgroup = self.systemd_cgroup;
        let (container, process) =
            Container::create(&options).map_err(|error| error.context("runc create failed"))?;
        self.container = Some(Box::new(container));
        Ok(self.made(process))
    }

    pub(super) fn start(&mut self) -> Result<()> {
        self.container()?.start()
    }

    pub(super) fn exec(&mut self, spec: &[u8], io: Io) -> Result<Made> {
        let process: Process = parse("process", spec)?;
        let mut options = ExecOptions::new(process);
        options.io = io;
        let process = self.container()?.exec(&options)?;
        Ok(self.made(process))
    }

    pub(super) fn kill(&mut self, signal: i32, all: bool) -> Result<()> {
        self.container()?.kill(signal, all)
    }

    fn made(&self, process: ::runtime::Process) -> Made {
        Made {
            pid: process.pid,
            pidfd: Some(process.pidfd),
            console: process.console,
            end: self.reaper.watch(process.pid),
        }
    }

    pub(super) fn delete(&mut self, force: bool) -> Result<()> {
        match self.container.take() {
            Some(container) => {
                let deleted = container.delete(force);
                if deleted.is_err() {
                    // What could not be deleted is still there, for the next attempt.
                    let _ = self.load();
                }
                deleted
            }
            None => Ok(()),
        }
    }
}

fn missing() -> Error {
    Error::new(Kind::NotFound, "container does not exist")
}
