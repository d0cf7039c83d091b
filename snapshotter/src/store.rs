//! The tree of snapshots: their records in an embedded database, their content in numbered folders.
//!
//! ```text
//!  <root>/metadata.redb      key or name → record; parent → children; the last number given
//!  <root>/snapshots/<n>/     content of the snapshot whose record says n
//!                  /new-*    content that is being made, not yet in any record
//!                  /rm-*     content that no record needs any more
//! ```
//!
//! A record is written last when a snapshot is made and removed first when it goes, so that a crash at any moment
//! leaves at most folders without a record. Numbers are never given twice.

mod database;
mod folders;
mod take;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sys::{Context, Error, Result};

use crate::mapping::Mapping;
use crate::usage;
use crate::{CommitOptions, Info, Kind, Labels, Usage};
use database::{Change, Database, View};
use folders::Folders;

/// How many removals share a commit: others wait for one such commit.
const REMOVED_TOGETHER: usize = 50;

/// Makes the content of a new snapshot in a folder, from the folders of its parents, the nearest first.
pub(crate) type Fill =
    fn(folder: &Path, kind: Kind, parents: &[PathBuf], mapping: Option<&Mapping>) -> Result<()>;

/// What a snapshotter adds to the tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Makes the content of a new snapshot.
    pub fill: Fill,
    /// The path below a snapshot's folder of what counts as its usage; empty is the folder itself.
    pub content: &'static str,
    /// Whether a snapshot without a parent can be given one when it is committed.
    pub rebase: bool,
    /// Whether the mounts of a snapshot can give its files to the users of a namespace.
    pub maps_owners: bool,
}

/// The tree of snapshots.
#[derive(Debug)]
pub(crate) struct Store {
    database: Database,
    folders: Folders,
    layout: Layout,
}

/// A snapshot in use: where it and its parents are, the nearest first.
#[derive(Debug)]
pub(crate) struct Located {
    pub kind: Kind,
    pub folder: PathBuf,
    pub parents: Vec<PathBuf>,
    /// Whom the files belong to, if not to whom they do on disk.
    pub mapping: Option<Mapping>,
}

/// What the database has of a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    id: u64,
    kind: Kind,
    parent: String,
    labels: Labels,
    created: SystemTime,
    updated: SystemTime,
    usage: Usage,
}

impl Record {
    fn into_info(self, name: &str) -> Info {
        Info {
            kind: self.kind,
            name: name.to_owned(),
            parent: self.parent,
            labels: self.labels,
            created: self.created,
            updated: self.updated,
        }
    }
}

impl Store {
    /// Opens or creates the tree in the folder `root`, and clears away what a crash left.
    pub fn open(root: &Path, layout: Layout) -> Result<Self> {
        let folders = Folders::open(root)?;
        let store = Self {
            database: Database::open(&root.join("metadata.redb"))?,
            folders,
            layout,
        };
        store.restore()?;
        store.cleanup()?;
        Ok(store)
    }

    /// Returns the record of a snapshot.
    pub fn stat(&self, key: &str) -> Result<Info> {
        Ok(self.database.view()?.get(key)?.into_info(key))
    }

    /// Changes labels, as `Snapshotter::update` says.
    pub fn update(&self, info: &Info, fieldpaths: &[String]) -> Result<Info> {
        self.database.change(|change| {
            let mut record = change.get(&info.name)?;
            merge(&mut record.labels, &info.labels, fieldpaths)?;
            record.updated = SystemTime::now();
            change.put(&info.name, &record)?;
            Ok(record.into_info(&info.name))
        })
    }

    /// Returns what a snapshot takes.
    pub fn usage(&self, key: &str) -> Result<Usage> {
        let record = self.database.view()?.get(key)?;
        match record.kind {
            Kind::Active => self.count(record.id),
            Kind::View | Kind::Committed => Ok(record.usage),
        }
    }

    /// Returns where an active snapshot or a view is.
    pub fn locate(&self, key: &str) -> Result<Located> {
        let view = self.database.view()?;
        let record = view.get(key)?;
        if record.kind == Kind::Committed {
            return Err(precondition(format!(
                "snapshot {key:?} is committed, only active ones and views have mounts"
            )));
        }
        self.located(&view, &record)
    }

    /// Returns the folder of a snapshot of any kind.
    pub fn folder(&self, key: &str) -> Result<PathBuf> {
        Ok(self.folders.path(self.database.view()?.get(key)?.id))
    }

