//! How a task ends, and telling it to those who follow the events when its shim no longer can.

use std::sync::OnceLock;
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

/// One of the two last events of a task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Last {
    /// The first process has ended.
    Exit(Exit),
    /// The task was deleted.
    Delete,
}

impl Last {
    /// Reads an event, and returns whose last one it is if it is one.
    pub fn of(envelope: &Envelope) -> Option<(String, Self)> {
        let event = envelope.event.as_ref()?;
        match envelope.topic.as_str() {
            EXIT => {
                let exit = any::unpack::<TaskExit>(event)?.ok()?;
                let end = Exit {
                    pid: exit.pid,
                    status: exit.exit_status,
                    at: exit.exited_at.unwrap_or_default(),
                };
                let first = exit.id == exit.container_id;
                first.then_some((exit.container_id, Self::Exit(end)))
            }
            DELETE => {
                let delete = any::unpack::<TaskDelete>(event)?.ok()?;
                let first = delete.id.is_empty() || delete.id == delete.container_id;
                first.then_some((delete.container_id, Self::Delete))
            }
            _ => None,
        }
    }
}

/// What has been published of the two last events of a task.
#[derive(Debug, Default)]
pub struct Told {
    exit: OnceLock<Exit>,
    delete: AtomicBool,
}

impl Told {
    /// Notes what has been published.
    pub fn note(&self, last: Last) {
        match last {
            // Nothing ends twice.
            Last::Exit(exit) => drop(self.exit.set(exit)),
            Last::Delete => self.delete.store(true, Ordering::Relaxed),
        }
    }

    /// Returns how the task ended: as was told, or else as was `found` when its shim was gone.
    pub fn end(&self, found: Exit) -> Exit {
        self.exit.get().copied().unwrap_or(found)
    }

    /// Publishes those of the last events that the shim did not get to.
    pub fn finish(&self, bundle: &Bundle, exit: Exit, events: &Exchange) -> Result<()> {
        if self.exit.set(exit).is_ok() {
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
            exit_status: 7,
            ..TaskExit::default()
        };
        Envelope {
            topic: topic.into(),
            event: Some(any::pack(&exit)),
            ..Envelope::default()
        }
    }

    fn seven() -> Exit {
        Exit {
            pid: 0,
            status: 7,
            at: Timestamp::default(),
        }
    }

    #[tokio::test]
    async fn what_the_shim_published_is_not_published_again() {
        let exit = Last::Exit(seven());
        for (published, wanted) in [
            (&[][..], &[EXIT, DELETE][..]),
            (&[exit][..], &[DELETE][..]),
            (&[exit, Last::Delete][..], &[][..]),
        ] {
            let events = Exchange::default();
            let mut seen = events.subscribe::<&str>(&[]).unwrap();
            let told = Told::default();
            published.iter().for_each(|last| told.note(*last));
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
    fn an_end_that_was_told_is_the_end() {
        let told = Told::default();
        assert_eq!(told.end(Exit::unseen()).status, UNSEEN);
        told.note(Last::Exit(seven()));
        assert_eq!(told.end(Exit::unseen()), seven());
    }

    #[test]
    fn only_the_first_process_ends_a_task() {
        let end = ("c1".into(), Last::Exit(seven()));
        assert_eq!(Last::of(&envelope(EXIT, "c1")), Some(end));
        assert_eq!(Last::of(&envelope(EXIT, "exec1")), None);
        assert_eq!(Last::of(&envelope("/tasks/start", "c1")), None);
    }
}
