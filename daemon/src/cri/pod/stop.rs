//! StopPodSandbox: all processes end, and the network goes. To stop a pod again does what is left to be done.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use api_protos::nri::pkg::api::v1alpha1::Event;

use crate::blocking::blocking;
use crate::cri::cni::Attachment;
use crate::cri::store::{Pod, PodRecord, Told};
use crate::cri::{Cri, container, launch, netns, nri};
use crate::error::{Context as _, Kind, Result};
use crate::metrics::operations::{NetworkOperation, Operation};

/// Stops a pod; that it is not there is no error.
pub async fn stop(cri: &Arc<Cri>, id: &str) -> Result<()> {
    let pod = match cri.store.pod(id) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        pod => pod?,
    };
    let _hold = cri.nri.hold().await;
    let _turn = pod.turn.lock().await;
    processes(cri, &pod).await?;
    network(cri, &pod).await
}

/// Ends all processes of a pod.
pub async fn processes(cri: &Arc<Cri>, pod: &Arc<Pod>) -> Result<()> {
    let begun = Instant::now();
    let mut ends = tokio::task::JoinSet::new();
    for container in cri.store.containers_of(&pod.id) {
        let cri = cri.clone();
        ends.spawn(async move {
            let stopped = container::stop::now(&cri, &container).await;
            stopped.context(|| format!("failed to stop container {:?}", container.id))
        });
    }
    while let Some(end) = ends.join_next().await {
        end.unwrap_or_else(|error| {
            let message = format!("a task ended early: {error}");
            Err(crate::error::Error::new(Kind::Internal, message))
        })?;
    }
    launch::end_task(cri, &pod.id)
        .await
        .context(|| format!("failed to stop sandbox container {:?}", pod.id))?;
    super::run::ended(cri, pod).await;
    let handler = pod.record().handler;
    let operations = &cri.operations;
    operations.succeeded(Operation::StopPod, &handler, begun);
    if pod.record().told() == Told::Run {
        nri::tell_of_pod_after(cri, Event::StopPodSandbox, pod).await;
        pod.note(|record| record.set_told(Told::Stopped));
    }
    let (shm, userns) = (cri.folders.shm(&pod.id), cri.folders.userns(&pod.id));
    blocking(move || {
        sys::mount::unmount_all(&shm)?;
        netns::remove(&userns)
    })
    .await
}

/// Disconnects a pod and gives up its network namespace.
pub async fn network(cri: &Cri, pod: &Pod) -> Result<()> {
    let record = pod.record();
    if record.netns.is_empty() {
        return Ok(());
    }
    let path = PathBuf::from(&record.netns);
    let config = record.config.unwrap_or_default();
    // Plugins are told of a namespace that is gone by an empty path.
    let there = match path.exists() {
        true => path.clone(),
        false => PathBuf::new(),
    };
    let attachment = Attachment::new(&pod.id, &there, &config)?;
    let begun = Instant::now();
    let disconnected = cri.cni.disconnect(&attachment, &record.networks).await;
    let (tear_down, succeeded) = (NetworkOperation::TearDown, disconnected.is_ok());
    cri.operations.asked_network(tear_down, begun, succeeded);
    disconnected.context(|| format!("failed to destroy network for sandbox {:?}", pod.id))?;
    cri.operations
        .succeeded(Operation::DisconnectPod, "", begun);
    blocking(move || netns::remove(&path)).await?;
    let change = |record: &mut PodRecord| {
        record.netns.clear();
        record.networks.clear();
    };
    cri.store.update_pod(pod, change).await
}
