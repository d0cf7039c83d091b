//! The event exchange: what is published goes to every subscriber whose filters ask for it.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api_protos::any;
use api_protos::containerd::types::Envelope;
use prost::{Message, Name};
use prost_types::Any;
use tokio::sync::mpsc;

use crate::error::{Context, Result, invalid};
use crate::filter::{self, Fields, Filter};
use crate::labels::validate_identifier;

mod fields;

/// How many events a subscriber may fall behind before it is cut off.
const MAX_BEHIND: usize = 1 << 16;

/// For how long those who subscribe late still get what [`Exchange::recall`] published.
const RECALLED: Duration = Duration::from_secs(60);

/// Takes events from the services and the shims and hands them to the subscribers.
#[derive(Debug, Default)]
pub struct Exchange {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    subscribers: Vec<Subscriber>,
    /// Events of the time when there was no daemon, and when it learnt of them.
    recalled: VecDeque<(Instant, Envelope)>,
}

#[derive(Debug)]
struct Subscriber {
    filter: Filter,
    behind: Arc<AtomicUsize>,
    sender: mpsc::UnboundedSender<Envelope>,
}

/// The events of one subscriber, in the order of their publication.
#[derive(Debug)]
pub struct Subscription {
    behind: Arc<AtomicUsize>,
    receiver: mpsc::UnboundedReceiver<Envelope>,
}

impl Exchange {
    /// Publishes `event` under `topic` with the present time.
    pub fn publish<M: Message + Name>(
        &self,
        namespace: &str,
        topic: &str,
        event: &M,
    ) -> Result<()> {
        self.publish_any(namespace, topic, any::pack(event))
    }

    /// Publishes an event of the time when no daemon ran; those who subscribe soon after its start get it as well.
    ///
    /// Clients lose their subscriptions with the daemon, so at its start there is nobody yet to be told.
    pub fn recall<M: Message + Name>(&self, namespace: &str, topic: &str, event: &M) -> Result<()> {
        let envelope = Envelope {
            timestamp: Some(crate::time::now()),
            namespace: namespace.to_owned(),
            topic: topic.to_owned(),
            event: Some(any::pack(event)),
        };
        self.forward(envelope.clone())?;
        let recalled = (Instant::now(), envelope);
        self.lock().recalled.push_back(recalled);
        Ok(())
    }

    /// Publishes an event whose type only its publisher knows.
    pub fn publish_any(&self, namespace: &str, topic: &str, event: Any) -> Result<()> {
        self.forward(Envelope {
            timestamp: Some(crate::time::now()),
            namespace: namespace.to_owned(),
            topic: topic.to_owned(),
            event: Some(event),
        })
    }

    /// Hands on an event that another process published.
    pub fn forward(&self, envelope: Envelope) -> Result<()> {
        validate(&envelope)?;
        tracing::debug!(ns = envelope.namespace, topic = envelope.topic, "event");
        self.lock()
            .subscribers
            .retain(|subscriber| subscriber.send(&envelope));
        Ok(())
    }

