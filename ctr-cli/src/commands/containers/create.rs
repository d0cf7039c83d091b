//! `corten containers create`, and the part of `corten run` that comes before the task.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use api_protos::any;
use api_protos::containerd::runc::v1::Options as RuncOptions;
use api_protos::containerd::services::containers::v1::{
    Container, CreateContainerRequest, container::Runtime,
};
use api_protos::containerd::services::snapshots::v1::PrepareSnapshotRequest;
use api_protos::containerd::types::Mount;
use clap::Args;
use serde_json::{Value, json};
use sys::path::Root;

use crate::attach::Signals;
use crate::cli::Session;
use crate::client::{Client, Doing as _};
use crate::commands::leases;
use crate::commands::snapshots::Snapshotter;
use crate::format::parse_labels;
use crate::spec::limits::Limits;
use crate::spec::{self, SpecOptions, user};
use crate::{image, platform, unpack};

/// Create a container without starting it
#[derive(Debug, Args)]
#[command(visible_alias = "c")]
#[command(
    override_usage = "corten containers create [OPTIONS] <IMAGE> <ID> [COMMAND]...
       corten containers create [OPTIONS] --config <FILE> <ID>"
)]
pub struct Options {
    #[command(flatten)]
    container: ContainerOptions,
}

/// What makes a container.
#[derive(Debug, Args)]
pub struct ContainerOptions {
    #[command(flatten)]
    spec: SpecOptions,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    snapshotter: Snapshotter,
    /// Label the container's snapshot, as KEY=VALUE; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    snapshotter_label: Vec<String>,
    /// Shim that runs the container
    #[arg(long, value_name = "NAME", default_value = "io.containerd.runc.v2")]
    runtime: String,
    /// OCI runtime that the shim is to call
    #[arg(long, value_name = "PATH")]
    runc_binary: Option<PathBuf>,
    /// Label the container, as KEY=VALUE; may be given several times
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Take the whole OCI configuration from this JSON file; the container's name is then the only argument
    #[arg(
        short,
        long,
        value_name = "FILE",
        conflicts_with_all = ["SpecOptions", "Limits", "snapshotter_label", "rootfs", "platform", "tty"]
    )]
    config: Option<PathBuf>,
    /// IMAGE is a folder on the host that holds a root file system
    #[arg(long)]
    rootfs: bool,
    /// Take the image for another platform, as linux/arm64
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,
    /// The image
    image: String,
    /// The container's name
    #[arg(required_unless_present = "config", conflicts_with = "config")]
    id: Option<String>,
    /// The command and its arguments [default: the image's]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl ContainerOptions {
    /// Returns the container's name, which is the only argument if there is a configuration.
    pub fn id(&self) -> &str {
        self.id.as_deref().unwrap_or(&self.image)
    }

    /// Returns what the container is made of.
    pub fn source(&self) -> String {
        let file = self.config.as_ref().map(|file| file.display().to_string());
        file.unwrap_or_else(|| self.image.clone())
    }
}

/// Creates.
pub async fn run(session: &Session, options: Options) -> Result<()> {
    let mut signals = Signals::take()?;
    create(&session.client, &options.container, &mut signals)
        .await
        .map(drop)
}

/// Makes a container's record and snapshot; nothing is left of either if that fails.
pub async fn create(
    client: &Client,
    options: &ContainerOptions,
    signals: &mut Signals,
) -> Result<Container> {
    let what = || format!("create container {}", options.id());
    // Until the container refers to its snapshot, the lease is what keeps it.
    let (leased, lease) = leases::lease(client).await.with_context(what)?;
    let result = create_leased(&leased, options, signals)
        .await
        .with_context(what);
    leases::release(client, lease).await;
    result
}

async fn create_leased(
    client: &Client,
    options: &ContainerOptions,
    signals: &mut Signals,
) -> Result<Container> {
    let mut container = Container {
        id: options.id().to_owned(),
        runtime: Some(Runtime {
            name: options.runtime.clone(),
            options: runtime_options(options)?,
        }),
        ..Default::default()
    };
    let spec = match &options.config {
        Some(file) => read(file),
        None => configure(client, options, &mut container, signals).await,
    };
    let created = match spec {
        Ok(spec) => {
            container.labels.extend(parse_labels(&options.label));
            container.spec = Some(spec::pack(&spec));
            let request = CreateContainerRequest {
                container: Some(container.clone()),
            };
            client
                .containers()
                .create(request)
                .await
                .map_err(|status| crate::client::error(&status))
        }
        Err(error) => Err(error),
    };
    match created {
        Ok(answer) => Ok(answer.into_inner().container.unwrap_or(container)),
        Err(error) => {
            if !container.snapshot_key.is_empty() {
                let _ =
                    super::remove_snapshot(client, &container.snapshotter, &container.snapshot_key)
                        .await;
            }
            Err(error)
        }
    }
}

fn read(file: &Path) -> Result<Value> {
    let what = || format!("read {}", file.display());
    let text = std::fs::read(file).with_context(what)?;
    serde_json::from_slice(&text).with_context(what)
}

