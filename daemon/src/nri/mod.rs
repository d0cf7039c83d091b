//! The Node Resource Interface: plugins that are told of pods and containers, and shape the latter.
//!
//! | file | what |
//! |---|---|
//! | `config.rs` | the keys of containerd's NRI plugin |
//! | `plugin.rs` | one plugin: how it registers, what it is told |
//! | `launch.rs` | plugins that are started by the daemon |
//! | `owners.rs`, `merge.rs` | what several plugins want of one container, and whose word counts |
//!
//! A plugin connects (or is started with a connection), registers, is configured, and is told what there is; from then
//! on it is asked about each event that it wants to know of, in the order of the plugins' numbers. One that does not
//! answer in time is let go. Whoever tells of events holds the [gate](Nri::hold) meanwhile, so that nothing changes
//! between what a new plugin is told at first and the events that follow.

pub mod config;
mod launch;
mod merge;
mod owners;
mod plugin;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api_protos::nri::pkg::api::v1alpha1::{
    Container, ContainerAdjustment, ContainerEviction, ContainerUpdate, CreateContainerRequest,
    CreateContainerResponse, Event, LinuxResources, PluginInstance, PodSandbox,
    StartContainerRequest, StopContainerResponse, UpdateContainerRequest, UpdateContainerResponse,
    UpdatePodSandboxRequest, UpdatePodSandboxResponse, ValidateContainerAdjustmentRequest,
    ValidateContainerAdjustmentResponse,
};
use tokio::net::UnixListener;
use tokio::sync::{Mutex, OwnedRwLockReadGuard, RwLock, mpsc, oneshot};

use crate::config::Socket;
use crate::error::{Error, Kind, Result};
use crate::listen;
pub use config::Config;
use merge::{Creation, Update};
use plugin::Plugin;

/// How many questions of plugins may wait.
const WAITING: usize = 64;

/// What a plugin wants of whoever has the pods and containers.
#[derive(Debug)]
pub enum Ask {
    /// All that there is.
    State(oneshot::Sender<(Vec<PodSandbox>, Vec<Container>)>),
    /// Changes of containers; the answer is those that could not be made.
    Changes(Changes, oneshot::Sender<Vec<ContainerUpdate>>),
}

/// What plugins want done to containers other than the one that they were asked about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    pub updates: Vec<ContainerUpdate>,
    pub evictions: Vec<ContainerEviction>,
}

impl Changes {
    /// Returns whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.updates.is_empty() && self.evictions.is_empty()
    }
}

/// The plugins; clones share them.
#[derive(Clone)]
pub struct Nri {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    version: &'static str,
    /// In the order in which they are asked. One event is told at a time.
    plugins: Mutex<Vec<Plugin>>,
    /// How many there are: where there are none, nobody describes anything for them.
    count: AtomicUsize,
    gate: Arc<RwLock<()>>,
    asks: mpsc::Sender<Ask>,
}

/// Keeps new plugins from being told what there is while something changes.
pub type Hold = OwnedRwLockReadGuard<()>;

impl Nri {
    /// Returns an interface without plugins, and the questions that those which come will have.
    pub fn new(config: Config, version: &'static str) -> (Self, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(WAITING);
        let shared = Shared {
            config,
            version,
            plugins: Mutex::default(),
            count: AtomicUsize::new(0),
            gate: Arc::default(),
            asks,
        };
        let shared = Arc::new(shared);
        (Self { shared }, asked)
    }

    /// Starts the plugins that are installed, and lets others connect. The questions must be answered by now.
    pub async fn start(&self) {
        let config = &self.shared.config;
        if config.disable {
            return;
        }
        launch::all(self).await;
        if config.disable_connections {
            return;
        }
        let (uid, gid) = (0, 0);
        let path = config.socket_path.clone();
        match listen::bind(&Socket { path, uid, gid }) {
            Ok(listener) => drop(tokio::spawn(self.clone().accept(listener))),
            Err(error) => tracing::error!("let plugins connect: {error:#}"),
        }
    }

