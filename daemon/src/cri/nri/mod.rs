//! What plugins of the Node Resource Interface have to do with pods and containers: when they are told, and how what
//! they want is done.
//!
//! | file | what |
//! |---|---|
//! | `describe.rs` | pods and containers as plugins see them |
//! | `adjust.rs` | a specification with what plugins want of it: pure |
//!
//! Where no plugin is connected, nothing is described and nobody is told.

mod adjust;
pub mod describe;

use std::sync::Arc;

use api_protos::nri::pkg::api::v1alpha1::{
    Container as Described, ContainerUpdate, Event, UpdatePodSandboxRequest,
};
use api_protos::runtime::v1::{LinuxContainerResources, UpdateContainerResourcesRequest};
use serde_json::Value;
use tokio::sync::mpsc;

use super::store::{Container, Pod};
use super::{Cri, cdi, container};
use crate::error::{Context as _, Error, Kind, Result};
use crate::nri::{Ask, Changes};
use crate::tasks::Exit;

/// Answers what plugins ask, for as long as there can be any.
pub async fn serve(cri: Arc<Cri>, mut asks: mpsc::Receiver<Ask>) {
    while let Some(ask) = asks.recv().await {
        let cri = cri.clone();
        // Nobody waits for the answer if the plugin has gone.
        match ask {
            Ask::State(answer) => drop(answer.send(describe::all(&cri).await)),
            // It may take a container's turn, which another that is told of something has.
            Ask::Changes(changes, answer) => drop(tokio::spawn(async move {
                let _ = answer.send(change(&cri, changes).await);
            })),
        }
    }
}

/// Tells of something that happens to a pod.
pub async fn tell_of_pod(cri: &Cri, event: Event, pod: &Pod) -> Result<()> {
    if cri.nri.is_idle() {
        return Ok(());
    }
    let pod = describe::pod(cri, pod).await;
    cri.nri.tell(event, pod, None).await
}

/// Tells of something that happens to a container.
pub async fn tell(cri: &Cri, event: Event, container: &Container) -> Result<()> {
    if cri.nri.is_idle() {
        return Ok(());
    }
    let pod = describe::pod_of(cri, container).await;
    let container = describe::container(cri, container, None).await;
    cri.nri.tell(event, pod, Some(container)).await
}

/// Tells of something that has happened to a container: nothing comes of it if a plugin says no.
pub async fn tell_after(cri: &Cri, event: Event, container: &Container) {
    if let Err(error) = tell(cri, event, container).await {
        let event = event.as_str_name();
        tracing::error!(id = container.id, event, "tell plugins: {error:#}");
    }
}

/// Tells of something that has happened to a pod: nothing comes of it if a plugin says no.
pub async fn tell_of_pod_after(cri: &Cri, event: Event, pod: &Pod) {
    if let Err(error) = tell_of_pod(cri, event, pod).await {
        let event = event.as_str_name();
        tracing::error!(id = pod.id, event, "tell plugins: {error:#}");
    }
}

/// Tells what a pod may use from now on.
pub async fn update_pod(
    cri: &Cri,
    pod: &Pod,
    overhead: Option<&LinuxContainerResources>,
    resources: Option<&LinuxContainerResources>,
) -> Result<()> {
    if cri.nri.is_idle() {
        return Ok(());
    }
    let request = UpdatePodSandboxRequest {
        pod: Some(describe::pod(cri, pod).await),
        overhead_linux_resources: overhead.map(describe::limits),
        linux_resources: resources.map(describe::limits),
    };
    let told = cri.nri.update_pod(request).await;
    told.context(|| "NRI sandbox update failed")
}

