//! Exec: another process in a container, whose streams go over a connection of their own.

use std::sync::Arc;
use std::time::Duration;

use api_protos::containerd::task::v3::ExecProcessRequest;
use api_protos::runtime::v1::ExecRequest;
use bytes::Bytes;
use prost_types::Any;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use crate::cri::io::{Fifos, Wanted};
use crate::cri::store::{Container, ignore_missing};
use crate::cri::stream::{Channels, Request, check};
use crate::cri::{Cri, launch, new_id};
use crate::error::{Context as _, Error, Kind, Result, invalid};
use crate::tasks::Task;

const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const SIGKILL: u32 = 9;
/// How much is read at a time.
const CHUNK: usize = 32 << 10;
/// How long a process that was killed may take to end.
const KILLED: Duration = Duration::from_secs(10);

/// A process in a container, which must be finished with [`Process::delete`].
pub struct Process {
    task: Task,
    exec: String,
    pub fifos: Fifos,
}

/// Returns where a client may connect to have a process run.
pub fn url(cri: &Cri, request: ExecRequest) -> Result<String> {
    let container = cri.store.container(&request.container_id)?;
    running(&container)?;
    check(request.tty, [request.stdin, request.stdout, request.stderr])?;
    cri.streams.url(Request::Exec {
        container: container.id.clone(),
        cmd: request.cmd,
        tty: request.tty,
        streams: [request.stdin, request.stdout, request.stderr],
    })
}

/// Fails unless the container runs.
pub fn running(container: &Container) -> Result<()> {
    let state = container.state();
    match state.pid() {
        Some(_) => Ok(()),
        None => Err(Error::new(
            Kind::Unknown,
            format!("container is in {} state", state.name()),
        )),
    }
}

impl Process {
    /// Starts a process in a container.
    pub async fn start(
        cri: &Cri,
        container: &Container,
        cmd: &[String],
        tty: bool,
        wanted: Wanted,
    ) -> Result<Self> {
        running(container)?;
        if cmd.is_empty() {
            return Err(invalid("no command specified"));
        }
        let task = cri
            .parts
            .tasks
            .get(&cri.store.context, &container.id)
            .await?;
        let mut spec = launch::spec(cri, &container.id).await?;
        let mut process = spec["process"].take();
        process["args"] = cmd.into();
        process["terminal"] = tty.into();
        if tty && let Some(env) = process["env"].as_array_mut() {
            env.retain(|entry| !entry.as_str().is_some_and(|text| text.starts_with("TERM=")));
            env.push("TERM=xterm".into());
        }
        let exec = new_id()?;
        let fifos = Fifos::create(&cri.folders.exec_pipes(&container.id, &exec), wanted)?;
        let [stdin, stdout, stderr] = fifos.paths();
        let request = ExecProcessRequest {
            exec_id: exec.clone(),
            terminal: tty,
            stdin,
            stdout,
            stderr,
            spec: Some(Any {
                type_url: PROCESS.into(),
                value: process.to_string().into_bytes(),
            }),
            ..ExecProcessRequest::default()
        };
        let process = Self { task, exec, fifos };
        let added = process.task.exec(request).await;
        if let Err(error) = added.context(|| "failed to create exec") {
            process.fifos.remove();
            return Err(error);
        }
        if let Err(error) = process.task.start(&process.exec).await {
            process.delete().await;
            return Err(error.context("failed to start exec"));
        }
        Ok(process)
    }

    /// Waits for the end of the process and returns its exit code.
    pub async fn wait(&self) -> Result<i32> {
        let exit = self.task.wait(&self.exec).await;
        Ok(exit.context(|| "wait for exec")?.status as i32)
    }

    /// Kills the process and waits for its end.
    pub async fn kill(&self) {
        let killed = self.task.kill(&self.exec, SIGKILL, false).await;
        if let Err(error) = ignore_missing(killed) {
            tracing::warn!(exec = self.exec, "kill a process: {error:#}");
        }
        let _ = tokio::time::timeout(KILLED, self.task.wait(&self.exec)).await;
    }

    /// Forgets the process, which has ended, and removes its pipes.
    pub async fn delete(&self) {
        let deleted = self.task.delete_process(&self.exec).await;
        if let Err(error) = ignore_missing(deleted.map(drop)) {
            tracing::warn!(exec = self.exec, "delete a process: {error:#}");
        }
        self.fifos.remove();
    }
}

/// Runs a process whose streams are `channels`, and returns its exit code. The process ends with the connection.
pub async fn serve(
    cri: &Arc<Cri>,
    id: &str,
    cmd: &[String],
    tty: bool,
    mut channels: Channels,
) -> Result<i32> {
    let container = cri.store.container(id)?;
    let wanted = Wanted {
        stdin: channels.stdin.is_some(),
        stdout: channels.stdout.is_some(),
        stderr: channels.stderr.is_some() && !tty,
    };
    let mut process = Process::start(cri, &container, cmd, tty, wanted).await?;
    let result = follow(&mut process, &mut channels).await;
    process.delete().await;
    result
}

async fn follow(process: &mut Process, channels: &mut Channels) -> Result<i32> {
    let outputs = [
        (process.fifos.stdout()?, channels.stdout.take()),
        (process.fifos.stderr()?, channels.stderr.take()),
    ];
    let mut copies = tokio::task::JoinSet::new();
    for output in outputs {
        if let (Some(pipe), Some(sink)) = output {
            copies.spawn(copy(pipe, sink));
        }
    }
    let (task, exec) = (process.task.clone(), process.exec.clone());
    let input = feed(
        task,
        exec,
        process.fifos.stdin.take(),
        channels.stdin.take(),
    );
    let input = tokio::spawn(input);
    let (task, exec) = (process.task.clone(), process.exec.clone());
    let resize = tokio::spawn(resize(task, exec, channels.resize.take()));
    let code = tokio::select! {
        code = process.wait() => code,
        () = channels.gone.closed() => {
            process.kill().await;
            Err(Error::new(Kind::Canceled, "the client has gone"))
        }
    };
    input.abort();
    resize.abort();
    if code.is_ok() {
        // What the process left running may keep the pipes open; the client leaves when it likes.
        let drained = async { while copies.join_next().await.is_some() {} };
        tokio::select! {
            () = drained => {}
            () = channels.gone.closed() => {}
            () = tokio::time::sleep(KILLED) => {}
        }
    }
    code
}

/// Copies what comes out of a pipe to the client.
async fn copy(mut pipe: pipe::Receiver, sink: mpsc::Sender<Bytes>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(read) = pipe.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        // The process must not stand still because nobody listens any more.
        let _ = sink.send(Bytes::copy_from_slice(&buffer[..read])).await;
    }
}

/// Hands what the client sends to standard input, and closes that after it.
pub async fn feed(
    task: Task,
    exec: String,
    pipe: Option<pipe::Sender>,
    input: Option<mpsc::Receiver<Bytes>>,
) {
    let (Some(mut pipe), Some(mut input)) = (pipe, input) else {
        return;
    };
    while let Some(bytes) = input.recv().await {
        if pipe.write_all(&bytes).await.is_err() {
            return;
        }
    }
    drop(pipe);
    let _ = task.close_stdin(&exec).await;
}

/// Sets the size of the terminal whenever the client has another.
pub async fn resize(task: Task, exec: String, sizes: Option<mpsc::Receiver<(u16, u16)>>) {
    let Some(mut sizes) = sizes else { return };
    while let Some((width, height)) = sizes.recv().await {
        if let Err(error) = task.resize(&exec, width.into(), height.into()).await {
            tracing::debug!(exec, "resize a terminal: {error:#}");
        }
    }
}