    async fn accept(self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((socket, _)) => {
                    let nri = self.clone();
                    // One that takes its time to register keeps no other from it.
                    tokio::spawn(async move {
                        let plugin = Plugin::connect(socket, None, &nri.shared).await;
                        let added = match plugin {
                            Ok(plugin) => nri.add(plugin).await,
                            Err(error) => Err(error),
                        };
                        if let Err(error) = added {
                            tracing::error!("a plugin that has connected: {error:#}");
                        }
                    });
                }
                Err(error) => {
                    tracing::error!("let a plugin connect: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Tells a plugin what there is, and has it asked from then on.
    async fn add(&self, plugin: Plugin) -> Result<()> {
        let _gate = self.shared.gate.write().await;
        let (answer, answered) = oneshot::channel();
        self.ask(Ask::State(answer)).await?;
        let (pods, containers) = answered.await.map_err(|_| gone())?;
        let name = plugin.name();
        let updates = plugin.synchronize(pods, containers).await;
        let updates = updates.map_err(|error| error.context(format!("synchronize {name}")))?;
        let mut plugins = self.shared.plugins.lock().await;
        plugins.push(plugin);
        plugins.sort_by_key(Plugin::name);
        self.count(&plugins);
        drop(plugins);
        tracing::info!(name, "plugin connected and synchronized");
        let changes = Changes {
            updates,
            ..Changes::default()
        };
        if !changes.is_empty() {
            self.change(changes).await?;
        }
        Ok(())
    }

    /// Has changes made that a plugin wants, and returns the updates that could not be made.
    async fn change(&self, changes: Changes) -> Result<Vec<ContainerUpdate>> {
        self.shared.change(changes).await
    }

    async fn ask(&self, ask: Ask) -> Result<()> {
        self.shared.asks.send(ask).await.map_err(|_| gone())
    }

    fn count(&self, plugins: &[Plugin]) {
        self.shared.count.store(plugins.len(), Ordering::Release);
    }

    /// Returns a hold on the gate; who tells of events has one from before the change of which they tell.
    pub async fn hold(&self) -> Hold {
        self.shared.gate.clone().read_owned().await
    }

    /// Returns whether there is nobody to be told anything.
    pub fn is_idle(&self) -> bool {
        self.shared.count.load(Ordering::Acquire) == 0
    }

    /// Tells of an event to which plugins can only say yes or no.
    pub async fn tell(
        &self,
        event: Event,
        pod: PodSandbox,
        container: Option<Container>,
    ) -> Result<()> {
        let pod = Some(pod);
        let request = StartContainerRequest { pod, container };
        let mut plugins = self.shared.plugins.lock().await;
        let mut told = Ok(());
        for plugin in plugins.iter() {
            told = plugin.tell(event, &request).await;
            if told.is_err() {
                break;
            }
        }
        self.sweep(&mut plugins);
        told
    }

    /// Tells what a pod may use from now on.
    pub async fn update_pod(&self, request: UpdatePodSandboxRequest) -> Result<()> {
        let mut plugins = self.shared.plugins.lock().await;
        let mut told: Result<Option<UpdatePodSandboxResponse>> = Ok(None);
        for plugin in plugins.iter() {
            told = plugin.ask(Event::UpdatePodSandbox, &request).await;
            if told.is_err() {
                break;
            }
        }
        self.sweep(&mut plugins);
        told.map(drop)
    }

    /// Asks what is to be changed of a container that is being created, and returns it with what is to be changed of
    /// others.
    pub async fn create(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(ContainerAdjustment, Changes)> {
        let pristine = container.clone();
        let mut creation = Creation::new(container);
        let mut plugins = self.shared.plugins.lock().await;
        // One that has gone before judges no more; one that goes now has not agreed.
        self.sweep(&mut plugins);
        let asked = async {
            for plugin in plugins.iter() {
                let request = CreateContainerRequest {
                    pod: Some(pod.clone()),
                    container: Some(creation.container.clone()),
                };
                let answer: Option<CreateContainerResponse> =
                    plugin.ask(Event::CreateContainer, &request).await?;
                creation.apply(answer.unwrap_or_default(), &plugin.name())?;
            }
            validate(&plugins, pod, pristine, &creation).await
        };
        let asked = asked.await;
        self.sweep(&mut plugins);
        asked?;
        Ok(creation.finish())
    }

    /// Asks how a container is to be updated; nothing is as it was asked for. What others are to become is told too.
    pub async fn update(
        &self,
        pod: PodSandbox,
        container: Container,
        resources: LinuxResources,
    ) -> Result<(Option<LinuxResources>, Changes)> {
        let mut update = Update::new(container.id.clone(), resources);
        let mut plugins = self.shared.plugins.lock().await;
        let asked = async {
            for plugin in plugins.iter() {
                let request = UpdateContainerRequest {
                    pod: Some(pod.clone()),
                    container: Some(container.clone()),
                    linux_resources: Some(update.resources().clone()),
                };
                let answer: Option<UpdateContainerResponse> =
                    plugin.ask(Event::UpdateContainer, &request).await?;
                let answer = answer.unwrap_or_default();
                update.apply(answer.update, answer.evict, &plugin.name())?;
            }
            Ok::<(), Error>(())
        };
        let asked = asked.await;
        self.sweep(&mut plugins);
        asked?;
        Ok(update.finish())
    }

    /// Tells that a container has stopped, and returns what is to be changed of others.
    pub async fn stop(&self, pod: PodSandbox, container: Container) -> Result<Changes> {
        let mut update = Update::of_others();
        let mut plugins = self.shared.plugins.lock().await;
        let request = StartContainerRequest {
            pod: Some(pod),
            container: Some(container),
        };
        let asked = async {
            for plugin in plugins.iter() {
                let answer: Option<StopContainerResponse> =
                    plugin.ask(Event::StopContainer, &request).await?;
                let updates = answer.unwrap_or_default().update;
                update.apply(updates, Vec::new(), &plugin.name())?;
            }
            Ok::<(), Error>(())
        };
        let asked = asked.await;
        self.sweep(&mut plugins);
        asked?;
        Ok(update.finish().1)
    }

    /// Forgets the plugins that are gone.
    fn sweep(&self, plugins: &mut Vec<Plugin>) {
        plugins.retain(|plugin| !plugin.is_gone());
        self.count(plugins);
    }
}

impl Shared {
    async fn change(&self, changes: Changes) -> Result<Vec<ContainerUpdate>> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask::Changes(changes, answer);
        self.asks.send(ask).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

/// Has those plugins that judge what others want judge it.
async fn validate(
    plugins: &[Plugin],
    pod: PodSandbox,
    container: Container,
    creation: &Creation,
) -> Result<()> {
    let judges = plugins
        .iter()
        .filter(|plugin| plugin.wants(Event::ValidateContainerAdjustment));
    let judges: Vec<&Plugin> = judges.collect();
    if judges.is_empty() {
        return Ok(());
    }
    let instances = plugins.iter().map(|plugin| PluginInstance {
        name: plugin.base().to_owned(),
        index: plugin.index().to_owned(),
    });
    let request = ValidateContainerAdjustmentRequest {
        pod: Some(pod),
        container: Some(container),
        adjust: Some(creation.adjust.clone()),
        update: creation.updates(),
        owners: Some(creation.owners()),
        plugins: instances.collect(),
    };
    for judge in judges {
        let event = Event::ValidateContainerAdjustment;
        let failed = |why: String| {
            let message = format!("validator plugin {} failed: {why}", judge.name());
            Error::new(Kind::Unknown, message)
        };
        let answer: Option<ValidateContainerAdjustmentResponse> = judge
            .ask(event, &request)
            .await
            .map_err(|error| failed(format!("{error:#}")))?;
        // One that is silent has not agreed.
        let answer = answer.ok_or_else(|| failed("no answer".to_owned()))?;
        if answer.reject {
            let message = format!(
                "validator {} rejected container adjustment, reason: {}",
                judge.name(),
                answer.reason
            );
            return Err(Error::new(Kind::Unknown, message));
        }
    }
    Ok(())
}

fn gone() -> Error {
    Error::new(Kind::Unavailable, "there is nobody to answer")
}
