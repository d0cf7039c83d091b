//! The server: the ttrpc services on the shim's socket, until the last container is gone and the daemon says so.

use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api_protos::containerd::task::v2::task_ttrpc::NAME as V2;
use api_protos::containerd::task::v3::task_ttrpc::{NAME as V3, TaskServer};
use corten_ttrpc::{Server, Service};
use sys::{Context, Result};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::events::Publisher;
use crate::log;
use crate::reaper::Reaper;
use crate::service::Tasks;
use crate::task::{Shared, Table};

/// How long the last events may take to reach the daemon.
const FLUSH: Duration = Duration::from_secs(2);
/// How long calls under way may take once the shim shuts down.
const GRACE: Duration = Duration::from_secs(1);

/// What a server has to know.
#[derive(Clone, Debug)]
pub struct Config {
    pub namespace: String,
    /// The socket that takes events.
    pub ttrpc_address: String,
    /// Where the server listens, which it removes in the end.
    pub socket: PathBuf,
}

/// Serves until it is shut down.
pub fn serve(listener: &StdListener, config: Config) -> Result<()> {
    // Orphans of containers shall come to the shim, which reaps them.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context(|| "become a subreaper")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context(|| "start the runtime")?;
    let socket = config.socket.clone();
    let served = runtime.block_on(run(listener, config));
    let _ = std::fs::remove_file(socket);
    served
}

async fn run(listener: &StdListener, config: Config) -> Result<()> {
    let listener = listener.try_clone().context(|| "duplicate the socket")?;
    listener
        .set_nonblocking(true)
        .context(|| "make the socket non-blocking")?;
    let listener = UnixListener::from_std(listener).context(|| "watch the socket")?;
    let mut terminate = signal(SignalKind::terminate()).context(|| "watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context(|| "watch for SIGINT")?;
    let reaper = Reaper::default();
    let publisher = Publisher::new(&config.namespace);
    tokio::spawn(reaper.clone().run(Reaper::signals()?));
    tokio::spawn(publisher.clone().run(config.ttrpc_address));
    let shutdown = Arc::new(Notify::new());
    let tasks = Arc::new(Tasks {
        shared: Shared {
            namespace: config.namespace,
            table: Table::default(),
            reaper,
            publisher: publisher.clone(),
        },
        shutdown: shutdown.clone(),
    });
    let services = [V2, V3]
        .map(|name| -> Box<dyn Service> { Box::new(TaskServer::named(tasks.clone(), name)) });
    let server = Server::new(services)
        .with_peer_uid(rustix::process::geteuid().as_raw())
        .with_grace(GRACE);
    let stop = async {
        tokio::select! {
            () = shutdown.notified() => {}
            _ = terminate.recv() => log::info("shut down by SIGTERM"),
            _ = interrupt.recv() => log::info("shut down by SIGINT"),
        }
    };
    let served = server.serve(&listener, stop).await;
    publisher.flush(FLUSH).await;
    served.context(|| "serve")
}
