//! The pods and containers: in memory for those who ask, and in the metadata store, from where a daemon that starts
//! anew has them.
//!
//! A pod is a record of the sandbox store, a container one of the container store; what CRI knows of either is an
//! extension of that record, under the key that containerd's CRI plugin uses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_protos::runtime::v1::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};
use prost::Message;
use prost_types::Any;
use tokio::sync::watch;

use super::io::Io;
use super::state::{End, Event, Refused, State};
use crate::blocking::blocking;
use crate::context::Context;
use crate::error::{Error, Kind, Result, not_found};
use crate::labels::Labels;
use crate::metadata::{self, Sandboxes};

/// The namespace of all that CRI makes.
pub const NAMESPACE: &str = "k8s.io";
/// The label that tells sandboxes and containers from each other.
pub const KIND: &str = "io.cri-containerd.kind";

const POD: &str = "io.cri-containerd.sandbox.metadata";
const CONTAINER: &str = "io.cri-containerd.container.metadata";
const STATUS: &str = "io.cri-containerd.container.status";
const POD_TYPE: &str = "corten.cri.v1.Pod";
const CONTAINER_TYPE: &str = "corten.cri.v1.Container";
const STATUS_TYPE: &str = "corten.cri.v1.Status";
/// What sandboxes are run by, as the sandbox store has it.
const SANDBOXER: &str = "podsandbox";

/// What is known of a pod.
#[derive(Clone, PartialEq, Message)]
pub struct PodRecord {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub config: Option<PodSandboxConfig>,
    #[prost(string, tag = "3")]
    pub handler: String,
    /// Where its network namespace is mounted; empty for the node's network.
    #[prost(string, tag = "4")]
    pub netns: String,
    /// The main address first.
    #[prost(string, repeated, tag = "5")]
    pub ips: Vec<String>,
    /// What the network plugins answered, which they want to see again.
    #[prost(string, repeated, tag = "6")]
    pub networks: Vec<String>,
    /// Nanoseconds after the epoch.
    #[prost(int64, tag = "7")]
    pub created_at: i64,
    #[prost(bool, tag = "8")]
    pub ready: bool,
    #[prost(uint32, tag = "9")]
    pub pid: u32,
    #[prost(string, tag = "10")]
    pub image: String,
    /// What plugins have been told last of it.
    #[prost(enumeration = "Told", tag = "11")]
    pub told: i32,
}

/// What plugins have been told last of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub enum Told {
    Nothing = 0,
    Run = 1,
    Stopped = 2,
}

/// What does not change of a container.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerRecord {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub pod: String,
    #[prost(message, optional, tag = "3")]
    pub config: Option<ContainerConfig>,
    /// The image's id.
    #[prost(string, tag = "4")]
    pub image: String,
    /// The image by its repository and digest, or, without one, by its id.
    #[prost(string, tag = "5")]
    pub image_ref: String,
    #[prost(string, tag = "6")]
    pub log: String,
    #[prost(string, tag = "7")]
    pub stop_signal: String,
    #[prost(int64, tag = "8")]
    pub created_at: i64,
    #[prost(string, tag = "9")]
    pub snapshotter: String,
}

/// What changes of a container.
#[derive(Clone, PartialEq, Message)]
struct StatusRecord {
    #[prost(enumeration = "Phase", tag = "1")]
    phase: i32,
    #[prost(uint32, tag = "2")]
    pid: u32,
    #[prost(int64, tag = "3")]
    started_at: i64,
    #[prost(int64, tag = "4")]
    finished_at: i64,
    #[prost(int32, tag = "5")]
    exit_code: i32,
    #[prost(string, tag = "6")]
    reason: String,
    #[prost(string, tag = "7")]
    message: String,
    #[prost(message, optional, tag = "8")]
    resources: Option<LinuxContainerResources>,
    #[prost(bool, tag = "9")]
    oom: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum Phase {
    Created = 0,
    Starting = 1,
    Running = 2,
    Exited = 3,
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    pub id: String,
    record: Mutex<PodRecord>,
    /// Whoever changes what the pod is made of has this.
    pub turn: tokio::sync::Mutex<()>,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    pub id: String,
    pub record: ContainerRecord,
    status: watch::Sender<Status>,
    pub io: Io,
    /// Whoever starts, stops or removes the container has this.
    pub turn: tokio::sync::Mutex<()>,
    stats: Mutex<Option<Sample>>,
}

/// A container's state and limits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    pub state: State,
    pub resources: LinuxContainerResources,
}

