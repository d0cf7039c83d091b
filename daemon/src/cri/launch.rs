//! What sandboxes and containers have in common: a snapshot to write to, a record, a task; and the end of them.

use std::collections::BTreeMap;
use std::time::Duration;

use api_protos::containerd::task::v3::CreateTaskRequest;
use prost_types::Any;
use serde_json::Value;
use sys::mount::Mount;

use super::Cri;
use super::config::Runtime;
use super::store::ignore_missing;
use super::userns::Mappings;
use crate::blocking::blocking;
use crate::context::Context;
use crate::error::{Context as _, Error, Kind, Result};
use crate::labels::Labels;
use crate::metadata;
use crate::tasks::{Create, Task};

/// The type of specifications in records.
pub const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// How long a process that was killed may take to end.
const KILLED: Duration = Duration::from_secs(10);
const SIGKILL: u32 = 9;

/// A container record that is to be.
#[derive(Debug)]
pub struct Record<'a> {
    pub id: &'a str,
    pub image: &'a str,
    pub runtime: &'a Runtime,
    pub snapshotter: &'a str,
    pub labels: Labels,
    pub extensions: BTreeMap<String, Any>,
    pub spec: &'a Value,
    /// The sandbox that it belongs to.
    pub sandbox: &'a str,
}

/// The streams of a task.
#[derive(Debug, Default)]
pub struct Streams {
    pub terminal: bool,
    /// Standard input, output and error.
    pub paths: [String; 3],
}

/// Makes the writable snapshot of a container, in this snapshotter, of this name and above this one; its files belong
/// to the users of the namespace that has the mappings. The context's lease holds it until there is a record.
pub async fn snapshot(
    cri: &Cri,
    context: &Context,
    (snapshotter, id, chain): (&str, &str, &str),
    mappings: Option<Mappings>,
) -> Result<Vec<Mount>> {
    let snapshots = cri.parts.snapshots.clone();
    let (context, snapshotter) = (context.clone(), snapshotter.to_owned());
    let (id, chain) = (id.to_owned(), chain.to_owned());
    let labels = mappings.map(Mappings::labels).unwrap_or_default();
    blocking(move || {
        snapshots
            .prepare(&context, &snapshotter, &id, &chain, labels)
            .context(|| format!("prepare the snapshot of {id}"))
    })
    .await
}

/// Writes down a container.
pub async fn record(cri: &Cri, record: Record<'_>) -> Result<()> {
    let container = metadata::Container {
        id: record.id.to_owned(),
        labels: record.labels,
        image: record.image.to_owned(),
        runtime: record.runtime.kind.clone(),
        runtime_options: record.runtime.options.clone(),
        spec: Some(Any {
            type_url: SPEC.into(),
            value: record.spec.to_string().into_bytes(),
        }),
        snapshotter: record.snapshotter.to_owned(),
        snapshot_key: record.id.to_owned(),
        extensions: record.extensions,
        sandbox: record.sandbox.to_owned(),
        ..metadata::Container::default()
    };
    let (containers, context) = (cri.parts.containers.clone(), cri.store.context.clone());
    blocking(move || containers.create(&context, container).map(drop)).await
}

/// Returns the specification that is written down of a container.
pub async fn spec(cri: &Cri, id: &str) -> Result<Value> {
    let (containers, context) = (cri.parts.containers.clone(), cri.store.context.clone());
    let id = id.to_owned();
    let record = blocking(move || containers.get(&context, &id)).await?;
    let spec = record.spec.unwrap_or_default().value;
    serde_json::from_slice(&spec).map_err(|error| Error::other("decode specification", error))
}

/// Makes the task of a container whose record is there.
pub async fn task(cri: &Cri, id: &str, snapshotter: &str, streams: Streams) -> Result<Task> {
    let context = &cri.store.context;
    let mounts = {
        let (snapshots, context) = (cri.parts.snapshots.clone(), context.clone());
        let (snapshotter, id) = (snapshotter.to_owned(), id.to_owned());
        blocking(move || snapshots.mounts(&context, &snapshotter, &id)).await?
    };
    let [stdin, stdout, stderr] = streams.paths;
    let create = Create {
        request: CreateTaskRequest {
            rootfs: mounts.into_iter().map(Into::into).collect(),
            terminal: streams.terminal,
            stdin,
            stdout,
            stderr,
            ..CreateTaskRequest::default()
        },
        ..Create::default()
    };
    cri.parts.tasks.create(context, id, create).await?;
    cri.parts.tasks.get(context, id).await
}

/// Kills whatever runs of a task and deletes it; that there is none is no error.
pub async fn end_task(cri: &Cri, id: &str) -> Result<()> {
    let task = match cri.parts.tasks.get(&cri.store.context, id).await {
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        task => task?,
    };
    // One that has ended already cannot be killed any more.
    let _ = task.kill("", SIGKILL, true).await;
    tokio::time::timeout(KILLED, task.wait(""))
        .await
        .map_err(|_| {
            let message = format!("{id} does not end though it was killed");
            Error::new(Kind::DeadlineExceeded, message)
        })?
        .map(drop)
        .or_else(|error| ignore_missing(Err(error)))?;
    ignore_missing(task.delete().await.map(drop))
}

/// Removes a container's task, record and snapshot; what is not there is no error.
pub async fn erase(cri: &Cri, id: &str, snapshotter: &str) -> Result<()> {
    end_task(cri, id).await?;
    let (containers, snapshots) = (cri.parts.containers.clone(), cri.parts.snapshots.clone());
    let (context, id) = (cri.store.context.clone(), id.to_owned());
    let snapshotter = snapshotter.to_owned();
    blocking(move || {
        ignore_missing(containers.delete(&context, &id))?;
        ignore_missing(snapshots.remove(&context, &snapshotter, &id))
    })
    .await
}

/// Returns labels of a record: those that CRI gives, and what kind of thing it is. Image labels that containerd's
/// own parts obey are not taken over: an image must not be able to ask for more than to be run.
pub fn labels(
    given: &std::collections::HashMap<String, String>,
    of_image: &Labels,
    kind: &str,
) -> Labels {
    let short = |key: &str, value: &str| key.len() + value.len() <= 4096;
    let mut labels: Labels = of_image
        .iter()
        .filter(|(key, value)| !reserved(key) && short(key, value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.extend(
        given
            .iter()
            .map(|(key, value)| (key.clone(), value.clone())),
    );
    labels.insert(super::store::KIND.into(), kind.into());
    labels
}

fn reserved(key: &str) -> bool {
    key.split('/')
        .next()
        .is_some_and(|domain| domain == "containerd.io" || domain.ends_with(".containerd.io"))
        || key.starts_with("io.cri-containerd")
        || key.starts_with("io.containerd.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_cannot_label_their_containers_as_they_like() {
        let of_image = Labels::from(
            [
                ("maintainer", "m"),
                ("containerd.io/restart.loguri", "binary:///bin/sh"),
                ("containerd.io/gc.root", "1"),
                ("io.cri-containerd.kind", "sandbox"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        let labels = labels(&Default::default(), &of_image, "container");
        let labels: Vec<(&str, &str)> = labels
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            labels,
            [("io.cri-containerd.kind", "container"), ("maintainer", "m")]
        );
    }
}
