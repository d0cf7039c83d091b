//! What is to be taken over, what stays behind, and what is in the way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, MemfdFlags};
use snapshotter::{Kind as SnapshotKind, usage};

use super::bolt::Database;
use super::records::{self, Namespace};
use super::running::{self, Hold};
use super::snapshots::{self, Snapshotter};
use super::{Source, existing, report};
use crate::app;
use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Context, Error, Kind, Result, precondition};
use crate::metadata::leases::{self, Resource};
use crate::metadata::{Read, Store, Table};
use crate::plugin;

/// What is to be taken over.
#[derive(Debug)]
pub struct Plan {
    pub from: PathBuf,
    pub to: PathBuf,
    pub namespaces: BTreeMap<String, Namespace>,
    /// The files of blobs.
    pub blobs: BTreeMap<Digest, PathBuf>,
    pub snapshotters: Vec<(plugin::Kind, Snapshotter)>,
    /// Bytes of the blobs, of committed snapshots and of active ones.
    pub bytes: Bytes,
    /// Whether files that are not written to again can be shared.
    pub links: bool,
    /// What is not taken, and why.
    pub left: Vec<String>,
    /// What has to be put right first.
    pub obstacles: Vec<String>,
}

/// What kinds of data take on disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bytes {
    pub blobs: u64,
    pub committed: u64,
    pub active: u64,
}

impl Plan {
    /// Looks at what is there, and keeps containerd from starting as long as `hold` lives.
    pub fn make(config: &Config, source: &Source, hold: &mut Hold) -> Result<Self> {
        let from = &source.root;
        let database = app::metadata(from).with_file_name("meta.db");
        if !database.exists() {
            return Err(Error::new(
                Kind::NotFound,
                format!("no containerd has its root at {from:?}: there is no {database:?}"),
            ));
        }
        let device = |path: &Path| existing(path).metadata().map(|found| found.dev());
        let mut plan = Self {
            from: from.clone(),
            to: config.root.clone(),
            namespaces: BTreeMap::new(),
            blobs: BTreeMap::new(),
            snapshotters: Vec::new(),
            bytes: Bytes::default(),
            links: device(from).ok() == device(&config.root).ok(),
            left: Vec::new(),
            obstacles: Vec::new(),
        };
        plan.look_for_obstacles(source, &database, hold)?;
        plan.namespaces = records::namespaces(&Database::read(&database)?)
            .context(|| format!("read {database:?}"))?;
        plan.leave_ingests();
        plan.find_blobs(&app::content(from));
        plan.find_snapshots()?;
        plan.check_containers();
        plan.check_room()?;
        Ok(plan)
    }

    fn look_for_obstacles(
        &mut self,
        source: &Source,
        database: &Path,
        hold: &mut Hold,
    ) -> Result<()> {
        let kinds = plugin::Kind::ALL.iter();
        let others = kinds.map(|kind| snapshots::database(&app::snapshots(&self.from, *kind)));
        let databases = std::iter::once(database.to_owned()).chain(others);
        for database in databases.filter(|database| database.exists()) {
            if !hold.take(&database)? {
                let message = format!("containerd runs, it has {database:?} open: stop it");
                self.obstacles.push(message);
                break;
            }
        }
        self.obstacles.extend(running::tasks(&source.state)?);
        self.obstacles.extend(running::mounts(&self.from)?);
        let lock = File::open(self.to.join("cortend.lock"));
        let shared = FlockOperation::NonBlockingLockShared;
        if lock.is_ok_and(|lock| rustix::fs::flock(&lock, shared).is_err()) {
            let message = format!("cortend runs on {:?}: stop it", self.to);
            self.obstacles.push(message);
        } else if let Some(table) = of_copy(&app::metadata(&self.to))? {
            let error = is_occupied(&self.to, table);
            self.obstacles.push(error.to_string());
        }
        Ok(())
    }

    fn leave_ingests(&mut self) {
        for (name, namespace) in &self.namespaces {
            if namespace.ingests > 0 {
                let count = namespace.ingests;
                self.left
                    .push(format!("{count} unfinished downloads in namespace {name}"));
            }
        }
    }

    /// Finds the files of blobs; a record whose file is missing or has another size stays behind.
    fn find_blobs(&mut self, root: &Path) {
        for (name, namespace) in &mut self.namespaces {
            namespace.blobs.retain(|text, blob| {
                let wrong = match Digest::parse(text) {
                    Err(error) => error.to_string(),
                    Ok(digest) => {
                        let algorithm = digest.algorithm().name();
                        let path = root.join("blobs").join(algorithm).join(digest.hex());
                        match path.metadata() {
                            Err(error) => error.to_string(),
                            Ok(found) if found.len() as i64 == blob.size => {
                                if self.blobs.insert(digest, path).is_none() {
                                    self.bytes.blobs += found.len();
                                }
                                return true;
                            }
                            Ok(found) => {
                                format!("its file has {} bytes, not {}", found.len(), blob.size)
                            }
                        }
                    }
                };
                self.left
                    .push(format!("content {text} in namespace {name}: {wrong}"));
                false
            });
        }
    }

