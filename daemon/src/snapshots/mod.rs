//! Snapshots: the snapshotters as the namespaces see them.
//!
//! A namespace's names are kept in metadata (tables `Snapshots` and `SnapshotChildren`); a snapshotter knows a snapshot
//! as `namespace/number/name`, and a number is never given twice. Removing a snapshot removes its record; the
//! collector then removes what the snapshotter has of it.

mod commit;
pub mod proxy;
mod remote;
mod sweep;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use api_protos::containerd::events::{SnapshotPrepare, SnapshotRemove};
use snapshotter::{Info as BackendInfo, Kind, Snapshotter, Usage};
use sys::failpoint;
use sys::mount::Mount;

use crate::context::Context;
use crate::error::{Error, Kind as ErrorKind, Result, already_exists, invalid, precondition};
use crate::events::Exchange;
use crate::filter::{self, Fields, Filter};
use crate::labels::{self, Labels, SNAPSHOT_PREFIX, SNAPSHOT_REF};
use crate::metadata::{Read, Snapshot, Store, Table, Tx, leases};
use crate::time::now;
use crate::trace;
use prost_types::Timestamp;
use proxy::Proxy;

/// The snapshotters, by name; clones share them.
#[derive(Clone)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<Store>,
    events: Arc<Exchange>,
    backends: BTreeMap<String, Arc<dyn Snapshotter>>,
    /// Those of them that are in other processes.
    proxies: BTreeMap<String, Arc<Proxy>>,
    /// Snapshotters' names of snapshots that are being made and that no record has yet.
    making: Mutex<HashSet<String>>,
}

/// A snapshot as a namespace sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    pub kind: Kind,
    pub name: String,
    pub parent: String,
    pub created_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
    pub labels: Labels,
}

impl std::fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.inner.backends.keys()).finish()
    }
}

impl Snapshots {
    /// Returns the snapshots of `backends` and of `proxies`.
    pub fn new(
        store: Arc<Store>,
        events: Arc<Exchange>,
        mut backends: BTreeMap<String, Arc<dyn Snapshotter>>,
        proxies: BTreeMap<String, Arc<Proxy>>,
    ) -> Self {
        for (name, proxy) in &proxies {
            backends.insert(name.clone(), proxy.clone());
        }
        Self {
            inner: Arc::new(Inner {
                store,
                events,
                backends,
                proxies,
                making: Mutex::default(),
            }),
        }
    }

