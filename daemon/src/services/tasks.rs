//! containerd.services.tasks.v1: the running side of containers.

use api_protos::any;
use api_protos::containerd::runc::v1::CheckpointOptions;
use api_protos::containerd::runc::v1::Options;
use api_protos::containerd::services::tasks::v1::tasks_server::{Tasks as Api, TasksServer};
use api_protos::containerd::services::tasks::v1::*;
use api_protos::containerd::task::v3;
use api_protos::containerd::v1::types::Process;
use tonic::{Request, Response, Status};

use super::{diff, open};
use crate::context::Context;
use crate::error::{Error, Kind, Result, invalid, status};
use crate::tasks::{Create, Exit, Task, Tasks};

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    tasks: Tasks,
}

/// Returns the service as a server.
pub fn server(tasks: Tasks) -> TasksServer<Service> {
    TasksServer::new(Service { tasks })
}

/// Returns the request's message and the task that its container has.
macro_rules! task {
    ($service:expr, $request:expr) => {{
        let (context, request) = open($request)?;
        let task = $service.tasks.get(&context, &request.container_id).await;
        (task.map_err(status)?, request)
    }};
}

/// Answers with a result, encoded.
fn answer<T, U>(result: Result<T>, encode: impl FnOnce(T) -> U) -> Result<Response<U>, Status> {
    result.map(encode).map(Response::new).map_err(status)
}

fn empty(result: Result<()>) -> Result<Response<()>, Status> {
    answer(result, |()| ())
}

fn process(state: v3::StateResponse) -> Process {
    let id = match state.exec_id.is_empty() {
        true => state.id,
        false => state.exec_id,
    };
    Process {
        id,
        pid: state.pid,
        status: state.status,
        stdin: state.stdin,
        stdout: state.stdout,
        stderr: state.stderr,
        terminal: state.terminal,
        exit_status: state.exit_status,
        exited_at: state.exited_at,
        ..Process::default()
    }
}

fn deleted(id: String) -> impl FnOnce(Exit) -> DeleteResponse {
    move |exit| DeleteResponse {
        id,
        pid: exit.pid,
        exit_status: exit.status,
        exited_at: Some(exit.at),
    }
}

/// Returns what is to be made of a request.
fn decode(request: CreateTaskRequest) -> Result<Create> {
    if !request.task_api_address.is_empty() {
        let message = "task API address of a sandbox";
        return Err(Error::new(Kind::Unimplemented, message));
    }
    let options = request.options.as_ref().and_then(any::unpack::<Options>);
    let options = options
        .transpose()
        .map_err(|error| invalid(format!("runtime options: {error}")))?;
    let mut images = request.checkpoint;
    let from_path = images
        .as_mut()
        .and_then(|images| images.annotations.remove("RestoreFromPath"));
    let image_path = options.map(|options| options.criu_image_path);
    let checkpoint = from_path.or(image_path).unwrap_or_default();
    Ok(Create {
        runtime_path: request.runtime_path,
        options: request.options,
        // A folder goes before the content store.
        images: images
            .filter(|_| checkpoint.is_empty())
            .map(|images| diff::decode(Some(images))),
        request: v3::CreateTaskRequest {
            rootfs: request.rootfs,
            terminal: request.terminal,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            checkpoint,
            ..v3::CreateTaskRequest::default()
        },
    })
}

/// Has the task write its checkpoint where the options say, or into the content store.
async fn checkpoint(
    tasks: &Tasks,
    context: &Context,
    task: Task,
    request: CheckpointTaskRequest,
) -> Result<CheckpointTaskResponse> {
    let options = request.options.as_ref();
    let options = options.and_then(any::unpack::<CheckpointOptions>);
    let options = options
        .transpose()
        .map_err(|error| invalid(format!("checkpoint options: {error}")))?;
    let path = options
        .map(|options| options.image_path)
        .unwrap_or_default();
    let descriptors = match path.is_empty() {
        false => {
            task.checkpoint(path, request.options).await?;
            Vec::new()
        }
        true => tasks.checkpoint(context, &task, request.options).await?,
    };
    Ok(CheckpointTaskResponse {
        descriptors: descriptors.into_iter().map(diff::encode).collect(),
    })
}

#[tonic::async_trait]
impl Api for Service {
    async fn create(
        &self,
        request: Request<CreateTaskRequest>,
    ) -> Result<Response<CreateTaskResponse>, Status> {
        let (context, request) = open(request)?;
        let container_id = request.container_id.clone();
        let create = decode(request).map_err(status)?;
        let pid = self.tasks.create(&context, &container_id, create).await;
        answer(pid, |pid| CreateTaskResponse { container_id, pid })
    }

