//! Snapshots that a snapshotter has without anybody having unpacked them: those of images that it mounts over a network.
//!
//! Such a one, asked to prepare a snapshot with the label `containerd.io/snapshot.ref`, may answer that there is one
//! already, having committed what the label names. It is then found by the label and recorded under that name.

use snapshotter::{Kind, Snapshotter};

use super::{New, Snapshots};
use crate::error::{Error, Kind as ErrorKind, Result, already_exists};
use crate::labels::SNAPSHOT_REF;

impl Snapshots {
    /// Records the snapshot that the snapshotter has in place of `new`, upon its snapshot `parent`; returns the error that
    /// tells the client so.
    pub(super) fn adopt(
        &self,
        new: &New,
        backend: &dyn Snapshotter,
        parent: &str,
    ) -> Result<Error> {
        let sn = &new.snapshotter;
        let Some(target) = new.labels.get(SNAPSHOT_REF) else {
            let message = format!("snapshotter {sn:?} has a snapshot that was not made yet");
            return Err(Error::new(ErrorKind::Unknown, message));
        };
        let mut found = None;
        backend.walk(&mut |info| {
            let labelled = info.labels.get(SNAPSHOT_REF) == Some(target);
            if labelled && info.kind == Kind::Committed && info.parent == parent {
                found.get_or_insert(info);
            }
            Ok(())
        })?;
        let found = found.ok_or_else(|| {
            let message = format!("snapshotter {sn:?} has no snapshot {target:?}");
            Error::new(ErrorKind::NotFound, message)
        })?;
        let mut adopted = new.clone();
        adopted.key.clone_from(target);
        for (key, value) in found.labels {
            adopted.labels.entry(key).or_insert(value);
        }
        let recorded = self
            .inner
            .store
            .write(move |tx| adopted.record(tx, found.name));
        match recorded {
            // Somebody else was as quick.
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(already_exists("target snapshot", target)),
        }
    }
}

#[cfg(test)]
mod tests;
