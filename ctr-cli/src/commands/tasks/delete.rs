//! `corten tasks delete`

use std::time::Duration;

use anyhow::{Result, bail};
use api_protos::containerd::services::tasks::v1::{
    DeleteProcessRequest, DeleteTaskRequest, GetRequest, KillRequest, WaitRequest,
};
use clap::Args;

use super::start::exit_code;
use crate::cli::Session;
use crate::client::Doing as _;
use crate::fifo::Fifos;

/// How long a task that was asked to end is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Delete tasks that have ended
#[derive(Debug, Args)]
#[command(visible_aliases = ["rm", "del", "remove"])]
#[command(
    long_about = "Delete tasks that have ended; the exit code is the task's if there is one only

A task that is about to end, as after `tasks kill`, is waited for, for up to ten seconds."
)]
pub struct Options {
    /// Kill them first
    #[arg(short, long)]
    force: bool,
    /// Delete a process that was added to the container, not its task
    #[arg(long, value_name = "NAME", default_value = "")]
    exec_id: String,
    /// The containers
    #[arg(required = true)]
    ids: Vec<String>,
}

/// Deletes; the program's exit code is the last task's if all could be deleted.
pub async fn run(session: &Session, options: Options) -> Result<u8> {
    let mut code = 0;
    for id in &options.ids {
        let status = delete(session, id, &options).await?;
        code = exit_code(status);
    }
    Ok(if options.ids.len() == 1 { code } else { 0 })
}

async fn delete(session: &Session, id: &str, options: &Options) -> Result<u32> {
    let mut tasks = session.client.tasks();
    let what = || format!("delete task {id}");
    let exec_id = options.exec_id.clone();
    let get = GetRequest {
        container_id: id.into(),
        exec_id: exec_id.clone(),
    };
    let process = tasks
        .get(get)
        .await
        .doing(what)?
        .into_inner()
        .process
        .unwrap_or_default();
    if options.force {
        let request = KillRequest {
            container_id: id.into(),
            exec_id: exec_id.clone(),
            signal: 9,
            all: exec_id.is_empty(),
        };
        let _ = tasks.kill(request).await;
    }
    let wait = WaitRequest {
        container_id: id.into(),
        exec_id: exec_id.clone(),
    };
    if tokio::time::timeout(
        PATIENCE,
        session.client.without_timeout().tasks().wait(wait),
    )
    .await
    .is_err()
    {
        bail!(
            "{}: it still runs; end it with: corten tasks kill {id}",
            what()
        );
    }
    let answer = if exec_id.is_empty() {
        tasks
            .delete(DeleteTaskRequest {
                container_id: id.into(),
            })
            .await
    } else {
        tasks
            .delete_process(DeleteProcessRequest {
                container_id: id.into(),
                exec_id,
            })
            .await
    };
    let answer = answer.doing(what)?.into_inner();
    Fifos {
        stdin: process.stdin,
        stdout: process.stdout,
        stderr: process.stderr,
    }
    .remove();
    Ok(answer.exit_status)
}
