//! The restart monitor: keeps tasks as labels of their containers ask for.
//!
//! ```text
//!  every interval, each container with the label `containerd.io/restart.status`, all at once:
//!    its task is asked ──▶ its labels are read ──▶ policy.rs decides ──▶ nothing | stop | count, delete, create, start
//! ```
//!
//! All there is to know is in the labels, so that a daemon that was killed goes on where it was. A container that is
//! being seen to when the next round comes is left out of that one, so that one that hangs holds up no other.

pub mod origin;
pub mod policy;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_protos::containerd::task::v3::{CreateTaskRequest, StateResponse};
use api_protos::containerd::types::Mount;
use api_protos::containerd::v1::types::Status;
use serde::Deserialize;

use crate::blocking::blocking;
use crate::config::duration;
use crate::context::Context;
use crate::error::{Context as _, Error, Kind, Result, invalid};
use crate::labels::Labels;
use crate::metadata::{Container, Containers, Namespaces};
use crate::snapshots::Snapshots;
use crate::tasks::{Create, Tasks};
use policy::{COUNT, Found, LOG_URI, STATUS, Step};

/// The plugin that holds the settings, by its name and by the one that files of version 2 have for it.
pub const PLUGINS: [&str; 2] = [
    "io.containerd.monitor.container.v1.restart",
    "io.containerd.internal.v1.restart",
];

const INTERVAL: Duration = Duration::from_secs(10);

/// Returns the time between two rounds that the table of the plugin names.
pub fn interval(table: Option<&toml::Table>) -> Result<Duration> {
    let Some(value) = table.and_then(|table| table.get("interval")) else {
        return Ok(INTERVAL);
    };
    let interval = value.as_str().and_then(duration::parse);
    match interval {
        Some(Duration::ZERO) => Ok(INTERVAL),
        Some(interval) => Ok(interval),
        None => Err(invalid(format!(
            "{}: interval {value} is no duration",
            PLUGINS[0]
        ))),
    }
}

/// What the monitor works with.
#[derive(Clone, Debug)]
pub struct Parts {
    pub namespaces: Namespaces,
    pub containers: Containers,
    pub snapshots: Snapshots,
    pub tasks: Tasks,
}

/// The monitor; clones share it.
#[derive(Clone, Debug)]
pub struct Monitor {
    parts: Parts,
    marks: Arc<Mutex<HashMap<Name, Mark>>>,
}

/// Namespace and id of a container.
type Name = (String, String);

/// What is to be remembered of a container until the next round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// It is being seen to.
    Busy,
    /// Its task was not there, or not started.
    Waiting,
}

