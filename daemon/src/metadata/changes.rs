//! What changes in the store: how much, for the collector's schedule, and what, for a collection under way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Table;

/// What a write is to put, and what to remove.
pub(super) type Staged = BTreeMap<(Table, String, String), Option<Vec<u8>>>;

/// What one write, or those that share a commit, have changed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changed {
    pub any: bool,
    pub mutations: u64,
    pub removals: u64,
}

/// How much clients have written since the store was opened.
#[derive(Debug, Default)]
pub struct Changes {
    mutations: AtomicU64,
    removals: AtomicU64,
    changed: Notify,
}

impl Changes {
    /// Returns how many writes have changed something.
    pub fn mutations(&self) -> u64 {
        self.mutations.load(Ordering::Acquire)
    }

    /// Returns how many records have been removed.
    pub fn removals(&self) -> u64 {
        self.removals.load(Ordering::Acquire)
    }

    /// Waits for the next change; one that nobody waited for is not missed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn add(&self, changed: Changed) {
        if changed.mutations > 0 {
            self.removals.fetch_add(changed.removals, Ordering::Release);
            self.mutations
                .fetch_add(changed.mutations, Ordering::Release);
            self.changed.notify_one();
        }
    }
}

/// A record that was put into the store.
#[derive(Clone, Debug)]
pub struct Written {
    pub table: Table,
    pub namespace: String,
    pub key: String,
    pub bytes: Vec<u8>,
}

/// What has been put into the store since somebody began to watch.
#[derive(Debug, Default)]
pub(super) struct Journal {
    written: Mutex<Option<Vec<Written>>>,
}

impl Journal {
    /// Begins to note what is put; there is one watch at a time.
    pub fn watch(self: &Arc<Self>) -> Watch {
        *self.lock() = Some(Vec::new());
        Watch(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Written>>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a write puts, if anybody watches.
    pub fn note(&self, staged: &Staged) {
        if let Some(written) = self.lock().as_mut() {
            let put = staged
                .iter()
                .filter_map(|((table, namespace, key), bytes)| {
                    Some(Written {
                        table: *table,
                        namespace: namespace.clone(),
                        key: key.clone(),
                        bytes: bytes.clone()?,
                    })
                });
            written.extend(put);
        }
    }
}

/// Notes what is put into the store for as long as it lives.
#[derive(Debug)]
pub struct Watch(Arc<Journal>);

impl Watch {
    /// Returns what has been put since the last call. Within a write that is all that was ever put before it.
    pub fn take(&self) -> Vec<Written> {
        self.0
            .lock()
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}
