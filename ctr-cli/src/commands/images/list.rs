//! `corten images list`

use anyhow::Result;
use api_protos::containerd::services::images::v1::ListImagesRequest;
use clap::Args;
use serde_json::json;

use crate::cli::Session;
use crate::client::Doing as _;
use crate::commands::output::List;
use crate::format::{bytes, labels, labels_json, time};
use crate::{image, platform};

/// List images
#[derive(Debug, Args)]
#[command(visible_alias = "ls")]
pub struct Options {
    /// Names alone
    #[arg(short, long)]
    quiet: bool,
    /// Filters in containerd's grammar, as name~=debian or labels.KEY==VALUE
    filters: Vec<String>,
}

/// Lists.
pub async fn run(session: &Session, options: Options) -> Result<()> {
    let client = &session.client;
    let answer = client
        .images()
        .list(ListImagesRequest {
            filters: options.filters,
        })
        .await;
    let mut list = List::new(&["REF", "TYPE", "DIGEST", "SIZE", "PLATFORMS", "LABELS"]);
    for found in answer.doing(|| "list images".into())?.into_inner().images {
        let target = found.target.unwrap_or_default();
        let (mut size, mut platforms) = (None, Vec::new());
        if !options.quiet {
            // An image whose content is gone, or is another platform's, is still listed.
            size = image::resolve(client, &target, &platform::own())
                .await
                .ok()
                .map(|image| image.size);
            platforms = image::platforms(client, &target).await.unwrap_or_default();
        }
        let platforms: Vec<String> = platforms.iter().map(platform::format).collect();
        let value = json!({
            "name": found.name, "media_type": target.media_type, "digest": target.digest, "size": size,
            "platforms": platforms, "labels": labels_json(&found.labels), "created_at": time(found.created_at.as_ref()),
        });
        let size = size.map(bytes).unwrap_or_default();
        let cells = vec![
            found.name,
            target.media_type,
            target.digest,
            size,
            platforms.join(","),
            labels(&found.labels),
        ];
        list.add(cells, value);
    }
    list.print(session, options.quiet)
}
