//! The wiring: every part is built here, in the order of what it is built upon, and recorded in the plugin table.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use snapshotter::Snapshotter;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use tower::Service;
use tower::util::option_layer;

use crate::authority::Named;
use crate::config::{Config, Endpoint};
use crate::content::Content;
use crate::context::NAMESPACE_HEADER;
use crate::cri::{self, Cri};
use crate::diff::Diff;
use crate::error::{Context as _, Error, Result, already_exists};
use crate::events::Exchange;
use crate::gc::Collector;
use crate::images::locks::Locks;
use crate::listen::{self, Lock};
use crate::metadata::{Containers, Images, Leases, Namespaces, Sandboxes, Store};
use crate::metrics::calls::Calls;
use crate::metrics::serve::{self, Pages};
use crate::metrics::{Metrics, Started};
use crate::nri;
use crate::plugin::Kind;
use crate::plugins::{Plugin, Plugins};
use crate::restart::origin::Origin;
use crate::restart::{self, Monitor};
use crate::sandbox::Controller;
use crate::services;
use crate::snapshots::Snapshots;
use crate::snapshots::proxy::Proxy;
use crate::streaming::Streams;
use crate::tasks::bundle::Folders;
use crate::tasks::command::Caller;
use crate::tasks::resolve::Resolver;
use crate::tasks::shims::Shims;
use crate::tasks::{self, Tasks};
use crate::trace::Traced;
use crate::transfer::{self, Transfer};

/// Windows that let whole chunks of content travel without waiting for leave.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

const CONTENT: &str = "io.containerd.content.v1";
const CRI: &str = "io.containerd.cri.v1";
const DIFFER: &str = "io.containerd.differ.v1";
const EVENT: &str = "io.containerd.event.v1";
const GC: &str = "io.containerd.gc.v1";
const GRPC: &str = "io.containerd.grpc.v1";
const LEASE: &str = "io.containerd.lease.v1";
const NRI: &str = "io.containerd.nri.v1";
const METADATA: &str = "io.containerd.metadata.v1";
const MONITOR: &str = "io.containerd.monitor.container.v1";
const RUNTIME: &str = "io.containerd.runtime.v2";
const SANDBOX_CONTROLLER: &str = "io.containerd.sandbox.controller.v1";
const SANDBOX_STORE: &str = "io.containerd.sandbox.store.v1";
const SHIM: &str = "io.containerd.shim.v1";
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
const STREAMING: &str = "io.containerd.streaming.v1";
const TASK_MONITOR: &str = "io.containerd.monitor.task.v1";
const TRANSFER: &str = "io.containerd.transfer.v1";

/// Sets the largest message of a server, in both directions.
macro_rules! limited {
    ($server:expr, $limit:expr) => {
        $server
            .max_decoding_message_size($limit)
            .max_encoding_message_size($limit)
    };
}

/// The daemon, built and ready to serve.
pub struct App {
    /// What the services are made from.
    pub parts: Parts,
    services: RoutesBuilder,
    cri: Option<Arc<Cri>>,
    /// What restarts containers, and how often it looks after them.
    monitor: Option<(Monitor, Duration)>,
    /// Where metrics and variables are taken from, if anybody asks for them.
    metrics: Option<Metrics>,
    _lock: Lock,
}

/// What the services and other parts are made from; each is cheap to clone.
#[derive(Clone, Debug)]
pub struct Parts {
    pub events: Arc<Exchange>,
    pub store: Arc<Store>,
    pub content: Content,
    pub diff: Diff,
    pub namespaces: Namespaces,
    pub images: Images,
    pub containers: Containers,
    pub leases: Leases,
    pub snapshots: Snapshots,
    pub collector: Collector,
    pub tasks: Tasks,
    pub sandboxes: Sandboxes,
    pub sandbox_controller: Controller,
}

