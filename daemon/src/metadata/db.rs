//! The transactional store under the metadata: redb, many readers, one writing thread with group commit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;

use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::changes::{Changed, Changes, Journal, Staged, Watch};
use super::records::Namespace;
use crate::error::{Error, Kind, Result};
use crate::trace;
use sys::failpoint;

const OBJECTS: TableDefinition<(u8, &str, &str), &[u8]> = TableDefinition::new("objects");
const SCHEMA_VERSION: &str = "1";
/// What the store may keep in memory; the file itself is in the page cache anyway.
const CACHE_BYTES: usize = 4 << 20;
/// How many writes share one commit at most.
const MAX_GROUP: usize = 128;

/// The kinds of objects; the numbers are part of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    Meta = 0,
    Namespaces = 1,
    Images = 2,
    Containers = 3,
    Blobs = 4,
    Ingests = 5,
    Snapshots = 6,
    SnapshotChildren = 7,
    Leases = 8,
    LeaseResources = 9,
    Sandboxes = 10,
}

/// What a scan does with the namespace, key and bytes of a record.
pub type Visit<'a> = dyn FnMut(&str, &str, &[u8]) -> Result<()> + 'a;

/// A consistent view of the store.
pub trait Read {
    /// Returns the bytes of one record.
    fn bytes(&self, table: Table, namespace: &str, key: &str) -> Result<Option<Vec<u8>>>;

    /// Calls `visit` with the namespace, key and bytes of each record whose key begins with `prefix`, in order.
    ///
    /// Without a namespace, the records of all namespaces are visited and `prefix` must be empty.
    fn visit(
        &self,
        table: Table,
        namespace: Option<&str>,
        prefix: &str,
        visit: &mut Visit<'_>,
    ) -> Result<()>;

    /// Returns one record.
    fn get<R: Message + Default>(
        &self,
        table: Table,
        namespace: &str,
        key: &str,
    ) -> Result<Option<R>> {
        self.bytes(table, namespace, key)?
            .map(|bytes| decode(&bytes))
            .transpose()
    }

    /// Returns the keys and records of a namespace whose keys begin with `prefix`, in order.
    fn list<R: Message + Default>(
        &self,
        table: Table,
        namespace: &str,
        prefix: &str,
    ) -> Result<Vec<(String, R)>> {
        let mut records = Vec::new();
        self.visit(table, Some(namespace), prefix, &mut |_, key, bytes| {
            records.push((key.to_owned(), decode(bytes)?));
            Ok(())
        })?;
        Ok(records)
    }

    /// Returns whether a namespace has a record whose key begins with `prefix`.
    fn any(&self, table: Table, namespace: &str, prefix: &str) -> Result<bool> {
        let mut found = false;
        self.visit(table, Some(namespace), prefix, &mut |_, _, _| {
            found = true;
            Ok(())
        })?;
        Ok(found)
    }
}

/// Decodes a record.
pub fn decode<R: Message + Default>(bytes: &[u8]) -> Result<R> {
    R::decode(bytes)
        .map_err(|error| Error::other("decode metadata record", error).with_kind(Kind::DataLoss))
}

