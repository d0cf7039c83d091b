//! The built-in runtime: containers made by this very process, without executing anything.

use std::io::Read;
use std::path::{Path, PathBuf};

use ::runtime::{
    CheckpointOptions, Container, CreateOptions, CriuOptions, ExecOptions, Io, RestoreOptions,
    check_empty_namespaces,
};
use oci_spec::runtime::Process;
use rustix::pipe::{PipeFlags, pipe_with};
use sys::{Context, Error, Kind, Result};

use super::{Checkpoint, Made, Subject, parse, text};
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
    criu_work_path: PathBuf,
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
            criu_work_path: options.criu_work_path.clone(),
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
        let (container, process) = Container::create(&self.options(io))
            .map_err(|error| error.context("runc create failed"))?;
        self.container = Some(Box::new(container));
        Ok(self.made(process))
    }

    fn options(&self, io: Io) -> CreateOptions {
        CreateOptions {
            io,
            pid_file: Some(self.subject.bundle.join("init.pid")),
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            systemd_cgroup: self.systemd_cgroup,
            ..CreateOptions::new(&self.root, &self.subject.id, &self.subject.bundle)
        }
    }

    /// Has a process of its own wait for CRIU, which takes its time while the shim has others to serve.
    pub(super) async fn checkpoint(&mut self, checkpoint: &Checkpoint, work: &Path) -> Result<()> {
        let options = library(checkpoint, work)?;
        let container = self.container.as_ref().ok_or_else(missing)?;
        let (said, says) = pipe_with(PipeFlags::CLOEXEC).context(|| "make a pipe")?;
        let child = sys::process::spawn(0, None, || match container.checkpoint(&options) {
            Ok(()) => 0,
            Err(error) => {
                let _ = rustix::io::write(&says, text(&error).as_bytes());
                1
            }
        })?;
        drop(says);
        let end = self.reaper.watch(child.pid).await;
        if end.is_ok_and(|end| end.status == 0) {
            return Ok(());
        }
        let mut error = String::new();
        let _ = std::fs::File::from(said).read_to_string(&mut error);
        Err(Error::new(Kind::Unknown, error))
    }

    pub(super) fn restore(&mut self, image: &Path, io: Io) -> Result<Made> {
        let work = Some(self.criu_work_path.clone());
        let options = RestoreOptions {
            create: self.options(io),
            criu: CriuOptions {
                image: image.to_owned(),
                work: work.filter(|path| !path.as_os_str().is_empty()),
                // Whoever wrote the image has allowed what is in it.
                tcp_established: true,
                ext_unix_sk: true,
                file_locks: true,
                ..CriuOptions::default()
            },
            lsm_profile: None,
            lsm_mount_context: None,
        };
        let (container, process) = Container::restore(&options)?;
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

/// Returns a client's options as the library has them.
fn library(checkpoint: &Checkpoint, work: &Path) -> Result<CheckpointOptions> {
    let options = &checkpoint.options;
    check_empty_namespaces(&options.empty_namespaces)?;
    let parent = Some(PathBuf::from(&options.parent_path));
    Ok(CheckpointOptions {
        criu: CriuOptions {
            image: checkpoint.image.clone(),
            work: Some(work.to_owned()),
            tcp_established: options.open_tcp,
            ext_unix_sk: options.external_unix_sockets,
            shell_job: options.terminal,
            file_locks: options.file_locks,
            ..CriuOptions::default()
        },
        parent: parent.filter(|path| !path.as_os_str().is_empty()),
        leave_running: !options.exit,
        ..CheckpointOptions::default()
    })
}

fn missing() -> Error {
    Error::new(Kind::NotFound, "container does not exist")
}