/// Builds the daemon that `config` asks for; it must be called within a tokio runtime.
pub fn build(config: &Config) -> Result<App> {
    listen::directory(&config.root, 0o711)?;
    listen::directory(&config.state, 0o711)?;
    let lock = Lock::take(&config.root)?;
    let mut plugins = Plugins::default();

    let events = Arc::new(Exchange::default());
    plugins.record(Plugin::new(EVENT, "exchange"));

    let file = metadata(&config.root);
    listen::directory(file.parent().expect("it is below the root"), 0o700)?;
    let store = Arc::new(Store::open(&file)?);

    let root = content(&config.root);
    let content = Content::open(&root, config.content_shared, store.clone(), events.clone())?;
    plugins.record(Plugin::new(CONTENT, "content").export("root", text(&root)));
    let policy = if config.content_shared {
        "shared"
    } else {
        "isolated"
    };
    plugins.record(
        Plugin::new(METADATA, "bolt")
            .requires(&[CONTENT, EVENT])
            .export("policy", policy),
    );

    let backends = snapshotters(config, &mut plugins);
    let proxies = proxies(config, &mut plugins)?;
    let snapshots = Snapshots::new(store.clone(), events.clone(), backends, proxies);
    let collector = Collector::new(
        store.clone(),
        events.clone(),
        content.clone(),
        snapshots.clone(),
    );
    tokio::spawn(collector.clone().run(config.gc.clone()));
    plugins.record(Plugin::new(GC, "scheduler").requires(&[METADATA]));

    let containers = Containers::new(store.clone(), events.clone());
    let diff = Diff::new(content.clone());
    let shims = shims(config, events.clone())?;
    let tasks = Tasks::new(shims.clone(), containers.clone(), diff.clone());
    plugins.record(Plugin::new(SHIM, "manager").requires(&[EVENT, METADATA]));
    plugins.record(
        Plugin::new(RUNTIME, "task")
            .requires(&[SHIM])
            .native()
            .export("log-uri-schemes", "fifo,binary,file"),
    );

    let sandboxes = Sandboxes::new(store.clone());
    plugins.record(Plugin::new(SANDBOX_STORE, "local").requires(&[METADATA]));
    let sandbox_controller = Controller::new(shims, sandboxes.clone(), events.clone());
    plugins.record(Plugin::new(SANDBOX_CONTROLLER, "shim").requires(&[SHIM, EVENT, SANDBOX_STORE]));

    let parts = Parts {
        sandboxes,
        sandbox_controller,
        namespaces: Namespaces::new(store.clone(), events.clone()),
        images: Images::new(store.clone(), events.clone()),
        containers,
        leases: Leases::new(store.clone()),
        diff,
        content,
        snapshots,
        collector,
        tasks,
        store,
        events,
    };
    plugins.record(
        Plugin::new(DIFFER, "walking")
            .native()
            .requires(&[METADATA]),
    );
    plugins.record(Plugin::new(LEASE, "manager").requires(&[METADATA]));

    plugins.record(Plugin::new(STREAMING, "manager").requires(&[METADATA]));
    plugins.record(
        Plugin::new(TRANSFER, "local")
            .native()
            .requires(&[LEASE, METADATA, DIFFER]),
    );

    let settings = transfer::Config::read(config.plugins.get(transfer::config::PLUGIN))?;
    let transfer = parts.transfer(settings);
    let cri = cri(config, &parts, &transfer, &mut plugins);
    let monitor = monitor(config, &parts, &mut plugins)?;
    let services = serve(config, &parts, transfer, cri.clone(), plugins)?;
    Ok(App {
        metrics: metrics(config, &parts, cri.as_deref()),
        parts,
        services,
        cri,
        monitor,
        _lock: lock,
    })
}

impl Parts {
    /// Returns what transfers images.
    fn transfer(&self, config: transfer::Config) -> Transfer {
        Transfer::new(transfer::Parts {
            content: self.content.clone(),
            images: self.images.clone(),
            leases: self.leases.clone(),
            snapshots: self.snapshots.clone(),
            diff: self.diff.clone(),
            collector: self.collector.clone(),
            locks: Locks::default(),
            config,
        })
    }
}

/// Returns the shims, of which none is known yet.
fn shims(config: &Config, events: Arc<Exchange>) -> Result<Shims> {
    let settings = tasks::Config::read(config.plugins.get(tasks::config::PLUGIN))?;
    let folders = Folders::open(&config.root, &config.state)?;
    let resolver = Resolver {
        named: settings.shims,
        ours: settings.shim,
        ..Resolver::from_environment()
    };
    let caller = Caller {
        address: text(&config.grpc.path),
        ttrpc_address: text(&config.ttrpc.path),
        env: settings.env,
        debug: ["debug", "trace"].contains(&config.log_level.as_str()),
        version: services::version::VERSION,
        limits: config.timeouts,
    };
    Ok(Shims::new(folders, resolver, caller, events))
}

