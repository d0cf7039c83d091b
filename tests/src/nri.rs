//! A plugin of the Node Resource Interface: it writes down what it is told, and answers as a case wants it to.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_protos::nri::pkg::api::v1alpha1::plugin_ttrpc::{Plugin as Service, PluginServer};
use api_protos::nri::pkg::api::v1alpha1::runtime_ttrpc::RuntimeClient;
use api_protos::nri::pkg::api::v1alpha1::*;
use corten_ttrpc::mux::Mux;
use corten_ttrpc::{Client, Context, Server};
use sys::Result;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::eventually;

/// The events that all versions of NRI have.
const ALL: i32 = (1 << Event::RemoveContainer as i32) - 1;

/// What a plugin answers to a request.
pub type Answer<Q, A> = Box<dyn Fn(Q) -> Result<A> + Send + Sync>;

/// Who is told what a plugin is configured with.
pub type Configured = Box<dyn Fn(&str) + Send + Sync>;

/// What a plugin answers; what a case does not set is answered by nothing.
pub struct Script {
    /// How it is synchronized.
    pub synchronize: Answer<SynchronizeRequest, SynchronizeResponse>,
    /// What it makes of a container that is created.
    pub create: Answer<CreateContainerRequest, CreateContainerResponse>,
    /// What it makes of a container that is updated.
    pub update: Answer<UpdateContainerRequest, UpdateContainerResponse>,
    /// What it has changed when a container stops.
    pub stop: Answer<StopContainerRequest, StopContainerResponse>,
    /// What it says to events that can be refused.
    pub tell: Answer<Told, ()>,
    /// How it judges what others want.
    pub validate: Answer<ValidateContainerAdjustmentRequest, ValidateContainerAdjustmentResponse>,
    /// The events that it wants to know of, a bit for each.
    pub events: i32,
}

impl Default for Script {
    fn default() -> Script {
        Script {
            synchronize: Box::new(|_| Ok(SynchronizeResponse::default())),
            create: Box::new(|_| Ok(CreateContainerResponse::default())),
            update: Box::new(|_| Ok(UpdateContainerResponse::default())),
            stop: Box::new(|_| Ok(StopContainerResponse::default())),
            tell: Box::new(|_| Ok(())),
            validate: Box::new(|_| Ok(ValidateContainerAdjustmentResponse::default())),
            events: ALL,
        }
    }
}

/// An event that a plugin was told of, by names; both are empty for what it was synchronized with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The event, `Unknown` for the synchronization.
    pub event: Event,
    /// The pod.
    pub pod: String,
    /// The container.
    pub container: String,
}

/// A plugin that is connected for as long as it lives.
pub struct Plugin {
    told: Arc<Mutex<Vec<Told>>>,
    client: RuntimeClient,
    runtime: tokio::runtime::Runtime,
    _carriers: JoinSet<()>,
}

struct Served {
    told: Arc<Mutex<Vec<Told>>>,
    script: Script,
    /// What it was configured with.
    configured: Option<Configured>,
}

impl Plugin {
    /// Connects to the socket of a daemon, and waits until it is synchronized.
    #[track_caller]
    pub fn connect(socket: &Path, index: &str, name: &str, script: Script) -> Plugin {
        let connected = std::os::unix::net::UnixStream::connect(socket);
        Plugin::on(
            connected.expect("connect to NRI"),
            index,
            name,
            script,
            None,
        )
    }

    /// Registers over a connection; `configured` is told what it is configured with.
    #[track_caller]
    pub fn on(
        socket: std::os::unix::net::UnixStream,
        index: &str,
        name: &str,
        script: Script,
        configured: Option<Configured>,
    ) -> Plugin {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("make a runtime");
        let told = Arc::<Mutex<Vec<Told>>>::default();
        let served = Arc::new(Served {
            told: told.clone(),
            script,
            configured,
        });
        socket.set_nonblocking(true).expect("make it non-blocking");
        let (client, carriers) = runtime.block_on(async {
            let socket = UnixStream::from_std(socket).expect("take the connection");
            let Mux {
                plugin,
                runtime,
                mut carriers,
            } = Mux::new(socket).expect("divide the connection");
            let service: Box<dyn corten_ttrpc::Service> = Box::new(PluginServer::new(served));
            let server = Server::new([service]);
            carriers.spawn(async move { server.serve_connection(plugin).await });
            let client = RuntimeClient::new(Client::new(runtime));
            let request = RegisterPluginRequest {
                plugin_name: name.to_owned(),
                plugin_idx: index.to_owned(),
                nri_version: String::new(),
            };
            let context = Context::new().with_timeout(Duration::from_secs(20));
            let registered = client.register_plugin(&context, &request).await;
            registered.expect("register");
            (client, carriers)
        });
        let plugin = Plugin {
            told,
            client,
            runtime,
            _carriers: carriers,
        };
        eventually(
            "the plugin is synchronized",
            Duration::from_secs(20),
            || {
                let told = plugin.told();
                let synchronized = told.iter().any(|told| told.event == Event::Unknown);
                synchronized.then_some(())
            },
        );
        plugin
    }