    /// Creates a snapshot and returns where it is.
    pub fn create(&self, kind: Kind, key: &str, parent: &str, labels: &Labels) -> Result<Located> {
        check_name(key)?;
        let mapping = self.mapping(labels)?;
        let making = self.folders.begin()?;
        let (parent_id, parents) = {
            let view = self.database.view()?;
            if view.find(key)?.is_some() {
                return Err(already_exists(key));
            }
            match parent.is_empty() {
                true => (None, Vec::new()),
                false => {
                    let record = committed(view.get(parent)?, parent)?;
                    let above = self.parents(&view, &record)?;
                    let nearest = self.folders.path(record.id);
                    let all = std::iter::once(nearest).chain(above).collect();
                    (Some(record.id), all)
                }
            }
        };
        (self.layout.fill)(making.path(), kind, &parents, mapping.as_ref())
            .context(|| format!("make the folder of snapshot {key:?}"))?;
        crash_point("filled");
        let now = SystemTime::now();
        let mut placed = None;
        let recorded = self.database.change(|change| {
            if change.find(key)?.is_some() {
                return Err(already_exists(key));
            }
            if let Some(id) = parent_id {
                // The parent may have gone, and another taken its name, while the folder was filled.
                if committed(change.get(parent)?, parent)?.id != id {
                    return Err(Error::new(
                        sys::Kind::Aborted,
                        format!("parent {parent:?} was replaced meanwhile"),
                    ));
                }
            }
            let record = Record {
                id: change.next_id()?,
                kind,
                parent: parent.to_owned(),
                labels: without_empty(labels),
                created: now,
                updated: now,
                usage: Usage::default(),
            };
            change.put(key, &record)?;
            change.link(parent, key)?;
            placed = Some(making.place(record.id)?);
            crash_point("placed");
            Ok(())
        });
        match (recorded, placed) {
            (Ok(()), Some(folder)) => {
                crash_point("recorded");
                Ok(Located {
                    kind,
                    folder,
                    parents,
                    mapping,
                })
            }
            (Err(error), placed) => {
                if let Some(folder) = placed {
                    self.folders.discard(&folder);
                }
                Err(error)
            }
            (Ok(()), None) => unreachable!("a recorded snapshot has its folder in place"),
        }
    }

    /// Commits an active snapshot, as `Snapshotter::commit` says.
    pub fn commit(&self, name: &str, key: &str, options: &CommitOptions) -> Result<()> {
        check_name(name)?;
        if Mapping::of(&options.labels)?.is_some() {
            return Err(unmapped("a committed snapshot"));
        }
        let id = {
            let view = self.database.view()?;
            if view.find(name)?.is_some() {
                return Err(already_exists(name));
            }
            active(view.get(key)?, key)?.id
        };
        let usage = self.count(id)?;
        self.database.change(|change| {
            if change.find(name)?.is_some() {
                return Err(already_exists(name));
            }
            let record = active(change.get(key)?, key)?;
            let parent = self.new_parent(change, &record, key, &options.parent)?;
            let now = SystemTime::now();
            change.delete(key)?;
            change.unlink(&record.parent, key)?;
            change.link(&parent, name)?;
            change.put(
                name,
                &Record {
                    id: record.id,
                    kind: Kind::Committed,
                    parent,
                    labels: without_empty(&options.labels),
                    created: now,
                    updated: now,
                    usage,
                },
            )
        })?;
        crash_point("committed");
        Ok(())
    }

    /// Removes a snapshot without children: its record at once, then its folder.
    pub fn remove(&self, key: &str) -> Result<()> {
        let id = self.database.change(|change| {
            let record = change.get(key)?;
            if let Some(child) = change.child(key)? {
                return Err(precondition(format!(
                    "snapshot {key:?} is the parent of {child:?}"
                )));
            }
            change.delete(key)?;
            change.unlink(&record.parent, key)?;
            Ok(record.id)
        })?;
        crash_point("unrecorded");
        // What cannot be deleted now is found by `cleanup`: nothing refers to it.
        self.folders.discard(&self.folders.path(id));
        Ok(())
    }

    /// Removes several snapshots, as `Snapshotter::remove_all` says; a few share a commit.
    pub fn remove_all(&self, keys: &[String]) -> Result<Vec<String>> {
        let mut kept = Vec::new();
        for keys in keys.chunks(REMOVED_TOGETHER) {
            let ids = self.database.change(|change| {
                let mut ids = Vec::new();
                for key in keys {
                    let Some(record) = change.find(key)? else {
                        continue;
                    };
                    if change.child(key)?.is_some() {
                        kept.push(key.clone());
                        continue;
                    }
                    change.delete(key)?;
                    change.unlink(&record.parent, key)?;
                    ids.push(record.id);
                }
                Ok(ids)
            })?;
            crash_point("unrecorded");
            for id in ids {
                self.folders.discard(&self.folders.path(id));
            }
        }
        Ok(kept)
    }

