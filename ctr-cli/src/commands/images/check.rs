//! `corten images check`

use anyhow::Result;
use api_protos::containerd::services::content::v1::InfoRequest;
use api_protos::containerd::services::images::v1::ListImagesRequest;
use clap::Args;
use serde_json::json;
use tonic::Code;

use crate::cli::Session;
use crate::client::{Client, Doing as _, error};
use crate::commands::output::List;
use crate::commands::snapshots::Snapshotter;
use crate::image::{self, Resolved};
use crate::{platform, unpack};

/// Check that all of an image is there, for this machine's platform
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    snapshotter: Snapshotter,
    /// Names of the complete ones alone
    #[arg(short, long)]
    quiet: bool,
    /// Filters in containerd's grammar, as name~=debian or labels.KEY==VALUE
    filters: Vec<String>,
}

/// Checks.
pub async fn run(session: &Session, options: Options) -> Result<()> {
    let client = &session.client;
    let request = ListImagesRequest {
        filters: options.filters,
    };
    let answer = client.images().list(request).await;
    let mut list = List::new(&["REF", "DIGEST", "STATUS", "UNPACKED"]);
    for found in answer.doing(|| "list images".into())?.into_inner().images {
        let target = found.target.unwrap_or_default();
        let resolved = image::resolve(client, &target, &platform::own()).await;
        let (status, complete, unpacked) = match resolved {
            Err(error) => (format!("incomplete: {error:#}"), false, false),
            Ok(image) => {
                let there = layers_there(client, &image).await?;
                let (count, complete) = (image.layers.len(), there == image.layers.len());
                let word = if complete { "complete" } else { "incomplete" };
                let status = format!("{word} ({there}/{count} layers)");
                let snapshotter = &options.snapshotter.snapshotter;
                (
                    status,
                    complete,
                    unpack::done(client, &image, snapshotter).await?,
                )
            }
        };
        let value = json!({
            "name": found.name, "digest": target.digest, "status": status, "complete": complete, "unpacked": unpacked,
        });
        if complete || !options.quiet {
            list.add(
                vec![found.name, target.digest, status, unpacked.to_string()],
                value,
            );
        }
    }
    list.print(session, options.quiet)
}

/// Returns how many of an image's layers are in the content store.
async fn layers_there(client: &Client, image: &Resolved) -> Result<usize> {
    let mut there = 0;
    for layer in &image.layers {
        let request = InfoRequest {
            digest: layer.digest.clone(),
        };
        match client.content().info(request).await {
            Ok(_) => there += 1,
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => {
                return Err(error(&status).context(format!("look for content {}", layer.digest)));
            }
        }
    }
    Ok(there)
}
