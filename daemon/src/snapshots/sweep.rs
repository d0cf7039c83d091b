//! Removing what the snapshotters have and no record names any more.

use std::collections::{HashMap, HashSet};

use snapshotter::Snapshotter;

use super::Snapshots;
use crate::error::Result;
use crate::metadata::{Read, Snapshot, Table, db};

impl Snapshots {
    /// Removes the snapshots that no namespace knows. A snapshotter that fails is tried again at the next collection.
    ///
    /// Who waits for a collection does not wait for proxies: one may be absent or hang.
    pub fn sweep(&self) {
        for (name, backend) in &self.inner.backends {
            if !self.inner.proxies.contains_key(name) {
                self.try_sweep(name, backend.as_ref());
            }
        }
        for (name, proxy) in &self.inner.proxies {
            let (snapshots, name, proxy) = (self.clone(), name.clone(), proxy.clone());
            tokio::task::spawn_blocking(move || {
                if let Some(_leave) = proxy.try_sweep() {
                    snapshots.try_sweep(&name, proxy.as_ref());
                }
            });
        }
    }

    fn try_sweep(&self, name: &str, backend: &dyn Snapshotter) {
        if let Err(error) = self.sweep_one(name, backend) {
            tracing::warn!(snapshotter = name, "remove lost snapshots: {error:#}");
        }
    }

    /// A snapshot is announced in `making` before its snapshotter has it and until its record is written. So one that
    /// is in the list here, which is made first, and then neither being made nor recorded is nobody's.
    fn sweep_one(&self, snapshotter: &str, backend: &dyn Snapshotter) -> Result<()> {
        let mut parents = HashMap::new();
        backend.walk(&mut |info| {
            parents.insert(info.name, info.parent);
            Ok(())
        })?;
        let making = self.making().clone();
        let known = self.known(snapshotter)?;
        let lost = |name: &String| !known.contains(name) && !making.contains(name);
        let mut lost: HashSet<String> = parents.keys().filter(|name| lost(name)).cloned().collect();
        if lost.is_empty() {
            return Ok(());
        }
        // Children go before their parents; a parent whose child stays, stays.
        while !lost.is_empty() {
            let held: HashSet<&String> = lost.iter().filter_map(|name| parents.get(name)).collect();
            let leaves: Vec<String> = lost
                .iter()
                .filter(|name| !held.contains(name))
                .cloned()
                .collect();
            for name in &leaves {
                lost.remove(name);
            }
            for kept in backend.remove_all(&leaves)? {
                tracing::debug!(snapshotter, name = kept, "kept snapshot");
            }
            if leaves.is_empty() {
                break;
            }
        }
        backend.cleanup()
    }

    /// Returns the snapshotter's names that records have.
    fn known(&self, snapshotter: &str) -> Result<HashSet<String>> {
        let mut known = HashSet::new();
        self.inner.store.read(|view| {
            view.visit(Table::Snapshots, None, "", &mut |_, key, bytes| {
                if key.split('/').next() == Some(snapshotter) {
                    let record: Snapshot = db::decode(bytes)?;
                    known.insert(record.backend);
                    known.insert(record.committing);
                }
                Ok(())
            })
        })?;
        Ok(known)
    }
}
