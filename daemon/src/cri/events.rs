//! GetContainerEvents: what happens to pods and containers, as it happens.

use std::sync::Arc;

use api_protos::any;
use api_protos::containerd::events::TaskOom;
use api_protos::runtime::v1::{ContainerEventResponse, ContainerEventType};
use tokio::sync::broadcast;

use super::state::Event;
use super::store::{NAMESPACE, Pod};
use super::{Cri, container, nanoseconds, pod};
use crate::error::{Kind, Result};

/// How many events a client may fall behind before it misses some.
pub const BEHIND: usize = 1000;

impl Cri {
    /// Tells that something has happened to a container, or to the pod itself.
    pub fn tell(&self, id: &str, pod: &Pod, kind: ContainerEventType) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let containers = self.store.containers_of(&pod.id);
        let containers = containers.iter();
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: nanoseconds(),
            pod_sandbox_status: Some(pod::status::encode(pod)),
            containers_statuses: containers
                .map(|container| container::status::encode(container))
                .collect(),
        };
        // That nobody listens any more is no matter.
        let _ = self.events.send(Arc::new(event));
    }

    /// Returns the events from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<ContainerEventResponse>> {
        self.events.subscribe()
    }
}

/// Notes of which containers memory ran out, for ever.
pub async fn watch_memory(cri: Arc<Cri>) -> Result<()> {
    let filter = format!("namespace=={NAMESPACE},topic==\"/tasks/oom\"");
    let mut events = cri.parts.events.subscribe(&[filter])?;
    while let Some(envelope) = events.next().await {
        let Some(Ok(event)) = envelope.event.as_ref().and_then(any::unpack::<TaskOom>) else {
            continue;
        };
        let Ok(container) = cri.store.container(&event.container_id) else {
            continue;
        };
        match cri.store.happen(&container, Event::OutOfMemory).await {
            Err(error) if error.kind() != Kind::NotFound => {
                tracing::warn!(id = container.id, "note that memory ran out: {error:#}");
            }
            _ => {}
        }
    }
    Ok(())
}