    /// Calls `visit` with every snapshot in the order of their names.
    pub fn walk(&self, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()> {
        self.database
            .view()?
            .each(&mut |name, record| visit(record.into_info(name)))
    }

    /// Deletes the folders that no snapshot has.
    pub fn cleanup(&self) -> Result<()> {
        self.folders.sweep(|| {
            let mut known = Vec::new();
            self.database.view()?.each(&mut |_, record| {
                known.push(record.id);
                Ok(())
            })?;
            Ok(known)
        })
    }

    /// Closes the database; what comes after is refused.
    pub fn close(&self) {
        self.database.close();
    }

    /// Makes the folders again that a power failure took from active snapshots and views.
    ///
    /// A record is durable when a call returns, but a file system may write the folder itself later.
    fn restore(&self) -> Result<()> {
        let view = self.database.view()?;
        let mut lost = Vec::new();
        view.each(&mut |name, record| {
            if record.kind != Kind::Committed && !self.folders.path(record.id).exists() {
                lost.push((name.to_owned(), record));
            }
            Ok(())
        })?;
        for (key, record) in lost {
            let parents = self.parents(&view, &record)?;
            let making = self.folders.begin()?;
            let mapping = Mapping::of(&record.labels)?;
            (self.layout.fill)(making.path(), record.kind, &parents, mapping.as_ref())
                .and_then(|()| making.place(record.id))
                .context(|| format!("make the folder of snapshot {key:?} again"))?;
        }
        Ok(())
    }

    fn count(&self, id: u64) -> Result<Usage> {
        usage::count(&self.folders.path(id).join(self.layout.content))
    }

    fn located(&self, view: &View, record: &Record) -> Result<Located> {
        Ok(Located {
            kind: record.kind,
            folder: self.folders.path(record.id),
            parents: self.parents(view, record)?,
            mapping: Mapping::of(&record.labels)?,
        })
    }

    /// Returns the mapping that labels ask for; to ignore it would give a container files of the wrong owner.
    fn mapping(&self, labels: &Labels) -> Result<Option<Mapping>> {
        match Mapping::of(labels)? {
            Some(_) if !self.layout.maps_owners => Err(unmapped("a snapshot here")),
            mapping => Ok(mapping),
        }
    }

    /// Returns the folders of all that is below a snapshot, the nearest first.
    fn parents(&self, view: &View, record: &Record) -> Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        let mut parent = record.parent.clone();
        while !parent.is_empty() {
            let record = view.get(&parent).map_err(|error| {
                error
                    .with_kind(sys::Kind::DataLoss)
                    .context("find parent of a snapshot")
            })?;
            folders.push(self.folders.path(record.id));
            parent = record.parent;
        }
        Ok(folders)
    }

    /// Returns the parent that a snapshot has once it is committed.
    fn new_parent(
        &self,
        change: &Change<'_>,
        record: &Record,
        key: &str,
        wanted: &str,
    ) -> Result<String> {
        if wanted.is_empty() || wanted == record.parent {
            return Ok(record.parent.clone());
        }
        if !record.parent.is_empty() {
            return Err(Error::new(
                sys::Kind::InvalidArgument,
                format!(
                    "snapshot {key:?} has the parent {:?}, it cannot be changed to {wanted:?}",
                    record.parent
                ),
            ));
        }
        if !self.layout.rebase {
            return Err(Error::new(
                sys::Kind::Unimplemented,
                format!(
                    "snapshot {key:?} cannot be given the parent {wanted:?}: this snapshotter does not rebase"
                ),
            ));
        }
        let parent = change.get(wanted)?;
        if parent.kind != Kind::Committed {
            return Err(precondition(format!(
                "parent {wanted:?} is {}, not committed",
                parent.kind
            )));
        }
        Ok(wanted.to_owned())
    }
}

/// Applies an update of labels.
fn merge(labels: &mut Labels, changes: &Labels, fieldpaths: &[String]) -> Result<()> {
    if fieldpaths.is_empty() {
        *labels = changes.clone();
    }
    for path in fieldpaths {
        if path == "labels" {
            *labels = changes.clone();
        } else if let Some(key) = path.strip_prefix("labels.") {
            let value = changes.get(key).cloned().unwrap_or_default();
            labels.insert(key.to_owned(), value);
        } else {
            return Err(Error::new(
                sys::Kind::InvalidArgument,
                format!("cannot update {path:?} of a snapshot, only its labels"),
            ));
        }
    }
    labels.retain(|_, value| !value.is_empty());
    Ok(())
}

fn without_empty(labels: &Labels) -> Labels {
    let set = labels.iter().filter(|(_, value)| !value.is_empty());
    set.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn check_name(name: &str) -> Result<()> {
    match name.is_empty() {
        true => Err(Error::new(
            sys::Kind::InvalidArgument,
            "a snapshot needs a name",
        )),
        false => Ok(()),
    }
}

fn unmapped(what: &str) -> Error {
    Error::new(
        sys::Kind::Unimplemented,
        format!("{what} with mapped owners is not supported"),
    )
}

fn active(record: Record, key: &str) -> Result<Record> {
    match record.kind {
        Kind::Active => Ok(record),
        _ => Err(precondition(format!("snapshot {key:?} is not active"))),
    }
}

fn committed(record: Record, name: &str) -> Result<Record> {
    match record.kind {
        Kind::Committed => Ok(record),
        kind => Err(Error::new(
            sys::Kind::InvalidArgument,
            format!("parent {name:?} is {kind}, not committed"),
        )),
    }
}

fn already_exists(name: &str) -> Error {
    Error::new(
        sys::Kind::AlreadyExists,
        format!("snapshot {name:?} already exists"),
    )
}

fn precondition(message: String) -> Error {
    Error::new(sys::Kind::FailedPrecondition, message)
}

/// Marks a moment at which the tests of crashes end the process.
#[cfg(test)]
fn crash_point(name: &str) {
    tests::crash_point(name);
}

#[cfg(not(test))]
fn crash_point(_: &str) {}

#[cfg(test)]
mod tests;