/// Returns the file of the store below `root`; it is in the folder where containerd has its own.
pub fn metadata(root: &Path) -> PathBuf {
    root.join(format!("{METADATA}.bolt")).join("meta.redb")
}

/// Returns the folder of the content below `root`; it is where containerd has its own.
pub fn content(root: &Path) -> PathBuf {
    root.join(format!("{CONTENT}.content"))
}

/// Returns the folder of a snapshotter below `root`; it is where containerd has its own.
pub fn snapshots(root: &Path, kind: Kind) -> PathBuf {
    root.join(format!("{SNAPSHOTTER}.{}", kind.name()))
}

/// Opens our snapshotters; one that this machine cannot have is in the plugin table with its error.
fn snapshotters(config: &Config, plugins: &mut Plugins) -> BTreeMap<String, Arc<dyn Snapshotter>> {
    let mut backends = BTreeMap::new();
    for kind in Kind::ALL {
        if config
            .disabled
            .contains(&format!("{SNAPSHOTTER}.{}", kind.name()))
        {
            continue;
        }
        let root = snapshots(&config.root, kind);
        let plugin = Plugin::new(SNAPSHOTTER, kind.name())
            .native()
            .export("root", text(&root));
        plugins.record(match kind.open(&root) {
            Ok(snapshotter) => {
                let plugin = plugin.capabilities(&snapshotter.capabilities());
                backends.insert(kind.name().to_owned(), snapshotter);
                plugin
            }
            Err(error) => plugin.failed(&error),
        });
    }
    backends
}

/// Returns the snapshotters of other processes, which need not be there yet.
fn proxies(config: &Config, plugins: &mut Plugins) -> Result<BTreeMap<String, Arc<Proxy>>> {
    let mut proxies = BTreeMap::new();
    for (name, proxy) in &config.snapshotters {
        if config.disabled.contains(&format!("{SNAPSHOTTER}.{name}")) {
            continue;
        }
        if Kind::ALL.iter().any(|kind| kind.name() == name) {
            return Err(already_exists("snapshotter", name));
        }
        let snapshotter = Proxy::new(name, &proxy.address, proxy.capabilities.clone());
        let mut plugin = Plugin::new(SNAPSHOTTER, name)
            .native()
            .capabilities(&snapshotter.capabilities());
        plugin.exports.clone_from(&proxy.exports);
        plugins.record(plugin.export("address", text(&proxy.address)));
        proxies.insert(name.clone(), Arc::new(snapshotter));
    }
    Ok(proxies)
}

/// Returns CRI, unless it is disabled; if it cannot be had, that is in the plugin table, and the rest goes on.
fn cri(
    config: &Config,
    parts: &Parts,
    transfer: &Transfer,
    plugins: &mut Plugins,
) -> Option<Arc<Cri>> {
    let off = |uri: &String| [cri::config::PLUGIN, "cri"].contains(&uri.as_str());
    if config.disabled.iter().any(off) {
        return None;
    }
    let mut unknown = Vec::new();
    let made = cri::config::Config::read(&config.plugins, &mut unknown).and_then(|settings| {
        let (root, state) = (&config.root, &config.state);
        let mut nri = nri::Config::read(config.plugins.get(nri::config::PLUGIN), state)?;
        nri.disable |= config.disabled.iter().any(|uri| uri == nri::config::PLUGIN);
        let parts = cri::Parts {
            events: parts.events.clone(),
            content: parts.content.clone(),
            images: parts.images.clone(),
            containers: parts.containers.clone(),
            sandboxes: parts.sandboxes.clone(),
            leases: parts.leases.clone(),
            snapshots: parts.snapshots.clone(),
            collector: parts.collector.clone(),
            tasks: parts.tasks.clone(),
            transfer: transfer.clone(),
            nri,
            version: services::version::VERSION,
        };
        Cri::new(parts, settings, root, state)
    });
    for key in unknown {
        tracing::warn!(key, "unknown configuration key");
    }
    let images = Plugin::new(CRI, "images").requires(&[METADATA, SNAPSHOTTER, TRANSFER]);
    let runtime = Plugin::new(CRI, "runtime")
        .native()
        .requires(&[RUNTIME, SANDBOX_STORE]);
    match made {
        Ok(made) => {
            plugins.record(images);
            plugins.record(runtime.requires(&[NRI]));
            plugins.record(Plugin::new(NRI, "nri"));
            Some(Arc::new(made))
        }
        Err(error) => {
            tracing::error!("start CRI: {error:#}");
            plugins.record(images.failed(&error));
            plugins.record(runtime.failed(&error));
            None
        }
    }
}

