//! `corten images pull`

use anyhow::{Context as _, Result};
use api_protos::any;
use api_protos::containerd::types::transfer::{ImageStore, UnpackConfiguration};
use clap::Args;

use crate::cli::Session;
use crate::commands::snapshots::Snapshotter;
use crate::format::parse_labels;
use crate::platform;
use crate::progress::Display;
use crate::transfer::{RegistryOptions, transfer};

/// Pull an image from a registry and unpack it
///
/// The reference is written out: host, repository and tag or digest.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corten images pull docker.io/library/debian:12
  corten images pull --plain-http 127.0.0.1:5000/tools:latest
  corten images pull --user me:secret --platform linux/arm64 registry.example.org/app:1")]
pub struct Options {
    #[command(flatten)]
    registry: RegistryOptions,
    #[command(flatten)]
    snapshotter: Snapshotter,
    /// Pull for another platform, as linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Pull for all platforms, unpack this machine's
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Fetch only, do not unpack
    #[arg(long)]
    no_unpack: bool,
    /// Label the image, as KEY=VALUE; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// The reference, as HOST/REPOSITORY:TAG
    reference: String,
}

/// Pulls.
pub async fn run(session: &Session, options: Options) -> Result<()> {
    let what = || format!("pull {}", options.reference);
    let wanted = platform::chosen(options.platform.as_deref()).with_context(what)?;
    let registry = options
        .registry
        .registry(&session.client, &options.reference)
        .await
        .with_context(what)?;
    let mut store = ImageStore {
        name: options.reference.clone(),
        labels: parse_labels(&options.label),
        all_metadata: options.all_platforms,
        ..Default::default()
    };
    if !options.all_platforms {
        store.platforms.push(wanted.clone());
    }
    if !options.no_unpack {
        let snapshotter = options.snapshotter.snapshotter.clone();
        store.unpacks.push(UnpackConfiguration {
            platform: Some(wanted),
            snapshotter,
        });
    }
    let mut display = Display::new(options.quiet);
    let result = transfer(
        &session.client,
        any::pack(&registry),
        any::pack(&store),
        &mut display,
    )
    .await;
    options.registry.clean(&registry);
    result.with_context(what)
}