/// How much processor time had been used at some time; both are nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    pub at: i64,
    pub usage: u64,
}

/// The pods and containers.
#[derive(Debug)]
pub struct Store {
    pub context: Context,
    sandboxes: Sandboxes,
    records: metadata::Containers,
    pods: Mutex<BTreeMap<String, Arc<Pod>>>,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    names: Mutex<HashMap<String, String>>,
}

/// A name that is nobody else's; it is free again when this is dropped, unless it is kept.
#[derive(Debug)]
pub struct Reserved {
    store: Arc<Store>,
    name: String,
    kept: bool,
}

impl Pod {
    /// Returns a pod of a record.
    pub fn new(id: &str, record: PodRecord) -> Arc<Self> {
        Arc::new(Self {
            id: id.to_owned(),
            record: Mutex::new(record),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// Returns what is known of it now.
    pub fn record(&self) -> PodRecord {
        lock(&self.record).clone()
    }

    /// Changes what is known of it, to be written down with the next change.
    pub fn note(&self, change: impl FnOnce(&mut PodRecord)) {
        change(&mut lock(&self.record));
    }

    /// Returns its settings.
    pub fn config(&self) -> PodSandboxConfig {
        self.record().config.unwrap_or_default()
    }
}

impl Container {
    /// Returns a container of a record.
    pub fn new(id: &str, record: ContainerRecord, status: Status, io: Io) -> Arc<Self> {
        Arc::new(Self {
            id: id.to_owned(),
            record,
            status: watch::Sender::new(status),
            io,
            turn: tokio::sync::Mutex::default(),
            stats: Mutex::default(),
        })
    }

    /// Returns its settings.
    pub fn config(&self) -> ContainerConfig {
        self.record.config.clone().unwrap_or_default()
    }

    /// Returns its state and limits now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Returns its state now.
    pub fn state(&self) -> State {
        self.status.borrow().state.clone()
    }

    /// Waits until it has ended.
    pub async fn ended(&self) -> End {
        let mut status = self.status.subscribe();
        let ended = status.wait_for(|status| status.state.end().is_some()).await;
        let end = ended.ok().and_then(|status| status.state.end().cloned());
        end.unwrap_or_default()
    }

    /// Takes a sample of used processor time and returns the one before it.
    pub fn sample(&self, sample: Sample) -> Option<Sample> {
        lock(&self.stats).replace(sample)
    }
}

impl Store {
    /// Returns a store without anything; see [`Store::load`].
    pub fn new(sandboxes: Sandboxes, records: metadata::Containers) -> Result<Self> {
        Ok(Self {
            context: Context::new(NAMESPACE)?,
            sandboxes,
            records,
            pods: Mutex::default(),
            containers: Mutex::default(),
            names: Mutex::default(),
        })
    }

    /// Reserves a name, or fails if somebody else has it.
    pub fn reserve(self: &Arc<Self>, name: &str, id: &str) -> Result<Reserved> {
        let mut names = lock(&self.names);
        if let Some(holder) = names.get(name) {
            return Err(Error::new(
                Kind::Unknown,
                format!(
                    "failed to reserve name {name:?}: name {name:?} is reserved for {holder:?}"
                ),
            ));
        }
        names.insert(name.to_owned(), id.to_owned());
        Ok(Reserved {
            store: self.clone(),
            name: name.to_owned(),
            kept: false,
        })
    }

    /// Returns all pods.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        lock(&self.pods).values().cloned().collect()
    }

    /// Returns all containers.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        lock(&self.containers).values().cloned().collect()
    }

    /// Returns the containers of a pod.
    pub fn containers_of(&self, pod: &str) -> Vec<Arc<Container>> {
        let mut containers = self.containers();
        containers.retain(|container| container.record.pod == pod);
        containers
    }

    /// Returns the pod whose id is, or alone begins with, `id`.
    pub fn pod(&self, id: &str) -> Result<Arc<Pod>> {
        find(&lock(&self.pods), id).ok_or_else(|| not_found("sandbox", id))
    }

    /// Returns the container whose id is, or alone begins with, `id`.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        find(&lock(&self.containers), id).ok_or_else(|| not_found("container", id))
    }

    /// Makes a pod known.
    pub fn add_pod(&self, pod: Arc<Pod>) {
        lock(&self.pods).insert(pod.id.clone(), pod);
    }

    /// Makes a container known.
    pub fn add_container(&self, container: Arc<Container>) {
        lock(&self.containers).insert(container.id.clone(), container);
    }

