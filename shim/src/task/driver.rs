//! The driver: owns a container with all its processes, and carries out one request after the other.
//!
//! ```text
//! service ──Request──▶ ┌────────┐ ──▶ runtime (make, signal, freeze, delete)
//!                      │ driver │ ──▶ publisher (events, in the order in which they are true)
//! reaper  ──Exited───▶ └────────┘
//! ```
//!
//! Everything that happens to a container goes through one queue, which is what keeps the promises about its events:
//! a start is published before the exit that follows it, however soon that is, and the exit of the first process is
//! held back until every other process of the container has had its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use sys::failpoint;
use sys::{Error, Kind, Result};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::announce::Announcer;
use super::create::{Shared, mount};
use super::process::Process;
use super::state::{Action, End, State};
use super::{Create, Exec, Request};
use crate::io::{self, Drain, Streams};
use crate::options::Options;
use crate::runtime::{self, Config, Made, Runtime, Subject};
use crate::{log, oom};

/// How long the exit of a process waits for its last output to be copied.
///
/// What the process wrote is there already, so this is only ever used up where something else keeps the pipe open or
/// no client reads.
const LAST_OUTPUT: Duration = Duration::from_millis(100);

/// Owns a container.
#[derive(Debug)]
pub struct Driver {
    shared: Shared,
    subject: Subject,
    announce: Announcer,
    owner: (u32, u32),
    runtime: Runtime,
    init: Process,
    /// What the container is made of once it is started, if it is not new.
    restore: Option<Restore>,
    execs: BTreeMap<String, Process>,
    /// Whether processes outlive the first one unless they are killed.
    shares_pids: bool,
    /// The end of the first process while others have not ended yet.
    held_end: Option<End>,
    oom: Option<AbortHandle>,
    exits: mpsc::UnboundedSender<Exited>,
    exited: mpsc::UnboundedReceiver<Exited>,
}

/// An image on disk, and what the first process of its container is to read and write.
#[derive(Debug)]
struct Restore {
    image: PathBuf,
    streams: Streams,
    io: ::runtime::Io,
}

/// A process has ended.
#[derive(Debug)]
struct Exited {
    exec_id: String,
    end: End,
    drain: Option<Drain>,
}

impl Driver {
    /// Makes a container and the driver that owns it; what fails leaves nothing.
    pub async fn create(shared: Shared, create: Create) -> Result<Self> {
        let rootfs = create.bundle.join("rootfs");
        mount(&create, &rootfs)?;
        let made = Self::make(shared, &create).await;
        if made.is_err() && !create.rootfs.is_empty() {
            let unmounted = sys::mount::unmount_all(&rootfs);
            if let Err(error) = unmounted {
                log::warn(format_args!("unmount {rootfs:?}: {error:#}"));
            }
        }
        made
    }

    async fn make(shared: Shared, create: &Create) -> Result<Self> {
        failpoint!("shim.create.mounted");
        let options = Options::read(create.options.as_ref())?;
        options.save(&create.bundle)?;
        let subject = Subject {
            namespace: shared.namespace.clone(),
            id: create.id.clone(),
            bundle: create.bundle.clone(),
        };
        let (exits, exited) = mpsc::unbounded_channel();
        let mut driver = Self {
            runtime: Runtime::new(subject.clone(), &options, &shared.reaper)?,
            init: Process::new(create.stdio.clone(), Vec::new()),
            restore: None,
            execs: BTreeMap::new(),
            shares_pids: Config::read(&create.bundle)?.shares_pids(),
            held_end: None,
            oom: None,
            owner: options.io_owner,
            announce: Announcer::new(&create.id, shared.publisher.clone()),
            shared,
            subject,
            exits,
            exited,
        };
        let (streams, io) = driver.open(&create.stdio).await?;
        if !create.checkpoint.is_empty() {
            let image = PathBuf::from(&create.checkpoint);
            driver.restore = Some(Restore { image, streams, io });
            driver.announce.created(create, driver.pid());
            return Ok(driver);
        }
        failpoint!("shim.create.opened");
        let made = driver.runtime.create(io).await?;
        failpoint!("shim.create.made");
        let created = driver.init.made(made, streams);
        driver.watch("");
        if let Err(error) = created {
            let _ = driver.runtime.delete(true).await;
            return Err(error);
        }
        driver.announce.created(create, driver.pid());
        Ok(driver)
    }