    /// Returns the names of the snapshotters.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.inner.backends.keys().map(String::as_str)
    }

    /// Returns whether a snapshot of this snapshotter may get its parent when it is committed.
    pub fn rebases(&self, snapshotter: &str) -> Result<bool> {
        self.can(snapshotter, "rebase")
    }

    /// Returns whether a snapshot of this snapshotter can belong to the users of a namespace.
    pub fn remaps_ids(&self, snapshotter: &str) -> Result<bool> {
        self.can(snapshotter, "remap-ids")
    }

    fn can(&self, snapshotter: &str, capability: &str) -> Result<bool> {
        let backend = self.backend(snapshotter)?;
        Ok(backend.capabilities().contains(&capability))
    }

    /// Returns what is known of a snapshot.
    pub fn stat(&self, context: &Context, snapshotter: &str, key: &str) -> Result<Info> {
        let backend = self.backend(snapshotter)?;
        let record = self.record(context, snapshotter, key)?;
        let info = backend.stat(&record.backend)?;
        Ok(Info::new(key, record, info))
    }

    /// Sets labels of a snapshot: those that `paths` name, or, without paths, all.
    pub fn update(
        &self,
        context: &Context,
        snapshotter: &str,
        key: &str,
        labels: Labels,
        paths: Vec<String>,
    ) -> Result<Info> {
        if key.is_empty() {
            return Err(invalid("snapshot name must not be empty"));
        }
        let backend = self.backend(snapshotter)?;
        let (namespace, sn) = (context.namespace().to_owned(), snapshotter.to_owned());
        let name = key.to_owned();
        let record = self.inner.store.write(move |tx| {
            let mut record = find(tx, &namespace, &sn, &name)?;
            for path in &paths {
                if !labels::apply_mask(&mut record.labels, &labels, path) {
                    return Err(invalid(format!(
                        "cannot update {path:?} field on snapshot {name:?}"
                    )));
                }
            }
            if paths.is_empty() {
                record.labels = labels;
                labels::drop_empty(&mut record.labels);
            }
            labels::validate("snapshot", &record.labels)?;
            record.updated_at = Some(now());
            tx.put(Table::Snapshots, &namespace, &at(&sn, &name), &record)?;
            Ok(record)
        })?;
        let mut info = backend.stat(&record.backend)?;
        info.labels = inherited(&record.labels);
        let info = backend.update(&info, &[])?;
        Ok(Info::new(key, record, info))
    }

    /// Returns what a snapshot takes.
    pub fn usage(&self, context: &Context, snapshotter: &str, key: &str) -> Result<Usage> {
        let backend = self.backend(snapshotter)?;
        backend.usage(&self.record(context, snapshotter, key)?.backend)
    }

    /// Returns the mounts of an active snapshot or a view.
    pub fn mounts(&self, context: &Context, snapshotter: &str, key: &str) -> Result<Vec<Mount>> {
        let backend = self.backend(snapshotter)?;
        backend.mounts(&self.record(context, snapshotter, key)?.backend)
    }

    /// Creates a writable snapshot and returns its mounts.
    ///
    /// With the label `containerd.io/snapshot.ref` it fails with `AlreadyExists`, having leased it, if the snapshot
    /// that the label names is there.
    pub fn prepare(
        &self,
        context: &Context,
        snapshotter: &str,
        key: &str,
        parent: &str,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let mounts = self.create(context, snapshotter, Kind::Active, [key, parent], labels)?;
        let event = SnapshotPrepare {
            key: key.to_owned(),
            parent: parent.to_owned(),
            snapshotter: snapshotter.to_owned(),
        };
        self.inner
            .events
            .publish(context.namespace(), "/snapshot/prepare", &event)?;
        Ok(mounts)
    }

    /// Creates a read-only snapshot and returns its mounts.
    pub fn view(
        &self,
        context: &Context,
        snapshotter: &str,
        key: &str,
        parent: &str,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        self.create(context, snapshotter, Kind::View, [key, parent], labels)
    }

    /// Removes a snapshot that is nobody's parent.
    pub fn remove(&self, context: &Context, snapshotter: &str, key: &str) -> Result<()> {
        self.backend(snapshotter)?;
        let (owner, sn, name) = (context.clone(), snapshotter.to_owned(), key.to_owned());
        self.inner.store.write(move |tx| {
            let namespace = owner.namespace();
            find(tx, namespace, &sn, &name)?;
            if tx.any(Table::SnapshotChildren, namespace, &child(&sn, &name, ""))? {
                return Err(precondition("cannot remove snapshot with child"));
            }
            leases::detach(tx, &owner, &resource(&sn), &name);
            remove(tx, namespace, &sn, &name)
        })?;
        failpoint!("snapshots.unrecorded");
        let event = SnapshotRemove {
            key: key.to_owned(),
            snapshotter: snapshotter.to_owned(),
        };
        self.inner
            .events
            .publish(context.namespace(), "/snapshot/remove", &event)
    }

    /// Returns the snapshots that one of `filters` asks for.
    pub fn list<S: AsRef<str>>(
        &self,
        context: &Context,
        snapshotter: &str,
        filters: &[S],
    ) -> Result<Vec<Info>> {
        let backend = self.backend(snapshotter)?;
        let filter = Filter::parse(filters)?;
        let prefix = at(snapshotter, "");
        let records = self
            .inner
            .store
            .read(|view| view.list::<Snapshot>(Table::Snapshots, context.namespace(), &prefix))?;
        let mut infos = Vec::with_capacity(records.len());
        for (key, record) in records {
            match backend.stat(&record.backend) {
                Ok(info) => infos.push(Info::new(&key[prefix.len()..], record, info)),
                // Removed meanwhile, or its commit was cut short.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        infos.retain(|info| filter.matches(info));
        Ok(infos)
    }

    /// Frees the disk space of snapshots that were removed.
    pub fn cleanup(&self, snapshotter: &str) -> Result<()> {
        self.backend(snapshotter)?.cleanup()
    }

    fn backend(&self, name: &str) -> Result<&Arc<dyn Snapshotter>> {
        if name.is_empty() {
            return Err(invalid("snapshotter argument missing"));
        }
        self.inner
            .backends
            .get(name)
            .ok_or_else(|| invalid(format!("snapshotter not loaded: {name}")))
    }

    fn record(&self, context: &Context, snapshotter: &str, key: &str) -> Result<Snapshot> {
        self.inner
            .store
            .read(|view| find(view, context.namespace(), snapshotter, key))
    }

    fn create(
        &self,
        context: &Context,
        snapshotter: &str,
        kind: Kind,
        [key, parent]: [&str; 2],
        mut labels: Labels,
    ) -> Result<Vec<Mount>> {
        let backend = self.backend(snapshotter)?;
        labels::drop_empty(&mut labels);
        labels::validate("snapshot", &labels)?;
        leases::check_text("snapshot key", key)?;
        if key.is_empty() {
            return Err(invalid("snapshot key must not be empty"));
        }
        let new = New {
            context: context.clone(),
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels,
        };
        let (name, parent) = self.reserve(&new)?;
        failpoint!("snapshots.reserved");
        let making = Making::new(self, &name);
        let proxy = self.inner.proxies.get(snapshotter);
        let _not_swept = proxy.map(|proxy| proxy.keep()).transpose()?;
        let kept = inherited(&new.labels);
        let span = trace::span("make the snapshot");
        let made = match kind {
            Kind::View => backend.view(&name, &parent, &kept),
            _ => backend.prepare(&name, &parent, &kept),
        };
        drop(span);
        let mounts = match made {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(self.adopt(&new, backend.as_ref(), &parent)?);
            }
            made => made?,
        };
        failpoint!("snapshots.made");
        let recorded = self.inner.store.write(move |tx| new.record(tx, name));
        drop(making);
        recorded.map(|()| mounts)
    }

    /// Returns the snapshotter's names for a new snapshot and its parent.
    fn reserve(&self, new: &New) -> Result<(String, String)> {
        let new = new.clone();
        let reserved = self.inner.store.write(move |tx| {
            let (namespace, sn) = (new.context.namespace(), &new.snapshotter);
            let target = new.labels.get(SNAPSHOT_REF);
            for existing in target.into_iter().chain([&new.key]) {
                if tx
                    .bytes(Table::Snapshots, namespace, &at(sn, existing))?
                    .is_some()
                {
                    leases::attach(tx, &new.context, &resource(sn), existing)?;
                    return Ok(Err(existing.clone()));
                }
            }
            let parent = match new.parent.as_str() {
                "" => String::new(),
                parent => find_parent(tx, namespace, sn, parent)?.backend,
            };
            let number = tx.next_sequence()?;
            Ok(Ok((format!("{namespace}/{number}/{}", new.key), parent)))
        })?;
        reserved.map_err(|existing| already_exists("snapshot", &existing))
    }
}

