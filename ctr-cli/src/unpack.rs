//! Unpacking an image for a snapshotter, for images that came in without it.

use anyhow::{Result, anyhow};
use api_protos::containerd::services::diff::v1::ApplyRequest;
use api_protos::containerd::services::snapshots::v1::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use tonic::Code;

use crate::client::{Client, Doing as _, error};
use crate::fifo::random;
use crate::image::Resolved;

/// Applies each layer that has no snapshot yet and returns the name of the topmost snapshot.
pub async fn unpack(client: &Client, image: &Resolved, snapshotter: &str) -> Result<String> {
    let chain = image.chain_ids();
    let Some(top) = chain.last() else {
        return Ok(String::new());
    };
    if exists(client, snapshotter, top).await? {
        return Ok(top.clone());
    }
    let mut parent = String::new();
    for ((name, layer), diff_id) in chain.iter().zip(&image.layers).zip(&image.diff_ids) {
        if !exists(client, snapshotter, name).await? {
            let key = format!("extract-{} {name}", random()?);
            let applied = apply(client, snapshotter, &key, name, &parent, layer, diff_id).await;
            if let Err(error) = applied {
                let request = RemoveSnapshotRequest {
                    snapshotter: snapshotter.into(),
                    key,
                };
                let _ = client.snapshots().remove(request).await;
                return Err(error.context(format!("unpack layer {}", layer.digest)));
            }
        }
        parent.clone_from(name);
    }
    Ok(top.clone())
}

/// Returns whether an image is unpacked.
pub async fn done(client: &Client, image: &Resolved, snapshotter: &str) -> Result<bool> {
    match image.chain_ids().last() {
        Some(top) => exists(client, snapshotter, top).await,
        None => Ok(true),
    }
}

async fn exists(client: &Client, snapshotter: &str, key: &str) -> Result<bool> {
    let request = StatSnapshotRequest {
        snapshotter: snapshotter.into(),
        key: key.into(),
    };
    match client.snapshots().stat(request).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(error(&status).context(format!("look for snapshot {key}"))),
    }
}

#[allow(clippy::too_many_arguments)]
async fn apply(
    client: &Client,
    snapshotter: &str,
    key: &str,
    name: &str,
    parent: &str,
    layer: &api_protos::containerd::types::Descriptor,
    diff_id: &str,
) -> Result<()> {
    let prepare = PrepareSnapshotRequest {
        snapshotter: snapshotter.into(),
        key: key.into(),
        parent: parent.into(),
        labels: [("containerd.io/snapshot.ref".to_owned(), name.to_owned())].into(),
    };
    let mounts = match client.snapshots().prepare(prepare).await {
        Ok(answer) => answer.into_inner().mounts,
        // Somebody else has unpacked the same layer meanwhile.
        Err(status) if status.code() == Code::AlreadyExists => return Ok(()),
        failed => {
            failed
                .doing(|| "prepare a snapshot".into())?
                .into_inner()
                .mounts
        }
    };
    let request = ApplyRequest {
        diff: Some(layer.clone()),
        mounts,
        ..Default::default()
    };
    let applied = client
        .diff()
        .apply(request)
        .await
        .doing(|| "apply".into())?
        .into_inner()
        .applied;
    let got = applied
        .map(|descriptor| descriptor.digest)
        .unwrap_or_default();
    if got != diff_id {
        return Err(anyhow!(
            "it holds {got} where the configuration says {diff_id}"
        ));
    }
    let commit = CommitSnapshotRequest {
        snapshotter: snapshotter.into(),
        name: name.into(),
        key: key.into(),
        ..Default::default()
    };
    match client.snapshots().commit(commit).await {
        Err(status) if status.code() == Code::AlreadyExists => {
            let request = RemoveSnapshotRequest {
                snapshotter: snapshotter.into(),
                key: key.into(),
            };
            client
                .snapshots()
                .remove(request)
                .await
                .map(drop)
                .doing(|| "remove a snapshot".into())
        }
        result => result.map(drop).doing(|| "commit a snapshot".into()),
    }
}
