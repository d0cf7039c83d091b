//! The publisher: hands events to the daemon, one after the other, in the order in which they happened.
//!
//! ```text
//! drivers ──publish──▶ queue ──one task──▶ Events.Forward on TTRPC_ADDRESS
//!                                 │ connection lost: wait, connect again, the same event first
//! ```
//!
//! A retry never lets a later event pass an earlier one. The daemon may be away for days, so the queue is bounded; what
//! is dropped then is the oldest event that is not the end of a process, because clients lose track without those.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_protos::any;
use api_protos::containerd::services::events::ttrpc::v1::ForwardRequest;
use api_protos::containerd::services::events::ttrpc::v1::events_ttrpc::EventsClient;
use api_protos::containerd::types::Envelope;
use corten_ttrpc::{Client, Context as Call};
use prost::{Message, Name};
use sys::{Context, Kind, Result};
use tokio::sync::Notify;

use crate::{clock, log};

/// How many events wait at most, ends of processes not counted.
const QUEUE: usize = 2048;
/// How long the daemon may take to accept an event.
const FORWARD: Duration = Duration::from_secs(5);
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

const NAMESPACE: &str = "containerd-namespace-ttrpc";
/// The topic of the ends of processes.
pub const EXIT: &str = "/tasks/exit";

/// Takes events; clones share the queue.
#[derive(Clone, Debug)]
pub struct Publisher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    namespace: String,
    queue: Mutex<VecDeque<Envelope>>,
    arrived: Notify,
    drained: Notify,
}

impl Publisher {
    /// Returns a publisher of events of `namespace`.
    pub fn new(namespace: &str) -> Self {
        Self {
            inner: Arc::new(Inner {
                namespace: namespace.to_owned(),
                queue: Mutex::default(),
                arrived: Notify::new(),
                drained: Notify::new(),
            }),
        }
    }

    /// Queues an event.
    pub fn publish<M: Message + Name>(&self, topic: &str, event: &M) {
        let envelope = Envelope {
            timestamp: Some(clock::now()),
            namespace: self.inner.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(any::pack(event)),
        };
        push(&mut self.queue(), envelope);
        self.inner.arrived.notify_one();
    }

    /// Waits until all events are out, for at most `limit`.
    pub async fn flush(&self, limit: Duration) {
        let drained = async {
            loop {
                let notified = self.inner.drained.notified();
                if self.queue().is_empty() {
                    return;
                }
                notified.await;
            }
        };
        let _ = tokio::time::timeout(limit, drained).await;
    }

    /// Sends the events to the socket at `address` for ever.
    pub async fn run(self, address: String) {
        let mut client = None;
        let mut pause = SHORTEST_PAUSE;
        loop {
            let arrived = self.inner.arrived.notified();
            let Some(envelope) = self.queue().front().cloned() else {
                self.inner.drained.notify_waiters();
                arrived.await;
                continue;
            };
            match self.forward(&mut client, &address, &envelope).await {
                Ok(()) => pause = SHORTEST_PAUSE,
                Err(error) if is_passing(error.kind()) => {
                    log::debug(format_args!("publish {}: {error:#}", envelope.topic));
                    client = None;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
                // The daemon does not want it, now or ever.
                Err(error) => log::error(format_args!("publish {}: {error:#}", envelope.topic)),
            }
            let mut queue = self.queue();
            // While it was on its way, a full queue may have lost it.
            if queue.front() == Some(&envelope) {
                queue.pop_front();
            }
        }
    }

    async fn forward(
        &self,
        client: &mut Option<EventsClient>,
        address: &str,
        envelope: &Envelope,
    ) -> Result<()> {
        let events = match client {
            Some(events) if !events.connection().is_closed() => events,
            _ => {
                let connected = Client::connect(address)
                    .await
                    .context(|| format!("connect to {address:?}"))
                    .map_err(|error| error.with_kind(Kind::Unavailable))?;
                client.insert(EventsClient::new(connected))
            }
        };
        let call = Call::new()
            .with_metadata(NAMESPACE, &self.inner.namespace)
            .with_timeout(FORWARD);
        let request = ForwardRequest {
            envelope: Some(envelope.clone()),
        };
        events.forward(&call, &request).await.map(drop)
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Envelope>> {
        let queue = self.inner.queue.lock();
        queue.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells whether sending again may help.
fn is_passing(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Unavailable | Kind::DeadlineExceeded | Kind::Canceled | Kind::ResourceExhausted
    )
}

fn push(queue: &mut VecDeque<Envelope>, envelope: Envelope) {
    if queue.len() >= QUEUE
        && let Some(oldest) = queue.iter().position(|envelope| envelope.topic != EXIT)
    {
        log::warn(format_args!(
            "drop event {}: too many wait",
            queue[oldest].topic
        ));
        queue.remove(oldest);
    }
    queue.push_back(envelope);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(topic: &str) -> Envelope {
        Envelope {
            topic: topic.into(),
            ..Envelope::default()
        }
    }

    #[test]
    fn a_full_queue_drops_the_oldest_but_never_an_exit() {
        let mut queue = VecDeque::new();
        push(&mut queue, envelope(EXIT));
        push(&mut queue, envelope("/tasks/start"));
        for _ in 0..QUEUE {
            push(&mut queue, envelope(EXIT));
        }
        assert!(queue.iter().all(|envelope| envelope.topic == EXIT));
        assert_eq!(queue.len(), QUEUE + 1);
        push(&mut queue, envelope("/tasks/create"));
        assert_eq!(queue.back().unwrap().topic, "/tasks/create");
        assert_eq!(queue.len(), QUEUE + 2);
    }
}