    /// Returns the number of the first process.
    pub fn pid(&self) -> u32 {
        self.init.pid as u32
    }

    /// Carries out requests until the container is deleted.
    pub async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        while self.init.state != State::Deleted {
            tokio::select! {
                // Exits first: what is asked for now should be answered by what is true now.
                biased;
                Some(exited) = self.exited.recv() => self.handle_exit(exited).await,
                request = requests.recv() => match request {
                    Some(request) => self.handle(request).await,
                    None => return,
                },
            }
        }
        if let Some(oom) = self.oom {
            oom.abort();
        }
    }

    async fn handle(&mut self, request: Request) {
        // An answer that nobody waits for any more is dropped.
        match request {
            Request::Start { exec_id, reply } => drop(reply.send(self.start(&exec_id).await)),
            Request::State { exec_id, reply } => {
                let bundle = self.subject.bundle.clone();
                let process = self.process(&exec_id);
                drop(reply.send(process.map(|process| process.view(&bundle))));
            }
            Request::Wait { exec_id, reply } => match self.process(&exec_id) {
                Ok(process) => process.wait(reply),
                Err(error) => drop(reply.send(Err(error))),
            },
            Request::Kill {
                exec_id,
                signal,
                all,
                reply,
            } => drop(reply.send(self.kill(&exec_id, signal, all).await)),
            Request::Exec { exec, reply } => drop(reply.send(self.exec(exec))),
            Request::Delete { exec_id, reply } => self.delete(&exec_id, reply).await,
            Request::Pids { reply } => drop(reply.send(self.pids().await)),
            Request::Pause { reply } => drop(reply.send(self.pause().await)),
            Request::Resume { reply } => drop(reply.send(self.resume().await)),
            Request::Update { resources, reply } => {
                drop(reply.send(self.update(&resources).await));
            }
            Request::Checkpoint { checkpoint, reply } => {
                drop(reply.send(self.checkpoint(&checkpoint).await));
            }
            Request::Stats { reply } => {
                let cgroup = self.runtime.cgroup();
                drop(reply.send(cgroup.and_then(|cgroup| cgroup.stats())));
            }
            Request::Resize {
                exec_id,
                width,
                height,
                reply,
            } => {
                let process = self.process(&exec_id);
                drop(reply.send(process.and_then(|process| process.streams.resize(width, height))));
            }
            Request::CloseStdin { exec_id, reply } => {
                let process = self.process(&exec_id);
                drop(reply.send(process.map(|process| process.streams.close_stdin())));
            }
        }
    }

    async fn start(&mut self, exec_id: &str) -> Result<u32> {
        match exec_id {
            "" => self.start_init().await,
            _ => self.start_exec(exec_id).await,
        }
    }

    async fn start_init(&mut self) -> Result<u32> {
        let started = self.init.state.apply(Action::Start)?;
        failpoint!("shim.start.ask");
        match self.restore.take() {
            None => self.runtime.start().await?,
            Some(restore) => {
                let made = self.runtime.restore(&restore.image, restore.io).await?;
                let copying = self.init.made(made, restore.streams);
                self.watch("");
                copying?;
            }
        }
        failpoint!("shim.start.started");
        self.init.state = started;
        self.oom = oom::watch(&self.runtime, self.announce.clone());
        self.announce.started(self.pid());
        Ok(self.pid())
    }

    async fn start_exec(&mut self, exec_id: &str) -> Result<u32> {
        if self.held_end.is_some() || self.init.state.end().is_some() {
            let id = &self.subject.id;
            return Err(Error::new(
                Kind::FailedPrecondition,
                format!("container {id} init process is not running"),
            ));
        }
        let process = self.process(exec_id)?;
        let started = process.state.apply(Action::Start)?;
        let (stdio, spec) = (process.stdio.clone(), process.spec.clone());
        let made = self.make_exec(exec_id, &stdio, &spec).await;
        let Some(process) = self.execs.get_mut(exec_id) else {
            return Err(no_process(exec_id));
        };
        let copying = match made {
            Ok((made, streams)) => process.made(made, streams),
            Err(error) => {
                // It can only be deleted now.
                process.ended(End {
                    status: 255,
                    at: crate::clock::now(),
                });
                return Err(error);
            }
        };
        process.state = started;
        process.spec = Vec::new();
        let pid = process.pid as u32;
        if let Err(error) = copying {
            log::error(format_args!("copy what {exec_id} writes: {error:#}"));
        }
        self.announce.exec_started(exec_id, pid);
        self.watch(exec_id);
        Ok(pid)
    }

    async fn make_exec(
        &mut self,
        exec_id: &str,
        stdio: &io::Stdio,
        spec: &[u8],
    ) -> Result<(Made, Streams)> {
        let (streams, io) = self.open(stdio).await?;
        failpoint!("shim.exec.opened");
        let made = self.runtime.exec(exec_id, spec, io).await?;
        failpoint!("shim.exec.made");
        Ok((made, streams))
    }

    fn exec(&mut self, exec: Exec) -> Result<()> {
        self.init.state.apply(Action::Exec)?;
        if exec.id.is_empty() || self.execs.contains_key(&exec.id) {
            let message = format!("id {}", exec.id);
            return Err(Error::new(Kind::AlreadyExists, message));
        }
        let spec = runtime::with_terminal(&exec.spec, exec.stdio.terminal)?;
        self.execs
            .insert(exec.id.clone(), Process::new(exec.stdio, spec));
        self.announce.exec_added(&exec.id);
        Ok(())
    }

    async fn kill(&mut self, exec_id: &str, signal: i32, all: bool) -> Result<()> {
        if !exec_id.is_empty() {
            return self.process(exec_id)?.signal(signal);
        }
        // Processes that share the namespace may be there when the first one is not.
        if !(all && self.shares_pids) {
            self.init.state.apply(Action::Signal)?;
        }
        self.runtime.kill(signal, all).await
    }

    async fn delete(&mut self, exec_id: &str, reply: super::Reply<(u32, End)>) {
        if exec_id.is_empty() {
            return drop(reply.send(self.delete_init().await));
        }
        let deleted = self.process(exec_id).and_then(|process| {
            process.state.apply(Action::Delete)?;
            Ok((process.pid as u32, process.state.end()))
        });
        let (pid, end) = match deleted {
            Ok((pid, end)) => (pid, end.unwrap_or_else(never_ran)),
            Err(error) => return drop(reply.send(Err(error))),
        };
        let Some(mut process) = self.execs.remove(exec_id) else {
            return;
        };
        // The container has other things to do while something keeps the output open.
        let finish = process.finish();
        tokio::spawn(async move {
            finish.await;
            drop(reply.send(Ok((pid, end))));
        });
    }

    async fn delete_init(&mut self) -> Result<(u32, End)> {
        let deleted = self.init.state.apply(Action::Delete)?;
        let end = self.init.state.end();
        if end.is_some() {
            self.init.finish().await;
        }
        failpoint!("shim.delete.ask");
        self.runtime.delete(end.is_none()).await?;
        failpoint!("shim.delete.deleted");
        let rootfs = self.subject.bundle.join("rootfs");
        if let Err(error) = sys::mount::unmount_all(&rootfs) {
            log::warn(format_args!("unmount {rootfs:?}: {error:#}"));
        }
        let end = end.unwrap_or_else(never_ran);
        self.init.state = deleted;
        self.shared.table.remove(&self.subject.id);
        self.announce.deleted(self.pid(), end);
        failpoint!("shim.delete.told");
        Ok((self.pid(), end))
    }

    async fn pids(&mut self) -> Result<Vec<(u32, Option<String>)>> {
        let pids = self.runtime.pids().await?;
        let exec_of = |pid: i32| {
            let found = self.execs.iter().find(|(_, process)| process.pid == pid);
            found.map(|(id, _)| id.clone())
        };
        Ok(pids
            .into_iter()
            .map(|pid| (pid as u32, exec_of(pid)))
            .collect())
    }

    async fn pause(&mut self) -> Result<()> {
        let paused = self.init.state.apply(Action::Pause)?;
        self.runtime.pause().await?;
        self.init.state = paused;
        self.announce.paused();
        Ok(())
    }

    async fn resume(&mut self) -> Result<()> {
        let resumed = self.init.state.apply(Action::Resume)?;
        self.runtime.resume().await?;
        self.init.state = resumed;
        self.announce.resumed();
        Ok(())
    }

    async fn update(&mut self, resources: &[u8]) -> Result<()> {
        self.init.state.apply(Action::Update)?;
        self.runtime.update(resources).await
    }

    async fn checkpoint(&mut self, checkpoint: &runtime::Checkpoint) -> Result<()> {
        self.init.state.apply(Action::Checkpoint)?;
        let bundle = &self.subject.bundle;
        self.runtime.checkpoint(bundle, checkpoint).await?;
        self.announce.checkpointed(&checkpoint.image);
        Ok(())
    }

    /// Has the end of a process brought here.
    fn watch(&mut self, exec_id: &str) {
        let Ok(process) = self.process(exec_id) else {
            return;
        };
        let mut drain = process.streams.take_drain();
        let Some(end) = process.take_end() else {
            return;
        };
        let (exec_id, exits) = (exec_id.to_owned(), self.exits.clone());
        tokio::spawn(async move {
            let Ok(end) = end.await else {
                return;
            };
            if let Some(output) = &mut drain {
                output.wait(LAST_OUTPUT).await;
            }
            let _ = exits.send(Exited {
                exec_id,
                end,
                drain,
            });
        });
    }

    async fn handle_exit(&mut self, exited: Exited) {
        let Exited {
            exec_id,
            end,
            drain,
        } = exited;
        if exec_id.is_empty() {
            self.init.drain = drain;
            self.init_exited(end).await;
            self.held_end = Some(end);
        } else if let Some(process) = self.execs.get_mut(&exec_id) {
            process.drain = drain;
            process.ended(end);
            self.announce.exited(&exec_id, process.pid as u32, end);
        }
        let running = |process: &Process| process.state == State::Running;
        if let Some(end) = self.held_end
            && !self.execs.values().any(running)
        {
            self.held_end = None;
            self.init.ended(end);
            self.announce.exited("", self.pid(), end);
        }
    }

    /// Ends what the first process may have left behind.
    async fn init_exited(&mut self, _end: End) {
        if self.init.state == State::Paused
            && let Err(error) = self.runtime.resume().await
        {
            log::warn(format_args!("resume a container that has ended: {error:#}"));
        }
        // The end of a pid namespace's first process is the end of all.
        if self.shares_pids
            && let Err(error) = self.runtime.kill(Signal::KILL.as_raw(), true).await
            && error.kind() != Kind::NotFound
        {
            log::warn(format_args!("kill what is left of a container: {error:#}"));
        }
    }

    async fn open(&self, stdio: &io::Stdio) -> Result<(Streams, ::runtime::Io)> {
        let subject = io::Subject {
            namespace: &self.subject.namespace,
            id: &self.subject.id,
            owner: self.owner,
        };
        Streams::open(stdio, subject).await
    }

    fn process(&mut self, exec_id: &str) -> Result<&mut Process> {
        match exec_id {
            "" => Ok(&mut self.init),
            _ => self
                .execs
                .get_mut(exec_id)
                .ok_or_else(|| no_process(exec_id)),
        }
    }
}

fn no_process(exec_id: &str) -> Error {
    Error::new(Kind::NotFound, format!("process does not exist {exec_id}"))
}

/// The end of a process that is deleted before it ran: there is none to tell of.
fn never_ran() -> End {
    End {
        status: 0,
        at: crate::clock::now(),
    }
}
