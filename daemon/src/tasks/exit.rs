//! How a task ends, and telling it to those who follow the events when its shim no longer can.

use std::sync::atomic::{AtomicBool, Ordering};

use api_protos::any;
use api_protos::containerd::events::{TaskDelete, TaskExit};
use api_protos::containerd::types::Envelope;
use prost_types::Timestamp;

use super::bundle::Bundle;
use crate::error::Result;
use crate::events::Exchange;

/// The status of a process whose end nobody saw.
const UNSEEN: u32 = 255;

const EXIT: &str = "/tasks/exit";
const DELETE: &str = "/tasks/delete";

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exit {
    pub pid: u32,
    pub status: u32,
    pub at: Timestamp,
}

impl Exit {
    /// Returns the end that nobody saw.
    pub fn unseen() -> Self {
        Self {
            pid: 0,
            status: UNSEEN,
            at: crate::time::now(),
        }
    }

    fn event(&self, id: &str) -> TaskExit {
        TaskExit {
            container_id: id.to_owned(),
            id: id.to_owned(),
            pid: self.pid,
            exit_status: self.status,
            exited_at: Some(self.at),
        }
    }

    fn deletion(&self, id: &str) -> TaskDelete {
        TaskDelete {
            container_id: id.to_owned(),
            pid: self.pid,
            exit_status: self.status,
            exited_at: Some(self.at),
            ..TaskDelete::default()
        }
    }
}

/// Which of the two last events of a task have been published.
#[derive(Debug, Default)]
pub struct Told {
    exit: AtomicBool,
    delete: AtomicBool,
}

impl Told {
    /// Notes that the shim has published an event.
    pub fn note(&self, topic: &str) {
        match topic {
            EXIT => self.exit.store(true, Ordering::Relaxed),
            DELETE => self.delete.store(true, Ordering::Relaxed),
            _ => {}
        }
    }

    /// Publishes those of the last events that the shim did not get to.
    pub fn finish(&self, bundle: &Bundle, exit: Exit, events: &Exchange) -> Result<()> {
        if !self.exit.swap(true, Ordering::Relaxed) {
            events.publish(&bundle.namespace, EXIT, &exit.event(&bundle.id))?;
        }
        if !self.delete.swap(true, Ordering::Relaxed) {
            events.publish(&bundle.namespace, DELETE, &exit.deletion(&bundle.id))?;
        }
        Ok(())
    }
}

/// Tells of a task whose shim ended while no daemon ran.
pub fn recall_end(bundle: &Bundle, exit: Exit, events: &Exchange) -> Result<()> {
    recall_exit(bundle, exit, events)?;
    events.recall(&bundle.namespace, DELETE, &exit.deletion(&bundle.id))
}

/// Tells of a task whose first process may have ended while no daemon ran: its shim had nobody to tell.
pub fn recall_exit(bundle: &Bundle, exit: Exit, events: &Exchange) -> Result<()> {
    events.recall(&bundle.namespace, EXIT, &exit.event(&bundle.id))
}

/// Returns the container whose first process the event is the end of, or whose task it deletes.
pub fn subject(envelope: &Envelope) -> Option<String> {
    let event = envelope.event.as_ref()?;
    match envelope.topic.as_str() {
        EXIT => {
            let exit = any::unpack::<TaskExit>(event)?.ok()?;
            (exit.id == exit.container_id).then_some(exit.container_id)
        }
        DELETE => {
            let delete = any::unpack::<TaskDelete>(event)?.ok()?;
            (delete.id.is_empty() || delete.id == delete.container_id)
                .then_some(delete.container_id)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> Bundle {
        Bundle {
            namespace: "default".into(),
            id: "c1".into(),
            path: "/b".into(),
        }
    }

    fn envelope(topic: &str, id: &str) -> Envelope {
        let exit = TaskExit {
            container_id: "c1".into(),
            id: id.into(),
            ..TaskExit::default()
        };
        Envelope {
            topic: topic.into(),
            event: Some(any::pack(&exit)),
            ..Envelope::default()
        }
    }

    #[tokio::test]
    async fn what_the_shim_published_is_not_published_again() {
        for (published, wanted) in [
            (&[][..], &[EXIT, DELETE][..]),
            (&[EXIT][..], &[DELETE][..]),
            (&[EXIT, DELETE][..], &[][..]),
        ] {
            let events = Exchange::default();
            let mut seen = events.subscribe::<&str>(&[]).unwrap();
            let told = Told::default();
            published.iter().for_each(|topic| told.note(topic));
            told.finish(&bundle(), Exit::unseen(), &events).unwrap();
            told.finish(&bundle(), Exit::unseen(), &events).unwrap();
            drop(events);
            let mut topics = Vec::new();
            while let Some(envelope) = seen.next().await {
                topics.push(envelope.topic);
            }
            assert_eq!(topics, wanted);
        }
    }

    #[test]
    fn only_the_first_process_ends_a_task() {
        assert_eq!(subject(&envelope(EXIT, "c1")), Some("c1".into()));
        assert_eq!(subject(&envelope(EXIT, "exec1")), None);
        assert_eq!(subject(&envelope("/tasks/start", "c1")), None);
    }
}
