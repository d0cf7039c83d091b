//! `corten info` and `corten deprecations`

use anyhow::Result;
use api_protos::containerd::services::introspection::v1::{DeprecationWarning, ServerResponse};
use clap::Subcommand;
use serde_json::{Value, json};

use super::output::{List, print_json};
use crate::cli::Session;
use crate::client::Doing as _;
use crate::format::time;

/// What can be asked about deprecated features.
#[derive(Debug, Subcommand)]
pub enum Deprecations {
    /// List the deprecated features that clients have used
    #[command(visible_alias = "ls")]
    List,
}

/// Lists the deprecated features that were used.
pub async fn deprecations(session: &Session, command: Deprecations) -> Result<()> {
    let Deprecations::List = command;
    let mut list = List::new(&["ID", "LAST OCCURRENCE", "MESSAGE"]);
    for warning in server(session).await?.deprecations {
        let value = json(&warning);
        let last = time(warning.last_occurrence.as_ref());
        list.add(vec![warning.id, last, warning.message], value);
    }
    list.print(session, false)
}

/// Shows what the daemon says of itself.
pub async fn run(session: &Session) -> Result<()> {
    let server = server(session).await?;
    print_json(&json!({
        "uuid": server.uuid,
        "pid": server.pid,
        "pidns": server.pidns,
        "deprecations": server.deprecations.iter().map(json).collect::<Vec<Value>>(),
    }))
}

async fn server(session: &Session) -> Result<ServerResponse> {
    let answer = session.client.introspection().server(()).await;
    Ok(answer.doing(|| "ask the daemon".into())?.into_inner())
}

fn json(warning: &DeprecationWarning) -> Value {
    json!({
        "id": warning.id,
        "message": warning.message,
        "last_occurrence": time(warning.last_occurrence.as_ref()),
    })
}