/// A snapshot that is to be.
#[derive(Clone, Debug)]
struct New {
    context: Context,
    snapshotter: String,
    key: String,
    parent: String,
    labels: Labels,
}

impl New {
    /// Records the snapshot that the snapshotter has made under the name `backend`.
    fn record(self, tx: &mut Tx<'_, '_>, backend: String) -> Result<()> {
        let (namespace, sn) = (self.context.namespace(), self.snapshotter.as_str());
        let key = at(sn, &self.key);
        leases::attach(tx, &self.context, &resource(sn), &self.key)?;
        if tx.bytes(Table::Snapshots, namespace, &key)?.is_some() {
            return Err(already_exists("snapshot", &self.key));
        }
        if !self.parent.is_empty() {
            find_parent(tx, namespace, sn, &self.parent)?;
        }
        let created_at = Some(now());
        let record = Snapshot {
            backend,
            parent: self.parent.clone(),
            created_at,
            updated_at: created_at,
            labels: self.labels.clone(),
            committing: String::new(),
        };
        insert(tx, namespace, [sn, &self.key], &record)
    }
}

/// Keeps the collector from a snapshot that no record has yet.
struct Making<'a> {
    snapshots: &'a Snapshots,
    name: String,
}

impl<'a> Making<'a> {
    fn new(snapshots: &'a Snapshots, name: &str) -> Self {
        let name = name.to_owned();
        snapshots.making().insert(name.clone());
        Self { snapshots, name }
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.snapshots.making().remove(&self.name);
    }
}

