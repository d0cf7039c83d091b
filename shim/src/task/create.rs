//! Making a container: its root file system is mounted, its driver made, and its place in the table filled.

use std::path::Path;

use sys::mount::Mount;
use sys::{Context, Error, Kind, Result};
use tokio::sync::{mpsc, oneshot};

use super::Create;
use super::driver::Driver;
use super::table::{Table, Task};
use crate::events::Publisher;
use crate::reaper::Reaper;

/// What a driver shares with all others.
#[derive(Clone, Debug)]
pub struct Shared {
    pub namespace: String,
    pub table: Table,
    pub reaper: Reaper,
    pub publisher: Publisher,
}

impl Shared {
    /// Makes a container with its driver, and lets the driver run; a client that goes away meanwhile changes nothing.
    pub async fn create(&self, create: Create) -> Result<u32> {
        let hold = self.table.hold(&create.id)?;
        let shared = self.clone();
        let (done, created) = oneshot::channel();
        tokio::spawn(async move {
            let result = Driver::create(shared, create).await.map(|driver| {
                let (requests, received) = mpsc::unbounded_channel();
                let pid = driver.pid();
                hold.fill(Task { pid, requests });
                tokio::spawn(driver.run(received));
                pid
            });
            let _ = done.send(result);
        });
        let lost = |_| Err(Error::new(Kind::Internal, "the container got lost"));
        created.await.unwrap_or_else(lost)
    }
}

/// Mounts what the client asks for at `rootfs`.
pub(super) fn mount(create: &Create, rootfs: &Path) -> Result<()> {
    if create.rootfs.is_empty() {
        return Ok(());
    }
    match std::fs::create_dir(rootfs) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).context(|| format!("make {rootfs:?}"));
        }
        _ => {}
    }
    let mounts: Vec<Mount> = create.rootfs.iter().cloned().map(Into::into).collect();
    sys::mount::mount_all(&mounts, rootfs).context(|| "failed to mount rootfs component")
}
