//! `corten info`

use anyhow::Result;
use serde_json::{Value, json};

use super::output::print_json;
use crate::cli::Session;
use crate::client::Doing as _;
use crate::format::time;

/// Shows what the daemon says of itself.
pub async fn run(session: &Session) -> Result<()> {
    let answer = session.client.introspection().server(()).await;
    let server = answer.doing(|| "ask the daemon".into())?.into_inner();
    let deprecations = server.deprecations.iter().map(|warning| {
        json!({
            "id": warning.id,
            "message": warning.message,
            "last_occurrence": time(warning.last_occurrence.as_ref()),
        })
    });
    print_json(&json!({
        "uuid": server.uuid,
        "pid": server.pid,
        "pidns": server.pidns,
        "deprecations": deprecations.collect::<Vec<Value>>(),
    }))
}
