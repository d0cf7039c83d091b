//! `corten images push`

use anyhow::{Context as _, Result};
use api_protos::any;
use api_protos::containerd::types::transfer::ImageStore;
use clap::Args;

use crate::cli::Session;
use crate::platform;
use crate::progress::Display;
use crate::transfer::{RegistryOptions, transfer};

/// Push an image to a registry
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corten images push --user me:secret registry.example.org/app:1
  corten images push --plain-http 127.0.0.1:5000/app:1 registry.example.org/app:1")]
pub struct Options {
    #[command(flatten)]
    registry: RegistryOptions,
    /// Push one platform only, as linux/arm64
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Where to push, as HOST/REPOSITORY:TAG
    reference: String,
    /// The image in the daemon's store [default: the same name]
    image: Option<String>,
}

/// Pushes.
pub async fn run(session: &Session, options: Options) -> Result<()> {
    let what = || format!("push {}", options.reference);
    let registry = options
        .registry
        .registry(&session.client, &options.reference)
        .await
        .with_context(what)?;
    let mut store = ImageStore {
        name: options
            .image
            .clone()
            .unwrap_or_else(|| options.reference.clone()),
        ..Default::default()
    };
    if let Some(platform) = &options.platform {
        store
            .platforms
            .push(platform::parse(platform).with_context(what)?);
    }
    let mut display = Display::new(options.quiet);
    let result = transfer(
        &session.client,
        any::pack(&store),
        any::pack(&registry),
        &mut display,
    )
    .await;
    options.registry.clean(&registry);
    result.with_context(what)
}
