//! The records of snapshots in redb: a change is one transaction, durable when it returns.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition};
use sys::{Error, Result};

use super::Record;

const SNAPSHOTS: TableDefinition<&str, &[u8]> = TableDefinition::new("snapshots");
const CHILDREN: TableDefinition<(&str, &str), ()> = TableDefinition::new("children");
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
/// The schema's version and the last number given to a folder.
const VERSION: &str = "version";
const LAST_ID: &str = "last";
const SCHEMA: u64 = 1;
/// What the database may keep in memory; the file itself is in the page cache anyway.
const CACHE_BYTES: usize = 1 << 20;

/// The database; empty once it is closed.
///
/// redb refuses all work after an I/O error, such as a full disk, until it is opened again.
pub(super) struct Database {
    path: PathBuf,
    open: RwLock<State>,
}

enum State {
    Open(redb::Database),
    Failed,
    Closed,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Database").field(&self.path).finish()
    }
}

impl Database {
    /// Opens or creates the database in the file `path`.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            open: RwLock::new(State::Open(open(path)?)),
        })
    }

    /// Returns the records as they are now.
    pub fn view(&self) -> Result<View> {
        self.reopen_failed()?;
        let state = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let State::Open(database) = &*state else {
            return Err(closed());
        };
        let txn = database.begin_read().map_err(failed)?;
        Ok(View(txn.open_table(SNAPSHOTS).map_err(failed)?))
    }

    /// Runs `change` alone, and makes what it did durable unless it fails.
    pub fn change<T>(&self, change: impl FnOnce(&mut Change<'_>) -> Result<T>) -> Result<T> {
        self.reopen_failed()?;
        let result = {
            let state = self.open.read().unwrap_or_else(PoisonError::into_inner);
            let State::Open(database) = &*state else {
                return Err(closed());
            };
            run(database, change)
        };
        match result {
            Ok(result) => result,
            Err(error) => {
                let mut state = self.open.write().unwrap_or_else(PoisonError::into_inner);
                if matches!(*state, State::Open(_)) {
                    *state = State::Failed;
                }
                Err(error)
            }
        }
    }

    /// Closes the database.
    pub fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = State::Closed;
    }

    fn reopen_failed(&self) -> Result<()> {
        let failed = |state: &State| matches!(state, State::Failed);
        if !failed(&self.open.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(());
        }
        let mut state = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if failed(&state) {
            *state = State::Open(open(&self.path)?);
        }
        Ok(())
    }
}

/// Runs one transaction; the outer error is the database's, the inner one that of `change`.
fn run<T>(
    database: &redb::Database,
    change: impl FnOnce(&mut Change<'_>) -> Result<T>,
) -> Result<Result<T>> {
    let txn = database.begin_write().map_err(failed)?;
    let result = {
        let mut tables = Change {
            snapshots: txn.open_table(SNAPSHOTS).map_err(failed)?,
            children: txn.open_table(CHILDREN).map_err(failed)?,
            counters: txn.open_table(COUNTERS).map_err(failed)?,
        };
        change(&mut tables)
    };
    match result {
        Ok(_) => txn.commit().map_err(failed)?,
        Err(_) => txn.abort().map_err(failed)?,
    }
    Ok(result)
}

fn open(path: &Path) -> Result<redb::Database> {
    let context = |error: Error| error.context(format!("open snapshot records {path:?}"));
    let database = redb::Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create(path)
        .map_err(|error| context(failed(error)))?;
    prepare(&database).map_err(context)?;
    Ok(database)
}

/// Makes the tables where they are missing, and refuses those of another schema.
fn prepare(database: &redb::Database) -> Result<()> {
    let version = {
        let txn = database.begin_read().map_err(failed)?;
        match txn.open_table(COUNTERS) {
            Ok(counters) => counters.get(VERSION).map_err(failed)?.map(|v| v.value()),
            Err(redb::TableError::TableDoesNotExist(_)) => None,
            Err(error) => return Err(failed(error)),
        }
    };
    match version {
        Some(SCHEMA) => Ok(()),
        Some(other) => Err(Error::new(
            sys::Kind::FailedPrecondition,
            format!("schema version is {other}, only {SCHEMA} is known"),
        )),
        None => run(database, |change| {
            change.counters.insert(VERSION, SCHEMA).map_err(failed)?;
            Ok(())
        })?,
    }
}

/// The records as they were when this was made.
pub(super) struct View(ReadOnlyTable<&'static str, &'static [u8]>);

impl View {
    /// Returns a record, if there is one.
    pub fn find(&self, key: &str) -> Result<Option<Record>> {
        find(&self.0, key)
    }

    /// Returns a record, or `NotFound`.
    pub fn get(&self, key: &str) -> Result<Record> {
        found(find(&self.0, key)?, key)
    }

    /// Calls `visit` with the name and the record of each snapshot in the order of their names.
    pub fn each(&self, visit: &mut dyn FnMut(&str, Record) -> Result<()>) -> Result<()> {
        for entry in self.0.iter().map_err(failed)? {
            let (name, record) = entry.map_err(failed)?;
            visit(name.value(), decode(record.value())?)?;
        }
        Ok(())
    }
}

/// A transaction under way.
pub(super) struct Change<'txn> {
    snapshots: Table<'txn, &'static str, &'static [u8]>,
    children: Table<'txn, (&'static str, &'static str), ()>,
    counters: Table<'txn, &'static str, u64>,
}

