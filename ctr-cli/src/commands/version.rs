//! `corten version`

use anyhow::Result;
use serde_json::json;

use super::output::{print_json, print_line};
use crate::cli::Session;
use crate::client::Doing as _;

/// Shows the versions of client and daemon.
pub async fn run(session: &Session) -> Result<()> {
    let client = env!("CARGO_PKG_VERSION");
    let server = session
        .client
        .version()
        .version(())
        .await
        .doing(|| "ask for the version".into())?
        .into_inner();
    if session.json {
        return print_json(
            &json!({"client": client, "server": {"version": server.version, "revision": server.revision}}),
        );
    }
    print_line(&format!(
        "Client:\n  Version:  {client}\n\nServer:\n  Version:  {}\n  Revision: {}",
        server.version, server.revision
    ))
}
