//! One snapshotter by itself, on a socket of its own: a proxy plugin for any containerd.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use futures_util::StreamExt;
use snapshotter::native::Native;
use snapshotter::overlay::{Options, Overlay};
use snapshotter::{Foreign, Snapshotter};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::authority::Named;
use crate::config::Socket;
use crate::error::{Error, Result};
use crate::listen::{self, Lock};
use crate::{notify, services};

/// The largest message, as containerd has it.
const MESSAGE: usize = 16 << 20;

/// Which snapshotter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Mounts layers one upon the other.
    Overlayfs,
    /// Copies each layer whole.
    Native,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Overlayfs, Self::Native];

    /// Returns the name by which containerd knows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlayfs => "overlayfs",
            Self::Native => "native",
        }
    }

    /// Has the snapshotter of this kind in the folder `root` take `snapshots`, and nothing else, from the folders in
    /// `from`.
    pub fn take(self, root: &Path, from: &Path, snapshots: &[Foreign]) -> Result<()> {
        match self {
            Self::Overlayfs => Overlay::open(root, Options::default())?.take(from, snapshots),
            Self::Native => Native::open(root)?.take(from, snapshots),
        }
    }

    /// Opens the snapshotter of this kind in the folder `root`.
    pub fn open(self, root: &Path) -> Result<Arc<dyn Snapshotter>> {
        Ok(match self {
            Self::Overlayfs => Arc::new(Overlay::open(root, Options::default())?),
            Self::Native => Arc::new(Native::open(root)?),
        })
    }
}

/// Serves a snapshotter until `shutdown` is ready and what was being answered by then is.
pub async fn serve(
    kind: Kind,
    root: &Path,
    address: PathBuf,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    listen::directory(root, 0o700)?;
    let _lock = Lock::take(root)?;
    let snapshotter = kind.open(root)?;
    let service = services::snapshotter::server(snapshotter.clone())
        .max_decoding_message_size(MESSAGE)
        .max_encoding_message_size(MESSAGE);
    let (uid, gid) = (0, 0);
    let socket = Socket {
        path: address,
        uid,
        gid,
    };
    let listener = listen::bind(&socket)?;
    let capabilities = snapshotter.capabilities().join(",");
    tracing::info!(address = ?socket.path, capabilities, "serving");
    notify::send(std::env::var_os(notify::SOCKET_VARIABLE), "READY=1")?;
    let connections = UnixListenerStream::new(listener).map(|io| io.map(Named::new));
    Server::builder()
        .add_service(service)
        .add_service(services::health::server())
        .serve_with_incoming_shutdown(connections, shutdown)
        .await
        .map_err(|error| Error::other("serve gRPC", error))
}
