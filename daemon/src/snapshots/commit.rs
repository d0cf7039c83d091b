//! Committing a snapshot, in three steps of which each is durable before the next begins.
//!
//! ```text
//!  record of "key":  committing = new backend name      the snapshotter's commit      record of "name" for that of "key"
//! ```
//!
//! A daemon that dies in between leaves a record whose snapshot has its new name already; committing it again finds
//! that and goes on with the last step.

use api_protos::containerd::events::SnapshotCommit;
use snapshotter::{CommitOptions, Snapshotter};

use super::{Snapshots, at, find, find_parent, inherited, resource};
use crate::context::Context;
use crate::error::{Context as _, Error, Kind, Result, already_exists, invalid};
use crate::labels::{self, Labels};
use crate::metadata::{Read, Snapshot, Table, Tx, leases};
use crate::time::now;
use sys::failpoint;

/// A commit that is to be.
#[derive(Clone, Debug)]
struct Commit {
    context: Context,
    snapshotter: String,
    name: String,
    key: String,
    parent: String,
    labels: Labels,
}

/// The snapshotter's names of what takes part in a commit.
struct Names {
    from: String,
    to: String,
    /// The parent, if it is given only now.
    rebased: String,
}

impl Snapshots {
    /// Turns the active snapshot `key` into the committed snapshot `name`; `parent` is for one prepared without.
    pub fn commit(
        &self,
        context: &Context,
        snapshotter: &str,
        [name, key]: [&str; 2],
        mut labels: Labels,
        parent: &str,
    ) -> Result<()> {
        let backend = self.backend(snapshotter)?;
        labels::drop_empty(&mut labels);
        labels::validate("snapshot", &labels)?;
        leases::check_text("snapshot name", name)?;
        if name.is_empty() {
            return Err(invalid("snapshot name must not be empty"));
        }
        let commit = Commit {
            context: context.clone(),
            snapshotter: snapshotter.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels,
        };
        let first = commit.clone();
        let begun = self.inner.store.write(move |tx| first.begin(tx))?;
        let names = begun.ok_or_else(|| already_exists("snapshot", name))?;
        failpoint!("snapshots.commit.begun");
        commit.in_backend(backend.as_ref(), &names)?;
        failpoint!("snapshots.commit.made");
        let finished = self.inner.store.write(move |tx| commit.finish(tx, names))?;
        if !finished {
            return Err(already_exists("snapshot", name));
        }
        let event = SnapshotCommit {
            key: key.to_owned(),
            name: name.to_owned(),
            snapshotter: snapshotter.to_owned(),
        };
        self.inner
            .events
            .publish(context.namespace(), "/snapshot/commit", &event)
    }
}

impl Commit {
    /// Notes the snapshotter's name to be, or returns nothing, having leased it, if there is such a snapshot already.
    fn begin(&self, tx: &mut Tx<'_, '_>) -> Result<Option<Names>> {
        let (namespace, sn) = (self.context.namespace(), self.snapshotter.as_str());
        if self.leased(tx)? {
            return Ok(None);
        }
        let mut record = find(tx, namespace, sn, &self.key)?;
        if record.committing.is_empty() {
            let number = tx.next_sequence()?;
            record.committing = format!("{namespace}/{number}/{}", self.name);
            tx.put(Table::Snapshots, namespace, &at(sn, &self.key), &record)?;
        }
        let rebased = match self.rebased(&record) {
            true => find_parent(tx, namespace, sn, &self.parent)?.backend,
            false => String::new(),
        };
        Ok(Some(Names {
            from: record.backend,
            to: record.committing,
            rebased,
        }))
    }

    fn in_backend(&self, backend: &dyn Snapshotter, names: &Names) -> Result<()> {
        let options = CommitOptions {
            labels: inherited(&self.labels),
            parent: names.rebased.clone(),
        };
        match backend.commit(&names.to, &names.from, &options) {
            // An earlier try came as far as this: nobody else is ever given the new name.
            Err(error)
                if matches!(error.kind(), Kind::NotFound | Kind::AlreadyExists)
                    && backend.stat(&names.to).is_ok() =>
            {
                Ok(())
            }
            other => other.context(|| format!("failed to commit snapshot {}", names.from)),
        }
    }

    /// Gives the record its new name and returns whether it could.
    fn finish(&self, tx: &mut Tx<'_, '_>, names: Names) -> Result<bool> {
        let (namespace, sn) = (self.context.namespace(), self.snapshotter.as_str());
        if self.leased(tx)? {
            return Ok(false);
        }
        let mut record = find(tx, namespace, sn, &self.key)?;
        if record.committing != names.to {
            let message = format!("snapshot {} changed while it was committed", self.key);
            return Err(Error::new(Kind::Aborted, message));
        }
        super::remove(tx, namespace, sn, &self.key)?;
        leases::detach(tx, &self.context, &resource(sn), &self.key);
        leases::attach(tx, &self.context, &resource(sn), &self.name)?;
        if self.rebased(&record) {
            record.parent.clone_from(&self.parent);
        }
        if !record.parent.is_empty() {
            find_parent(tx, namespace, sn, &record.parent)?;
        }
        let created_at = Some(now());
        let committed = Snapshot {
            backend: names.to,
            parent: record.parent,
            created_at,
            updated_at: created_at,
            labels: self.labels.clone(),
            committing: String::new(),
        };
        super::insert(tx, namespace, [sn, &self.name], &committed)?;
        Ok(true)
    }

    /// Returns whether the snapshot gets its parent only now.
    fn rebased(&self, record: &Snapshot) -> bool {
        record.parent.is_empty() && !self.parent.is_empty()
    }

    /// Leases the snapshot `name` if it is there, and returns whether it is.
    fn leased(&self, tx: &mut Tx<'_, '_>) -> Result<bool> {
        let (namespace, sn) = (self.context.namespace(), self.snapshotter.as_str());
        let exists = tx.bytes(Table::Snapshots, namespace, &at(sn, &self.name))?;
        if exists.is_none() {
            return Ok(false);
        }
        leases::attach(tx, &self.context, &resource(sn), &self.name)?;
        Ok(true)
    }
}