/// Returns where metrics and variables are taken from, if there is a server of either.
fn metrics(config: &Config, parts: &Parts, cri: Option<&Cri>) -> Option<Metrics> {
    if config.metrics.is_none() && config.debug.is_none() {
        return None;
    }
    let settings = config.plugins.get(&format!("{TASK_MONITOR}.cgroups"));
    let off = settings.and_then(|settings| settings.get("no_prometheus")?.as_bool());
    Some(Metrics {
        namespaces: parts.namespaces.clone(),
        containers: parts.containers.clone(),
        tasks: parts.tasks.clone(),
        collector: parts.collector.clone(),
        store: parts.store.clone(),
        calls: Calls::new(config.histogram),
        operations: cri.map(|cri| cri.operations.clone()),
        of_tasks: off != Some(true),
        started: Started::now(),
        build: [services::version::VERSION, services::version::REVISION],
    })
}

/// Returns the restart monitor and the time between its rounds, unless it is disabled.
fn monitor(
    config: &Config,
    parts: &Parts,
    plugins: &mut Plugins,
) -> Result<Option<(Monitor, Duration)>> {
    let names = restart::PLUGINS;
    if config
        .disabled
        .iter()
        .any(|uri| names.contains(&uri.as_str()))
    {
        return Ok(None);
    }
    let table = names.iter().find_map(|name| config.plugins.get(*name));
    let interval = restart::interval(table)?;
    plugins.record(
        Plugin::new(MONITOR, "restart")
            .requires(&[EVENT, METADATA, RUNTIME])
            .capabilities(&restart::policy::POLICIES),
    );
    let monitor = Monitor::new(restart::Parts {
        namespaces: parts.namespaces.clone(),
        containers: parts.containers.clone(),
        snapshots: parts.snapshots.clone(),
        tasks: parts.tasks.clone(),
    });
    Ok(Some((monitor, interval)))
}

/// Makes the gRPC services, introspection last: it reports all others.
fn serve(
    config: &Config,
    parts: &Parts,
    transfer: Transfer,
    cri: Option<Arc<Cri>>,
    plugins: Plugins,
) -> Result<RoutesBuilder> {
    let limit = config.max_message;
    let mut services = Services {
        routes: RoutesBuilder::default(),
        plugins,
    };
    let origin = Origin::new(parts.images.clone(), parts.content.clone());
    let containers = services::containers::server(parts.containers.clone(), origin);
    services.add("containers", &[METADATA], limited!(containers, limit));
    let content = services::content::server(parts.content.clone());
    services.add("content", &[METADATA], limited!(content, limit));
    let diff = services::diff::server(parts.diff.clone());
    services.add("diff", &[DIFFER], limited!(diff, limit));
    let events = services::events::server(parts.events.clone());
    services.add("events", &[EVENT], limited!(events, limit));
    services.add("healthcheck", &[], services::health::server());
    let images = services::images::server(parts.images.clone(), parts.collector.clone());
    services.add("images", &[METADATA, GC], limited!(images, limit));
    let leases = services::leases::server(parts.leases.clone(), parts.collector.clone());
    services.add("leases", &[LEASE, GC], limited!(leases, limit));
    services.add("mounts", &[], limited!(services::mounts::server(), limit));
    let namespaces = services::namespaces::server(parts.namespaces.clone());
    services.add("namespaces", &[METADATA], limited!(namespaces, limit));
    let controller = services::sandboxes::controller(parts.sandbox_controller.clone());
    services.add(
        "sandbox-controllers",
        &[SANDBOX_CONTROLLER],
        limited!(controller, limit),
    );
    let sandboxes = services::sandboxes::store(parts.sandboxes.clone());
    services.add("sandboxes", &[SANDBOX_STORE], limited!(sandboxes, limit));
    let snapshots = services::snapshots::server(parts.snapshots.clone());
    services.add("snapshots", &[METADATA], limited!(snapshots, limit));
    let tasks = services::tasks::server(parts.tasks.clone());
    services.add("tasks", &[RUNTIME], limited!(tasks, limit));
    let streams = Streams::default();
    let streaming = services::streaming::server(streams.clone());
    services.add("streaming", &[STREAMING], limited!(streaming, limit));
    let transfer = services::transfer::server(transfer, streams);
    services.add(
        "transfer",
        &[TRANSFER, STREAMING],
        limited!(transfer, limit),
    );
    services.add("version", &[], services::version::server());
    if let Some(cri) = cri {
        let runtime = cri::service::runtime_server(cri.clone());
        services.add("cri", &[CRI], limited!(runtime, limit));
        let images = cri::service::image_server(cri);
        services.routes.add_service(limited!(images, limit));
    }

    services.plugins.record(Plugin::new(GRPC, "introspection"));
    services.plugins.require(&config.required)?;
    let plugins = Arc::new(services.plugins);
    let directory = config.root.join(format!("{GRPC}.introspection"));
    listen::directory(&directory, 0o700)?;
    let introspection = services::introspection::server(plugins, &directory.join("uuid"))?;
    services.routes.add_service(limited!(introspection, limit));
    Ok(services.routes)
}

