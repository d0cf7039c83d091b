//! One plugin: how it registers, what it is told, and when it is let go.

use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_protos::nri::pkg::api::v1alpha1::plugin_ttrpc::NAME;
use api_protos::nri::pkg::api::v1alpha1::runtime_ttrpc::{Runtime, RuntimeServer};
use api_protos::nri::pkg::api::v1alpha1::{
    ConfigureRequest, ConfigureResponse, Container, ContainerUpdate, Empty, Event, PodSandbox,
    RegisterPluginRequest, StartContainerRequest, StateChangeEvent, SynchronizeRequest,
    SynchronizeResponse, UpdateContainersRequest, UpdateContainersResponse,
};
use api_protos::status;
use corten_ttrpc::frame::MAX_MESSAGE;
use corten_ttrpc::mux::Mux;
use corten_ttrpc::{Client, Context, Server, Service};
use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::{Changes, Shared};
use crate::error::{Context as _, Error, Kind, Result, invalid};

/// The version of NRI that is spoken.
const VERSION: &str = "v0.12.2";
/// How the runtime calls itself: plugins that know containerd know what to expect.
const RUNTIME: &str = "containerd";
/// What a message may hold of pods and containers, with room for what is around them.
const FULL: usize = MAX_MESSAGE - 4096;
const UNIMPLEMENTED: i32 = 12;

/// The events that there are, as a plugin subscribes to them.
const ALL: i32 = (1 << (Event::Last as i32 - 1)) - 1;

/// A plugin that has registered.
pub(super) struct Plugin {
    index: String,
    base: String,
    /// A bit for each event that it wants to know of.
    events: i32,
    client: Client,
    limit: Duration,
    /// Whether it knows no calls of their own for events without an answer, as those before version 0.11.
    old: AtomicBool,
    gone: AtomicBool,
    _carriers: JoinSet<()>,
    /// What was started by the daemon is ended by it.
    _child: Option<Killed>,
}

/// A plugin that the daemon starts.
pub(super) struct Installed {
    pub index: String,
    pub base: String,
    pub config: String,
    pub child: Child,
}

/// A process that ends when it is no longer wanted.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What plugins may call.
struct Callable {
    /// Where index and name go, once.
    register: Mutex<Option<oneshot::Sender<(String, String)>>>,
    shared: Arc<Shared>,
}

impl Plugin {
    /// Waits for a plugin to register, and configures it.
    pub async fn connect(
        socket: UnixStream,
        installed: Option<Installed>,
        shared: &Arc<Shared>,
    ) -> Result<Self> {
        let (known, config, child) = match installed {
            Some(installed) => {
                let known = (installed.index, installed.base);
                (Some(known), installed.config, Some(Killed(installed.child)))
            }
            None => (None, String::new(), None),
        };
        let Mux {
            plugin: to_plugin,
            runtime: from_plugin,
            mut carriers,
        } = Mux::new(socket).context(|| "divide the connection")?;
        let (register, registered) = oneshot::channel();
        let callable = Arc::new(Callable {
            register: Mutex::new(Some(register)),
            shared: shared.clone(),
        });
        let service: Box<dyn Service> = Box::new(RuntimeServer::new(callable));
        let server = Server::new([service]);
        carriers.spawn(async move { server.serve_connection(from_plugin).await });
        let client = Client::new(to_plugin);
        let registration = shared.config.registration;
        let registered = tokio::select! {
            registered = tokio::time::timeout(registration, registered) => registered,
            () = client.closed() => {
                let message = "failed to register plugin, connection closed";
                return Err(Error::new(Kind::Unavailable, message));
            }
        };
        let registered = registered
            .map_err(|_| Error::new(Kind::DeadlineExceeded, "plugin registration timed out"))?;
        let named = registered.map_err(|_| invalid("the plugin did not register"))?;
        // What is started by the daemon has the name of its file.
        let (index, base) = known.unwrap_or(named);
        check_name(&index, &base)?;
        let mut plugin = Self {
            index,
            base,
            events: ALL,
            client,
            limit: shared.config.request,
            old: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            _carriers: carriers,
            _child: child,
        };
        let request = ConfigureRequest {
            config,
            runtime_name: RUNTIME.into(),
            runtime_version: shared.version.into(),
            registration_timeout: milliseconds(registration),
            request_timeout: milliseconds(plugin.limit),
            nri_version: VERSION.into(),
        };
        let configured: ConfigureResponse = plugin
            .call("Configure", &request)
            .await
            .context(|| format!("configure plugin {}", plugin.name()))?;
        plugin.events = match configured.events {
            0 => ALL,
            events if events & !ALL == 0 => events,
            events => return Err(invalid(format!("invalid plugin events: {events:#x}"))),
        };
        Ok(plugin)
    }

