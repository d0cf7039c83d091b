//! `corten images import`

use std::fs::File;
use std::io::Read;
use std::sync::{Arc, atomic::AtomicU64, atomic::Ordering};

use anyhow::{Context as _, Result};
use api_protos::any;
use api_protos::containerd::types::transfer::{
    ImageImportStream, ImageReference, ImageStore, UnpackConfiguration,
};
use clap::Args;

use crate::cli::Session;
use crate::commands::snapshots::Snapshotter;
use crate::platform;
use crate::progress::Display;
use crate::stream::Stream;
use crate::transfer::transfer;

/// Import images from an archive, as `docker save` or `corten images export` writes it, and unpack them
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corten images import app.tar
  zcat app.tar.gz | corten images import -")]
pub struct Options {
    #[command(flatten)]
    snapshotter: Snapshotter,
    /// Begin of the names of images that the archive has no full name for [default: import-DATE]
    #[arg(long, value_name = "NAME")]
    base_name: Option<String>,
    /// Name of the archive's index as an image
    #[arg(long, value_name = "NAME")]
    index_name: Option<String>,
    /// Name images by digest too
    #[arg(long)]
    digests: bool,
    /// Import for another platform, as linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Import all platforms, unpack this machine's
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Do not unpack
    #[arg(long)]
    no_unpack: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// The archive; - is standard input
    file: String,
}

/// Imports.
pub async fn run(session: &Session, options: Options) -> Result<()> {
    let what = || format!("import {}", options.file);
    import(session, &options).await.with_context(what)
}

async fn import(session: &Session, options: &Options) -> Result<()> {
    let (reader, total): (Box<dyn Read + Send>, u64) = match options.file.as_str() {
        "-" => (Box::new(std::io::stdin()), 0),
        file => {
            let file = File::open(file).context("open the archive")?;
            let total = file.metadata().context("look at the archive")?.len();
            (Box::new(file), total)
        }
    };
    let store = store(options)?;
    let stream = Stream::open(&session.client, "import").await?;
    let source = ImageImportStream {
        stream: stream.id.clone(),
        ..Default::default()
    };
    let moved = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&moved);
    // Reading may block, on a pipe for one: it has a thread of its own.
    let runtime = tokio::runtime::Handle::current();
    let sending = tokio::task::spawn_blocking(move || {
        runtime.block_on(stream.send(reader, move |total| count.store(total, Ordering::Relaxed)))
    });
    let mut display = Display::new(options.quiet);
    display.watch(options.file.clone(), "sending", moved, total);
    let result = transfer(
        &session.client,
        any::pack(&source),
        any::pack(&store),
        &mut display,
    )
    .await;
    // The daemon's failure says more than that it stopped reading, but a file that cannot be read says it all.
    if result.is_err()
        && sending.is_finished()
        && let Ok(Err(error)) = sending.await
        && error.downcast_ref::<std::io::Error>().is_some()
    {
        return Err(error);
    }
    result
}

fn store(options: &Options) -> Result<ImageStore> {
    let wanted = platform::chosen(options.platform.as_deref())?;
    let prefix = match &options.base_name {
        Some(name) => name.clone(),
        None => {
            let now = prost_types::Timestamp::from(std::time::SystemTime::now());
            let now = crate::format::time(Some(&now));
            format!("import-{}", now.split('T').next().unwrap_or_default())
        }
    };
    // Only a prefix that was made up gives way to the names in the archive.
    let allow_overwrite = options.base_name.is_none();
    let reference = ImageReference {
        name: prefix,
        is_prefix: true,
        allow_overwrite,
        ..Default::default()
    };
    let mut store = ImageStore {
        name: options.index_name.clone().unwrap_or_default(),
        all_metadata: options.all_platforms,
        ..Default::default()
    };
    if options.digests {
        store.extra_references.push(ImageReference {
            add_digest: true,
            ..reference.clone()
        });
    }
    store.extra_references.push(reference);
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
    Ok(store)
}
