//! `corten containers`

pub mod create;

use std::path::Path;

use anyhow::{Result, anyhow};
use api_protos::containerd::services::containers::v1::{
    Container, DeleteContainerRequest, GetContainerRequest, ListContainersRequest,
    UpdateContainerRequest,
};
use api_protos::containerd::services::snapshots::v1::{MountsRequest, RemoveSnapshotRequest};
use api_protos::containerd::services::tasks::v1::GetRequest;
use api_protos::containerd::types::Mount;
use clap::Subcommand;
use serde_json::{Value, json};
use sys::path::Root;
use tonic::Code;

use super::output::{List, print_json, print_line};
use crate::cli::Session;
use crate::client::{Client, Doing as _, error};
use crate::format::{labels, labels_json, labels_mask, parse_labels, time};
use crate::spec;

/// What can be done with containers.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List containers, running or not
    #[command(visible_alias = "ls")]
    List {
        /// Names alone
        #[arg(short, long)]
        quiet: bool,
        /// Filters in containerd's grammar, as id==x or labels.KEY==VALUE
        filters: Vec<String>,
    },
    /// Show everything about a container, as JSON
    Info {
        /// The OCI configuration alone
        #[arg(long)]
        spec: bool,
        /// The container
        id: String,
    },
    Create(Box<create::Options>),
    /// Set labels of a container and print all of them; a label without a value is removed
    Label {
        /// The container
        id: String,
        /// Labels, as KEY=VALUE or KEY=
        #[arg(required = true)]
        labels: Vec<String>,
    },
    /// Delete containers that have no task, and their snapshots
    #[command(visible_aliases = ["rm", "del", "remove"])]
    Delete {
        /// Keep the snapshots
        #[arg(long)]
        keep_snapshot: bool,
        /// The containers
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

/// Runs a command on containers.
pub async fn run(session: &Session, command: Command) -> Result<()> {
    let client = &session.client;
    match command {
        Command::List { quiet, filters } => list(session, quiet, filters).await,
        Command::Info { spec, id } => {
            let container = get(client, &id).await?;
            let configuration = spec::unpack(container.spec.as_ref());
            print_json(&if spec {
                configuration?
            } else {
                info(&container, configuration.unwrap_or(Value::Null))
            })
        }
        Command::Create(options) => create::run(session, *options).await,
        Command::Label {
            id,
            labels: arguments,
        } => {
            let container = Container {
                id: id.clone(),
                labels: parse_labels(&arguments),
                ..Default::default()
            };
            let request = UpdateContainerRequest {
                update_mask: Some(labels_mask(&container.labels)),
                container: Some(container),
            };
            let answer = client
                .containers()
                .update(request)
                .await
                .doing(|| format!("label container {id}"))?;
            print_line(&labels(
                &answer.into_inner().container.unwrap_or_default().labels,
            ))
        }
        Command::Delete { keep_snapshot, ids } => {
            for id in ids {
                let container = get(client, &id).await?;
                refuse_if_running(client, &id).await?;
                delete(client, &container, keep_snapshot).await?;
            }
            Ok(())
        }
    }
}

/// Returns the container of this name.
pub async fn get(client: &Client, id: &str) -> Result<Container> {
    let request = GetContainerRequest { id: id.to_owned() };
    let answer = client
        .containers()
        .get(request)
        .await
        .doing(|| format!("get container {id}"))?;
    answer
        .into_inner()
        .container
        .ok_or_else(|| anyhow!("the daemon answered without a container"))
}

/// Returns the mounts of a container's snapshot; none if it has no snapshot.
pub async fn mounts(client: &Client, container: &Container) -> Result<Vec<Mount>> {
    if container.snapshot_key.is_empty() {
        return Ok(Vec::new());
    }
    let request = MountsRequest {
        snapshotter: container.snapshotter.clone(),
        key: container.snapshot_key.clone(),
    };
    let answer = client.snapshots().mounts(request).await;
    let answer = answer.doing(|| "get the snapshot's mounts".into())?;
    Ok(answer.into_inner().mounts)
}

/// Returns the root of a container to look users up in, if it can be had.
pub async fn root(client: &Client, container: &Container, spec: &Value) -> Result<Option<Root>> {
    match spec.pointer("/root/path").and_then(Value::as_str) {
        Some(path) if path.starts_with('/') => create::root_at(Path::new(path)).map(Some),
        _ => Ok(create::root_of(&mounts(client, container).await?)),
    }
}

/// Deletes a container and its snapshot; what is gone already is no failure but for the container itself.
pub async fn delete(client: &Client, container: &Container, keep_snapshot: bool) -> Result<()> {
    let id = &container.id;
    let request = DeleteContainerRequest { id: id.clone() };
    client
        .containers()
        .delete(request)
        .await
        .doing(|| format!("delete container {id}"))?;
    if keep_snapshot || container.snapshot_key.is_empty() {
        return Ok(());
    }
    remove_snapshot(client, &container.snapshotter, &container.snapshot_key).await
}

/// Removes a snapshot, which may be gone already.
pub async fn remove_snapshot(client: &Client, snapshotter: &str, key: &str) -> Result<()> {
    let request = RemoveSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        key: key.to_owned(),
    };
    match client.snapshots().remove(request).await {
        Err(status) if status.code() != Code::NotFound => {
            Err(error(&status).context(format!("delete snapshot {key}")))
        }
        _ => Ok(()),
    }
}

async fn refuse_if_running(client: &Client, id: &str) -> Result<()> {
    let request = GetRequest {
        container_id: id.to_owned(),
        exec_id: String::new(),
    };
    match client.tasks().get(request).await {
        Ok(_) => Err(anyhow!(
            "delete container {id}: it has a task; delete that first: corten tasks delete {id}"
        )),
        Err(_) => Ok(()),
    }
}

async fn list(session: &Session, quiet: bool, filters: Vec<String>) -> Result<()> {
    let answer = session
        .client
        .containers()
        .list(ListContainersRequest { filters })
        .await;
    let mut list = List::new(&["CONTAINER", "IMAGE", "RUNTIME"]);
    for container in answer
        .doing(|| "list containers".into())?
        .into_inner()
        .containers
    {
        let value = info(&container, Value::Null);
        let runtime = container.runtime.unwrap_or_default().name;
        list.add(vec![container.id, container.image, runtime], value);
    }
    list.print(session, quiet)
}

fn info(container: &Container, spec: Value) -> Value {
    let runtime = container.runtime.as_ref();
    let mut value = json!({
        "ID": container.id,
        "Labels": labels_json(&container.labels),
        "Image": container.image,
        "Runtime": {
            "Name": runtime.map(|runtime| runtime.name.as_str()),
            "Options": runtime.and_then(|runtime| runtime.options.as_ref()).map(|options| options.type_url.as_str()),
        },
        "SnapshotKey": container.snapshot_key,
        "Snapshotter": container.snapshotter,
        "CreatedAt": time(container.created_at.as_ref()),
        "UpdatedAt": time(container.updated_at.as_ref()),
        "SandboxID": container.sandbox,
    });
    if !spec.is_null() {
        value["Spec"] = spec;
    }
    value
}
