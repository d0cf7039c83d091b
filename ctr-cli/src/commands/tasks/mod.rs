//! `corten tasks`

pub mod attach;
pub mod delete;
pub mod exec;
pub mod kill;
pub mod list;
pub mod metrics;
pub mod start;

use anyhow::Result;
use api_protos::containerd::services::tasks::v1::{
    ListPidsRequest, PauseTaskRequest, ResumeTaskRequest, WaitRequest,
};
use clap::Subcommand;
use serde_json::json;

use super::output::{List, print_line};
use crate::cli::Session;
use crate::client::Doing as _;

/// What can be done with tasks, the processes of containers.
#[derive(Debug, Subcommand)]
pub enum Command {
    List(list::Options),
    Start(start::Options),
    Exec(exec::Options),
    Kill(kill::Options),
    Delete(delete::Options),
    Attach(attach::Options),
    /// Stop all processes of a container where they are
    Pause {
        /// The container
        id: String,
    },
    /// Let the processes of a paused container go on
    Resume {
        /// The container
        id: String,
    },
    Metrics(metrics::Options),
    /// List the processes of a container
    Ps {
        /// The container
        id: String,
    },
    /// Wait for the end of a container's task and print its exit code
    Wait {
        /// The container
        id: String,
    },
}

/// Runs a command on tasks and returns the program's exit code.
pub async fn run(session: &Session, command: Command) -> Result<u8> {
    let client = &session.client;
    let done = match command {
        Command::Start(options) => return start::run(session, options).await,
        Command::Exec(options) => return exec::run(session, options).await,
        Command::Delete(options) => return delete::run(session, options).await,
        Command::Attach(options) => return attach::run(session, options).await,
        Command::List(options) => list::run(session, options).await,
        Command::Kill(options) => kill::run(session, options).await,
        Command::Metrics(options) => metrics::run(session, options).await,
        Command::Pause { id } => {
            let request = PauseTaskRequest {
                container_id: id.clone(),
            };
            client
                .tasks()
                .pause(request)
                .await
                .map(drop)
                .doing(|| format!("pause task {id}"))
        }
        Command::Resume { id } => {
            let request = ResumeTaskRequest {
                container_id: id.clone(),
            };
            client
                .tasks()
                .resume(request)
                .await
                .map(drop)
                .doing(|| format!("resume task {id}"))
        }
        Command::Ps { id } => {
            let request = ListPidsRequest {
                container_id: id.clone(),
            };
            let answer = client
                .tasks()
                .list_pids(request)
                .await
                .doing(|| format!("list the processes of {id}"))?;
            let mut list = List::new(&["PID", "INFO"]);
            for process in answer.into_inner().processes {
                let info = process.info.map(|info| info.type_url).unwrap_or_default();
                list.add(
                    vec![process.pid.to_string(), info.clone()],
                    json!({"pid": process.pid, "info": info}),
                );
            }
            list.print(session, false)
        }
        Command::Wait { id } => {
            let request = WaitRequest {
                container_id: id.clone(),
                exec_id: String::new(),
            };
            let client = client.without_timeout();
            let answer = client
                .tasks()
                .wait(request)
                .await
                .doing(|| format!("wait for task {id}"))?;
            print_line(&answer.into_inner().exit_status.to_string())
        }
    };
    done.map(|()| 0)
}
