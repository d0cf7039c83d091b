//! `corten tasks list`

use anyhow::Result;
use api_protos::containerd::services::tasks::v1::ListTasksRequest;
use api_protos::containerd::v1::types::Status;
use clap::Args;
use serde_json::json;

use crate::cli::Session;
use crate::client::Doing as _;
use crate::commands::output::List;

/// List tasks, the processes of containers
#[derive(Debug, Args)]
#[command(visible_alias = "ls")]
pub struct Options {
    /// Names alone
    #[arg(short, long)]
    quiet: bool,
}

/// Lists.
pub async fn run(session: &Session, options: Options) -> Result<()> {
    let answer = session
        .client
        .tasks()
        .list(ListTasksRequest::default())
        .await
        .doing(|| "list tasks".into())?;
    let mut list = List::new(&["TASK", "PID", "STATUS"]);
    for task in answer.into_inner().tasks {
        let status = match task.status() {
            Status::Unknown => "UNKNOWN",
            Status::Created => "CREATED",
            Status::Running => "RUNNING",
            Status::Stopped => "STOPPED",
            Status::Paused => "PAUSED",
            Status::Pausing => "PAUSING",
        };
        // containerd fills in the one or the other.
        let id = if task.id.is_empty() {
            task.container_id
        } else {
            task.id
        };
        let value =
            json!({"id": id, "pid": task.pid, "status": status, "exit_status": task.exit_status});
        list.add(vec![id, task.pid.to_string(), status.into()], value);
    }
    list.print(session, options.quiet)
}
