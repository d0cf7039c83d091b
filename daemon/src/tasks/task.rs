//! One task: each request to it is one call to its shim.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api_protos::containerd::task::v3::*;
use api_protos::containerd::v1::types::ProcessInfo;
use prost_types::Any;

use super::exit::Exit;
use super::shim::{CHANGE, LONG, Shim};
use super::shims::Shims;
use crate::blocking::blocking;
use crate::error::{Context, Error, Kind, Result};
use crate::trace;
use sys::failpoint;

const SIGKILL: u32 = 9;

/// A task that has a shim. An `exec_id` of "" stands for the task's first process.
#[derive(Clone, Debug)]
pub struct Task {
    shims: Shims,
    shim: Arc<Shim>,
}

/// Makes a call of the shim's task API, with the request cloned for each try.
macro_rules! call {
    ($shim:expr, $limit:expr, $method:ident, $request:expr) => {{
        let request = $request;
        $shim.call($limit, move |client, call| {
            let request = request.clone();
            async move { client.$method(&call, &request).await }
        })
    }};
}

/// Has a shim make its task; returns the id of the first process.
pub(super) async fn create(shim: &Shim, request: &CreateTaskRequest) -> Result<u32> {
    failpoint!("tasks.create.ask");
    let _span = trace::span("have the shim create it");
    let created = call!(shim, Some(LONG), create, request.clone()).await?;
    failpoint!("tasks.create.made");
    Ok(created.pid)
}

/// Asks a shim to end.
pub(super) async fn shutdown(shim: &Shim) -> Result<()> {
    let request = ShutdownRequest {
        id: shim.bundle.id.clone(),
        now: false,
    };
    failpoint!("tasks.shutdown");
    match call!(shim, Some(shim.limits.shutdown), shutdown, request).await {
        Err(_) if shim.is_closed() => Ok(()),
        result => result,
    }
}

/// Has a shim delete its task or one of the processes.
pub(super) async fn delete(shim: &Shim, exec_id: &str, limit: Duration) -> Result<Exit> {
    let request = DeleteRequest {
        id: shim.bundle.id.clone(),
        exec_id: exec_id.to_owned(),
    };
    failpoint!("tasks.delete.ask");
    let response = call!(shim, Some(limit), delete, request).await?;
    failpoint!("tasks.delete.deleted");
    Ok(Exit {
        pid: response.pid,
        status: response.exit_status,
        at: response.exited_at.unwrap_or_default(),
    })
}

impl Task {
    pub(super) fn new(shims: Shims, shim: Arc<Shim>) -> Self {
        Self { shims, shim }
    }

    /// Returns the task's id, which is its container's.
    pub fn id(&self) -> &str {
        &self.shim.bundle.id
    }

    fn own_id(&self) -> String {
        self.id().to_owned()
    }

    /// Starts a process and returns its id.
    pub async fn start(&self, exec_id: &str) -> Result<u32> {
        let request = StartRequest {
            id: self.own_id(),
            exec_id: exec_id.to_owned(),
        };
        failpoint!("tasks.start.ask");
        let _span = trace::span("have the shim start it");
        let started = call!(self.shim, Some(CHANGE), start, request).await?;
        failpoint!("tasks.start.started");
        Ok(started.pid)
    }

    /// Returns the state of a process.
    pub async fn state(&self, exec_id: &str) -> Result<StateResponse> {
        let request = StateRequest {
            id: self.own_id(),
            exec_id: exec_id.to_owned(),
        };
        call!(self.shim, Some(self.shim.limits.state), state, request).await
    }