impl Snapshots {
    fn making(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        let making = self.inner.making.lock();
        making.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Info {
    fn new(name: &str, record: Snapshot, backend: BackendInfo) -> Self {
        let mut labels = backend.labels;
        labels.extend(record.labels);
        Self {
            kind: backend.kind,
            name: name.to_owned(),
            parent: record.parent,
            created_at: record.created_at,
            updated_at: record.updated_at,
            labels,
        }
    }
}

impl From<BackendInfo> for Info {
    fn from(info: BackendInfo) -> Self {
        Self {
            kind: info.kind,
            name: info.name,
            parent: info.parent,
            created_at: Some(info.created.into()),
            updated_at: Some(info.updated.into()),
            labels: info.labels,
        }
    }
}

impl Fields for Info {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path.first()?.as_str() {
            "kind" => Some(Cow::Owned(self.kind.to_string())),
            "name" => filter::text(&self.name),
            "parent" => filter::text(&self.parent),
            "labels" => filter::label(&self.labels, &path[1..]),
            _ => None,
        }
    }
}

/// Stores the record of the snapshot `key` of `snapshotter`, and the link from its parent.
pub fn insert(
    tx: &mut Tx<'_, '_>,
    namespace: &str,
    [snapshotter, key]: [&str; 2],
    record: &Snapshot,
) -> Result<()> {
    if !record.parent.is_empty() {
        let child = child(snapshotter, &record.parent, key);
        tx.put_key(Table::SnapshotChildren, namespace, &child)?;
    }
    tx.put(Table::Snapshots, namespace, &at(snapshotter, key), record)
}

/// Removes the record of a snapshot and its link from its parent.
pub fn remove(tx: &mut Tx<'_, '_>, namespace: &str, snapshotter: &str, key: &str) -> Result<()> {
    let record = find(tx, namespace, snapshotter, key)?;
    if !record.parent.is_empty() {
        let child = child(snapshotter, &record.parent, key);
        tx.remove(Table::SnapshotChildren, namespace, &child);
    }
    tx.remove(Table::Snapshots, namespace, &at(snapshotter, key));
    Ok(())
}

fn find(view: &impl Read, namespace: &str, snapshotter: &str, key: &str) -> Result<Snapshot> {
    view.get(Table::Snapshots, namespace, &at(snapshotter, key))?
        .ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("snapshot {key} does not exist"),
            )
        })
}

fn find_parent(
    view: &impl Read,
    namespace: &str,
    snapshotter: &str,
    key: &str,
) -> Result<Snapshot> {
    view.get(Table::Snapshots, namespace, &at(snapshotter, key))?
        .ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("parent snapshot {key} does not exist"),
            )
        })
}

/// Returns the key of a snapshot's record.
fn at(snapshotter: &str, key: &str) -> String {
    format!("{snapshotter}/{key}")
}

/// Returns the key of the link from a parent to a child.
fn child(snapshotter: &str, parent: &str, child: &str) -> String {
    format!("{snapshotter}/{parent}\0{child}")
}

/// Returns the type of a snapshotter's snapshots as lease resources.
fn resource(snapshotter: &str) -> String {
    format!("{}{snapshotter}", leases::SNAPSHOTS)
}

/// Returns the labels that a snapshotter sees.
fn inherited(labels: &Labels) -> Labels {
    let seen = |key: &str| key == SNAPSHOT_REF || key.starts_with(SNAPSHOT_PREFIX);
    let labels = labels.iter().filter(|(key, _)| seen(key));
    labels
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests;
