//! ContainerStatus.

use std::collections::HashMap;

use api_protos::runtime::v1::{
    ContainerResources, ContainerStatus, ContainerStatusRequest, ContainerStatusResponse,
    ContainerUser, LinuxContainerUser,
};
use serde_json::{Value, json};

use crate::cri::store::Container;
use crate::cri::{Cri, launch};
use crate::error::Result;

/// Returns what is known of a container.
pub async fn status(cri: &Cri, request: ContainerStatusRequest) -> Result<ContainerStatusResponse> {
    let container = cri.store.container(&request.container_id)?;
    let mut status = encode(&container);
    let spec = launch::spec(cri, &container.id).await.unwrap_or_default();
    status.user = user(&spec);
    let mut info = HashMap::new();
    if request.verbose {
        info.insert("info".to_owned(), verbose(cri, &container, spec));
    }
    Ok(ContainerStatusResponse {
        status: Some(status),
        info,
    })
}

/// Returns a container as CRI has it.
pub fn encode(container: &Container) -> ContainerStatus {
    let record = &container.record;
    let config = container.config();
    let status = container.status();
    let end = status.state.end().cloned().unwrap_or_default();
    let stop_signal = config.stop_signal;
    ContainerStatus {
        id: container.id.clone(),
        metadata: config.metadata,
        state: status.state.cri().into(),
        created_at: record.created_at,
        started_at: status.state.started_at(),
        finished_at: end.finished_at,
        exit_code: end.exit_code,
        image: config.image,
        image_ref: record.image_ref.clone(),
        reason: end.reason,
        message: end.message,
        labels: config.labels,
        annotations: config.annotations,
        mounts: config.mounts,
        log_path: record.log.clone(),
        resources: Some(ContainerResources {
            linux: Some(status.resources),
            windows: None,
        }),
        image_id: record.image.clone(),
        user: None,
        stop_signal,
    }
}

/// Returns who runs a container, as its specification says.
fn user(spec: &Value) -> Option<ContainerUser> {
    let user = spec["process"].get("user")?;
    let groups = user["additionalGids"].as_array().into_iter().flatten();
    Some(ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: user["uid"].as_i64()?,
            gid: user["gid"].as_i64()?,
            supplemental_groups: groups.filter_map(Value::as_i64).collect(),
        }),
    })
}

fn verbose(cri: &Cri, container: &Container, spec: Value) -> String {
    let record = &container.record;
    let config = container.config();
    let metadata = config.metadata.unwrap_or_default();
    let handler = cri.store.pod(&record.pod).map(|pod| pod.record().handler);
    let runtime = handler.and_then(|handler| cri.config.runtime(&handler).cloned());
    let runtime = runtime.unwrap_or_default();
    json!({
        "sandboxID": record.pod,
        "pid": container.state().pid().unwrap_or(0),
        "removing": false,
        "snapshotKey": container.id,
        "snapshotter": record.snapshotter,
        "runtimeType": runtime.kind,
        "config": {
            "metadata": {"name": metadata.name, "attempt": metadata.attempt},
            "image": {"image": config.image.unwrap_or_default().image},
            "command": config.command,
            "args": config.args,
            "labels": config.labels,
            "annotations": config.annotations,
            "log_path": config.log_path,
            "tty": config.tty,
            "stdin": config.stdin,
        },
        "runtimeSpec": spec,
    })
    .to_string()
}
