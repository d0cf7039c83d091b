//! `corten images mount` and `unmount`

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use api_protos::containerd::services::snapshots::v1::{
    PrepareSnapshotRequest, ViewSnapshotRequest,
};
use api_protos::containerd::types::Mount;
use clap::Args;

use crate::cli::Session;
use crate::client::{Client, Doing as _};
use crate::commands::containers::remove_snapshot;
use crate::commands::leases;
use crate::commands::output::print_line;
use crate::commands::snapshots::Snapshotter;
use crate::format::parse_duration;
use crate::{image, platform, unpack};

/// Mount an image's file system at a folder of this machine
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corten images mount docker.io/library/debian:12 /mnt
  corten images unmount --rm /mnt

The snapshot that is mounted has the folder's name. It is kept by a lease of that name, until that expires.")]
pub struct Options {
    #[command(flatten)]
    snapshotter: Snapshotter,
    /// Let it be written to; the image stays as it is
    #[arg(long)]
    rw: bool,
    /// Mount it for another platform, as linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// How long the snapshot is kept
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    expiration: Duration,
    /// The image
    name: String,
    /// The folder
    target: String,
}

/// Unmount what `images mount` has mounted
#[derive(Debug, Args)]
pub struct UnmountOptions {
    #[command(flatten)]
    snapshotter: Snapshotter,
    /// Delete the snapshot too
    #[arg(long)]
    rm: bool,
    /// The folder
    target: String,
}

/// Mounts.
pub async fn run(session: &Session, options: Options) -> Result<()> {
    let what = || format!("mount {} at {}", options.name, options.target);
    let (client, target) = (&session.client, &options.target);
    let lease = leases::create(client, target.clone(), options.expiration, &[]).await;
    let lease = lease.with_context(what)?;
    let result = mount(&client.with_lease(&lease)?, &options).await;
    if result.is_err() {
        leases::release(client, lease).await;
    }
    result.with_context(what)?;
    print_line(target)
}

async fn mount(client: &Client, options: &Options) -> Result<()> {
    let mounts = prepare(client, options).await?;
    let mounts: Vec<_> = mounts.into_iter().map(Into::into).collect();
    let mounted = sys::mount::mount_all(&mounts, Path::new(&options.target));
    if mounted.is_err() {
        let _ = remove_snapshot(client, &options.snapshotter.snapshotter, &options.target).await;
    }
    Ok(mounted?)
}

async fn prepare(client: &Client, options: &Options) -> Result<Vec<Mount>> {
    let found = image::get(client, &options.name).await?;
    let wanted = platform::chosen(options.platform.as_deref())?;
    let resolved = image::resolve(client, &found.target.unwrap_or_default(), &wanted).await?;
    let snapshotter = options.snapshotter.snapshotter.clone();
    let parent = unpack::unpack(client, &resolved, &snapshotter).await?;
    let (key, labels) = (options.target.clone(), Default::default());
    let what = || "prepare a snapshot".to_owned();
    if options.rw {
        let request = PrepareSnapshotRequest {
            snapshotter,
            key,
            parent,
            labels,
        };
        let answer = client.snapshots().prepare(request).await.doing(what)?;
        return Ok(answer.into_inner().mounts);
    }
    let request = ViewSnapshotRequest {
        snapshotter,
        key,
        parent,
        labels,
    };
    let answer = client.snapshots().view(request).await.doing(what)?;
    Ok(answer.into_inner().mounts)
}

/// Unmounts.
pub async fn unmount(session: &Session, options: UnmountOptions) -> Result<()> {
    let (client, target) = (&session.client, options.target);
    let unmounted = sys::mount::unmount_all(Path::new(&target));
    unmounted.with_context(|| format!("unmount {target}"))?;
    if options.rm {
        remove_snapshot(client, &options.snapshotter.snapshotter, &target).await?;
        leases::release(client, target.clone()).await;
    }
    print_line(&target)
}
