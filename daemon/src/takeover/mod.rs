//! Taking over what a containerd on this machine has, by `cortend takeover`. containerd's own files are read and never
//! written, so that it can go on with them.
//!
//! ```text
//!  bolt       reads databases, and trusts no byte of them
//!  records    containerd's metadata as our records
//!  snapshots  containerd's snapshotters
//!  running    what must not be running
//!  plan       what is to be taken, what stays behind, what is in the way
//!  report     the plan as people read it
//! ```
//!
//! What is taken is never written to again, or is copied:
//!
//! | | |
//! |---|---|
//! | blobs, files of committed snapshots | further names of the same files; copies where the file system has no links |
//! | files of active snapshots | copies, which share blocks where the file system can |
//! | metadata | our own records |
//!
//! Blobs come first, then snapshots, and the metadata last: in a store of its own, which then gets its name. Until then
//! nothing that is here has a record, so what a crash leaves is garbage to the daemon, and to a second run what it can go
//! on with.

mod bolt;
mod plan;
mod records;
mod report;
mod running;
mod snapshots;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sys::failpoint;

use crate::config::Config;
use crate::content::Content;
use crate::context::Context;
use crate::error::{Context as _, Result, precondition};
use crate::listen::{self, Lock};
use crate::metadata::{Container, Images, Store, Table, Tx, leases};
use crate::restart::origin::Origin;
use crate::restart::policy;
use crate::{app, snapshots as ours};
use plan::Plan;
use records::Namespace;

/// A containerd's folders.
#[derive(Clone, Debug)]
pub struct Source {
    /// What outlives a reboot.
    pub root: PathBuf,
    /// What does not.
    pub state: PathBuf,
}

/// Prints what would be taken over from a containerd, and what is in the way; fails if something is.
pub fn rehearse(config: &Config, source: &Source) -> Result<()> {
    let mut hold = running::Hold::default();
    let plan = Plan::make(config, source, &mut hold)?;
    print!("{}", report::of(&plan));
    refuse(&plan)?;
    println!("\nNothing has been changed: this was a dry run.");
    Ok(())
}

/// Takes over all that a containerd has.
pub fn run(config: &Config, source: &Source) -> Result<()> {
    let mut hold = running::Hold::default();
    let plan = Plan::make(config, source, &mut hold)?;
    print!("{}", report::of(&plan));
    refuse(&plan)?;
    listen::directory(&config.root, 0o711)?;
    let _lock = Lock::take(&config.root)?;
    let left = take(config, &plan)?;
    for line in left {
        println!("left behind: {line}");
    }
    println!(
        "\nTaken over. {:?} is as it was; what is removed there or here is not removed of the other.",
        source.root
    );
    Ok(())
}

fn refuse(plan: &Plan) -> Result<()> {
    match plan.obstacles.len() {
        0 => Ok(()),
        1 => Err(precondition(
            "something is in the way; nothing has been changed",
        )),
        count => Err(precondition(format!(
            "{count} things are in the way; nothing has been changed"
        ))),
    }
}

/// Carries out the plan, and returns what was found to be better left behind.
fn take(config: &Config, plan: &Plan) -> Result<Vec<String>> {
    let file = app::metadata(&config.root);
    listen::directory(file.parent().expect("it is below the root"), 0o700)?;
    if let Some(table) = Store::open(&file)?.read(plan::occupied)? {
        return Err(plan::is_occupied(&config.root, table));
    }
    // An earlier run may have come this far.
    let staged = file.with_extension("takeover");
    if staged.exists() {
        std::fs::remove_file(&staged).context(|| format!("remove {staged:?}"))?;
    }
    let store = Arc::new(Store::open(&staged)?);
    let root = app::content(&config.root);
    let content = Content::open(&root, config.content_shared, store.clone(), Arc::default())?;
    for (digest, path) in &plan.blobs {
        content.take(digest, path)?;
    }
    failpoint!("takeover.content");
    for (kind, snapshotter) in &plan.snapshotters {
        let snapshots: Vec<_> = snapshotter.snapshots.values().cloned().collect();
        let root = app::snapshots(&config.root, *kind);
        kind.take(&root, &snapshotter.folder, &snapshots)?;
        failpoint!("takeover.snapshots");
    }
    let namespaces = plan.namespaces.clone();
    store.write(move |tx| {
        for (name, namespace) in &namespaces {
            put(tx, name, namespace)?;
        }
        Ok(())
    })?;
    let left = drop_labels_of_images(&store, &content, &plan.namespaces)?;
    failpoint!("takeover.staged");
    sys::fs::rename_durable(&staged, &file)?;
    failpoint!("takeover.done");
    Ok(left)
}

/// Stores all that a namespace has.
fn put(tx: &mut Tx<'_, '_>, name: &str, namespace: &Namespace) -> Result<()> {
    let record = crate::metadata::Namespace {
        labels: namespace.labels.clone(),
    };
    tx.put(Table::Namespaces, name, "", &record)?;
    for image in &namespace.images {
        tx.put(Table::Images, name, &image.name, image)?;
    }
    for container in &namespace.containers {
        tx.put(Table::Containers, name, &container.id, container)?;
    }
    for (digest, blob) in &namespace.blobs {
        tx.put(Table::Blobs, name, digest, blob)?;
    }
    for ((snapshotter, key), snapshot) in &namespace.snapshots {
        ours::insert(tx, name, [snapshotter, key], snapshot)?;
        // The number in a snapshotter's name for it is never to be given again.
        let number = snapshot.backend.split('/').nth(1);
        tx.reserve_sequence(number.and_then(|number| number.parse().ok()).unwrap_or(0))?;
    }
    for (lease, resources) in &namespace.leases {
        tx.put(Table::Leases, name, &lease.id, lease)?;
        let context = Context::new(name)?.with_lease(&lease.id);
        for resource in resources {
            leases::attach(tx, &context, &resource.kind, &resource.id)?;
        }
    }
    for sandbox in &namespace.sandboxes {
        tx.put(Table::Sandboxes, name, &sandbox.id, sandbox)?;
    }
    Ok(())
}

/// Takes those labels about restarts off containers that come from their images, as when a container is created.
///
/// Where the image cannot be read all such labels go.
fn drop_labels_of_images(
    store: &Arc<Store>,
    content: &Content,
    namespaces: &BTreeMap<String, Namespace>,
) -> Result<Vec<String>> {
    let images = Images::new(store.clone(), Arc::default());
    let origin = Origin::new(images, content.clone());
    let asks = |container: &&Container| {
        let mut keys = container.labels.keys();
        keys.any(|key| key.starts_with(policy::PREFIX))
    };
    let mut left = Vec::new();
    for (name, namespace) in namespaces {
        let context = Context::new(name)?;
        for container in namespace.containers.iter().filter(asks) {
            let mut kept = container.clone();
            if let Err(error) = origin.drop_labels_of_image(&context, &mut kept) {
                let id = &container.id;
                left.push(format!(
                    "labels of container {id} in namespace {name} about restarts: {error:#}"
                ));
                kept.labels
                    .retain(|key, _| !key.starts_with(policy::PREFIX));
            }
            let name = name.clone();
            store.write(move |tx| tx.put(Table::Containers, &name, &kept.id, &kept))?;
        }
    }
    Ok(left)
}

/// Returns the nearest folder above `path`, or that itself, that is there.
fn existing(path: &Path) -> &Path {
    let there = path.ancestors().find(|folder| folder.exists());
    there.unwrap_or(Path::new("/"))
}
