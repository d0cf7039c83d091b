//! UpdatePodSandboxResources.

use std::sync::Arc;

use api_protos::nri::pkg::api::v1alpha1::Event;
use api_protos::runtime::v1::UpdatePodSandboxResourcesRequest;

use crate::cri::store::PodRecord;
use crate::cri::{Cri, nri};
use crate::error::Result;

/// Notes what a pod may use from now on. The pod's control group is its owner's: only what is known of it changes.
pub async fn update(cri: &Arc<Cri>, request: UpdatePodSandboxResourcesRequest) -> Result<()> {
    let pod = cri.store.pod(&request.pod_sandbox_id)?;
    let _hold = cri.nri.hold().await;
    let _turn = pod.turn.lock().await;
    let (overhead, resources) = (request.overhead, request.resources);
    nri::update_pod(cri, &pod, overhead.as_ref(), resources.as_ref()).await?;
    let change = |record: &mut PodRecord| {
        let config = record.config.get_or_insert_default();
        let linux = config.linux.get_or_insert_default();
        (linux.overhead, linux.resources) = (overhead, resources);
    };
    cri.store.update_pod(&pod, change).await?;
    nri::tell_of_pod_after(cri, Event::PostUpdatePodSandbox, &pod).await;
    Ok(())
}