    /// Returns what it was told so far.
    pub fn told(&self) -> Vec<Told> {
        let told = self.told.lock();
        told.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it is told of an event of a pod or container of this name.
    #[track_caller]
    pub fn wait_for(&self, event: Event, name: &str) {
        eventually(
            &format!("{event:?} of {name}"),
            Duration::from_secs(20),
            || {
                let told = self.told();
                let found = told.iter().any(|told| {
                    told.event == event && (told.pod == name || told.container == name)
                });
                found.then_some(())
            },
        );
    }

    /// Asks for updates that nobody has asked it about.
    pub fn update(
        &self,
        update: Vec<ContainerUpdate>,
        evict: Vec<ContainerEviction>,
    ) -> Result<()> {
        let request = UpdateContainersRequest { update, evict };
        let context = Context::new().with_timeout(Duration::from_secs(20));
        let asked = self.client.update_containers(&context, &request);
        self.runtime.block_on(asked).map(drop)
    }

    /// Waits until the connection is closed by the other end.
    pub fn wait(&self) {
        let connection = self.client.connection();
        self.runtime.block_on(connection.closed());
    }
}

impl Served {
    fn note(&self, event: Event, pod: Option<&PodSandbox>, container: Option<&Container>) -> Told {
        let told = Told {
            event,
            pod: pod.map(|pod| pod.name.clone()).unwrap_or_default(),
            container: container.map(|one| one.name.clone()).unwrap_or_default(),
        };
        let all = self.told.lock();
        all.unwrap_or_else(PoisonError::into_inner)
            .push(told.clone());
        told
    }
}

/// Calls that are told alike, each with its event and the field of its container, if it has one.
macro_rules! told {
    ($($call:ident($request:ident) -> $response:ident: $event:ident $(, $container:ident)?;)*) => {
        $(async fn $call(&self, _context: Context, request: $request) -> Result<$response> {
            let container: Option<&Container> = None $(.or(request.$container.as_ref()))?;
            let told = self.note(Event::$event, request.pod.as_ref(), container);
            (self.script.tell)(told)?;
            Ok($response::default())
        })*
    };
}

impl Service for Served {
    async fn configure(&self, _: Context, request: ConfigureRequest) -> Result<ConfigureResponse> {
        if let Some(configured) = &self.configured {
            configured(&request.config);
        }
        let events = self.script.events;
        Ok(ConfigureResponse { events })
    }

    async fn synchronize(
        &self,
        _: Context,
        request: SynchronizeRequest,
    ) -> Result<SynchronizeResponse> {
        let answer = (self.script.synchronize)(request);
        self.note(Event::Unknown, None, None);
        answer
    }

    async fn shutdown(&self, _: Context, _: Empty) -> Result<Empty> {
        Ok(Empty::default())
    }

    told! {
        run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse: RunPodSandbox;
        update_pod_sandbox(UpdatePodSandboxRequest) -> UpdatePodSandboxResponse: UpdatePodSandbox;
        post_update_pod_sandbox(PostUpdatePodSandboxRequest) -> PostUpdatePodSandboxResponse:
            PostUpdatePodSandbox;
        stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse: StopPodSandbox;
        remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse: RemovePodSandbox;
        post_create_container(PostCreateContainerRequest) -> PostCreateContainerResponse:
            PostCreateContainer, container;
        start_container(StartContainerRequest) -> StartContainerResponse: StartContainer, container;
        post_start_container(PostStartContainerRequest) -> PostStartContainerResponse:
            PostStartContainer, container;
        post_update_container(PostUpdateContainerRequest) -> PostUpdateContainerResponse:
            PostUpdateContainer, container;
        remove_container(RemoveContainerRequest) -> RemoveContainerResponse:
            RemoveContainer, container;
    }

    async fn create_container(
        &self,
        _: Context,
        request: CreateContainerRequest,
    ) -> Result<CreateContainerResponse> {
        let event = Event::CreateContainer;
        self.note(event, request.pod.as_ref(), request.container.as_ref());
        (self.script.create)(request)
    }

    async fn update_container(
        &self,
        _: Context,
        request: UpdateContainerRequest,
    ) -> Result<UpdateContainerResponse> {
        let event = Event::UpdateContainer;
        self.note(event, request.pod.as_ref(), request.container.as_ref());
        (self.script.update)(request)
    }

    async fn stop_container(
        &self,
        _: Context,
        request: StopContainerRequest,
    ) -> Result<StopContainerResponse> {
        let event = Event::StopContainer;
        self.note(event, request.pod.as_ref(), request.container.as_ref());
        (self.script.stop)(request)
    }

    /// Runtimes before version 0.11 of NRI have this in place of most calls.
    async fn state_change(&self, _: Context, request: StateChangeEvent) -> Result<Empty> {
        let event = request.event();
        let told = self.note(event, request.pod.as_ref(), request.container.as_ref());
        (self.script.tell)(told)?;
        Ok(Empty::default())
    }

    async fn validate_container_adjustment(
        &self,
        _: Context,
        request: ValidateContainerAdjustmentRequest,
    ) -> Result<ValidateContainerAdjustmentResponse> {
        (self.script.validate)(request)
    }
}

/// Is a plugin that a daemon has started, over standard input: every container gets a variable `CONFIGURED` that says
/// the plugin's name and what it is configured with.
pub fn installed() -> std::io::Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let (index, name) = (variable("NRI_PLUGIN_IDX"), variable("NRI_PLUGIN_NAME"));
    let config = Arc::<Mutex<String>>::default();
    let (noted, base) = (config.clone(), name.clone());
    let create = move |_| {
        let config = config.lock().unwrap_or_else(PoisonError::into_inner);
        let adjust = ContainerAdjustment {
            env: vec![KeyValue {
                key: "CONFIGURED".into(),
                value: format!("{base}-{config}"),
            }],
            ..ContainerAdjustment::default()
        };
        Ok(CreateContainerResponse {
            adjust: Some(adjust),
            ..CreateContainerResponse::default()
        })
    };
    let script = Script {
        create: Box::new(create),
        ..Script::default()
    };
    let configured = move |config: &str| {
        let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
        config.clone_into(&mut noted);
    };
    let plugin = Plugin::on(
        socket.into(),
        &index,
        &name,
        script,
        Some(Box::new(configured)),
    );
    plugin.wait();
    Ok(())
}
