//! The event exchange: what is published goes to every subscriber whose filters ask for it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api_protos::any;
use api_protos::containerd::events::TaskExit;
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

/// How long after the start those who subscribe for the first time still get what they have missed.
///
/// Clients lose their subscriptions with the daemon, and some of them take seconds to notice that it is there again. One
/// that subscribes a second time has been away itself, and asks for what there is: dockerd would take an end for two.
const CATCHING_UP: Duration = Duration::from_secs(60);

const EXIT: &str = "/tasks/exit";
/// What clients cannot find out when they have missed it. Not that a task started: who asked for that was answered, and
/// dockerd takes a task for its own whose start it has given up meanwhile.
const KEPT: [&str; 4] = [EXIT, "/tasks/oom", "/tasks/paused", "/tasks/resumed"];

/// Takes events from the services and the shims and hands them to the subscribers.
#[derive(Debug, Default)]
pub struct Exchange {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    subscribers: Vec<Subscriber>,
    started: Instant,
    /// What those who subscribe soon will have missed.
    missed: Vec<Missed>,
    /// The ends of processes that were told since the start.
    ends: HashSet<End>,
    /// The filters by which those are known who have subscribed since the start.
    caught_up: HashSet<Vec<String>>,
}

#[derive(Debug)]
struct Missed {
    container: String,
    envelope: Envelope,
}

/// The end of a process that was seen.
#[derive(Debug, PartialEq, Eq, Hash)]
struct End {
    namespace: String,
    container: String,
    process: String,
    pid: u32,
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

    /// Publishes an event of the time when no daemon ran, which is kept for those who subscribe soon after its start.
    pub fn recall<M: Message + Name>(&self, namespace: &str, topic: &str, event: &M) -> Result<()> {
        let envelope = Envelope {
            timestamp: Some(crate::time::now()),
            namespace: namespace.to_owned(),
            topic: topic.to_owned(),
            event: Some(any::pack(event)),
        };
        self.hand_on(envelope, true)
    }

    /// Forgets what would be told of a task to those who subscribe soon: a client that deleted it knows how it ended.
    pub fn forget(&self, namespace: &str, container: &str) {
        let mut inner = self.lock();
        inner.missed.retain(|missed| {
            missed.container != container || missed.envelope.namespace != namespace
        });
        inner
            .ends
            .retain(|end| end.container != container || end.namespace != namespace);
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
        let keep = KEPT.contains(&envelope.topic.as_str());
        self.hand_on(envelope, keep)
    }

    fn hand_on(&self, envelope: Envelope, keep: bool) -> Result<()> {
        validate(&envelope)?;
        tracing::debug!(ns = envelope.namespace, topic = envelope.topic, "event");
        let mut inner = self.lock();
        if inner.is_catching_up() {
            // An end may be recalled by the daemon and still be told by the shim, which does not know.
            if let Some(end) = End::of(&envelope)
                && !inner.ends.insert(end)
            {
                return Ok(());
            }
            if keep {
                inner.missed.push(Missed::new(&envelope));
            }
        }
        inner
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
        let filters = filters.iter().map(|filter| filter.as_ref().to_owned());
        if inner.is_catching_up() && inner.caught_up.insert(filters.collect()) {
            for missed in &inner.missed {
                subscriber.send(&missed.envelope);
            }
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

impl Default for Inner {
    fn default() -> Self {
        Self {
            subscribers: Vec::new(),
            started: Instant::now(),
            missed: Vec::new(),
            ends: HashSet::new(),
            caught_up: HashSet::new(),
        }
    }
}

impl Inner {
    /// Says whether clients may still be about to subscribe again; once they are not, nothing is kept for them.
    fn is_catching_up(&mut self) -> bool {
        let catching_up = self.started.elapsed() < CATCHING_UP;
        if !catching_up {
            self.missed = Vec::new();
            self.ends = HashSet::new();
            self.caught_up = HashSet::new();
        }
        catching_up
    }
}

impl Missed {
    fn new(envelope: &Envelope) -> Self {
        let path = ["event".to_owned(), "container_id".to_owned()];
        let container = envelope.field(&path).unwrap_or_default().into_owned();
        Self {
            container,
            envelope: envelope.clone(),
        }
    }
}

impl End {
    /// Returns the end that an event tells of; one that nobody saw has no pid, and is like any other.
    fn of(envelope: &Envelope) -> Option<Self> {
        let event = envelope.event.as_ref().filter(|_| envelope.topic == EXIT)?;
        let exit = any::unpack::<TaskExit>(event)?.ok()?;
        (exit.pid != 0).then(|| Self {
            namespace: envelope.namespace.clone(),
            container: exit.container_id,
            process: exit.id,
            pid: exit.pid,
        })
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

    fn exit(container: &str) -> TaskExit {
        TaskExit {
            container_id: container.into(),
            id: container.into(),
            pid: 7,
            ..TaskExit::default()
        }
    }

    #[tokio::test]
    async fn those_who_come_late_have_missed_no_end_but_of_tasks_that_are_deleted() {
        let exchange = Exchange::default();
        for container in ["c1", "c2"] {
            exchange
                .publish("moby", "/tasks/start", &exit(container))
                .unwrap();
            exchange
                .publish("moby", "/tasks/exit", &exit(container))
                .unwrap();
        }
        exchange.forget("moby", "c1");
        let mut late = exchange.subscribe::<&str>(&[]).unwrap();
        let mut again = exchange.subscribe::<&str>(&[]).unwrap();
        drop(exchange);
        let event = late.next().await.unwrap().event.unwrap();
        let end: TaskExit = any::unpack(&event).unwrap().unwrap();
        assert_eq!(end, exit("c2"));
        assert!(late.next().await.is_none());
        assert!(again.next().await.is_none());
    }

    #[tokio::test]
    async fn an_end_is_told_once_by_shim_or_daemon() {
        let exchange = Exchange::default();
        let mut early = exchange.subscribe::<&str>(&[]).unwrap();
        exchange.recall("moby", "/tasks/exit", &exit("c1")).unwrap();
        exchange
            .publish("moby", "/tasks/exit", &exit("c1"))
            .unwrap();
        // The next task of the same container may have the same pid.
        exchange.forget("moby", "c1");
        exchange
            .publish("moby", "/tasks/exit", &exit("c1"))
            .unwrap();
        drop(exchange);
        assert!(early.next().await.is_some());
        assert!(early.next().await.is_some());
        assert!(early.next().await.is_none());
    }
}
