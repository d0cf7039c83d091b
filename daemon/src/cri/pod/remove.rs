//! RemovePodSandbox.

use std::sync::Arc;
use std::time::Instant;

use api_protos::nri::pkg::api::v1alpha1::Event;
use api_protos::runtime::v1::ContainerEventType;

use crate::blocking::blocking;
use crate::cri::store::{Pod, Told};
use crate::cri::{Cri, container, launch, nri};
use crate::error::{Kind, Result};
use crate::metrics::operations::Operation;

/// Removes a pod and all its containers; that it is not there is no error.
pub async fn remove(cri: &Arc<Cri>, id: &str) -> Result<()> {
    let pod = match cri.store.pod(id) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        pod => pod?,
    };
    let begun = Instant::now();
    let _hold = cri.nri.hold().await;
    let _turn = pod.turn.lock().await;
    for container in cri.store.containers_of(&pod.id) {
        container::remove::container(cri, &container).await?;
    }
    take_down(cri, &pod).await?;
    cri.tell(&pod.id, &pod, ContainerEventType::ContainerDeletedEvent);
    let handler = pod.record().handler;
    let operations = &cri.operations;
    operations.succeeded(Operation::RemovePod, &handler, begun);
    Ok(())
}

/// Takes down all that a pod is made of, and forgets it.
pub async fn take_down(cri: &Arc<Cri>, pod: &Arc<Pod>) -> Result<()> {
    super::stop::processes(cri, pod).await?;
    super::stop::network(cri, pod).await?;
    if pod.record().told() != Told::Nothing {
        nri::tell_of_pod_after(cri, Event::RemovePodSandbox, pod).await;
        pod.note(|record| record.set_told(Told::Nothing));
    }
    let runtime = cri.config.runtime(&pod.record().handler);
    let snapshotter = match &runtime {
        Ok(runtime) => cri.config.snapshotter_of(runtime),
        Err(_) => &cri.config.snapshotter,
    };
    launch::erase(cri, &pod.id, snapshotter).await?;
    let (folders, id) = (cri.folders.clone(), pod.id.clone());
    blocking(move || folders.remove_pod(&id)).await?;
    cri.store.remove_pod(&pod.id).await
}