type Job = Box<dyn FnOnce(Result<&mut Objects<'_>>) -> Outcome + Send>;
/// What a job leaves: how to answer its caller once the commit is known to have worked or not.
type Outcome = (Changed, Box<dyn FnOnce(Result<()>) + Send>);

type Objects<'txn> = redb::Table<'txn, (u8, &'static str, &'static str), &'static [u8]>;

/// The store; clones of the `Arc` it is kept in share one database.
#[derive(Debug)]
pub struct Store {
    database: Arc<Slot>,
    jobs: Sender<Job>,
    changes: Arc<Changes>,
    journal: Arc<Journal>,
}

/// The open database. redb refuses all work after an I/O error (a full disk) until it is opened again.
#[derive(Debug)]
struct Slot {
    path: PathBuf,
    open: RwLock<Option<Database>>,
}

impl Store {
    /// Opens or creates the store in the file `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let database = Arc::new(Slot {
            path: path.to_owned(),
            open: RwLock::new(Some(open(path)?)),
        });
        let changes = Arc::new(Changes::default());
        let journal = Arc::new(Journal::default());
        let (jobs, queue) = channel();
        let (slot, counter) = (database.clone(), changes.clone());
        thread::Builder::new()
            .name("metadata".into())
            .spawn(move || commit_all(&slot, &queue, &counter))
            .map_err(|error| Error::other("start metadata thread", error))?;
        Ok(Self {
            database,
            jobs,
            changes,
            journal,
        })
    }

    /// Returns what `read` makes of a consistent view of the store.
    pub fn read<T>(&self, read: impl FnOnce(&View) -> Result<T>) -> Result<T> {
        let view = self.database.view()?;
        read(&view)
    }

    /// Runs `write` alone with the store and returns its result when all it did is durable.
    ///
    /// If `write` fails, nothing that it did is kept. It must not wait for another write.
    pub fn write<T, F>(&self, write: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_, '_>) -> Result<T> + Send + 'static,
    {
        let _span = trace::span("commit metadata");
        let (answer, done) = sync_channel(1);
        let journal = self.journal.clone();
        let job: Job = Box::new(move |objects| {
            let (result, changed) = match objects {
                Ok(objects) => run(objects, &journal, write),
                Err(error) => (Err(error), Changed::default()),
            };
            let finish = move |committed: Result<()>| {
                let _ = answer.send(result.and_then(|value| committed.map(|()| value)));
            };
            (changed, Box::new(finish))
        });
        self.jobs.send(job).map_err(|_| closed())?;
        done.recv().map_err(|_| closed())?
    }

    /// Returns how much has been written.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Begins to note what is put into the store; there is one watch at a time, the collector's.
    pub fn watch(&self) -> Watch {
        self.journal.watch()
    }
}

/// Runs one write and returns its result and whether it changed anything.
fn run<T>(
    objects: &mut Objects<'_>,
    journal: &Journal,
    write: impl FnOnce(&mut Tx<'_, '_>) -> Result<T>,
) -> (Result<T>, Changed) {
    let mut tx = Tx {
        objects,
        staged: BTreeMap::new(),
        housekeeping: false,
    };
    let result = write(&mut tx);
    if result.is_err() || tx.staged.is_empty() {
        return (result, Changed::default());
    }
    let mutations = u64::from(!tx.housekeeping);
    let changed = Changed {
        any: true,
        mutations,
        removals: mutations * tx.removals(),
    };
    journal.note(&tx.staged);
    match tx.apply() {
        Ok(()) => (result, changed),
        Err(error) => (Err(error), changed),
    }
}

fn closed() -> Error {
    Error::new(Kind::Unavailable, "metadata store is closed")
}

impl Slot {
    fn view(&self) -> Result<View> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let database = open.as_ref().ok_or_else(closed)?;
        let txn = database.begin_read().map_err(failed)?;
        let objects = txn.open_table(OBJECTS).map_err(failed)?;
        Ok(View { objects })
    }

    fn is_closed(&self) -> bool {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }

    /// Opens the database again after an error that redb does not recover from by itself.
    fn reopen(&self) {
        let mut slot = self.open.write().unwrap_or_else(PoisonError::into_inner);
        drop(slot.take());
        match open(&self.path) {
            Ok(database) => *slot = Some(database),
            Err(error) => tracing::error!("open metadata again: {error:#}"),
        }
    }
}

fn open(path: &Path) -> Result<Database> {
    let context = |error: Error| error.context(format!("open metadata store {path:?}"));
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create(path)
        .map_err(|error| context(failed(error)))?;
    let version = prepare(&database).map_err(context)?;
    if version != SCHEMA_VERSION {
        return Err(context(Error::new(
            Kind::FailedPrecondition,
            format!("schema version is {version}, this daemon knows {SCHEMA_VERSION}"),
        )));
    }
    Ok(database)
}

