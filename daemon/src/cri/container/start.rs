//! StartContainer: the task, and the one who waits for its end.

use std::sync::Arc;
use std::time::Instant;

use api_protos::nri::pkg::api::v1alpha1::Event;
use api_protos::runtime::v1::ContainerEventType;

use super::create::not_running;
use crate::cri::launch::{self, Streams};
use crate::cri::state::Event as Change;
use crate::cri::store::{Container, Pod};
use crate::cri::{Cri, nanoseconds, nri};
use crate::error::{Context as _, Error, Kind, Result};
use crate::metrics::operations::Operation;
use crate::tasks::{Exit, Task};

/// The exit code of a container that could not be started.
const NOT_STARTED: i32 = 128;

/// Starts a container.
pub async fn start(cri: &Arc<Cri>, id: &str) -> Result<()> {
    let begun = Instant::now();
    let container = cri.store.container(id)?;
    let _hold = cri.nri.hold().await;
    let _turn = container.turn.lock().await;
    let pod = cri.store.pod(&container.record.pod)?;
    let refused = |refused: crate::cri::state::Refused| {
        let message = format!("failed to set starting state for container {id:?}: {refused}");
        Error::new(Kind::Unknown, message)
    };
    if !pod.record().ready {
        return Err(not_running(&pod.id));
    }
    let may = cri.store.happen(&container, Change::Start).await?;
    may.map_err(refused)?;
    match launch(cri, &container).await {
        Ok((task, pid)) => {
            let at = nanoseconds();
            let started = Change::Started { pid, at };
            let noted = cri.store.happen(&container, started).await?;
            noted.map_err(refused)?;
            watch(cri, &container, &pod, task);
            cri.tell(
                &container.id,
                &pod,
                ContainerEventType::ContainerStartedEvent,
            );
            nri::tell_after(cri, Event::PostStartContainer, &container).await;
            cri.done(Operation::StartContainer, &pod.id, begun);
            Ok(())
        }
        Err(error) => {
            if let Err(left) = launch::end_task(cri, &container.id).await {
                tracing::warn!(id, "end a task that could not be started: {left:#}");
            }
            container.io.remove();
            nri::stopped(cri, &container, None).await;
            let failed = Change::Failed {
                at: nanoseconds(),
                exit_code: NOT_STARTED,
                message: format!("{error:#}"),
            };
            let noted = cri.store.happen(&container, failed).await?;
            noted.map_err(refused)?;
            Err(error)
        }
    }
}

async fn launch(cri: &Arc<Cri>, container: &Container) -> Result<(Task, u32)> {
    let fifos = container.io.create()?;
    let streams = Streams {
        terminal: container.io.tty,
        paths: fifos.paths(),
    };
    let (id, snapshotter) = (&container.id, &container.record.snapshotter);
    let task = launch::task(cri, id, snapshotter, streams).await;
    let task = task.context(|| format!("failed to create containerd task {id:?}"))?;
    // From here on the shim has the pipes open.
    container.io.follow(fifos).await?;
    let told = nri::tell(cri, Event::StartContainer, container).await;
    told.context(|| "NRI container start failed")?;
    let pid = task.start("").await;
    let pid = pid.context(|| format!("failed to start containerd task {id:?}"))?;
    Ok((task, pid))
}

/// Notes the end of a container when it comes.
pub fn watch(cri: &Arc<Cri>, container: &Arc<Container>, pod: &Arc<Pod>, task: Task) {
    let (cri, container, pod) = (cri.clone(), container.clone(), pod.clone());
    tokio::spawn(async move {
        let exit = task.wait("").await.unwrap_or_else(|error| {
            tracing::warn!(id = container.id, "wait for a container: {error:#}");
            Exit::unseen()
        });
        // All that it has said is in its log by the time that it is said to have ended.
        container.io.drain().await;
        if let Err(error) = task.delete().await
            && error.kind() != Kind::NotFound
        {
            tracing::warn!(id = container.id, "delete a task: {error:#}");
        }
        ended(&cri, &container, &pod, exit).await;
    });
}

/// Notes that a container has ended.
pub async fn ended(cri: &Arc<Cri>, container: &Container, pod: &Pod, exit: Exit) {
    // Before anybody else knows it: it may be removed then.
    nri::stopped(cri, container, Some(&exit)).await;
    let event = Change::Exited {
        at: exit.at.seconds * 1_000_000_000 + i64::from(exit.at.nanos),
        exit_code: exit.status as i32,
    };
    match cri.store.happen(container, event).await {
        Ok(_) => {}
        Err(error) if error.kind() == Kind::NotFound => {}
        Err(error) => tracing::warn!(id = container.id, "note the end of a container: {error:#}"),
    }
    cri.tell(
        &container.id,
        pod,
        ContainerEventType::ContainerStoppedEvent,
    );
}
