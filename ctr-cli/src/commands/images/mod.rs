//! `corten images`

pub mod check;
pub mod convert;
pub mod export;
pub mod import;
pub mod list;
pub mod mount;
pub mod pull;
pub mod push;

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use api_protos::any;
use api_protos::containerd::services::containers::v1::ListContainersRequest;
use api_protos::containerd::services::images::v1::{
    DeleteImageRequest, Image, ListImagesRequest, UpdateImageRequest,
};
use api_protos::containerd::services::transfer::v1::TransferRequest;
use api_protos::containerd::types::transfer::ImageStore;
use clap::Subcommand;
use serde_json::json;

use super::leases;
use super::output::{print_json, print_line};
use super::snapshots::{self, Snapshotter};
use crate::cli::Session;
use crate::client::Doing as _;
use crate::format::{labels, labels_json, labels_mask, parse_labels, time};
use crate::{image, platform};

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub enum Command {
    Pull(pull::Options),
    Push(push::Options),
    Import(import::Options),
    Export(export::Options),
    List(list::Options),
    Check(check::Options),
    Convert(convert::Options),
    /// Show an image's record, manifest and configuration, as JSON
    Inspect {
        /// For another platform, as linux/arm64 [default: this machine's]
        #[arg(long, value_name = "OS/ARCH")]
        platform: Option<String>,
        /// The image
        name: String,
    },
    /// Show how much space the snapshots take that an image is unpacked to
    Usage {
        #[command(flatten)]
        snapshotter: Snapshotter,
        /// The image
        name: String,
    },
    Mount(mount::Options),
    Unmount(mount::UnmountOptions),
    /// Set labels of an image and print all of them; a label without a value is removed
    Label {
        /// The image
        name: String,
        /// Labels, as KEY=VALUE or KEY=
        #[arg(required = true)]
        labels: Vec<String>,
    },
    /// Remove images and wait until what nothing else uses is gone
    #[command(visible_aliases = ["rm", "del", "delete"])]
    Remove {
        /// Wait for the collection; this is what happens anyway
        #[arg(long, hide = true)]
        sync: bool,
        /// Do not wait for the collection
        #[arg(long = "async", conflicts_with = "sync")]
        later: bool,
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove the images that no container was made of
    Prune {
        /// Without this, nothing is removed
        #[arg(long, required = true)]
        all: bool,
    },
    /// Give an image further names
    Tag {
        /// Replace an image that has the name already; this is what happens anyway
        #[arg(long, hide = true)]
        force: bool,
        /// The image
        image: String,
        /// Its new names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Runs a command on images.
pub async fn run(session: &Session, command: Command) -> Result<()> {
    if !matches!(
        command,
        Command::Pull(_)
            | Command::Push(_)
            | Command::Import(_)
            | Command::Export(_)
            | Command::Convert(_)
    ) {
        return run_with(session, command).await;
    }
    // The lease keeps blobs that no image names yet, and makes the namespace: containerd collects the streams of one
    // that does not exist yet.
    let (client, lease) = leases::lease(&session.client).await?;
    let leased = Session {
        client,
        fifo_dir: session.fifo_dir.clone(),
        json: session.json,
    };
    let result = run_with(&leased, command).await;
    leases::release(&session.client, lease).await;
    result
}

async fn run_with(session: &Session, command: Command) -> Result<()> {
    match command {
        Command::Pull(options) => pull::run(session, options).await,
        Command::Push(options) => push::run(session, options).await,
        Command::Import(options) => import::run(session, options).await,
        Command::Export(options) => export::run(session, options).await,
        Command::List(options) => list::run(session, options).await,
        Command::Check(options) => check::run(session, options).await,
        Command::Convert(options) => convert::run(session, options).await,
        Command::Inspect { platform, name } => inspect(session, platform.as_deref(), &name).await,
        Command::Usage { snapshotter, name } => {
            let client = &session.client;
            let what = || format!("measure {name}");
            let target = image::get(client, &name).await?.target.unwrap_or_default();
            let resolved = image::resolve(client, &target, &platform::own()).await;
            // The topmost comes first.
            let keys = resolved.with_context(what)?.chain_ids().into_iter().rev();
            let measured = snapshots::usage(session, &snapshotter.snapshotter, keys.collect());
            measured.await.with_context(what)
        }
        Command::Mount(options) => mount::run(session, options).await,
        Command::Unmount(options) => mount::unmount(session, options).await,
        Command::Label {
            name,
            labels: arguments,
        } => {
            // containerd wants to be told the target too, which stays what it is.
            let image = Image {
                labels: parse_labels(&arguments),
                ..image::get(&session.client, &name).await?
            };
            let request = UpdateImageRequest {
                update_mask: Some(labels_mask(&image.labels)),
                image: Some(image),
                source_date_epoch: None,
            };
            let answer = session.client.images().update(request).await;
            let answer = answer.doing(|| format!("label image {name}"))?;
            print_line(&labels(
                &answer.into_inner().image.unwrap_or_default().labels,
            ))
        }
        Command::Remove { later, names, .. } => remove(session, names, !later).await,
        Command::Prune { .. } => {
            let client = &session.client;
            let images = client.images().list(ListImagesRequest::default()).await;
            let images = images.doing(|| "list images".into())?.into_inner().images;
            let containers = client
                .containers()
                .list(ListContainersRequest::default())
                .await;
            let containers = containers.doing(|| "list containers".into())?.into_inner();
            let used: HashSet<String> = containers
                .containers
                .into_iter()
                .map(|container| container.image)
                .collect();
            let names = images.into_iter().map(|image| image.name);
            let unused = names.filter(|name| !used.contains(name)).collect();
            remove(session, unused, true).await
        }
        Command::Tag { image, names, .. } => {
            for name in names {
                let store = |name: &str| {
                    Some(any::pack(&ImageStore {
                        name: name.into(),
                        ..Default::default()
                    }))
                };
                let request = TransferRequest {
                    source: store(&image),
                    destination: store(&name),
                    options: None,
                };
                session
                    .client
                    .transfer()
                    .transfer(request)
                    .await
                    .doing(|| format!("tag {image} as {name}"))?;
                print_line(&name)?;
            }
            Ok(())
        }
    }
}

async fn inspect(session: &Session, platform: Option<&str>, name: &str) -> Result<()> {
    let found = image::get(&session.client, name).await?;
    let target = found.target.unwrap_or_default();
    let wanted = platform::chosen(platform)?;
    let resolved = image::resolve(&session.client, &target, &wanted).await;
    let resolved = resolved.with_context(|| format!("inspect {name}"))?;
    print_json(&json!({
        "name": found.name,
        "labels": labels_json(&found.labels),
        "target": {"mediaType": target.media_type, "digest": target.digest, "size": target.size},
        "created_at": time(found.created_at.as_ref()),
        "updated_at": time(found.updated_at.as_ref()),
        "manifest": resolved.manifest,
        "config": resolved.config,
    }))
}

/// Removes images; one collection for all of them comes with the last, and is waited for if `wait` says so.
async fn remove(session: &Session, names: Vec<String>, wait: bool) -> Result<()> {
    let count = names.len();
    for (number, name) in names.into_iter().enumerate() {
        let request = DeleteImageRequest {
            name: name.clone(),
            sync: wait && number + 1 == count,
            target: None,
        };
        let removed = session.client.images().delete(request).await;
        removed.doing(|| format!("remove image {name}"))?;
        print_line(&name)?;
    }
    Ok(())
}