/// Makes the table where it is missing and returns the schema version.
fn prepare(database: &Database) -> Result<String> {
    let key = (Table::Meta as u8, "", "version");
    let txn = database.begin_read().map_err(failed)?;
    if let Ok(objects) = txn.open_table(OBJECTS)
        && let Some(version) = objects.get(key).map_err(failed)?
    {
        return Ok(String::from_utf8_lossy(version.value()).into_owned());
    }
    let txn = database.begin_write().map_err(failed)?;
    txn.open_table(OBJECTS)
        .map_err(failed)?
        .insert(key, SCHEMA_VERSION.as_bytes())
        .map_err(failed)?;
    txn.commit().map_err(failed)?;
    Ok(SCHEMA_VERSION.to_owned())
}

/// The writing thread: takes what is queued, runs it, commits it together, then answers.
fn commit_all(slot: &Slot, queue: &Receiver<Job>, changes: &Changes) {
    while let Ok(first) = queue.recv() {
        let mut group = Group {
            next: Some(first),
            finishers: Vec::new(),
            changed: Changed::default(),
        };
        let committed = group.commit(slot, queue);
        changes.add(group.changed);
        if let Err(error) = &committed {
            tracing::error!("commit metadata: {error:#}");
            slot.reopen();
        }
        group.answer(&committed);
    }
}

/// The writes that share one commit.
struct Group {
    next: Option<Job>,
    finishers: Vec<Box<dyn FnOnce(Result<()>) + Send>>,
    changed: Changed,
}

impl Group {
    fn commit(&mut self, slot: &Slot, queue: &Receiver<Job>) -> Result<()> {
        if slot.is_closed() {
            slot.reopen();
        }
        let open = slot.open.read().unwrap_or_else(PoisonError::into_inner);
        let database = open.as_ref().ok_or_else(closed)?;
        let txn = database.begin_write().map_err(failed)?;
        {
            let mut objects = txn.open_table(OBJECTS).map_err(failed)?;
            while let Some(job) = self.next.take() {
                let (wrote, finish) = job(Ok(&mut objects));
                self.changed.any |= wrote.any;
                self.changed.mutations += wrote.mutations;
                self.changed.removals += wrote.removals;
                self.finishers.push(finish);
                if self.finishers.len() < MAX_GROUP {
                    self.next = queue.try_recv().ok();
                }
            }
        }
        if self.changed.any {
            failpoint!("metadata.commit");
            txn.commit().map_err(failed)?;
            failpoint!("metadata.committed");
            Ok(())
        } else {
            txn.abort().map_err(failed)
        }
    }

    fn answer(self, committed: &Result<()>) {
        let outcome = || match committed {
            Ok(()) => Ok(()),
            Err(error) => Err(Error::new(
                error.kind(),
                format!("commit metadata: {error:#}"),
            )),
        };
        for finish in self.finishers {
            finish(outcome());
        }
        if let (Some(job), Err(error)) = (self.next, outcome()) {
            let (_, finish) = job(Err(error));
            finish(Ok(()));
        }
    }
}

/// A view of the store as it was when it was made.
pub struct View {
    objects: redb::ReadOnlyTable<(u8, &'static str, &'static str), &'static [u8]>,
}

impl Read for View {
    fn bytes(&self, table: Table, namespace: &str, key: &str) -> Result<Option<Vec<u8>>> {
        get(&self.objects, table, namespace, key)
    }

    fn visit(
        &self,
        table: Table,
        namespace: Option<&str>,
        prefix: &str,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        scan(&self.objects, table, namespace, prefix, visit)
    }
}

/// A write that is under way: it sees its own changes, which others see when it has succeeded.
pub struct Tx<'a, 'txn> {
    objects: &'a mut Objects<'txn>,
    staged: Staged,
    housekeeping: bool,
}

impl Tx<'_, '_> {
    /// Says that this write is the collector's own: it makes no further collection due.
    pub fn housekeeping(&mut self) {
        self.housekeeping = true;
    }

    /// Stores a record, making its namespace if need be.
    pub fn put<R: Message>(
        &mut self,
        table: Table,
        namespace: &str,
        key: &str,
        record: &R,
    ) -> Result<()> {
        self.put_bytes(table, namespace, key, record.encode_to_vec())
    }

    /// Stores a record that has no more to say than its key.
    pub fn put_key(&mut self, table: Table, namespace: &str, key: &str) -> Result<()> {
        self.put_bytes(table, namespace, key, Vec::new())
    }

