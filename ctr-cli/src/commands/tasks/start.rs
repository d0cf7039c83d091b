//! `corten tasks start`, and the part of `corten run` that comes after the container.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use api_protos::containerd::services::containers::v1::Container;
use api_protos::containerd::services::tasks::v1::{
    CreateTaskRequest, DeleteTaskRequest, KillRequest, StartRequest, WaitRequest,
};
use clap::Args;

use crate::attach::{self, Signals, Streams, Target};
use crate::cli::Session;
use crate::client::{Client, Doing as _};
use crate::commands::containers;
use crate::fifo::Fifos;
use crate::spec;

/// How long a process that was killed may take to end.
const KILLED: Duration = Duration::from_secs(10);

/// Start a container that has been created
#[derive(Debug, Args)]
pub struct Options {
    /// Leave the task running and return
    #[arg(short, long)]
    detach: bool,
    /// Let the command read the terminal
    #[arg(short, long)]
    interactive: bool,
    /// Write the pid of the command to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Connect no streams
    #[arg(long, conflicts_with = "log_uri")]
    null_io: bool,
    /// Have the output written to this place, as file:///var/log/web or binary:///usr/bin/logger
    #[arg(long, value_name = "URI")]
    log_uri: Option<String>,
    /// The container
    id: String,
}

/// How a task is started.
#[derive(Debug)]
pub struct StartOptions {
    /// Whether the process has a terminal.
    pub terminal: bool,
    /// Whether the process reads our terminal.
    pub interactive: bool,
    /// Whether it runs on without us.
    pub detach: bool,
    /// Whether it has no streams.
    pub null_io: bool,
    /// Where the daemon's side writes its output in place of us.
    pub log_uri: Option<String>,
    /// Where its pid goes.
    pub pid_file: Option<PathBuf>,
}

/// Starts, and returns the exit code of the process unless it runs on without us.
pub async fn run(session: &Session, options: Options) -> Result<u8> {
    let container = containers::get(&session.client, &options.id).await?;
    let configuration = spec::unpack(container.spec.as_ref())?;
    let start_options = StartOptions {
        terminal: spec::has_terminal(&configuration),
        interactive: options.interactive,
        detach: options.detach,
        null_io: options.null_io,
        log_uri: options.log_uri,
        pid_file: options.pid_file,
    };
    let mut signals = Signals::take()?;
    let result = start(session, &container, &start_options, &mut signals).await;
    result.with_context(|| format!("start {}", options.id))
}

/// Creates the container's task, starts it and, unless it is to run on without us, stays until it has ended and deletes
/// it. A signal before the start ends that instead, and nothing is left of the task.
pub async fn start(
    session: &Session,
    container: &Container,
    options: &StartOptions,
    signals: &mut Signals,
) -> Result<u8> {
    let client = &session.client;
    let fifos = if options.null_io || options.log_uri.is_some() {
        Fifos::default()
    } else {
        let input = options.terminal
            || options.interactive
            || !options.detach && attach::wants_input(false, false);
        Fifos::make(&session.fifo_dir, input, options.terminal)?
    };
    let result = start_with(client, container, options, signals, &fifos).await;
    if result.is_err() || !options.detach {
        fifos.remove();
    }
    result
}

async fn start_with(
    client: &Client,
    container: &Container,
    options: &StartOptions,
    signals: &mut Signals,
    fifos: &Fifos,
) -> Result<u8> {
    let streams = Streams::open(fifos, options.terminal)?;
    let created = create(client, container, options, fifos);
    let created = signals.after(created).await?;
    let target = Target {
        container: container.id.clone(),
        exec: String::new(),
    };
    let result = match created.interrupted {
        Some(interrupted) => Err(interrupted.into()),
        None => start_created(client, &target, options, signals, streams, created.value).await,
    };
    if result.is_err() || !options.detach {
        delete_task(client, &container.id, result.is_err()).await?;
    }
    result
}

async fn start_created(
    client: &Client,
    target: &Target,
    options: &StartOptions,
    signals: &mut Signals,
    streams: Streams,
    pid: u32,
) -> Result<u8> {
    if let Some(file) = &options.pid_file {
        std::fs::write(file, pid.to_string())
            .with_context(|| format!("write {}", file.display()))?;
    }
    let request = StartRequest {
        container_id: target.container.clone(),
        exec_id: String::new(),
    };
    client
        .tasks()
        .start(request)
        .await
        .doing(|| "start the task".into())?;
    if options.detach {
        return Ok(0);
    }
    let code = attach::foreground(client, target, streams, signals).await?;
    Ok(exit_code(code))
}

async fn create(
    client: &Client,
    container: &Container,
    options: &StartOptions,
    fifos: &Fifos,
) -> Result<u32> {
    // With a terminal there is one output.
    let log = |fifo: &String| options.log_uri.clone().unwrap_or_else(|| fifo.clone());
    let stderr = match options.terminal {
        true => String::new(),
        false => log(&fifos.stderr),
    };
    let rootfs = containers::mounts(client, container).await?;
    let request = CreateTaskRequest {
        container_id: container.id.clone(),
        rootfs,
        stdin: fifos.stdin.clone(),
        stdout: log(&fifos.stdout),
        stderr,
        terminal: options.terminal,
        ..Default::default()
    };
    Ok(client
        .tasks()
        .create(request)
        .await
        .doing(|| "create the task".into())?
        .into_inner()
        .pid)
}

async fn delete_task(client: &Client, id: &str, kill: bool) -> Result<()> {
    if kill {
        let request = KillRequest {
            container_id: id.into(),
            signal: 9,
            all: true,
            ..Default::default()
        };
        let _ = client.tasks().kill(request).await;
        let ended = WaitRequest {
            container_id: id.into(),
            exec_id: String::new(),
        };
        let _ = tokio::time::timeout(KILLED, client.tasks().wait(ended)).await;
    }
    let request = DeleteTaskRequest {
        container_id: id.into(),
    };
    let deleted = client
        .tasks()
        .delete(request)
        .await
        .map(drop)
        .doing(|| format!("delete task {id}"));
    if kill { Ok(()) } else { deleted }
}

/// Returns a process's exit code as ours.
pub fn exit_code(status: u32) -> u8 {
    u8::try_from(status).unwrap_or(255)
}