/// Returns the specification of a container that is being created with what plugins want of it.
pub async fn create(
    cri: &Arc<Cri>,
    pod: &Pod,
    mut container: Described,
    mut spec: Value,
) -> Result<Value> {
    if cri.nri.is_idle() {
        return Ok(spec);
    }
    describe::add_spec(&mut container, &spec);
    let pod = describe::pod(cri, pod).await;
    let asked = cri.nri.create(pod, container).await;
    let (adjust, changes) = asked.context(|| "failed to get NRI adjustment for container")?;
    // What is wanted of others is done even if the container comes to nothing, and does not keep it from anything.
    later(cri, changes);
    let devices = adjust.cdi_devices.iter();
    let devices = devices.map(|device| device.name.clone()).collect();
    let adjusted = async {
        // What devices by CDI bring is changed by what is wanted besides them, as in containerd.
        adjust::process(&adjust, &mut spec);
        let mut spec = cdi::add(&cri.config, devices, spec).await?;
        adjust::rest(&adjust, &mut spec, !cri.config.disable_hugetlb)?;
        Ok::<Value, Error>(spec)
    };
    adjusted
        .await
        .context(|| "failed to NRI-adjust container Spec")
}

/// Returns what a container's limits are to be where it was asked for these.
pub async fn update(
    cri: &Arc<Cri>,
    container: &Container,
    asked: LinuxContainerResources,
) -> Result<LinuxContainerResources> {
    if cri.nri.is_idle() {
        return Ok(asked);
    }
    let pod = describe::pod_of(cri, container).await;
    let described = describe::container(cri, container, None).await;
    let limits = describe::limits(&asked);
    let updated = cri.nri.update(pod, described, limits).await;
    let (updated, changes) = updated.context(|| "NRI container update failed")?;
    later(cri, changes);
    Ok(updated.map_or(asked, |limits| describe::asked(&limits)))
}

/// Tells that a container has stopped, be it because it ended or because it will never be started.
pub async fn stopped(cri: &Arc<Cri>, container: &Container, exit: Option<&Exit>) {
    if cri.nri.is_idle() {
        return;
    }
    let pod = describe::pod_of(cri, container).await;
    let described = describe::container(cri, container, exit).await;
    match cri.nri.stop(pod, described).await {
        Ok(changes) => later(cri, changes),
        Err(error) => tracing::error!(id = container.id, "tell plugins of the end: {error:#}"),
    }
}

/// Tells that a container that plugins were asked about will not be.
pub async fn undo(cri: &Arc<Cri>, pod: &Pod, container: Described) {
    if cri.nri.is_idle() {
        return;
    }
    let pod = describe::pod(cri, pod).await;
    let stopped = cri.nri.stop(pod.clone(), container.clone()).await;
    let removed = cri
        .nri
        .tell(Event::RemoveContainer, pod, Some(container))
        .await;
    match stopped.and_then(|changes| removed.map(|()| changes)) {
        Ok(changes) => later(cri, changes),
        Err(error) => tracing::error!("tell plugins of a container that is not to be: {error:#}"),
    }
}

/// Makes changes that plugins want, while what they were asked about goes on.
fn later(cri: &Arc<Cri>, changes: Changes) {
    if !changes.is_empty() {
        let cri = cri.clone();
        tokio::spawn(async move { change(&cri, changes).await });
    }
}

/// Makes changes that plugins want, and returns the updates that could not be made.
async fn change(cri: &Arc<Cri>, changes: Changes) -> Vec<ContainerUpdate> {
    for eviction in changes.evictions {
        let (id, reason) = (eviction.container_id, eviction.reason);
        tracing::info!(id, reason, "a plugin evicts a container");
        let stopped = match cri.store.container(&id) {
            Ok(container) => container::stop::now(cri, &container).await,
            // It is gone as it was to be.
            Err(_) => continue,
        };
        if let Err(error) = stopped {
            tracing::error!(id, "evict a container: {error:#}");
        }
    }
    let mut failed = Vec::new();
    for update in changes.updates {
        let limits = update.linux.clone().unwrap_or_default().resources;
        let request = UpdateContainerResourcesRequest {
            container_id: update.container_id.clone(),
            linux: limits.as_ref().map(describe::asked),
            ..UpdateContainerResourcesRequest::default()
        };
        match container::update::apply(cri, request).await {
            Ok(()) => {}
            // Of what is not there any more, nothing is to be changed.
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => {
                let id = &update.container_id;
                tracing::error!(id, "update a container as a plugin wants: {error:#}");
                if !update.ignore_failure {
                    failed.push(update);
                }
            }
        }
    }
    failed
}
