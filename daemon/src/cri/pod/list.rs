//! ListPodSandbox and StreamPodSandboxes.

use std::time::Instant;

use api_protos::runtime::v1::{PodSandbox, PodSandboxFilter};

use super::{selected, state};
use crate::cri::Cri;
use crate::cri::store::Pod;
use crate::metrics::operations::Operation;

/// Returns the pods that the filter asks for.
pub fn list(cri: &Cri, filter: Option<PodSandboxFilter>) -> Vec<PodSandbox> {
    let begun = Instant::now();
    let filter = filter.unwrap_or_default();
    let pods = match filter.id.as_str() {
        "" => cri.store.pods(),
        id => cri.store.pod(id).into_iter().collect(),
    };
    let pods = pods.iter().map(|pod| encode(pod));
    let pods = pods.filter(|pod| wanted(pod, &filter)).collect();
    cri.operations.succeeded(Operation::ListPods, "", begun);
    pods
}

fn wanted(pod: &PodSandbox, filter: &PodSandboxFilter) -> bool {
    let state = filter.state.is_none_or(|state| state.state == pod.state);
    state && selected(&pod.labels, &filter.label_selector)
}

fn encode(pod: &Pod) -> PodSandbox {
    let record = pod.record();
    let state = state(&record).into();
    let config = record.config.unwrap_or_default();
    PodSandbox {
        id: pod.id.clone(),
        metadata: config.metadata,
        state,
        created_at: record.created_at,
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: record.handler,
    }
}
