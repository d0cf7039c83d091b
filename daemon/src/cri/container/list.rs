//! ListContainers and StreamContainers.

use std::time::Instant;

use api_protos::runtime::v1::{Container as Listed, ContainerFilter};

use crate::cri::Cri;
use crate::cri::pod::selected;
use crate::cri::store::Container;
use crate::metrics::operations::Operation;

/// Returns the containers that the filter asks for.
pub fn list(cri: &Cri, filter: Option<ContainerFilter>) -> Vec<Listed> {
    let begun = Instant::now();
    let filter = filter.unwrap_or_default();
    let containers = match filter.id.as_str() {
        "" => cri.store.containers(),
        id => cri.store.container(id).into_iter().collect(),
    };
    let pod = match filter.pod_sandbox_id.as_str() {
        "" => String::new(),
        id => cri
            .store
            .pod(id)
            .map_or(id.to_owned(), |pod| pod.id.clone()),
    };
    let containers = containers.iter().map(|container| encode(container));
    let containers = containers
        .filter(|container| {
            let state = filter
                .state
                .is_none_or(|state| state.state == container.state);
            let of_pod = pod.is_empty() || container.pod_sandbox_id == pod;
            state && of_pod && selected(&container.labels, &filter.label_selector)
        })
        .collect();
    let operations = &cri.operations;
    operations.succeeded(Operation::ListContainers, "", begun);
    containers
}

fn encode(container: &Container) -> Listed {
    let record = &container.record;
    let config = container.config();
    Listed {
        id: container.id.clone(),
        pod_sandbox_id: record.pod.clone(),
        metadata: config.metadata,
        image: config.image,
        image_ref: record.image.clone(),
        state: container.state().cri().into(),
        created_at: record.created_at,
        labels: config.labels,
        annotations: config.annotations,
        image_id: record.image.clone(),
    }
}
