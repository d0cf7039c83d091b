//! `corten events`

use anyhow::Result;
use api_protos::any;
use api_protos::containerd::events::*;
use api_protos::containerd::services::events::v1::SubscribeRequest;
use api_protos::containerd::services::images::v1::{ImageCreate, ImageDelete, ImageUpdate};
use clap::Args;
use prost_types::Any;
use serde_json::{Value, json};

use super::output::print_line;
use crate::cli::Session;
use crate::client::Doing as _;
use crate::format::time;
use crate::table::printable;

/// Show what happens, as it happens, in every namespace
#[derive(Debug, Args)]
#[command(visible_alias = "event")]
pub struct Options {
    /// Filters in containerd's grammar, as topic~=/tasks/ or namespace==default; an event is shown if any of them matches
    filters: Vec<String>,
}

/// Prints events until the daemon or the user ends it.
pub async fn run(session: &Session, options: Options) -> Result<()> {
    let request = SubscribeRequest {
        filters: options.filters,
    };
    let client = session.client.without_timeout();
    let mut stream = client
        .events()
        .subscribe(request)
        .await
        .doing(|| "subscribe to events".into())?
        .into_inner();
    while let Some(envelope) = stream.message().await.doing(|| "read events".into())? {
        let at = time(envelope.timestamp.as_ref());
        let event = envelope.event.as_ref().map_or(Value::Null, describe);
        if session.json {
            let value = json!({"timestamp": at, "namespace": envelope.namespace, "topic": envelope.topic, "event": event});
            print_line(&value.to_string())?;
        } else {
            print_line(&format!(
                "{at} {} {} {event}",
                printable(&envelope.namespace),
                printable(&envelope.topic)
            ))?;
        }
    }
    Ok(())
}

/// Returns the fields of an event that say what happened to what; its type alone if it is one we have no words for.
fn describe(event: &Any) -> Value {
    macro_rules! known {
        ($($message:ident { $($field:ident),* })*) => {
            $(
                if let Some(Ok(message)) = any::unpack::<$message>(event) {
                    return json!({$(stringify!($field): message.$field),*});
                }
            )*
        };
    }
    known! {
        TaskCreate { container_id, bundle, pid }
        TaskStart { container_id, pid }
        TaskExit { container_id, id, pid, exit_status }
        TaskDelete { container_id, id, pid, exit_status }
        TaskExecAdded { container_id, exec_id }
        TaskExecStarted { container_id, exec_id, pid }
        TaskPaused { container_id }
        TaskResumed { container_id }
        TaskCheckpointed { container_id, checkpoint }
        TaskOom { container_id }
        ContainerCreate { id, image }
        ContainerUpdate { id, image, labels, snapshot_key }
        ContainerDelete { id }
        SnapshotPrepare { key, parent, snapshotter }
        SnapshotCommit { key, name, snapshotter }
        SnapshotRemove { key, snapshotter }
        ContentCreate { digest, size, media_type }
        ContentDelete { digest }
        ImageCreate { name, labels }
        ImageUpdate { name, labels }
        ImageDelete { name }
        NamespaceCreate { name, labels }
        NamespaceUpdate { name, labels }
        NamespaceDelete { name }
        SandboxCreate { sandbox_id }
        SandboxStart { sandbox_id }
        SandboxExit { sandbox_id, exit_status }
    }
    json!({"type": event.type_url})
}
