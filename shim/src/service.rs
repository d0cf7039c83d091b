//! The task API, versions 2 and 3: each method decodes, asks a driver, and encodes.

use std::future::Future;

use api_protos::any;
use api_protos::containerd::runc::v1::{CheckpointOptions, ProcessDetails};
use api_protos::containerd::task::v3::task_ttrpc::Task as Service;
use api_protos::containerd::task::v3::{
    CheckpointTaskRequest, CloseIoRequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use api_protos::containerd::v1::types::ProcessInfo;
use corten_ttrpc::Context;
use prost_types::Timestamp;
use sys::{Error, Kind, Result};
use tokio::sync::Notify;

use crate::io::Stdio;
use crate::runtime::Checkpoint;
use crate::stats;
use crate::task::{Create, Exec, Request, Shared, Table};

/// When a process that has not ended has ended: what Go's zero time becomes on the wire.
const NEVER: Timestamp = Timestamp {
    seconds: -62_135_596_800,
    nanos: 0,
};

/// The service, which both versions of the API share.
#[derive(Debug)]
pub struct Tasks {
    pub shared: Shared,
    /// Told when the shim has nothing more to do.
    pub shutdown: std::sync::Arc<Notify>,
}

impl Tasks {
    fn table(&self) -> &Table {
        &self.shared.table
    }
}

impl Service for Tasks {
    async fn create(&self, _: Context, request: CreateTaskRequest) -> Result<CreateTaskResponse> {
        let create = Create {
            id: request.id,
            bundle: request.bundle.into(),
            rootfs: request.rootfs,
            stdio: Stdio {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
            checkpoint: request.checkpoint,
            options: request.options,
        };
        let pid = self.shared.create(create).await?;
        Ok(CreateTaskResponse { pid })
    }

    async fn start(&self, _: Context, request: StartRequest) -> Result<StartResponse> {
        let task = self.table().get(&request.id)?;
        let exec_id = request.exec_id;
        let pid = task.ask(|reply| Request::Start { exec_id, reply }).await?;
        Ok(StartResponse { pid })
    }

    async fn state(&self, _: Context, request: StateRequest) -> Result<StateResponse> {
        let task = self.table().get(&request.id)?;
        let exec_id = request.exec_id.clone();
        let view = task.ask(|reply| Request::State { exec_id, reply }).await?;
        let id = match request.exec_id.as_str() {
            "" => request.id,
            exec_id => exec_id.to_owned(),
        };
        Ok(StateResponse {
            id,
            bundle: view.bundle.to_string_lossy().into_owned(),
            pid: view.pid,
            status: view.status.into(),
            stdin: view.stdio.stdin,
            stdout: view.stdio.stdout,
            stderr: view.stdio.stderr,
            terminal: view.stdio.terminal,
            exit_status: view.end.map_or(0, |end| end.status),
            exited_at: Some(view.end.map_or(NEVER, |end| end.at)),
            exec_id: request.exec_id,
        })
    }

    async fn wait(&self, _: Context, request: WaitRequest) -> Result<WaitResponse> {
        let task = self.table().get(&request.id)?;
        let exec_id = request.exec_id;
        let end = task.ask(|reply| Request::Wait { exec_id, reply }).await?;
        Ok(WaitResponse {
            exit_status: end.status,
            exited_at: Some(end.at),
        })
    }

    async fn kill(&self, _: Context, request: KillRequest) -> Result<()> {
        let task = self.table().get(&request.id)?;
        let (exec_id, all) = (request.exec_id, request.all);
        let signal = i32::try_from(request.signal)
            .map_err(|_| Error::new(Kind::InvalidArgument, "no such signal"))?;
        task.ask(|reply| Request::Kill {
            exec_id,
            signal,
            all,
            reply,
        })
        .await
    }

    async fn exec(&self, _: Context, request: ExecProcessRequest) -> Result<()> {
        let task = self.table().get(&request.id)?;
        let exec = Exec {
            id: request.exec_id,
            stdio: Stdio {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
            spec: request.spec.unwrap_or_default().value,
        };
        task.ask(|reply| Request::Exec { exec, reply }).await
    }

    async fn delete(&self, _: Context, request: DeleteRequest) -> Result<DeleteResponse> {
        let task = self.table().get(&request.id)?;
        let exec_id = request.exec_id;
        let (pid, end) = task.ask(|reply| Request::Delete { exec_id, reply }).await?;
        Ok(DeleteResponse {
            pid,
            exit_status: end.status,
            exited_at: Some(end.at),
        })
    }

    async fn pids(&self, _: Context, request: PidsRequest) -> Result<PidsResponse> {
        let task = self.table().get(&request.id)?;
        let pids = task.ask(|reply| Request::Pids { reply }).await?;
        let processes = pids.into_iter().map(|(pid, exec_id)| ProcessInfo {
            pid,
            info: exec_id.map(|exec_id| any::pack(&ProcessDetails { exec_id })),
        });
        Ok(PidsResponse {
            processes: processes.collect(),
        })
    }

    async fn pause(&self, _: Context, request: PauseRequest) -> Result<()> {
        let task = self.table().get(&request.id)?;
        task.ask(|reply| Request::Pause { reply }).await
    }

    async fn resume(&self, _: Context, request: ResumeRequest) -> Result<()> {
        let task = self.table().get(&request.id)?;
        task.ask(|reply| Request::Resume { reply }).await
    }

    async fn checkpoint(&self, _: Context, request: CheckpointTaskRequest) -> Result<()> {
        let task = self.table().get(&request.id)?;
        let checkpoint = checkpoint(&request)?;
        task.ask(|reply| Request::Checkpoint { checkpoint, reply })
            .await
    }

    async fn resize_pty(&self, _: Context, request: ResizePtyRequest) -> Result<()> {
        let task = self.table().get(&request.id)?;
        let (exec_id, width, height) = (request.exec_id, request.width, request.height);
        task.ask(|reply| Request::Resize {
            exec_id,
            width,
            height,
            reply,
        })
        .await
    }

    async fn close_io(&self, _: Context, request: CloseIoRequest) -> Result<()> {
        let task = self.table().get(&request.id)?;
        if !request.stdin {
            return Ok(());
        }
        let exec_id = request.exec_id;
        task.ask(|reply| Request::CloseStdin { exec_id, reply })
            .await
    }

    async fn update(&self, _: Context, request: UpdateTaskRequest) -> Result<()> {
        let task = self.table().get(&request.id)?;
        let resources = request.resources.unwrap_or_default().value;
        task.ask(|reply| Request::Update { resources, reply }).await
    }

    async fn stats(&self, _: Context, request: StatsRequest) -> Result<StatsResponse> {
        let task = self.table().get(&request.id)?;
        let stats = task.ask(|reply| Request::Stats { reply }).await?;
        Ok(StatsResponse {
            stats: Some(stats::pack(&stats)),
        })
    }

    async fn connect(&self, _: Context, request: ConnectRequest) -> Result<ConnectResponse> {
        let task_pid = self.table().get(&request.id).map_or(0, |task| task.pid);
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    fn shutdown(&self, _: Context, _: ShutdownRequest) -> impl Future<Output = Result<()>> + Send {
        // A shim that serves a pod stays for the other containers.
        if self.table().is_empty() {
            self.shutdown.notify_one();
        }
        std::future::ready(Ok(()))
    }
}

fn checkpoint(request: &CheckpointTaskRequest) -> Result<Checkpoint> {
    let options = request.options.as_ref();
    let options = match options.and_then(any::unpack::<CheckpointOptions>) {
        Some(options) => options.map_err(|error| {
            Error::new(Kind::InvalidArgument, format!("decode options: {error}"))
        })?,
        None => CheckpointOptions::default(),
    };
    let image = match options.image_path.as_str() {
        "" => &request.path,
        path => path,
    };
    Ok(Checkpoint {
        image: image.into(),
        options,
    })
}