impl App {
    /// Takes the shims' events from now on, and finds the tasks of an earlier daemon.
    pub async fn start(&self, config: &Config) -> Result<()> {
        let listener = listen::bind(&config.ttrpc)?;
        let server = services::ttrpc_events::server(self.parts.tasks.shims().clone());
        tokio::spawn(async move {
            let served = server.serve(&listener, std::future::pending()).await;
            if let Err(error) = served {
                tracing::error!("take events of shims: {error}");
            }
        });
        self.parts.tasks.reload(&self.parts.sandboxes).await?;
        if let Some((monitor, interval)) = &self.monitor {
            tokio::spawn(monitor.clone().run(*interval));
        }
        if let Some(metrics) = &self.metrics {
            observe(config, metrics).await?;
        }
        match &self.cri {
            Some(cri) => cri.start().await,
            None => Ok(()),
        }
    }

    /// Serves gRPC on `listener` until `shutdown` is ready and what was being answered by then is.
    pub async fn serve(
        self,
        listener: UnixListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<()> {
        let calls = self.metrics.map(|metrics| metrics.calls);
        let connections = UnixListenerStream::new(listener).map(|io| io.map(Named::new));
        Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .trace_fn(span)
            .layer(option_layer(calls))
            .layer(Traced)
            .add_routes(self.services.routes())
            .serve_with_incoming_shutdown(connections, shutdown)
            .await
            .map_err(|error| Error::other("serve gRPC", error))
    }
}

/// Serves metrics and variables where the configuration says.
async fn observe(config: &Config, metrics: &Metrics) -> Result<()> {
    let listen = async |address: &str| {
        let listener = TcpListener::bind(address).await;
        listener.context(|| format!("listen on {address:?}"))
    };
    if let Some(address) = &config.metrics {
        let listener = listen(address).await?;
        tokio::spawn(serve::tcp(listener, metrics.clone(), Pages::Metrics));
    }
    match &config.debug {
        None => {}
        Some(Endpoint::Tcp(address)) => {
            let listener = listen(address).await?;
            tokio::spawn(serve::tcp(listener, metrics.clone(), Pages::Debug));
        }
        Some(Endpoint::Unix(socket)) => {
            let listener = listen::bind(socket)?;
            tokio::spawn(serve::unix(listener, metrics.clone(), Pages::Debug));
        }
    }
    Ok(())
}

/// Returns the span of a request: everything logged on its behalf carries the operation and the namespace.
fn span(request: &http::Request<()>) -> tracing::Span {
    let namespace = request.headers().get(NAMESPACE_HEADER);
    let namespace = namespace.and_then(|value| value.to_str().ok());
    tracing::info_span!("rpc", op = request.uri().path(), ns = namespace)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The gRPC services that have been made, and the plugin table they are recorded in.
struct Services {
    routes: RoutesBuilder,
    plugins: Plugins,
}

impl Services {
    /// Adds the service `server` under the plugin id `id`; `requires` are the types it is built upon.
    fn add<S>(&mut self, id: &str, requires: &[&str], server: S)
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.routes.add_service(server);
        self.plugins
            .record(Plugin::new(GRPC, id).requires(requires));
    }
}