/// What is read of a specification.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    process: Process,
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Process {
    terminal: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Linux {
    mount_label: String,
}

impl Monitor {
    /// Returns a monitor of all containers.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            marks: Arc::default(),
        }
    }

    /// Looks after the containers for ever; the tasks of an earlier daemon must have been found by now.
    pub async fn run(self, interval: Duration) {
        // No client of this daemon has had the time to make a task yet: what has none is not about to get one.
        let mut patient = false;
        loop {
            if let Err(error) = self.round(patient).await {
                tracing::error!("look for containers to restart: {error:#}");
            }
            patient = true;
            tokio::time::sleep(interval).await;
        }
    }

    /// Sees to all containers that have a wanted status and are not being seen to.
    ///
    /// With `patient`, one without a task is left to its client until the next round: it may be making the task now.
    async fn round(&self, patient: bool) -> Result<()> {
        let parts = self.parts.clone();
        let watched = blocking(move || parts.watched()).await?;
        let names: HashSet<Name> = watched.iter().map(name).collect();
        self.lock()
            .retain(|name, mark| *mark == Mark::Busy || names.contains(name));
        for (context, id) in watched {
            let key = name(&(context.clone(), id.clone()));
            let waited = match self.lock().insert(key.clone(), Mark::Busy) {
                Some(Mark::Busy) => continue,
                mark => mark == Some(Mark::Waiting) || !patient,
            };
            let monitor = self.clone();
            tokio::spawn(async move {
                let seen = monitor.see_to(&context, &id, waited).await;
                let waiting = seen.unwrap_or_else(|error| {
                    let ns = context.namespace();
                    tracing::error!(ns, id, "keep a container as it is asked for: {error:#}");
                    false
                });
                match waiting {
                    true => drop(monitor.lock().insert(key, Mark::Waiting)),
                    false => drop(monitor.lock().remove(&key)),
                }
            });
        }
        Ok(())
    }

    /// Does what is to be done about a container; returns whether it needs a task and was left without.
    async fn see_to(&self, context: &Context, id: &str, waited: bool) -> Result<bool> {
        let found = self.find(context, id).await;
        // Labels are read after the task: who says that it shall stop says so first, and then ends it.
        let container = match self.container(context, id).await {
            Err(error) if error.kind() == Kind::NotFound => return Ok(false),
            container => container?,
        };
        match policy::step(&container.labels, found)? {
            Step::Nothing => Ok(false),
            Step::Stop => self.end(context, id).await.map(|()| false),
            Step::Start { .. } if !waited && !matches!(found, Found::Stopped(_)) => Ok(true),
            Step::Start { count } => {
                tracing::info!(ns = context.namespace(), id, count, "restart a container");
                let started = self.start(context, container, count).await;
                started.map(|()| false)
            }
        }
    }

    async fn find(&self, context: &Context, id: &str) -> Found {
        let state = match self.parts.tasks.get(context, id).await {
            Ok(task) => task.state("").await,
            Err(error) => Err(error),
        };
        match state {
            Ok(state) => found(&state),
            Err(error) if error.kind() == Kind::NotFound => Found::Missing,
            Err(error) => {
                tracing::warn!(ns = context.namespace(), id, "ask for a task: {error:#}");
                Found::Unknown
            }
        }
    }

    async fn container(&self, context: &Context, id: &str) -> Result<Container> {
        let containers = self.parts.containers.clone();
        let (context, id) = (context.clone(), id.to_owned());
        blocking(move || containers.get(&context, &id)).await
    }

    /// Kills and deletes a container's task, if there is one.
    async fn end(&self, context: &Context, id: &str) -> Result<()> {
        match self.parts.tasks.get(context, id).await {
            Ok(task) => task.destroy().await,
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn start(&self, context: &Context, container: Container, count: u64) -> Result<()> {
        let id = container.id.clone();
        let spec: Spec = match &container.spec {
            Some(spec) => serde_json::from_slice(&spec.value)
                .map_err(|error| Error::other("decode the specification", error))?,
            None => Spec::default(),
        };
        let output = container.labels.get(LOG_URI).cloned().unwrap_or_default();
        let (parts, owner) = (self.parts.clone(), context.clone());
        // Counted first: a container that brings the daemon down with it must not do so for ever.
        let mounts = blocking(move || {
            parts.count(&owner, &container.id, count)?;
            parts.mounts(&owner, &container, &spec.linux.mount_label)
        })
        .await?;
        self.end(context, &id).await?;
        let request = CreateTaskRequest {
            rootfs: mounts,
            terminal: spec.process.terminal,
            // A terminal has one stream.
            stderr: match spec.process.terminal {
                true => String::new(),
                false => output.clone(),
            },
            stdout: output,
            ..CreateTaskRequest::default()
        };
        let create = Create {
            request,
            ..Create::default()
        };
        self.parts.tasks.create(context, &id, create).await?;
        let task = self.parts.tasks.get(context, &id).await?;
        if let Err(error) = task.start("").await {
            task.delete().await?;
            return Err(error);
        }
        // A client that saw no task may have removed the container meanwhile.
        match self.container(context, &id).await {
            Err(error) if error.kind() == Kind::NotFound => task.destroy().await,
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Mark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parts {
    /// Returns the containers of all namespaces that have a wanted status.
    fn watched(&self) -> Result<Vec<(Context, String)>> {
        let filter = format!("labels.{STATUS:?}");
        let mut watched = Vec::new();
        for (namespace, _) in self.namespaces.list()? {
            let context = Context::new(namespace)?;
            let found = self.containers.list(&context, &[&filter])?.into_iter();
            watched.extend(found.map(|container| (context.clone(), container.id)));
        }
        Ok(watched)
    }

    /// Writes down how often a container has been restarted, and nothing else: clients change its labels too.
    fn count(&self, context: &Context, id: &str, count: u64) -> Result<()> {
        let counted = Container {
            id: id.to_owned(),
            labels: Labels::from([(COUNT.to_owned(), count.to_string())]),
            ..Container::default()
        };
        let path = format!("labels.{COUNT}");
        self.containers
            .update(context, counted, vec![path])
            .map(drop)
    }

    /// Returns the mounts of a container's root file system.
    fn mounts(&self, context: &Context, container: &Container, label: &str) -> Result<Vec<Mount>> {
        if container.snapshot_key.is_empty() {
            return Ok(Vec::new());
        }
        let (snapshotter, key) = (&container.snapshotter, &container.snapshot_key);
        let mounts = self
            .snapshots
            .mounts(context, snapshotter, key)
            .context(|| format!("mounts of snapshot {key:?}"))?;
        let labelled = mounts.into_iter().map(|mut mount| {
            if !label.is_empty() {
                mount.options.push(format!("context={label:?}"));
            }
            mount.into()
        });
        Ok(labelled.collect())
    }
}

fn name((context, id): &(Context, String)) -> Name {
    (context.namespace().to_owned(), id.clone())
}

fn found(state: &StateResponse) -> Found {
    match state.status() {
        Status::Created => Found::Created,
        Status::Running | Status::Paused | Status::Pausing => Found::Running,
        Status::Stopped => Found::Stopped(state.exit_status),
        Status::Unknown => Found::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_ten_seconds_unless_the_file_says_otherwise() {
        let read = |text: &str| interval(Some(&text.parse().unwrap()));
        assert_eq!(interval(None).unwrap(), INTERVAL);
        assert_eq!(read("").unwrap(), INTERVAL);
        assert_eq!(read("interval = \"0s\"").unwrap(), INTERVAL);
        assert_eq!(read("interval = \"1m\"").unwrap(), Duration::from_secs(60));
        for bad in ["interval = 5", "interval = \"soon\""] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