    fn put_bytes(
        &mut self,
        table: Table,
        namespace: &str,
        key: &str,
        bytes: Vec<u8>,
    ) -> Result<()> {
        if !matches!(table, Table::Namespaces | Table::Meta)
            && self.bytes(Table::Namespaces, namespace, "")?.is_none()
        {
            let bytes = Namespace::default().encode_to_vec();
            let key = (Table::Namespaces, namespace.to_owned(), String::new());
            self.staged.insert(key, Some(bytes));
        }
        let key = (table, namespace.to_owned(), key.to_owned());
        self.staged.insert(key, Some(bytes));
        Ok(())
    }

    /// Removes a record.
    pub fn remove(&mut self, table: Table, namespace: &str, key: &str) {
        let key = (table, namespace.to_owned(), key.to_owned());
        self.staged.insert(key, None);
    }

    /// Sees to it that [`Tx::next_sequence`] never returns `number`, nor a smaller one.
    pub fn reserve_sequence(&mut self, number: u64) -> Result<()> {
        let last = self.last_sequence()?.max(number);
        self.put_sequence(last);
        Ok(())
    }

    /// Returns a number that no other call has returned.
    pub fn next_sequence(&mut self) -> Result<u64> {
        let next = self.last_sequence()? + 1;
        self.put_sequence(next);
        Ok(next)
    }

    fn last_sequence(&self) -> Result<u64> {
        let last = self.bytes(Table::Meta, "", "sequence")?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&last).parse().unwrap_or_default())
    }

    fn put_sequence(&mut self, number: u64) {
        let key = (Table::Meta, String::new(), "sequence".to_owned());
        self.staged
            .insert(key, Some(number.to_string().into_bytes()));
    }

    /// Returns by how many objects, or holds on objects, there will be less; one that only gets a new name is none.
    fn removals(&self) -> u64 {
        let mut removals: BTreeMap<Table, i64> = BTreeMap::new();
        for ((table, ..), bytes) in &self.staged {
            let less = if bytes.is_none() { 1 } else { -1 };
            *removals.entry(*table).or_default() += less;
        }
        let counts = |table: &Table| {
            !matches!(
                table,
                Table::Meta | Table::Namespaces | Table::Ingests | Table::SnapshotChildren
            )
        };
        removals.retain(|table, less| counts(table) && *less > 0);
        removals.values().sum::<i64>() as u64
    }

    fn apply(&mut self) -> Result<()> {
        for ((table, namespace, key), bytes) in &self.staged {
            let key = (*table as u8, namespace.as_str(), key.as_str());
            match bytes {
                Some(bytes) => self.objects.insert(key, bytes.as_slice()).map_err(failed)?,
                None => self.objects.remove(key).map_err(failed)?,
            };
        }
        Ok(())
    }
}

impl Read for Tx<'_, '_> {
    fn bytes(&self, table: Table, namespace: &str, key: &str) -> Result<Option<Vec<u8>>> {
        match self
            .staged
            .get(&(table, namespace.to_owned(), key.to_owned()))
        {
            Some(staged) => Ok(staged.clone()),
            None => get(self.objects, table, namespace, key),
        }
    }

    fn visit(
        &self,
        table: Table,
        namespace: Option<&str>,
        prefix: &str,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        let in_range = |ns: &str, key: &str| {
            namespace.is_none_or(|wanted| wanted == ns) && key.starts_with(prefix)
        };
        let mut merged: BTreeMap<(String, String), Vec<u8>> = BTreeMap::new();
        scan(
            self.objects,
            table,
            namespace,
            prefix,
            &mut |ns, key, bytes| {
                merged.insert((ns.to_owned(), key.to_owned()), bytes.to_vec());
                Ok(())
            },
        )?;
        for ((staged, ns, key), bytes) in &self.staged {
            if *staged == table && in_range(ns, key) {
                let key = (ns.clone(), key.clone());
                match bytes {
                    Some(bytes) => merged.insert(key, bytes.clone()),
                    None => merged.remove(&key),
                };
            }
        }
        for ((ns, key), bytes) in &merged {
            visit(ns, key, bytes)?;
        }
        Ok(())
    }
}

