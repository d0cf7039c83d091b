//! Starting anew: the pods and containers of an earlier daemon, and what has become of them.

use std::sync::Arc;

use api_protos::containerd::v1::types::Status;

use super::state::{Event, State};
use super::store::{Container, Pod, PodRecord};
use super::{Cri, container, launch, nanoseconds, pod};
use crate::blocking::blocking;
use crate::error::{Kind, Result};
use crate::tasks::{Exit, Task};

/// Finds the pods and containers that were written down, and goes on with those that run.
pub async fn recover(cri: &Arc<Cri>) -> Result<()> {
    let known = cri.store.load(|id, record| cri.io(id, record)).await?;
    let folders = cri.folders.clone();
    let swept = blocking(move || folders.remove_unknown_containers(|id| known.contains(id)));
    if let Err(error) = swept.await {
        tracing::warn!("remove what is left of containers that were being made: {error:#}");
    }
    for pod in cri.store.pods() {
        if let Err(error) = recover_pod(cri, &pod).await {
            tracing::warn!(id = pod.id, "recover a pod: {error:#}");
        }
    }
    for container in cri.store.containers() {
        if let Err(error) = recover_container(cri, &container).await {
            tracing::warn!(id = container.id, "recover a container: {error:#}");
        }
    }
    let left = leftovers(cri);
    if !left.is_empty() {
        tracing::info!(containers = ?left, "containers of pods that are not there");
    }
    Ok(())
}

async fn task(cri: &Cri, id: &str) -> Result<Option<Task>> {
    match cri.parts.tasks.get(&cri.store.context, id).await {
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        task => task.map(Some),
    }
}

async fn recover_pod(cri: &Arc<Cri>, pod: &Arc<Pod>) -> Result<()> {
    let task = task(cri, &pod.id).await?;
    if let Some(task) = task {
        let state = task.state("").await?;
        if state.status() == Status::Running {
            let change = |record: &mut PodRecord| (record.ready, record.pid) = (true, state.pid);
            cri.store.update_pod(pod, change).await?;
            pod::run::watch(cri, pod, task);
            return Ok(());
        }
        launch::end_task(cri, &pod.id).await?;
    }
    pod::run::ended(cri, pod).await;
    Ok(())
}

async fn recover_container(cri: &Arc<Cri>, container: &Arc<Container>) -> Result<()> {
    let pod = cri.store.pod(&container.record.pod);
    let pod = pod.unwrap_or_else(|_| Pod::new(&container.record.pod, PodRecord::default()));
    let Some(task) = task(cri, &container.id).await? else {
        let lost = Event::Lost { at: nanoseconds() };
        let _ = cri.store.happen(container, lost).await?;
        return Ok(());
    };
    let state = task.state("").await?;
    match (state.status(), container.state()) {
        (Status::Running | Status::Paused, _) => {
            if container.state() == State::Starting {
                let started = Event::Started {
                    pid: state.pid,
                    at: nanoseconds(),
                };
                let _ = cri.store.happen(container, started).await?;
            }
            if let Err(error) = container.io.follow_again().await {
                tracing::warn!(id = container.id, "follow the output: {error:#}");
            }
            container::start::watch(cri, container, &pod, task);
        }
        (Status::Stopped, State::Running { .. }) => {
            let exit = Exit {
                pid: state.pid,
                status: state.exit_status,
                at: state.exited_at.unwrap_or_else(crate::time::now),
            };
            launch::end_task(cri, &container.id).await?;
            container::start::ended(cri, container, &pod, exit).await;
        }
        _ => {
            // It was being made, and never ran.
            launch::end_task(cri, &container.id).await?;
            let lost = Event::Lost { at: nanoseconds() };
            let _ = cri.store.happen(container, lost).await?;
        }
    }
    Ok(())
}

/// Returns the containers whose pod is not there.
fn leftovers(cri: &Cri) -> Vec<String> {
    let containers = cri.store.containers().into_iter();
    containers
        .filter(|container| cri.store.pod(&container.record.pod).is_err())
        .map(|container| container.id.clone())
        .collect()
}
