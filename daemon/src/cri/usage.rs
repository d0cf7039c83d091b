//! What snapshots that are written to take of the disk.
//!
//! To measure one is to walk all its files, and a kubelet asks for all of them every few seconds. So what was measured
//! last is told at once, and measured again meanwhile if that is too long ago; what nobody asks for is not measured.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use snapshotter::Usage;
use tokio::sync::Semaphore;

use super::nanoseconds;
use crate::blocking::blocking;
use crate::context::Context;
use crate::error::{Kind, Result};
use crate::snapshots::Snapshots;

/// How many snapshots are measured at a time: more would only be in the way of the containers' own use of the disk.
const CONCURRENT: usize = 2;

/// A snapshot: its snapshotter and its key.
pub type Name = (String, String);

/// What a snapshot took, and when: nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    pub usage: Usage,
    pub at: i64,
}

/// What is known of snapshots; clones share it.
#[derive(Clone, Debug)]
pub struct Usages {
    snapshots: Snapshots,
    context: Context,
    /// How long what was measured is good enough.
    period: Duration,
    known: Arc<Mutex<HashMap<Name, Known>>>,
    turns: Arc<Semaphore>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    measured: Measured,
    when: Instant,
    /// Whether it is being measured again.
    busy: bool,
}

impl Usages {
    /// Returns what is known of the snapshots of a namespace, nothing yet.
    pub fn new(snapshots: Snapshots, context: Context, period: Duration) -> Self {
        Self {
            snapshots,
            context,
            period,
            known: Arc::default(),
            turns: Arc::new(Semaphore::new(CONCURRENT)),
        }
    }

    /// Returns what a snapshot took when it was last measured; one that never was is measured now.
    pub async fn of(&self, name: Name) -> Result<Measured> {
        if let Some(known) = self.known().get_mut(&name) {
            if known.when.elapsed() >= self.period && !std::mem::replace(&mut known.busy, true) {
                let (usages, name) = (self.clone(), name.clone());
                tokio::spawn(async move {
                    if let Err(error) = usages.measure(name).await {
                        tracing::debug!("measure a snapshot: {error:#}");
                    }
                });
            }
            return Ok(known.measured);
        }
        self.measure(name).await
    }

    /// Forgets the snapshots of a snapshotter that are not there any more.
    pub fn keep(&self, snapshotter: &str, keys: &HashSet<&str>) {
        self.known()
            .retain(|(sn, key), _| sn != snapshotter || keys.contains(key.as_str()));
    }

    async fn measure(&self, name: Name) -> Result<Measured> {
        let turn = self.turns.acquire().await;
        let (snapshots, context) = (self.snapshots.clone(), self.context.clone());
        let asked = name.clone();
        let usage = blocking(move || snapshots.usage(&context, &asked.0, &asked.1)).await;
        drop(turn);
        let mut known = self.known();
        match usage {
            Ok(usage) => {
                let at = nanoseconds();
                let measured = Measured { usage, at };
                let (when, busy) = (Instant::now(), false);
                known.insert(
                    name,
                    Known {
                        measured,
                        when,
                        busy,
                    },
                );
                Ok(measured)
            }
            Err(error) => {
                match known.get_mut(&name) {
                    // Asked for again, it is tried again.
                    Some(known) if error.kind() != Kind::NotFound => known.busy = false,
                    _ => drop(known.remove(&name)),
                }
                Err(error)
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Name, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
