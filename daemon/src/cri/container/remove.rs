//! RemoveContainer.

use std::sync::Arc;
use std::time::Instant;

use api_protos::nri::pkg::api::v1alpha1::Event;
use api_protos::runtime::v1::ContainerEventType;

use crate::blocking::blocking;
use crate::cri::store::{Container, Pod};
use crate::cri::{Cri, launch, nri};
use crate::error::{Context as _, Kind, Result};
use crate::metrics::operations::Operation;

/// Removes a container, running or not; that it is not there is no error.
pub async fn remove(cri: &Arc<Cri>, id: &str) -> Result<()> {
    match cri.store.container(id) {
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        found => {
            let _hold = cri.nri.hold().await;
            container(cri, &found?).await
        }
    }
}

/// Removes a container.
pub async fn container(cri: &Arc<Cri>, container: &Arc<Container>) -> Result<()> {
    let begun = Instant::now();
    super::stop::now(cri, container)
        .await
        .context(|| format!("failed to forcibly stop container {:?}", container.id))?;
    let _turn = container.turn.lock().await;
    if container.state().end().is_none() {
        // It has never run, so that nobody was told of its end.
        nri::stopped(cri, container, None).await;
    }
    nri::tell_after(cri, Event::RemoveContainer, container).await;
    let (snapshotter, config) = (&container.record.snapshotter, container.config());
    launch::end_task(cri, &container.id).await?;
    super::image_mounts::release(cri, snapshotter, &container.id, &config)
        .await
        .context(|| format!("failed to release images of container {:?}", container.id))?;
    launch::erase(cri, &container.id, snapshotter)
        .await
        .context(|| format!("failed to delete container {:?}", container.id))?;
    let (folders, id) = (cri.folders.clone(), container.id.clone());
    blocking(move || folders.remove_container(&id)).await?;
    cri.store.forget_container(&container.id);
    let pod = cri.store.pod(&container.record.pod);
    let pod = pod.unwrap_or_else(|_| Pod::new(&container.record.pod, Default::default()));
    cri.tell(
        &container.id,
        &pod,
        ContainerEventType::ContainerDeletedEvent,
    );
    cri.done(Operation::RemoveContainer, &pod.id, begun);
    Ok(())
}
