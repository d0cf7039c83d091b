//! What filters see of the events themselves.

use api_protos::any;
use api_protos::containerd::events::{
    ContainerCreate, ContainerDelete, ContainerUpdate, ContentCreate, ContentDelete,
    NamespaceCreate, NamespaceDelete, NamespaceUpdate, SnapshotCommit, SnapshotPrepare,
    SnapshotRemove, TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted,
    TaskExit, TaskIo, TaskOom, TaskPaused, TaskResumed, TaskStart,
};
use api_protos::containerd::services::images::v1::{ImageCreate, ImageDelete, ImageUpdate};
use prost_types::Any;

/// Decodes `$event` as each type in turn and returns the field at `$path`; fields are text unless a label map.
macro_rules! look_up {
    ($event:expr, $path:expr, $($type:ty { $($field:literal => $get:expr),* $(,)? })*) => {
        $(if any::is::<$type>($event) {
            let event = any::unpack::<$type>($event)?.ok()?;
            return match $path.first()?.as_str() {
                $($field => {
                    let get: fn(&$type, &[String]) -> Option<String> = $get;
                    get(&event, &$path[1..])
                })*
                _ => None,
            };
        })*
    };
}

/// Makes a getter of a text field.
macro_rules! text {
    ($field:ident) => {
        |event, _| Some(event.$field.clone()).filter(|text| !text.is_empty())
    };
}

/// Makes a getter of a label.
macro_rules! label {
    () => {
        |event, path| event.labels.get(&path.join(".")).cloned()
    };
}

/// Returns the field of `event` at `path`; an unknown event has no fields.
pub(super) fn of(event: &Any, path: &[String]) -> Option<String> {
    look_up!(event, path,
        TaskCreate {
            "container_id" => text!(container_id), "bundle" => text!(bundle),
            "checkpoint" => text!(checkpoint),
            "io" => |event, path| task_io(event.io.as_ref()?, path),
        }
        TaskStart { "container_id" => text!(container_id) }
        TaskDelete { "container_id" => text!(container_id), "id" => text!(id) }
        TaskExit { "container_id" => text!(container_id), "id" => text!(id) }
        TaskOom { "container_id" => text!(container_id) }
        TaskExecAdded { "container_id" => text!(container_id), "exec_id" => text!(exec_id) }
        TaskExecStarted { "container_id" => text!(container_id), "exec_id" => text!(exec_id) }
        TaskPaused { "container_id" => text!(container_id) }
        TaskResumed { "container_id" => text!(container_id) }
        TaskCheckpointed { "container_id" => text!(container_id), "checkpoint" => text!(checkpoint) }
        ContainerCreate {
            "id" => text!(id), "image" => text!(image),
            "runtime" => |event, path| match path.first()?.as_str() {
                "name" => event.runtime.as_ref().map(|runtime| runtime.name.clone()),
                _ => None,
            },
        }
        ContainerUpdate {
            "id" => text!(id), "image" => text!(image), "labels" => label!(),
            "snapshot_key" => text!(snapshot_key),
        }
        ContainerDelete { "id" => text!(id) }
        ContentCreate { "digest" => text!(digest) }
        ContentDelete { "digest" => text!(digest) }
        ImageCreate { "name" => text!(name), "labels" => label!() }
        ImageUpdate { "name" => text!(name), "labels" => label!() }
        ImageDelete { "name" => text!(name) }
        NamespaceCreate { "name" => text!(name), "labels" => label!() }
        NamespaceUpdate { "name" => text!(name), "labels" => label!() }
        NamespaceDelete { "name" => text!(name) }
        SnapshotPrepare {
            "key" => text!(key), "parent" => text!(parent), "snapshotter" => text!(snapshotter),
        }
        SnapshotCommit {
            "key" => text!(key), "name" => text!(name), "snapshotter" => text!(snapshotter),
        }
        SnapshotRemove { "key" => text!(key), "snapshotter" => text!(snapshotter) }
    );
    None
}

fn task_io(io: &TaskIo, path: &[String]) -> Option<String> {
    match path.first()?.as_str() {
        "stdin" => Some(io.stdin.clone()),
        "stdout" => Some(io.stdout.clone()),
        "stderr" => Some(io.stderr.clone()),
        "terminal" => Some(io.terminal.to_string()),
        _ => None,
    }
}
