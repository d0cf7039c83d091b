//! Namespaces: labels, and a name that all other objects live under.

use std::sync::Arc;

use api_protos::containerd::events::{NamespaceCreate, NamespaceDelete, NamespaceUpdate};

use super::{Namespace, Read, Store, Table};
use crate::error::{Result, already_exists, invalid, not_found, precondition};
use crate::events::Exchange;
use crate::labels::{self, Labels};

/// The namespaces of the store.
#[derive(Clone, Debug)]
pub struct Namespaces {
    store: Arc<Store>,
    events: Arc<Exchange>,
}

impl Namespaces {
    /// Returns the namespaces of `store`.
    pub fn new(store: Arc<Store>, events: Arc<Exchange>) -> Self {
        Self { store, events }
    }

    /// Returns a namespace's labels; there are none if there is no such namespace.
    pub fn labels(&self, name: &str) -> Result<Labels> {
        let found: Option<Namespace> = self
            .store
            .read(|view| view.get(Table::Namespaces, name, ""))?;
        Ok(found.unwrap_or_default().labels)
    }

    /// Returns all namespaces with their labels.
    pub fn list(&self) -> Result<Vec<(String, Labels)>> {
        let mut namespaces = Vec::new();
        self.store.read(|view| {
            view.visit(Table::Namespaces, None, "", &mut |name, _, bytes| {
                let namespace: Namespace = super::db::decode(bytes)?;
                namespaces.push((name.to_owned(), namespace.labels));
                Ok(())
            })
        })?;
        Ok(namespaces)
    }

    /// Creates a namespace.
    pub fn create(&self, name: &str, mut labels: Labels) -> Result<Labels> {
        labels::validate_identifier(name)?;
        labels::validate("namespace", &labels)?;
        labels::drop_empty(&mut labels);
        let (key, record) = (
            name.to_owned(),
            Namespace {
                labels: labels.clone(),
            },
        );
        self.store.write(move |tx| {
            if tx.bytes(Table::Namespaces, &key, "")?.is_some() {
                return Err(already_exists("namespace", &key));
            }
            tx.put(Table::Namespaces, &key, "", &record)
        })?;
        let event = NamespaceCreate {
            name: name.to_owned(),
            labels: labels.clone().into_iter().collect(),
        };
        self.events.publish(name, "/namespaces/create", &event)?;
        Ok(labels)
    }

    /// Sets labels: those that `paths` name, or, without paths, all; a namespace that is not there is made.
    pub fn update(&self, name: &str, labels: Labels, paths: Vec<String>) -> Result<Labels> {
        labels::validate_identifier(name)?;
        labels::validate("namespace", &labels)?;
        let key = name.to_owned();
        let updated = self.store.write(move |tx| {
            let known: Option<Namespace> = tx.get(Table::Namespaces, &key, "")?;
            let mut namespace = known.unwrap_or_default();
            for path in &paths {
                if !labels::apply_mask(&mut namespace.labels, &labels, path) {
                    return Err(invalid(format!(
                        "cannot update {path:?} field on namespace {key:?}"
                    )));
                }
            }
            if paths.is_empty() {
                namespace.labels = labels;
                labels::drop_empty(&mut namespace.labels);
            }
            tx.put(Table::Namespaces, &key, "", &namespace)?;
            Ok(namespace.labels)
        })?;
        let event = NamespaceUpdate {
            name: name.to_owned(),
            labels: updated.clone().into_iter().collect(),
        };
        self.events.publish(name, "/namespaces/update", &event)?;
        Ok(updated)
    }

    /// Deletes a namespace that has nothing in it any more.
    pub fn delete(&self, name: &str) -> Result<()> {
        let key = name.to_owned();
        self.store.write(move |tx| {
            if tx.bytes(Table::Namespaces, &key, "")?.is_none() {
                return Err(not_found("namespace", &key));
            }
            let left = contents(tx, &key)?;
            if !left.is_empty() {
                return Err(precondition(format!(
                    "namespace {key:?} must be empty, but it still has {}",
                    left.join(", ")
                )));
            }
            for table in [Table::Ingests, Table::Leases, Table::LeaseResources] {
                for (gone, ()) in tx.list::<()>(table, &key, "")? {
                    tx.remove(table, &key, &gone);
                }
            }
            tx.remove(Table::Namespaces, &key, "");
            Ok(())
        })?;
        let event = NamespaceDelete {
            name: name.to_owned(),
        };
        self.events.publish(name, "/namespaces/delete", &event)
    }
}

/// Returns the kinds of objects that keep a namespace from being deleted.
fn contents(tx: &impl Read, name: &str) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for (table, what) in [
        (Table::Images, "images"),
        (Table::Blobs, "blobs"),
        (Table::Containers, "containers"),
    ] {
        if tx.any(table, name, "")? {
            left.push(what.to_owned());
        }
    }
    let mut snapshotters = Vec::new();
    tx.visit(Table::Snapshots, Some(name), "", &mut |_, key, _| {
        let snapshotter = key.split('/').next().unwrap_or_default();
        if snapshotters.last().map(String::as_str) != Some(snapshotter) {
            snapshotters.push(snapshotter.to_owned());
        }
        Ok(())
    })?;
    left.extend(
        snapshotters
            .iter()
            .map(|name| format!("snapshots on {name:?} snapshotter")),
    );
    Ok(left)
}