    /// Finds the snapshots that records name; a record of one that is not there, or not ours to read, stays behind.
    fn find_snapshots(&mut self) -> Result<()> {
        let mut found: BTreeMap<&str, Snapshotter> = BTreeMap::new();
        for kind in plugin::Kind::ALL {
            let root = app::snapshots(&self.from, kind);
            if snapshots::database(&root).exists() {
                found.insert(kind.name(), Snapshotter::read(&root)?);
            }
        }
        let mut foreign: BTreeMap<String, usize> = BTreeMap::new();
        let left = &mut self.left;
        for (name, namespace) in &mut self.namespaces {
            namespace.snapshots.retain(|(snapshotter, key), record| {
                let Some(known) = found.get(snapshotter.as_str()) else {
                    *foreign.entry(snapshotter.clone()).or_default() += 1;
                    return false;
                };
                let whole = known.has(&record.backend);
                if !whole {
                    left.push(format!(
                        "snapshot {key} of {snapshotter} in namespace {name}: it or one below it has no record or no folder"
                    ));
                }
                whole
            });
        }
        for (snapshotter, count) in foreign {
            self.left.push(format!(
                "{count} snapshots of {snapshotter}, which cortend does not have"
            ));
        }
        for kind in plugin::Kind::ALL {
            let Some(mut snapshotter) = found.remove(kind.name()) else {
                continue;
            };
            let records = self.namespaces.values().flat_map(|all| &all.snapshots);
            let own = records.filter(|((name, _), _)| name == kind.name());
            snapshotter.keep(own.map(|(_, record)| record.backend.as_str()));
            for snapshot in snapshotter.snapshots.values() {
                let folder = snapshotter.folder.join(snapshot.id.to_string());
                match snapshot.info.kind {
                    SnapshotKind::View => {}
                    SnapshotKind::Committed => {
                        self.bytes.committed += snapshot.usage.size.max(0) as u64;
                    }
                    SnapshotKind::Active => {
                        self.bytes.active += usage::count(&folder)?.size.max(0) as u64;
                    }
                }
            }
            self.snapshotters.push((kind, snapshotter));
        }
        Ok(())
    }

    /// Names the containers whose snapshots stay behind, and lets leases go of what does.
    fn check_containers(&mut self) {
        for (name, namespace) in &mut self.namespaces {
            let has = |snapshotter: &str, key: &str| {
                let key = (snapshotter.to_owned(), key.to_owned());
                namespace.snapshots.contains_key(&key)
            };
            for container in &namespace.containers {
                let key = &container.snapshot_key;
                if !key.is_empty() && !has(&container.snapshotter, key) {
                    self.left.push(format!(
                        "the file system of container {} in namespace {name}",
                        container.id
                    ));
                }
            }
            let taken = |resource: &Resource| match resource.kind.strip_prefix(leases::SNAPSHOTS) {
                Some(snapshotter) => has(snapshotter, &resource.id),
                None => true,
            };
            for (_, resources) in &mut namespace.leases {
                resources.retain(taken);
            }
        }
    }

    fn check_room(&mut self) -> Result<()> {
        let there = existing(&self.to);
        let found = rustix::fs::statvfs(there).context(|| format!("stat {there:?}"))?;
        let (needed, free) = (self.copied(), found.f_bavail * found.f_frsize);
        if needed > free {
            self.obstacles.push(format!(
                "{} are to be copied, {there:?} has room for {}",
                report::bytes(needed),
                report::bytes(free)
            ));
        }
        Ok(())
    }

    /// Returns how many bytes are to be copied.
    pub fn copied(&self) -> u64 {
        match self.links {
            true => self.bytes.active,
            false => self.bytes.active + self.bytes.committed + self.bytes.blobs,
        }
    }

    /// Returns the names of all snapshotters that snapshots are taken from.
    pub fn snapshotter_names(&self) -> BTreeSet<&str> {
        let taken = self.snapshotters.iter();
        taken.map(|(kind, _)| kind.name()).collect()
    }
}

/// Returns a table with an object that a client has made, if there is one.
pub fn occupied(view: &impl Read) -> Result<Option<Table>> {
    for table in [
        Table::Images,
        Table::Containers,
        Table::Blobs,
        Table::Snapshots,
        Table::Leases,
        Table::Sandboxes,
    ] {
        let mut found = false;
        view.visit(table, None, "", &mut |_, _, _| {
            found = true;
            Ok(())
        })?;
        if found {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

/// Returns what [`occupied`] does of the store in the file `path`, which need not be there and is not changed: what a
/// daemon left needs repairs, which are made to a copy in memory.
fn of_copy(path: &Path) -> Result<Option<Table>> {
    if !path.exists() {
        return Ok(None);
    }
    let context = || format!("look into {path:?}");
    let bytes = std::fs::read(path).context(context)?;
    let copy = rustix::fs::memfd_create("meta.redb", MemfdFlags::CLOEXEC).context(context)?;
    let mut copy = File::from(copy);
    copy.write_all(&bytes).context(context)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd()));
    Store::open(&path)?.read(occupied)
}

/// Returns the error for a root that has something already.
pub fn is_occupied(root: &Path, table: Table) -> Error {
    let what = format!("{table:?}").to_lowercase();
    precondition(format!(
        "{root:?} has {what} already: only a cortend that has nothing yet takes over"
    ))
}