    /// Sends a signal to a process, or to all of the task.
    pub async fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let request = KillRequest {
            id: self.own_id(),
            exec_id: exec_id.to_owned(),
            signal,
            all,
        };
        call!(self.shim, Some(CHANGE), kill, request).await
    }

    /// Adds a process, which is started by [`Task::start`]; the id in `request` is filled in.
    pub async fn exec(&self, mut request: ExecProcessRequest) -> Result<()> {
        let exec_id = &request.exec_id;
        crate::labels::validate_identifier(exec_id)
            .context(|| format!("invalid exec id {exec_id}"))?;
        request.id = self.own_id();
        failpoint!("tasks.exec.ask");
        call!(self.shim, Some(CHANGE), exec, request).await?;
        failpoint!("tasks.exec.added");
        Ok(())
    }

    /// Sets the size of a process's terminal.
    pub async fn resize(&self, exec_id: &str, width: u32, height: u32) -> Result<()> {
        let request = ResizePtyRequest {
            id: self.own_id(),
            exec_id: exec_id.to_owned(),
            width,
            height,
        };
        call!(self.shim, Some(CHANGE), resize_pty, request).await
    }

    /// Closes the standard input of a process.
    pub async fn close_stdin(&self, exec_id: &str) -> Result<()> {
        let request = CloseIoRequest {
            id: self.own_id(),
            exec_id: exec_id.to_owned(),
            stdin: true,
        };
        call!(self.shim, Some(CHANGE), close_io, request).await
    }

    /// Stops all processes where they are.
    pub async fn pause(&self) -> Result<()> {
        let request = PauseRequest { id: self.own_id() };
        call!(self.shim, Some(CHANGE), pause, request).await
    }

    /// Lets paused processes go on.
    pub async fn resume(&self) -> Result<()> {
        let request = ResumeRequest { id: self.own_id() };
        call!(self.shim, Some(CHANGE), resume, request).await
    }

    /// Returns the folder of the task.
    pub(super) fn bundle(&self) -> &Path {
        &self.shim.bundle.path
    }

    /// Returns all processes.
    pub async fn pids(&self) -> Result<Vec<ProcessInfo>> {
        let request = PidsRequest { id: self.own_id() };
        Ok(call!(self.shim, Some(CHANGE), pids, request)
            .await?
            .processes)
    }

    /// Returns what the task has used.
    pub async fn stats(&self) -> Result<Option<Any>> {
        let request = StatsRequest { id: self.own_id() };
        Ok(
            call!(self.shim, Some(self.shim.limits.stats), stats, request)
                .await?
                .stats,
        )
    }

    /// Changes the task's limits; the id in `request` is filled in.
    pub async fn update(&self, mut request: UpdateTaskRequest) -> Result<()> {
        request.id = self.own_id();
        call!(self.shim, Some(CHANGE), update, request).await
    }

    /// Writes the task's memory and state into the folder `path`.
    pub async fn checkpoint(&self, path: String, options: Option<Any>) -> Result<()> {
        let request = CheckpointTaskRequest {
            id: self.own_id(),
            path,
            options,
        };
        call!(self.shim, Some(LONG), checkpoint, request).await
    }

    /// Waits for the end of a process, however long that takes; a shim that vanishes ends its processes too.
    pub async fn wait(&self, exec_id: &str) -> Result<Exit> {
        let request = WaitRequest {
            id: self.own_id(),
            exec_id: exec_id.to_owned(),
        };
        match call!(self.shim, None, wait, request).await {
            Ok(response) => Ok(Exit {
                pid: 0,
                status: response.exit_status,
                at: response.exited_at.unwrap_or_default(),
            }),
            Err(_) if self.shim.is_closed() => Ok(self.shim.gone().await),
            Err(error) => Err(error),
        }
    }

    /// Deletes a process that is not the first, and returns how it ended.
    pub async fn delete_process(&self, exec_id: &str) -> Result<Exit> {
        delete(&self.shim, exec_id, CHANGE).await
    }

    /// Deletes the task with its shim and bundle, and returns how it ended; it goes on if the caller does not wait.
    pub async fn delete(&self) -> Result<Exit> {
        let task = self.clone();
        tokio::spawn(async move { task.finish().await })
            .await
            .unwrap_or_else(|error| {
                Err(Error::new(
                    Kind::Internal,
                    format!("deletion ended early: {error}"),
                ))
            })
            .context(|| "failed to delete task")
    }

    /// Kills all processes and deletes the task.
    pub async fn destroy(&self) -> Result<()> {
        if self.kill("", SIGKILL, true).await.is_ok() {
            tokio::time::timeout(CHANGE, self.wait(""))
                .await
                .map_err(|_| Error::new(Kind::DeadlineExceeded, "wait for a killed task"))??;
        }
        self.finish().await.map(drop)
    }

    async fn finish(&self) -> Result<Exit> {
        let bundle = self.shim.bundle.clone();
        if let Err(error) = blocking(move || bundle.mark_deletion()).await {
            // Whoever else deletes the task, or cleans up after its shim, may have removed the bundle already.
            let others = self.shim.is_closed() || !self.shims.is_live(&self.shim);
            return if others {
                Ok(self.shim.gone().await)
            } else {
                Err(error)
            };
        }
        failpoint!("tasks.delete.marked");
        let deleted = delete(&self.shim, "", CHANGE).await;
        let exit = match &deleted {
            Ok(exit) => *exit,
            Err(_) if self.shim.is_closed() => return Ok(self.shim.gone().await),
            // The shim lives but its task does not: what is left of it goes.
            Err(error) if error.kind() == Kind::NotFound => self.shim.told.end(Exit::unseen()),
            Err(_) => {
                let bundle = self.shim.bundle.clone();
                if let Err(error) = blocking(move || bundle.unmark_deletion()).await {
                    tracing::warn!(id = self.id(), "take back a deletion: {error:#}");
                }
                return deleted;
            }
        };
        if let Some(hold) = self.shims.retire(&self.shim) {
            self.shims.end_deleted(&self.shim).await;
            self.shims.forget(&self.shim.bundle);
            self.shim.set_gone(exit);
            drop(hold);
        }
        deleted
    }
}