    async fn start(
        &self,
        request: Request<StartRequest>,
    ) -> Result<Response<StartResponse>, Status> {
        let (task, request) = task!(self, request);
        answer(task.start(&request.exec_id).await, |pid| StartResponse {
            pid,
        })
    }

    async fn delete(
        &self,
        request: Request<DeleteTaskRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let (task, _) = task!(self, request);
        answer(task.delete().await, deleted(String::new()))
    }

    async fn delete_process(
        &self,
        request: Request<DeleteProcessRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let (task, request) = task!(self, request);
        if request.exec_id.is_empty() {
            return Err(status(invalid("exec id cannot be empty")));
        }
        let exit = task.delete_process(&request.exec_id).await;
        answer(exit, deleted(request.exec_id))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let (task, request) = task!(self, request);
        answer(task.state(&request.exec_id).await, |state| GetResponse {
            process: Some(process(state)),
        })
    }

    async fn list(
        &self,
        request: Request<ListTasksRequest>,
    ) -> Result<Response<ListTasksResponse>, Status> {
        let (context, _) = open(request)?;
        let states = self.tasks.list(&context).await.into_iter();
        Ok(Response::new(ListTasksResponse {
            tasks: states.map(process).collect(),
        }))
    }

    async fn kill(&self, request: Request<KillRequest>) -> Result<Response<()>, Status> {
        let (task, request) = task!(self, request);
        empty(
            task.kill(&request.exec_id, request.signal, request.all)
                .await,
        )
    }

    async fn exec(&self, request: Request<ExecProcessRequest>) -> Result<Response<()>, Status> {
        let (context, request) = open(request)?;
        if request.exec_id.is_empty() {
            return Err(status(invalid("exec id cannot be empty")));
        }
        let task = self.tasks.get(&context, &request.container_id).await;
        let exec = v3::ExecProcessRequest {
            exec_id: request.exec_id,
            terminal: request.terminal,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            spec: request.spec,
            ..v3::ExecProcessRequest::default()
        };
        empty(task.map_err(status)?.exec(exec).await)
    }

    async fn resize_pty(&self, request: Request<ResizePtyRequest>) -> Result<Response<()>, Status> {
        let (task, request) = task!(self, request);
        let resized = task.resize(&request.exec_id, request.width, request.height);
        empty(resized.await)
    }

    async fn close_io(&self, request: Request<CloseIoRequest>) -> Result<Response<()>, Status> {
        let (task, request) = task!(self, request);
        match request.stdin {
            true => empty(task.close_stdin(&request.exec_id).await),
            false => Ok(Response::new(())),
        }
    }

    async fn pause(&self, request: Request<PauseTaskRequest>) -> Result<Response<()>, Status> {
        let (task, _) = task!(self, request);
        empty(task.pause().await)
    }

    async fn resume(&self, request: Request<ResumeTaskRequest>) -> Result<Response<()>, Status> {
        let (task, _) = task!(self, request);
        empty(task.resume().await)
    }

    async fn list_pids(
        &self,
        request: Request<ListPidsRequest>,
    ) -> Result<Response<ListPidsResponse>, Status> {
        let (task, _) = task!(self, request);
        answer(task.pids().await, |processes| ListPidsResponse {
            processes,
        })
    }

    async fn checkpoint(
        &self,
        request: Request<CheckpointTaskRequest>,
    ) -> Result<Response<CheckpointTaskResponse>, Status> {
        let (context, request) = open(request)?;
        let task = self.tasks.get(&context, &request.container_id).await;
        let task = task.map_err(status)?;
        let written = checkpoint(&self.tasks, &context, task, request).await;
        answer(written, |response| response)
    }

    async fn update(&self, request: Request<UpdateTaskRequest>) -> Result<Response<()>, Status> {
        let (task, request) = task!(self, request);
        let update = v3::UpdateTaskRequest {
            resources: request.resources,
            annotations: request.annotations,
            ..v3::UpdateTaskRequest::default()
        };
        empty(task.update(update).await)
    }

    async fn metrics(
        &self,
        request: Request<MetricsRequest>,
    ) -> Result<Response<MetricsResponse>, Status> {
        let (context, request) = open(request)?;
        let metrics = self.tasks.metrics(&context, &request.filters).await;
        answer(metrics, |metrics| MetricsResponse { metrics })
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Result<Response<WaitResponse>, Status> {
        let (task, request) = task!(self, request);
        answer(task.wait(&request.exec_id).await, |exit| WaitResponse {
            exit_status: exit.status,
            exited_at: Some(exit.at),
        })
    }
}