    /// Returns the events from now on that one of `filters` asks for.
    pub fn subscribe<S: AsRef<str>>(&self, filters: &[S]) -> Result<Subscription> {
        let filter = Filter::parse(filters)?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let behind = Arc::new(AtomicUsize::new(0));
        let subscriber = Subscriber {
            filter,
            behind: behind.clone(),
            sender,
        };
        let mut inner = self.lock();
        let old = |(since, _): &(Instant, Envelope)| since.elapsed() > RECALLED;
        while inner.recalled.front().is_some_and(old) {
            inner.recalled.pop_front();
        }
        for (_, envelope) in &inner.recalled {
            subscriber.send(envelope);
        }
        // Those who left are forgotten here too: there may be no event for long.
        inner.subscribers.retain(|known| !known.sender.is_closed());
        inner.subscribers.push(subscriber);
        Ok(Subscription { behind, receiver })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber {
    /// Hands an event on if it is asked for, and returns whether there is still somebody to take more.
    fn send(&self, envelope: &Envelope) -> bool {
        if !self.filter.matches(envelope) {
            return !self.sender.is_closed();
        }
        self.behind.fetch_add(1, Ordering::Relaxed) < MAX_BEHIND
            && self.sender.send(envelope.clone()).is_ok()
    }
}

impl Subscription {
    /// Waits for the next event; nothing comes after a subscriber was cut off for being too slow.
    pub async fn next(&mut self) -> Option<Envelope> {
        let envelope = self.receiver.recv().await?;
        self.behind.fetch_sub(1, Ordering::Relaxed);
        Some(envelope)
    }
}

impl Fields for Envelope {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path.first()?.as_str() {
            "namespace" => filter::text(&self.namespace),
            "topic" => filter::text(&self.topic),
            "event" => fields::of(self.event.as_ref()?, &path[1..]).map(Cow::Owned),
            _ => None,
        }
    }
}

/// A topic is identifiers, each behind a slash.
fn validate(envelope: &Envelope) -> Result<()> {
    validate_identifier(&envelope.namespace).context(|| "event envelope has invalid namespace")?;
    let topic = envelope.topic.as_str();
    if topic.is_empty() {
        return Err(invalid("envelope topic \"\": must not be empty"));
    }
    let Some(parts) = topic.strip_prefix('/').filter(|parts| !parts.is_empty()) else {
        return Err(invalid(format!(
            "envelope topic {topic:?}: must start with '/' and have at least one component"
        )));
    };
    for part in parts.split('/') {
        validate_identifier(part)
            .context(|| format!("envelope topic {topic:?}: component {part:?}"))?;
    }
    if envelope.timestamp.is_none() {
        return Err(invalid("timestamp must be set on forwarded event"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use api_protos::containerd::events::{ContainerCreate, TaskExit};

    #[tokio::test]
    async fn subscribers_get_what_their_filters_ask_for_in_order() {
        let exchange = Exchange::default();
        let mut all = exchange.subscribe::<&str>(&[]).unwrap();
        let mut tasks = exchange
            .subscribe(&["namespace==moby,topic~=|^/tasks/|"])
            .unwrap();
        let mut of_container = exchange.subscribe(&["event.container_id==c1"]).unwrap();
        let exit = TaskExit {
            container_id: "c1".into(),
            ..Default::default()
        };
        let created = ContainerCreate::default();
        exchange
            .publish("moby", "/containers/create", &created)
            .unwrap();
        exchange.publish("default", "/tasks/exit", &exit).unwrap();
        exchange.publish("moby", "/tasks/exit", &exit).unwrap();
        for topic in ["/containers/create", "/tasks/exit", "/tasks/exit"] {
            assert_eq!(all.next().await.unwrap().topic, topic);
        }
        assert_eq!(tasks.next().await.unwrap().namespace, "moby");
        assert_eq!(of_container.next().await.unwrap().namespace, "default");
    }

    #[test]
    fn topics_are_identifiers_behind_slashes() {
        let exchange = Exchange::default();
        for bad in ["", "/", "a", "/a//b", "/a b"] {
            let error = exchange
                .publish("default", bad, &TaskExit::default())
                .unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{bad}");
        }
        exchange
            .publish("default", "/tasks/exec-added", &TaskExit::default())
            .unwrap();
    }

    #[test]
    fn a_subscriber_that_is_gone_is_forgotten() {
        let exchange = Exchange::default();
        drop(exchange.subscribe::<&str>(&[]).unwrap());
        exchange
            .publish("default", "/tasks/exit", &TaskExit::default())
            .unwrap();
        assert!(exchange.lock().subscribers.is_empty());
    }

    #[tokio::test]
    async fn what_happened_before_the_start_is_told_to_those_who_come_late() {
        let exchange = Exchange::default();
        let mut early = exchange.subscribe::<&str>(&[]).unwrap();
        let exit = TaskExit::default();
        exchange.recall("moby", "/tasks/exit", &exit).unwrap();
        let mut late = exchange.subscribe(&["namespace==moby"]).unwrap();
        let mut other = exchange.subscribe(&["namespace==default"]).unwrap();
        drop(exchange);
        assert_eq!(early.next().await.unwrap().topic, "/tasks/exit");
        assert!(early.next().await.is_none());
        assert_eq!(late.next().await.unwrap().topic, "/tasks/exit");
        assert!(other.next().await.is_none());
    }
}