/// Returns the configuration that the options ask for, and prepares the snapshot of the image.
async fn configure(
    client: &Client,
    options: &ContainerOptions,
    container: &mut Container,
    signals: &mut Signals,
) -> Result<Value> {
    let mut spec = spec::defaults::linux(client.namespace(), options.id());
    if options.tty {
        spec["process"]["terminal"] = json!(true);
        spec::process::set_env(&mut spec, vec!["TERM=xterm".into()]);
    }
    let (config, root) = if options.rootfs {
        let folder = PathBuf::from(&options.image).canonicalize();
        let folder = folder.with_context(|| format!("find {}", options.image))?;
        spec["root"]["path"] = json!(folder);
        (Value::Null, Some(root_at(&folder)?))
    } else {
        let (config, mounts) = from_image(client, options, container, signals).await?;
        (config, root_of(&mounts))
    };
    fill(options, &mut spec, &config, root.as_ref())?;
    Ok(spec)
}

fn fill(
    options: &ContainerOptions,
    spec: &mut Value,
    config: &Value,
    root: Option<&Root>,
) -> Result<()> {
    spec::apply_image(spec, config, &options.command)?;
    options.spec.apply(spec)?;
    options.limits.apply(spec)?;
    let of_image = config
        .pointer("/config/User")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let wanted = options.spec.user.as_deref().unwrap_or(of_image);
    user::resolve(wanted, root)?.apply(&mut spec["process"]);
    options.spec.inject_devices(spec)
}

/// Prepares the container's snapshot of the image; returns the image's configuration and the snapshot's mounts.
async fn from_image(
    client: &Client,
    options: &ContainerOptions,
    container: &mut Container,
    signals: &mut Signals,
) -> Result<(Value, Vec<Mount>)> {
    let snapshotter = &options.snapshotter.snapshotter;
    let found = image::get(client, &options.image).await?;
    let wanted = platform::chosen(options.platform.as_deref())?;
    let resolved = image::resolve(client, &found.target.unwrap_or_default(), &wanted).await?;
    let unpacking = unpack::unpack(client, &resolved, snapshotter);
    let parent = signals.unless(unpacking).await?;
    let prepare = PrepareSnapshotRequest {
        snapshotter: snapshotter.clone(),
        key: container.id.clone(),
        parent,
        labels: parse_labels(&options.snapshotter_label),
    };
    let answer = client
        .snapshots()
        .prepare(prepare)
        .await
        .doing(|| "prepare a snapshot".into())?;
    container.image = options.image.clone();
    container.snapshotter = snapshotter.clone();
    container.snapshot_key = container.id.clone();
    container.labels = image_labels(&resolved.config);
    Ok((resolved.config, answer.into_inner().mounts))
}

/// Returns the image's labels but for those that would make the daemon do something, and its stop signal.
fn image_labels(config: &Value) -> HashMap<String, String> {
    let labels = config.pointer("/config/Labels").and_then(Value::as_object);
    let labels = labels.into_iter().flatten();
    let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    let mut labels: HashMap<_, _> = labels
        .filter(|(key, _)| !key.starts_with("containerd.io/") && !key.starts_with("io.containerd."))
        .filter(|(key, value)| key.len() + value.len() <= 4096)
        .collect();
    let signal = config
        .pointer("/config/StopSignal")
        .and_then(Value::as_str)
        .unwrap_or("SIGTERM");
    labels.insert(
        "io.containerd.image.config.stop-signal".into(),
        signal.into(),
    );
    labels
}

fn runtime_options(options: &ContainerOptions) -> Result<Option<prost_types::Any>> {
    let Some(binary) = &options.runc_binary else {
        return Ok(None);
    };
    let Some(binary) = binary.to_str() else {
        bail!("{} is not UTF-8", binary.display());
    };
    Ok(Some(any::pack(&RuncOptions {
        binary_name: binary.into(),
        ..Default::default()
    })))
}

/// Returns a folder as the root to look users up in.
pub fn root_at(folder: &Path) -> Result<Root> {
    let dir = std::fs::File::open(folder).with_context(|| format!("open {}", folder.display()))?;
    Ok(Root::new(dir.into()))
}

/// Returns the root of a snapshot to look users up in, mounted nowhere and gone when it is dropped.
///
/// Nothing if it cannot be mounted, as when the daemon is in another mount namespace: numbers still work then.
pub fn root_of(mounts: &[Mount]) -> Option<Root> {
    let [mount] = mounts else {
        return None;
    };
    let read_only = sys::mount::read_only(&[mount.clone().into()]);
    sys::mount::open_detached(read_only.first()?)
        .ok()
        .map(Root::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_labels_cannot_give_orders() {
        let config = json!({"config": {"Labels": {
            "containerd.io/restart.loguri": "binary:///bin/sh", "io.containerd.x": "y", "maintainer": "me",
        }, "StopSignal": "SIGINT"}});
        let labels = image_labels(&config);
        assert_eq!(labels.len(), 2, "{labels:?}");
        assert_eq!(labels["maintainer"], "me");
        assert_eq!(labels["io.containerd.image.config.stop-signal"], "SIGINT");
    }
}