    /// Writes down a pod that is new.
    pub async fn create_pod(&self, id: &str, record: PodRecord, runtime: &str) -> Result<()> {
        let sandbox = metadata::Sandbox {
            id: id.to_owned(),
            labels: Labels::from([("name".into(), record.name.clone())]),
            runtime: runtime.to_owned(),
            sandboxer: SANDBOXER.into(),
            extensions: BTreeMap::from([(POD.into(), encode(POD_TYPE, &record))]),
            ..metadata::Sandbox::default()
        };
        let (sandboxes, context) = (self.sandboxes.clone(), self.context.clone());
        blocking(move || sandboxes.create(&context, sandbox).map(drop)).await
    }

    /// Changes what is known of a pod, and writes it down.
    pub async fn update_pod(&self, pod: &Pod, change: impl FnOnce(&mut PodRecord)) -> Result<()> {
        let record = {
            let mut record = lock(&pod.record);
            change(&mut record);
            record.clone()
        };
        let sandbox = metadata::Sandbox {
            id: pod.id.clone(),
            extensions: BTreeMap::from([(POD.into(), encode(POD_TYPE, &record))]),
            ..metadata::Sandbox::default()
        };
        let (sandboxes, context) = (self.sandboxes.clone(), self.context.clone());
        let paths = vec![format!("extensions.{POD}")];
        blocking(move || sandboxes.update(&context, sandbox, paths).map(drop)).await
    }

    /// Forgets a pod.
    pub async fn remove_pod(&self, id: &str) -> Result<()> {
        let (sandboxes, context) = (self.sandboxes.clone(), self.context.clone());
        let key = id.to_owned();
        let removed = blocking(move || sandboxes.delete(&context, &key)).await;
        ignore_missing(removed)?;
        lock(&self.pods).remove(id);
        lock(&self.names).retain(|_, holder| holder != id);
        Ok(())
    }

    /// Forgets a container, whose record is gone already.
    pub fn forget_container(&self, id: &str) {
        lock(&self.containers).remove(id);
        lock(&self.names).retain(|_, holder| holder != id);
    }

    /// Returns the extensions of a container's record.
    pub fn extensions(record: &ContainerRecord, status: &Status) -> BTreeMap<String, Any> {
        BTreeMap::from([
            (CONTAINER.into(), encode(CONTAINER_TYPE, record)),
            (
                STATUS.into(),
                encode(STATUS_TYPE, &StatusRecord::from(status)),
            ),
        ])
    }

    /// Has something happen to a container, and writes it down; nothing changes if that may not be.
    pub async fn happen(&self, container: &Container, event: Event) -> Result<Result<(), Refused>> {
        let mut refused = None;
        container
            .status
            .send_modify(|status| match status.state.clone().apply(event) {
                Ok(state) => status.state = state,
                Err(reason) => refused = Some(reason),
            });
        match refused {
            Some(refused) => Ok(Err(refused)),
            None => self.save(container).await.map(Ok),
        }
    }

    /// Changes a container's limits, and writes them down.
    pub async fn set_resources(
        &self,
        container: &Container,
        resources: LinuxContainerResources,
    ) -> Result<()> {
        container
            .status
            .send_modify(|status| status.resources = resources);
        self.save(container).await
    }

    async fn save(&self, container: &Container) -> Result<()> {
        let status = StatusRecord::from(&container.status());
        let record = metadata::Container {
            id: container.id.clone(),
            extensions: BTreeMap::from([(STATUS.into(), encode(STATUS_TYPE, &status))]),
            ..metadata::Container::default()
        };
        let (records, context) = (self.records.clone(), self.context.clone());
        let paths = vec![format!("extensions.{STATUS}")];
        blocking(move || records.update(&context, record, paths).map(drop)).await
    }

    /// Returns the pods and containers that were written down; `io` opens the streams of a container.
    ///
    /// Returns the ids of all containers that have a record, be it one that is not understood.
    pub async fn load(
        &self,
        io: impl Fn(&str, &ContainerRecord) -> Io,
    ) -> Result<BTreeSet<String>> {
        let (sandboxes, records) = (self.sandboxes.clone(), self.records.clone());
        let context = self.context.clone();
        let (sandboxes, records) = blocking(move || {
            let sandboxes = sandboxes.list::<&str>(&context, &[])?;
            Ok((sandboxes, records.list::<&str>(&context, &[])?))
        })
        .await?;
        for sandbox in sandboxes
            .iter()
            .filter(|sandbox| sandbox.sandboxer == SANDBOXER)
        {
            if let Some(record) = decode::<PodRecord>(sandbox.extensions.get(POD), POD_TYPE) {
                lock(&self.names).insert(record.name.clone(), sandbox.id.clone());
                self.add_pod(Pod::new(&sandbox.id, record));
            }
        }
        for found in &records {
            let extension = found.extensions.get(CONTAINER);
            let Some(record) = decode::<ContainerRecord>(extension, CONTAINER_TYPE) else {
                continue;
            };
            let status = decode::<StatusRecord>(found.extensions.get(STATUS), STATUS_TYPE);
            let status = Status::from(status.unwrap_or_default());
            lock(&self.names).insert(record.name.clone(), found.id.clone());
            let io = io(&found.id, &record);
            self.add_container(Container::new(&found.id, record, status, io));
        }
        Ok(records.into_iter().map(|found| found.id).collect())
    }
}