    /// Returns the number by which plugins are ordered, and the name.
    pub fn name(&self) -> String {
        format!("{}-{}", self.index, self.base)
    }

    pub fn index(&self) -> &str {
        &self.index
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// Returns whether it wants to know of an event.
    pub fn wants(&self, event: Event) -> bool {
        self.events & (1 << (event as i32 - 1)) != 0
    }

    /// Returns whether it has been let go, or has gone.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed) || self.client.is_closed()
    }

    /// Tells what there is, in as many messages as it takes, and returns the updates that it wants.
    pub async fn synchronize(
        &self,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>> {
        let mut messages = messages(pods, containers);
        let last = messages.pop().unwrap_or_default();
        for message in messages {
            let answer: SynchronizeResponse = self.call("Synchronize", &message).await?;
            if !answer.update.is_empty() || !answer.more {
                return Err(invalid("plugin does not handle split sync requests"));
            }
        }
        let answer: SynchronizeResponse = self.call("Synchronize", &last).await?;
        Ok(answer.update)
    }

    /// Tells of an event to which the answer is empty.
    pub async fn tell(&self, event: Event, request: &StartContainerRequest) -> Result<()> {
        if !self.wants(event) || self.is_gone() {
            return Ok(());
        }
        if !self.old.load(Ordering::Relaxed) {
            let answer = self.send(method(event), request.encode_to_vec()).await;
            match answer {
                Err(corten_ttrpc::Error::Status(status)) if status.code == UNIMPLEMENTED => {
                    self.old.store(true, Ordering::Relaxed);
                }
                answer => return self.answered(event, answer).map(drop),
            }
        }
        let change = StateChangeEvent {
            event: event.into(),
            pod: request.pod.clone(),
            container: request.container.clone(),
        };
        let answer = self.send("StateChange", change.encode_to_vec()).await;
        self.answered(event, answer).map(drop)
    }

    /// Asks about an event; nothing is answered by one that does not want to know of it, or that is let go for it.
    pub async fn ask<A: Message + Default>(
        &self,
        event: Event,
        request: &impl Message,
    ) -> Result<Option<A>> {
        if !self.wants(event) || self.is_gone() {
            return Ok(None);
        }
        let answer = self.send(method(event), request.encode_to_vec()).await;
        let Some(answer) = self.answered(event, answer)? else {
            return Ok(None);
        };
        let answer = A::decode(answer);
        let answer = answer.map_err(|error| Error::other("decode a plugin's answer", error))?;
        Ok(Some(answer))
    }

    /// Returns a plugin's answer, or nothing if it is let go: one that is silent, or says what makes no sense.
    fn answered<T>(
        &self,
        event: Event,
        answer: Result<T, corten_ttrpc::Error>,
    ) -> Result<Option<T>> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(corten_ttrpc::Error::Status(refused)) => {
                Err(status::error(refused.code, refused.message))
            }
            Err(corten_ttrpc::Error::TooLong(length)) => Err(Error::new(
                Kind::ResourceExhausted,
                format!("{length} bytes are too many to tell plugins"),
            )),
            Err(error) => {
                let event = method(event);
                tracing::error!(plugin = self.name(), "let go, for {event} was: {error}");
                self.gone.store(true, Ordering::Relaxed);
                Ok(None)
            }
        }
    }

    async fn call<A: Message + Default>(&self, method: &str, request: &impl Message) -> Result<A> {
        let answer = self.send(method, request.encode_to_vec()).await;
        let answer = answer.map_err(status::from_ttrpc)?;
        A::decode(answer).map_err(|error| Error::other("decode a plugin's answer", error))
    }

    async fn send(
        &self,
        method: &str,
        request: Vec<u8>,
    ) -> Result<bytes::Bytes, corten_ttrpc::Error> {
        let context = Context::new().with_timeout(self.limit);
        self.client.call(&context, NAME, method, request).await
    }
}

impl Runtime for Callable {
    async fn register_plugin(
        &self,
        _context: Context,
        request: RegisterPluginRequest,
    ) -> Result<Empty> {
        let register = self.register.lock();
        let register = register.unwrap_or_else(PoisonError::into_inner).take();
        let register = register.ok_or_else(|| invalid("the plugin is registered"))?;
        tracing::info!(
            index = request.plugin_idx,
            name = request.plugin_name,
            nri = request.nri_version,
            "a plugin registers"
        );
        // Nobody waits for one that was too late.
        let _ = register.send((request.plugin_idx, request.plugin_name));
        Ok(Empty {})
    }

