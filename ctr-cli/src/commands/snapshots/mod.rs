//! `corten snapshots`

mod diff;
mod tree;

use std::collections::HashMap;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use api_protos::containerd::services::snapshots::v1::*;
use api_protos::containerd::types::Mount;
use clap::{Args, Subcommand};
use prost_types::Timestamp;
use serde_json::json;

use super::leases;
use super::output::{List, print_json, print_line};
use crate::cli::Session;
use crate::client::{Client, Doing as _};
use crate::format::{bytes, labels, labels_json, labels_mask, parse_labels, time};
use crate::{image, platform, unpack};

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
    /// Show everything about a snapshot, as JSON
    Info {
        /// Its name
        key: String,
    },
    /// Prepare a snapshot that can be written to
    Prepare(New),
    /// Prepare a snapshot that can only be read
    View(New),
    /// Commit a snapshot that was prepared, so that others can be made on it
    Commit {
        /// Name of the new snapshot
        name: String,
        /// The one that was prepared
        active: String,
    },
    Diff(diff::Options),
    /// Unpack an image
    Unpack {
        /// The image
        image: String,
    },
    /// Set labels of a snapshot and print all of them; a label without a value is removed
    Label {
        /// Its name
        key: String,
        /// Labels, as KEY=VALUE or KEY=
        #[arg(required = true)]
        labels: Vec<String>,
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

/// A snapshot to be made.
#[derive(Debug, Args)]
struct New {
    /// Print the commands that mount it here
    #[arg(short, long, value_name = "FOLDER")]
    target: Option<String>,
    /// Its name
    key: String,
    /// The committed snapshot below it [default: nothing]
    #[arg(default_value = "")]
    parent: String,
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
        Verb::Info { key } => {
            let what = || format!("get snapshot {key}");
            let request = StatSnapshotRequest {
                snapshotter,
                key: key.clone(),
            };
            let answer = client.snapshots().stat(request).await.doing(what)?;
            let info = answer.into_inner().info.unwrap_or_default();
            print_json(&json!({
                "key": info.name,
                "parent": info.parent,
                "kind": kind(&info),
                "created_at": time(info.created_at.as_ref()),
                "updated_at": time(info.updated_at.as_ref()),
                "labels": labels_json(&info.labels),
            }))
        }
        Verb::Prepare(new) => {
            let request = PrepareSnapshotRequest {
                snapshotter,
                key: new.key.clone(),
                parent: new.parent,
                labels: root_label(),
            };
            let answer = client.snapshots().prepare(request).await;
            let answer = answer.doing(|| format!("prepare snapshot {}", new.key))?;
            print_mounts(new.target, answer.into_inner().mounts)
        }
        Verb::View(new) => {
            let request = ViewSnapshotRequest {
                snapshotter,
                key: new.key.clone(),
                parent: new.parent,
                labels: root_label(),
            };
            let answer = client.snapshots().view(request).await;
            let answer = answer.doing(|| format!("prepare snapshot {}", new.key))?;
            print_mounts(new.target, answer.into_inner().mounts)
        }
        Verb::Commit { name, active } => {
            let request = CommitSnapshotRequest {
                snapshotter,
                name,
                key: active.clone(),
                labels: root_label(),
                ..Default::default()
            };
            let answer = client.snapshots().commit(request).await;
            answer
                .map(drop)
                .doing(|| format!("commit snapshot {active}"))
        }
        Verb::Label {
            key,
            labels: arguments,
        } => {
            let info = Info {
                name: key.clone(),
                labels: parse_labels(&arguments),
                ..Default::default()
            };
            let request = UpdateSnapshotRequest {
                snapshotter,
                update_mask: Some(labels_mask(&info.labels)),
                info: Some(info),
            };
            let answer = client.snapshots().update(request).await;
            let answer = answer.doing(|| format!("label snapshot {key}"))?;
            print_line(&labels(
                &answer.into_inner().info.unwrap_or_default().labels,
            ))
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
        Verb::Diff(options) => diff::run(client, &snapshotter, options).await,
        Verb::Unpack { image } => {
            let what = || format!("unpack {image}");
            let (leased, lease) = leases::lease(client).await?;
            let unpacked = async {
                let found = image::get(client, &image).await?.target.unwrap_or_default();
                let resolved = image::resolve(client, &found, &platform::own()).await?;
                unpack::unpack(&leased, &resolved, &snapshotter).await
            };
            let unpacked = unpacked.await.with_context(what);
            leases::release(client, lease).await;
            print_line(&unpacked?)
        }
        Verb::Usage { mut keys } => {
            if keys.is_empty() {
                keys = all(client, &snapshotter)
                    .await?
                    .into_iter()
                    .map(|info| info.name)
                    .collect();
            }
            usage(session, &snapshotter, keys).await
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
            print_mounts(Some(target), answer.into_inner().mounts)
        }
    }
}

/// Returns the label that keeps a snapshot until somebody deletes it, with the time since when, as ctr has it.
fn root_label() -> HashMap<String, String> {
    let now = Timestamp::from(SystemTime::now());
    [("containerd.io/gc.root".to_owned(), time(Some(&now)))].into()
}

/// Prints how much space snapshots take.
pub async fn usage(session: &Session, snapshotter: &str, keys: Vec<String>) -> Result<()> {
    let mut list = List::new(&["KEY", "SIZE", "INODES"]);
    for key in keys {
        let request = UsageRequest {
            snapshotter: snapshotter.into(),
            key: key.clone(),
        };
        let usage = session.client.snapshots().usage(request).await;
        let usage = usage
            .doing(|| format!("measure snapshot {key}"))?
            .into_inner();
        let value = json!({"key": key, "size": usage.size, "inodes": usage.inodes});
        let size = bytes(u64::try_from(usage.size).unwrap_or(0));
        list.add(vec![key, size, usage.inodes.to_string()], value);
    }
    list.print(session, false)
}

/// Prints the commands that mount a snapshot, if it is to be mounted somewhere.
fn print_mounts(target: Option<String>, mounts: Vec<Mount>) -> Result<()> {
    let Some(target) = target else {
        return Ok(());
    };
    for mount in mounts {
        print_line(&format!(
            "mount -t {} {} {target} -o {}",
            mount.r#type,
            mount.source,
            mount.options.join(",")
        ))?;
    }
    Ok(())
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
