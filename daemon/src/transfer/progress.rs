//! Progress: what a transfer does, told in containerd's events over a stream that the client opened for it.

use std::collections::HashMap;
use std::time::Duration;

use api_protos::any;
use api_protos::containerd::types;
use api_protos::containerd::types::transfer::Progress as Message;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::images::track::{Job, Stage, Track};
use crate::images::walk::Descriptor;
use crate::streaming::Stream;

/// How often jobs are looked at.
const EVERY: Duration = Duration::from_millis(200);
/// How long the last events may take to leave.
const LAST: Duration = Duration::from_secs(2);

/// Where events go; without a stream, nowhere.
#[derive(Clone, Debug, Default)]
pub struct Progress(Option<mpsc::UnboundedSender<Message>>);

/// Sends the events on.
#[derive(Debug)]
pub struct Forwarder(JoinHandle<()>);

impl Progress {
    /// Returns where events go that are to be sent over `stream`, and what sends them.
    pub fn over(mut stream: Stream) -> (Self, Forwarder) {
        // At most a few events for each blob and look wait here, however slowly the client reads.
        let (sender, mut receiver) = mpsc::unbounded_channel::<Message>();
        let forward = tokio::spawn(async move {
            while let Some(message) = receiver.recv().await {
                if stream.send(any::pack(&message)).await.is_err() {
                    return;
                }
            }
        });
        (Self(Some(sender)), Forwarder(forward))
    }

    /// Tells that something happens.
    pub fn event(&self, event: impl Into<String>) {
        self.send(Message {
            event: event.into(),
            ..Message::default()
        });
    }

    /// Tells that something happens to `name`, which stands for `descriptor`.
    pub fn about(&self, event: &str, name: &str, descriptor: &Descriptor) {
        self.send(Message {
            event: event.to_owned(),
            name: name.to_owned(),
            desc: Some(encode(descriptor)),
            ..Message::default()
        });
    }

    fn send(&self, message: Message) {
        if let Some(sender) = &self.0 {
            let _ = sender.send(message);
        }
    }

    /// Tells how the jobs of `track` get on while `work` goes on; `root` is what those without a parent belong to.
    pub async fn follow<T>(
        &self,
        track: &Track,
        moving: &'static str,
        root: &str,
        work: impl Future<Output = T>,
    ) -> T {
        if self.0.is_none() {
            return work.await;
        }
        let mut told = Told {
            moving,
            root,
            stages: HashMap::new(),
        };
        let mut work = std::pin::pin!(work);
        let mut looks = tokio::time::interval(EVERY);
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                _ = looks.tick() => told.tell(track, self),
            }
        };
        told.tell(track, self);
        done
    }
}

impl Forwarder {
    /// Waits until all events have left, but not for a client that does not read them.
    pub async fn finish(self, progress: Progress) {
        drop(progress);
        let _ = tokio::time::timeout(LAST, self.0).await;
    }
}

/// What the client has been told of each job.
struct Told<'a> {
    /// The event that stands for bytes on their way.
    moving: &'static str,
    root: &'a str,
    stages: HashMap<String, Stage>,
}

impl Told<'_> {
    fn tell(&mut self, track: &Track, progress: &Progress) {
        for job in track.jobs() {
            let now = job.stage();
            let digest = &job.descriptor.digest;
            let before = self.stages.insert(digest.clone(), now);
            if before.is_none() {
                progress.send(self.message(&job, "waiting", 0));
            }
            let before = before.unwrap_or(Stage::Waiting);
            if before == now {
                continue;
            }
            let size = job.descriptor.size.max(0) as u64;
            let steps: &[(&str, u64)] = match (before, now) {
                (_, Stage::Waiting) => &[],
                (_, Stage::Moving(bytes)) => &[(self.moving, bytes)],
                (_, Stage::Exists) => &[("already exists", size)],
                (_, Stage::Complete) => &[("complete", size)],
                (Stage::Waiting | Stage::Moving(_), Stage::Extracting(bytes)) => {
                    &[("complete", size), ("extracting", bytes)]
                }
                (_, Stage::Extracting(bytes)) => &[("extracting", bytes)],
                // Clients from before containerd 2.2 know no "extracted" and end their bar with "complete".
                (_, Stage::Extracted) => &[("extracted", size), ("complete", size)],
            };
            for (event, bytes) in steps {
                progress.send(self.message(&job, event, *bytes));
            }
        }
    }

    fn message(&self, job: &Job, event: &str, bytes: u64) -> Message {
        let parents = match job.parents.is_empty() {
            true => vec![self.root.to_owned()],
            false => job.parents.clone(),
        };
        Message {
            event: event.to_owned(),
            name: job.descriptor.reference(),
            parents,
            progress: bytes as i64,
            total: job.descriptor.size,
            desc: Some(encode(&job.descriptor)),
        }
    }
}

fn encode(descriptor: &Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.clone(),
        size: descriptor.size,
        annotations: descriptor.annotations.clone().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_tell_every_step_of_a_blob_even_if_it_was_not_seen() {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let progress = Progress(Some(sender));
        let track = Track::default();
        let descriptor = Descriptor {
            media_type: crate::media::OCI_LAYER_GZIP.into(),
            digest: "sha256:a".into(),
            size: 10,
            ..Descriptor::default()
        };
        let mut told = Told {
            moving: "downloading",
            root: "image",
            stages: HashMap::new(),
        };
        let job = track.job(&descriptor, None);
        told.tell(&track, &progress);
        job.set(Stage::Moving(0));
        job.moved(4);
        told.tell(&track, &progress);
        told.tell(&track, &progress);
        job.set(Stage::Extracted);
        told.tell(&track, &progress);
        drop(progress);
        let mut events = Vec::new();
        while let Some(message) = receiver.recv().await {
            assert_eq!(message.name, "layer-sha256:a");
            assert_eq!(message.parents, ["image"]);
            events.push((message.event, message.progress));
        }
        let expected = [
            ("waiting", 0),
            ("downloading", 4),
            ("extracted", 10),
            ("complete", 10),
        ];
        assert_eq!(
            events,
            expected.map(|(event, bytes)| (event.to_owned(), bytes))
        );
    }
}