    async fn update_containers(
        &self,
        _context: Context,
        request: UpdateContainersRequest,
    ) -> Result<UpdateContainersResponse> {
        let changes = Changes {
            updates: request.update,
            evictions: request.evict,
        };
        let failed = self.shared.change(changes).await?;
        match failed.is_empty() {
            true => Ok(UpdateContainersResponse { failed }),
            false => {
                let ids: Vec<&str> = failed
                    .iter()
                    .map(|update| update.container_id.as_str())
                    .collect();
                let message = format!("update of containers failed: {}", ids.join(", "));
                Err(Error::new(Kind::Unknown, message))
            }
        }
    }
}

/// Returns the call that an event is told by.
fn method(event: Event) -> &'static str {
    match event {
        Event::RunPodSandbox => "RunPodSandbox",
        Event::StopPodSandbox => "StopPodSandbox",
        Event::RemovePodSandbox => "RemovePodSandbox",
        Event::CreateContainer => "CreateContainer",
        Event::PostCreateContainer => "PostCreateContainer",
        Event::StartContainer => "StartContainer",
        Event::PostStartContainer => "PostStartContainer",
        Event::UpdateContainer => "UpdateContainer",
        Event::PostUpdateContainer => "PostUpdateContainer",
        Event::StopContainer => "StopContainer",
        Event::RemoveContainer => "RemoveContainer",
        Event::UpdatePodSandbox => "UpdatePodSandbox",
        Event::PostUpdatePodSandbox => "PostUpdatePodSandbox",
        Event::ValidateContainerAdjustment => "ValidateContainerAdjustment",
        Event::Unknown | Event::Last => "StateChange",
    }
}

/// Refuses an index that is not of two digits, and a name of other letters than those of files.
pub(super) fn check_name(index: &str, base: &str) -> Result<()> {
    let digits = index.len() == 2 && index.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return Err(invalid(format!(
            "invalid plugin index {index:?}, must be 2 digits"
        )));
    }
    let known = |letter: char| letter.is_ascii_alphanumeric() || "-_.+".contains(letter);
    match !base.is_empty() && base.chars().all(known) {
        true => Ok(()),
        false => Err(invalid(format!("invalid plugin name {base:?}"))),
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Returns the messages by which a plugin is told what there is: all but the last say that more follows.
fn messages(pods: Vec<PodSandbox>, containers: Vec<Container>) -> Vec<SynchronizeRequest> {
    let mut messages = vec![SynchronizeRequest::default()];
    let mut size = 0;
    let mut room = |messages: &mut Vec<SynchronizeRequest>, more: usize| {
        // Length and tag come before each.
        size += more + 16;
        if size > FULL && size > more + 16 {
            if let Some(full) = messages.last_mut() {
                full.more = true;
            }
            messages.push(SynchronizeRequest::default());
            size = more + 16;
        }
    };
    for pod in pods {
        room(&mut messages, pod.encoded_len());
        if let Some(last) = messages.last_mut() {
            last.pods.push(pod);
        }
    }
    for container in containers {
        room(&mut messages, container.encoded_len());
        if let Some(last) = messages.last_mut() {
            last.containers.push(container);
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_is_told_in_messages_that_are_not_too_long() {
        let pod = |id: usize| PodSandbox {
            id: id.to_string(),
            name: "x".repeat(1 << 20),
            ..PodSandbox::default()
        };
        let containers = vec![Container::default(); 3];
        let told = messages((0..10).map(pod).collect(), containers);
        assert_eq!(told.len(), 4);
        for (at, message) in told.iter().enumerate() {
            assert!(message.encoded_len() <= MAX_MESSAGE);
            assert_eq!(message.more, at + 1 < told.len());
        }
        let pods: Vec<&str> = told
            .iter()
            .flat_map(|message| &message.pods)
            .map(|pod| pod.id.as_str())
            .collect();
        assert_eq!(pods, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
        assert_eq!(told[3].containers.len(), 3);
        assert_eq!(
            messages(Vec::new(), Vec::new()),
            [SynchronizeRequest::default()]
        );
    }

    #[test]
    fn plugins_have_numbers_and_names() {
        check_name("00", "device-injector_1.2+x").unwrap();
        for (index, base) in [
            ("0", "a"),
            ("000", "a"),
            ("a0", "a"),
            ("10", ""),
            ("10", "a/b"),
        ] {
            assert!(check_name(index, base).is_err(), "{index}-{base}");
        }
    }
}
