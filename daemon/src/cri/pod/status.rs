//! PodSandboxStatus.

use std::collections::HashMap;

use api_protos::runtime::v1::{
    LinuxPodSandboxStatus, Namespace, PodIp, PodSandboxNetworkStatus, PodSandboxStatus,
    PodSandboxStatusRequest, PodSandboxStatusResponse,
};
use serde_json::json;

use super::state;
use crate::cri::store::Pod;
use crate::cri::{Cri, container, launch};
use crate::error::Result;

/// Returns what is known of a pod.
pub async fn status(
    cri: &Cri,
    request: PodSandboxStatusRequest,
) -> Result<PodSandboxStatusResponse> {
    let pod = cri.store.pod(&request.pod_sandbox_id)?;
    let mut info = HashMap::new();
    if request.verbose {
        info.insert("info".to_owned(), verbose(cri, &pod).await);
    }
    let containers = cri.store.containers_of(&pod.id);
    let containers = containers.iter();
    Ok(PodSandboxStatusResponse {
        status: Some(encode(&pod)),
        info,
        containers_statuses: containers
            .map(|container| container::status::encode(container))
            .collect(),
        timestamp: crate::cri::nanoseconds(),
    })
}

/// Returns a pod as CRI has it.
pub fn encode(pod: &Pod) -> PodSandboxStatus {
    let record = pod.record();
    let state = state(&record).into();
    let config = record.config.unwrap_or_default();
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    // The address of a pod that has ended may be somebody else's.
    let mut ips = record.ips.into_iter().filter(|_| record.ready);
    let network = PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| PodIp { ip }).collect(),
    };
    PodSandboxStatus {
        id: pod.id.clone(),
        metadata: config.metadata,
        state,
        created_at: record.created_at,
        network: Some(network),
        linux: Some(LinuxPodSandboxStatus {
            namespaces: Some(Namespace {
                options: Some(security.namespace_options.unwrap_or_default()),
            }),
        }),
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: record.handler,
    }
}

async fn verbose(cri: &Cri, pod: &Pod) -> String {
    let record = pod.record();
    let runtime = cri.config.runtime(&record.handler).ok();
    let networks: Vec<serde_json::Value> = record
        .networks
        .iter()
        .filter_map(|text| serde_json::from_str(text).ok())
        .collect();
    json!({
        "pid": record.pid,
        "processStatus": if record.ready { "running" } else { "deleted" },
        "netNamespaceClosed": record.netns.is_empty(),
        "image": record.image,
        "snapshotKey": pod.id,
        "snapshotter": runtime.map(|runtime| cri.config.snapshotter_of(runtime)),
        "runtimeHandler": record.handler,
        "runtimeType": runtime.map(|runtime| runtime.kind.as_str()),
        "runtimeSpec": launch::spec(cri, &pod.id).await.unwrap_or_default(),
        "cniResult": networks.first(),
    })
    .to_string()
}
