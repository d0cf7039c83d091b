//! UpdatePodSandboxResources.

use api_protos::runtime::v1::UpdatePodSandboxResourcesRequest;

use crate::cri::Cri;
use crate::cri::store::PodRecord;
use crate::error::Result;

/// Notes what a pod may use from now on. The pod's control group is its owner's: only what is known of it changes.
pub async fn update(cri: &Cri, request: UpdatePodSandboxResourcesRequest) -> Result<()> {
    let pod = cri.store.pod(&request.pod_sandbox_id)?;
    let _turn = pod.turn.lock().await;
    let change = |record: &mut PodRecord| {
        let config = record.config.get_or_insert_default();
        let linux = config.linux.get_or_insert_default();
        linux.overhead = request.overhead;
        linux.resources = request.resources;
    };
    cri.store.update_pod(&pod, change).await
}