impl Reserved {
    /// Keeps the name until the pod or container is forgotten.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.kept {
            lock(&self.store.names).remove(&self.name);
        }
    }
}

impl From<&Status> for StatusRecord {
    fn from(status: &Status) -> Self {
        let mut record = Self {
            resources: Some(status.resources.clone()),
            started_at: status.state.started_at(),
            ..Self::default()
        };
        let phase = match &status.state {
            State::Created => Phase::Created,
            State::Starting => Phase::Starting,
            State::Running { pid, oom, .. } => {
                (record.pid, record.oom) = (*pid, *oom);
                Phase::Running
            }
            State::Exited { end, .. } => {
                record.finished_at = end.finished_at;
                record.exit_code = end.exit_code;
                record.reason.clone_from(&end.reason);
                record.message.clone_from(&end.message);
                Phase::Exited
            }
        };
        record.phase = phase.into();
        record
    }
}

impl From<StatusRecord> for Status {
    fn from(record: StatusRecord) -> Self {
        let (pid, started_at, oom) = (record.pid, record.started_at, record.oom);
        let state = match record.phase() {
            Phase::Created => State::Created,
            Phase::Starting => State::Starting,
            Phase::Running => State::Running {
                pid,
                started_at,
                oom,
            },
            Phase::Exited => State::Exited {
                started_at,
                end: End {
                    finished_at: record.finished_at,
                    exit_code: record.exit_code,
                    reason: record.reason,
                    message: record.message,
                },
            },
        };
        Self {
            state,
            resources: record.resources.unwrap_or_default(),
        }
    }
}

/// Takes that something is not there for success.
pub fn ignore_missing(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        result => result,
    }
}

fn encode(type_url: &str, record: &impl Message) -> Any {
    Any {
        type_url: type_url.into(),
        value: record.encode_to_vec(),
    }
}

fn decode<R: Message + Default>(any: Option<&Any>, type_url: &str) -> Option<R> {
    let any = any.filter(|any| any.type_url == type_url)?;
    R::decode(any.value.as_slice()).ok()
}

/// Returns what has the id `id`, or is alone in having one that begins so.
fn find<T>(all: &BTreeMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if id.is_empty() {
        return None;
    }
    let mut found = all
        .range(id.to_owned()..)
        .take_while(|(key, _)| key.starts_with(id));
    let (key, first) = found.next()?;
    match key == id || found.next().is_none() {
        true => Some(first.clone()),
        false => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_may_be_shortened_as_long_as_they_are_clear() {
        let all: BTreeMap<String, Arc<u8>> = [("abc", 1), ("abd", 2), ("b", 3), ("bc", 4)]
            .map(|(id, value)| (id.to_owned(), Arc::new(value)))
            .into();
        for (id, found) in [
            ("abc", Some(1)),
            ("ab", None),
            ("abd", Some(2)),
            ("b", Some(3)),
            ("bc", Some(4)),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(find(&all, id).as_deref().copied(), found, "{id}");
        }
    }

    #[test]
    fn states_survive_being_written_down() {
        let states = [
            State::Created,
            State::Starting,
            State::Running {
                pid: 7,
                started_at: 1,
                oom: true,
            },
            State::Exited {
                started_at: 1,
                end: End {
                    finished_at: 2,
                    exit_code: 3,
                    reason: "Error".into(),
                    message: "m".into(),
                },
            },
        ];
        for state in states {
            let status = Status {
                state,
                resources: LinuxContainerResources {
                    cpu_shares: 5,
                    ..LinuxContainerResources::default()
                },
            };
            let any = encode(STATUS_TYPE, &StatusRecord::from(&status));
            let record: StatusRecord = decode(Some(&any), STATUS_TYPE).unwrap();
            assert_eq!(Status::from(record), status);
        }
    }
}