impl Change<'_> {
    /// Returns a record, if there is one.
    pub fn find(&self, key: &str) -> Result<Option<Record>> {
        find(&self.snapshots, key)
    }

    /// Returns a record, or `NotFound`.
    pub fn get(&self, key: &str) -> Result<Record> {
        found(self.find(key)?, key)
    }

    /// Stores a record.
    pub fn put(&mut self, key: &str, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec(record)
            .map_err(|error| Error::other("encode snapshot record", error))?;
        self.snapshots
            .insert(key, bytes.as_slice())
            .map_err(failed)?;
        Ok(())
    }

    /// Removes a record.
    pub fn delete(&mut self, key: &str) -> Result<()> {
        self.snapshots.remove(key).map_err(failed)?;
        Ok(())
    }

    /// Records that `parent` has a child; an empty parent is none.
    pub fn link(&mut self, parent: &str, child: &str) -> Result<()> {
        if !parent.is_empty() {
            self.children.insert((parent, child), ()).map_err(failed)?;
        }
        Ok(())
    }

    /// Forgets that `parent` has a child.
    pub fn unlink(&mut self, parent: &str, child: &str) -> Result<()> {
        self.children.remove((parent, child)).map_err(failed)?;
        Ok(())
    }

    /// Returns one of the children of `parent`.
    pub fn child(&self, parent: &str) -> Result<Option<String>> {
        let mut children = self.children.range((parent, "")..).map_err(failed)?;
        let first = children.next().transpose().map_err(failed)?;
        Ok(first.and_then(|(key, _)| owned_child(key.value(), parent)))
    }

    /// Sees to it that `next_id` never returns `id`, nor a smaller number.
    pub fn reserve(&mut self, id: u64) -> Result<()> {
        let last = self.counters.get(LAST_ID).map_err(failed)?;
        let last = last.map_or(0, |last| last.value());
        self.counters
            .insert(LAST_ID, last.max(id))
            .map_err(failed)?;
        Ok(())
    }

    /// Returns a number that was never returned before.
    pub fn next_id(&mut self) -> Result<u64> {
        let last = self.counters.get(LAST_ID).map_err(failed)?;
        let next = last.map_or(0, |last| last.value()) + 1;
        self.counters.insert(LAST_ID, next).map_err(failed)?;
        Ok(next)
    }
}

fn owned_child((of, child): (&str, &str), parent: &str) -> Option<String> {
    (of == parent).then(|| child.to_owned())
}

fn find(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<Record>> {
    let bytes = table.get(key).map_err(failed)?;
    bytes.map(|bytes| decode(bytes.value())).transpose()
}

fn found(record: Option<Record>, key: &str) -> Result<Record> {
    record.ok_or_else(|| {
        Error::new(
            sys::Kind::NotFound,
            format!("snapshot {key:?} does not exist"),
        )
    })
}

fn decode(bytes: &[u8]) -> Result<Record> {
    serde_json::from_slice(bytes).map_err(|error| {
        Error::other("decode snapshot record", error).with_kind(sys::Kind::DataLoss)
    })
}

fn closed() -> Error {
    Error::new(sys::Kind::Unavailable, "snapshotter is closed")
}

fn failed(error: impl Into<redb::Error>) -> Error {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let message = "snapshot records";
    match error.into() {
        redb::Error::Io(error) => {
            let kind = match error.kind() {
                StorageFull | QuotaExceeded => sys::Kind::ResourceExhausted,
                _ => sys::Kind::Unknown,
            };
            Error::other(message, error).with_kind(kind)
        }
        redb::Error::DatabaseAlreadyOpen => Error::new(
            sys::Kind::FailedPrecondition,
            "snapshot records are in use by another process",
        ),
        error @ redb::Error::Corrupted(_) => {
            Error::other(message, error).with_kind(sys::Kind::DataLoss)
        }
        error => Error::other(message, error),
    }
}
