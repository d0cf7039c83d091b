//! `corten snapshots`

mod tree;

use anyhow::Result;
use api_protos::containerd::services::snapshots::v1::{
    Info, Kind, ListSnapshotsRequest, MountsRequest, RemoveSnapshotRequest, UsageRequest,
};
use clap::{Args, Subcommand};
use serde_json::json;

use super::output::{List, print_line};
use crate::cli::Session;
use crate::client::{Client, Doing as _};
use crate::format::{bytes, labels_json};

/// Which snapshotter.
#[derive(Debug, Clone, Args)]
pub struct Snapshotter {
    /// The snapshotter
    #[arg(
        long,
        env = "CONTAINERD_SNAPSHOTTER",
        value_name = "NAME",
        default_value = "overlayfs"
    )]
    pub snapshotter: String,
}

/// What can be done with snapshots.
#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    snapshotter: Snapshotter,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List snapshots
    #[command(visible_alias = "ls")]
    List {
        /// Names alone
        #[arg(short, long)]
        quiet: bool,
    },
    /// Delete snapshots that have no children
    #[command(visible_aliases = ["rm", "del", "remove"])]
    Delete {
        /// Their names
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Show how much space snapshots take, without what is below them
    Usage {
        /// Their names [default: all]
        keys: Vec<String>,
    },
    /// Show snapshots with their children below them
    Tree,
    /// Show the mount command for a snapshot
    #[command(visible_aliases = ["m", "mount"])]
    Mounts {
        /// Where to mount it
        target: String,
        /// Its name
        key: String,
    },
}

/// Runs a command on snapshots.
pub async fn run(session: &Session, command: Command) -> Result<()> {
    let (client, snapshotter) = (&session.client, command.snapshotter.snapshotter);
    match command.verb {
        Verb::List { quiet } => {
            let mut list = List::new(&["KEY", "PARENT", "KIND"]);
            for info in all(client, &snapshotter).await? {
                let kind = kind(&info);
                let value = json!({"key": info.name, "parent": info.parent, "kind": kind, "labels": labels_json(&info.labels)});
                list.add(vec![info.name, info.parent, kind.into()], value);
            }
            list.print(session, quiet)
        }
        Verb::Delete { keys } => {
            for key in keys {
                let request = RemoveSnapshotRequest {
                    snapshotter: snapshotter.clone(),
                    key: key.clone(),
                };
                client
                    .snapshots()
                    .remove(request)
                    .await
                    .doing(|| format!("delete snapshot {key}"))?;
            }
            Ok(())
        }
        Verb::Usage { mut keys } => {
            if keys.is_empty() {
                keys = all(client, &snapshotter)
                    .await?
                    .into_iter()
                    .map(|info| info.name)
                    .collect();
            }
            let mut list = List::new(&["KEY", "SIZE", "INODES"]);
            for key in keys {
                let request = UsageRequest {
                    snapshotter: snapshotter.clone(),
                    key: key.clone(),
                };
                let usage = client.snapshots().usage(request).await;
                let usage = usage
                    .doing(|| format!("measure snapshot {key}"))?
                    .into_inner();
                let value = json!({"key": key, "size": usage.size, "inodes": usage.inodes});
                let size = bytes(u64::try_from(usage.size).unwrap_or(0));
                list.add(vec![key, size, usage.inodes.to_string()], value);
            }
            list.print(session, false)
        }
        Verb::Tree => print_line(tree::render(&all(client, &snapshotter).await?).trim_end()),
        Verb::Mounts { target, key } => {
            let request = MountsRequest {
                snapshotter,
                key: key.clone(),
            };
            let answer = client
                .snapshots()
                .mounts(request)
                .await
                .doing(|| format!("get the mounts of snapshot {key}"))?;
            for mount in answer.into_inner().mounts {
                print_line(&format!(
                    "mount -t {} {} {target} -o {}",
                    mount.r#type,
                    mount.source,
                    mount.options.join(",")
                ))?;
            }
            Ok(())
        }
    }
}

async fn all(client: &Client, snapshotter: &str) -> Result<Vec<Info>> {
    let what = || format!("list snapshots of {snapshotter}");
    let request = ListSnapshotsRequest {
        snapshotter: snapshotter.into(),
        filters: Vec::new(),
    };
    let mut stream = client
        .snapshots()
        .list(request)
        .await
        .doing(what)?
        .into_inner();
    let mut infos = Vec::new();
    while let Some(part) = stream.message().await.doing(what)? {
        infos.extend(part.info);
    }
    infos.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(infos)
}

fn kind(info: &Info) -> &'static str {
    match info.kind() {
        Kind::View => "View",
        Kind::Active => "Active",
        Kind::Committed => "Committed",
        Kind::Unknown => "Unknown",
    }
}