fn get(
    objects: &impl ReadableTable<(u8, &'static str, &'static str), &'static [u8]>,
    table: Table,
    namespace: &str,
    key: &str,
) -> Result<Option<Vec<u8>>> {
    let record = objects.get((table as u8, namespace, key)).map_err(failed)?;
    Ok(record.map(|record| record.value().to_vec()))
}

fn scan(
    objects: &impl ReadableTable<(u8, &'static str, &'static str), &'static [u8]>,
    table: Table,
    namespace: Option<&str>,
    prefix: &str,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let from = (table as u8, namespace.unwrap_or(""), prefix);
    for entry in objects.range(from..).map_err(failed)? {
        let (key, record) = entry.map_err(failed)?;
        let (found, ns, key) = key.value();
        let past = found != table as u8 || namespace.is_some_and(|wanted| wanted != ns);
        if past || !key.starts_with(prefix) {
            break;
        }
        visit(ns, key, record.value())?;
    }
    Ok(())
}

/// Returns redb's error as ours, with a full disk told apart.
fn failed(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(error) => {
            let full = error.kind() == std::io::ErrorKind::StorageFull
                || error.kind() == std::io::ErrorKind::QuotaExceeded;
            let kind = if full {
                Kind::ResourceExhausted
            } else {
                Kind::Unknown
            };
            Error::other("metadata store", error).with_kind(kind)
        }
        redb::Error::DatabaseAlreadyOpen => Error::new(
            Kind::FailedPrecondition,
            "metadata store is in use by another process",
        ),
        error @ redb::Error::Corrupted(_) => {
            Error::other("metadata store", error).with_kind(Kind::DataLoss)
        }
        error => Error::other("metadata store", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::invalid;

    fn image(store: &Store, namespace: &str, key: &str) -> bool {
        store
            .read(|view| view.bytes(Table::Images, namespace, key))
            .unwrap()
            .is_some()
    }

    #[test]
    fn a_failed_write_keeps_nothing() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("meta.db")).unwrap();
        let error = store
            .write(|tx| {
                tx.put_key(Table::Images, "default", "a")?;
                assert!(tx.bytes(Table::Images, "default", "a")?.is_some());
                Err::<(), _>(invalid("no"))
            })
            .unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(!image(&store, "default", "a"));
    }

    #[test]
    fn a_write_sees_its_own_changes_in_lists() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("meta.db")).unwrap();
        store
            .write(|tx| {
                tx.put_key(Table::Images, "b", "1")?;
                tx.put_key(Table::Images, "a", "2")?;
                tx.put_key(Table::Images, "a", "1")
            })
            .unwrap();
        let keys = store
            .write(|tx| {
                tx.remove(Table::Images, "a", "1");
                tx.put_key(Table::Images, "a", "3")?;
                tx.list::<()>(Table::Images, "a", "")
            })
            .unwrap();
        assert_eq!(keys, [("2".to_owned(), ()), ("3".to_owned(), ())]);
        assert!(
            store
                .read(|view| view.any(Table::Namespaces, "a", ""))
                .unwrap()
        );
    }

    #[test]
    fn concurrent_writes_all_arrive_and_numbers_differ() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("meta.db");
        let store = Store::open(&path).unwrap();
        thread::scope(|scope| {
            for thread in 0..8 {
                let store = &store;
                scope.spawn(move || {
                    for _ in 0..20 {
                        store
                            .write(move |tx| {
                                let number = tx.next_sequence()?;
                                tx.put_key(Table::Images, "ns", &format!("{number}-{thread}"))
                            })
                            .unwrap();
                    }
                });
            }
        });
        let images = store
            .read(|view| view.list::<()>(Table::Images, "ns", ""))
            .unwrap();
        let numbers: std::collections::BTreeSet<_> = images
            .iter()
            .map(|(key, ())| key.split('-').next().unwrap().to_owned())
            .collect();
        assert_eq!(numbers.len(), 160);
        assert!(Store::open(&path).is_err(), "a second daemon is refused");
    }
}
