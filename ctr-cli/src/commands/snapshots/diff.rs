//! `corten snapshots diff`

use std::io::Write as _;

use anyhow::Result;
use api_protos::containerd::services::content::v1::ReadContentRequest;
use api_protos::containerd::services::diff::v1::DiffRequest;
use api_protos::containerd::services::snapshots::v1::{
    Info, Kind, MountsRequest, StatSnapshotRequest, ViewSnapshotRequest,
};
use api_protos::containerd::types::Mount;
use clap::Args;

use crate::client::{Client, Doing as _};
use crate::commands::containers::remove_snapshot;
use crate::commands::leases;
use crate::fifo::random;
use crate::format::parse_labels;

/// Write the difference between two snapshots to standard output, as a layer
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corten snapshots diff web >layer.tar.gz
  corten snapshots diff --media-type application/vnd.oci.image.layer.v1.tar before after | tar -t")]
pub(super) struct Options {
    /// The form of the layer
    #[arg(
        long,
        value_name = "TYPE",
        default_value = "application/vnd.oci.image.layer.v1.tar+gzip"
    )]
    media_type: String,
    /// Keep the blob in the content store
    #[arg(long)]
    keep: bool,
    /// Label the blob, as KEY=VALUE; may be given several times
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// The snapshot that was changed, or the older one of two
    first: String,
    /// The newer one [default: the first is compared with its parent]
    second: Option<String>,
}

/// Writes the difference.
pub(super) async fn run(client: &Client, snapshotter: &str, options: Options) -> Result<()> {
    let (leased, lease) = leases::lease(client).await?;
    let mut sides = Sides {
        client: &leased,
        snapshotter,
        views: Vec::new(),
    };
    let result = diff(&mut sides, options).await;
    for view in sides.views {
        let _ = remove_snapshot(client, snapshotter, &view).await;
    }
    leases::release(client, lease).await;
    result
}

async fn diff(sides: &mut Sides<'_>, options: Options) -> Result<()> {
    let (older, newer) = match options.second {
        Some(second) => (options.first, second),
        None => (sides.stat(&options.first).await?.parent, options.first),
    };
    let what = || format!("compare snapshot {newer} with {older:?}");
    let mut labels = parse_labels(&options.label);
    if options.keep {
        labels.extend(super::root_label());
    }
    let request = DiffRequest {
        left: sides.mounts(&older).await?,
        right: sides.mounts(&newer).await?,
        media_type: options.media_type,
        labels,
        ..Default::default()
    };
    let client = sides.client;
    let answer = client.diff().diff(request).await.doing(what)?;
    let request = ReadContentRequest {
        digest: answer.into_inner().diff.unwrap_or_default().digest,
        ..Default::default()
    };
    let answer = client.content().read(request).await.doing(what)?;
    let mut stream = answer.into_inner();
    let mut stdout = std::io::stdout().lock();
    while let Some(part) = stream.message().await.doing(what)? {
        stdout.write_all(&part.data)?;
    }
    Ok(stdout.flush()?)
}

/// The two snapshots that are compared, and the views that were made of them.
struct Sides<'a> {
    client: &'a Client,
    snapshotter: &'a str,
    views: Vec<String>,
}

impl Sides<'_> {
    async fn stat(&self, key: &str) -> Result<Info> {
        let request = StatSnapshotRequest {
            snapshotter: self.snapshotter.into(),
            key: key.into(),
        };
        let answer = self.client.snapshots().stat(request).await;
        let answer = answer.doing(|| format!("get snapshot {key}"))?;
        Ok(answer.into_inner().info.unwrap_or_default())
    }

    /// Returns the mounts of a snapshot, of which a view is made unless it can be written to; nothing has an empty one.
    async fn mounts(&mut self, key: &str) -> Result<Vec<Mount>> {
        let what = || format!("get the mounts of snapshot {key:?}");
        let (snapshotter, mut snapshots) = (self.snapshotter.to_owned(), self.client.snapshots());
        if !key.is_empty() && self.stat(key).await?.kind() == Kind::Active {
            let request = MountsRequest {
                snapshotter,
                key: key.into(),
            };
            let answer = snapshots.mounts(request).await.doing(what)?;
            return Ok(answer.into_inner().mounts);
        }
        let view = format!("diff-{}", random()?);
        let request = ViewSnapshotRequest {
            snapshotter,
            key: view.clone(),
            parent: key.into(),
            ..Default::default()
        };
        let answer = snapshots.view(request).await.doing(what)?;
        self.views.push(view);
        Ok(answer.into_inner().mounts)
    }
}
