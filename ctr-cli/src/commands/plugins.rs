//! `corten plugins`

use anyhow::Result;
use api_protos::containerd::services::introspection::v1::PluginsRequest;
use clap::Subcommand;
use serde_json::json;

use super::output::List;
use crate::cli::Session;
use crate::client::Doing as _;
use crate::platform;

/// What can be done with plugins.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the parts of the daemon and whether they work
    #[command(visible_alias = "ls")]
    List {
        /// Filters in containerd's grammar, as type==io.containerd.snapshotter.v1
        filters: Vec<String>,
    },
}

/// Runs a command on plugins.
pub async fn run(session: &Session, command: Command) -> Result<()> {
    let Command::List { filters } = command;
    let answer = session
        .client
        .introspection()
        .plugins(PluginsRequest { filters })
        .await;
    let mut list = List::new(&["TYPE", "ID", "PLATFORMS", "STATUS"]);
    for plugin in answer.doing(|| "list plugins".into())?.into_inner().plugins {
        let platforms: Vec<String> = plugin.platforms.iter().map(platform::format).collect();
        let message = plugin.init_err.map(|error| error.message);
        let status = match &message {
            None => "ok",
            Some(message) if message.contains("skip plugin") => "skip",
            Some(_) => "error",
        };
        let value = json!({"type": plugin.r#type, "id": plugin.id, "platforms": platforms, "status": status, "error": message});
        list.add(
            vec![plugin.r#type, plugin.id, platforms.join(","), status.into()],
            value,
        );
    }
    list.print(session, false)
}
