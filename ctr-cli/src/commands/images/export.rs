//! `corten images export`

use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::sync::{Arc, atomic::AtomicU64, atomic::Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use api_protos::any;
use api_protos::containerd::types::transfer::{ImageExportStream, ImageReference, ImageStore};
use clap::Args;

use crate::cli::Session;
use crate::image;
use crate::platform;
use crate::progress::Display;
use crate::stream::Stream;
use crate::transfer::transfer;

/// Export images to an OCI archive, which `docker load` reads too
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corten images export app.tar registry.example.org/app:1
  corten images export - registry.example.org/app:1 | gzip >app.tar.gz")]
pub struct Options {
    /// Export one platform only, as linux/arm64; may be given several times
    #[arg(long, value_name = "OS/ARCH")]
    platform: Vec<String>,
    /// Export all platforms, also those whose content is not there
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Leave out the manifest.json that Docker reads
    #[arg(long)]
    skip_manifest_json: bool,
    /// Leave out layers that may not be distributed
    #[arg(long)]
    skip_non_distributable: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// The archive to write; - is standard output
    file: String,
    /// The images
    #[arg(required = true)]
    images: Vec<String>,
}

/// Exports.
pub async fn run(session: &Session, options: Options) -> Result<()> {
    let what = || format!("export {} to {}", options.images.join(", "), options.file);
    for name in &options.images {
        // A missing image is told by name, before a file is made.
        image::get(&session.client, name).await.with_context(what)?;
    }
    let (writer, part): (Box<dyn Write + Send>, Option<String>) = match options.file.as_str() {
        "-" if std::io::stdout().is_terminal() => {
            bail!("{}: a terminal cannot show an archive", what())
        }
        "-" => (Box::new(std::io::stdout()), None),
        file => {
            let part = format!("{file}.{}.part", std::process::id());
            (
                Box::new(
                    File::create_new(&part)
                        .with_context(|| format!("make {part}"))
                        .with_context(what)?,
                ),
                Some(part),
            )
        }
    };
    let result = export(session, &options, writer).await;
    let finished = match (result, &part) {
        (Ok(()), Some(part)) => fs::rename(part, &options.file).context("put the archive in place"),
        (result, Some(part)) => {
            let _ = fs::remove_file(part);
            result
        }
        (result, None) => result,
    };
    finished.with_context(what)
}

async fn export(session: &Session, options: &Options, writer: Box<dyn Write + Send>) -> Result<()> {
    let references = options.images.iter().map(|name| ImageReference {
        name: name.clone(),
        ..Default::default()
    });
    let store = ImageStore {
        extra_references: references.collect(),
        ..Default::default()
    };
    let stream = Stream::open(&session.client, "export").await?;
    let mut platforms = options
        .platform
        .iter()
        .map(|text| platform::parse(text))
        .collect::<Result<Vec<_>>>()?;
    if platforms.is_empty() && !options.all_platforms {
        platforms.push(platform::own());
    }
    let destination = ImageExportStream {
        stream: stream.id.clone(),
        platforms,
        all_platforms: options.all_platforms,
        skip_compatibility_manifest: options.skip_manifest_json,
        skip_non_distributable: options.skip_non_distributable,
        ..Default::default()
    };
    let moved = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&moved);
    let (over, is_over) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let receiving = tokio::task::spawn_blocking(move || {
        runtime.block_on(stream.receive(writer, is_over, move |total| {
            count.store(total, Ordering::Relaxed)
        }))
    });
    // With the archive on standard output there is no place for progress.
    let mut display = Display::new(options.quiet || options.file == "-");
    display.watch(options.file.clone(), "receiving", moved, 0);
    transfer(
        &session.client,
        any::pack(&store),
        any::pack(&destination),
        &mut display,
    )
    .await?;
    let _ = over.send(());
    let received = tokio::time::timeout(Duration::from_secs(60), receiving).await;
    received
        .context("wait for the end of the archive")?
        .context("receive the archive")?
        .map(drop)
}
