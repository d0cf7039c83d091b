//! The contract of every snapshotter.

use sys::Result;
use sys::mount::Mount;

use crate::{Info, Labels, Usage};

/// What `commit` records beside the content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitOptions {
    /// The labels of the committed snapshot; those of the active one are not inherited.
    pub labels: Labels,
    /// The parent of a snapshot that was prepared without one, if the snapshotter can `rebase`; empty keeps it.
    pub parent: String,
}

/// A tree of snapshots.
///
/// ```text
///            prepare(key, parent)                commit(name, key)
///  parent ──────────────────────▶ active "key" ───────────────────▶ committed "name" ── can be a parent
///    │                              │ remove(key)                      │ remove(name), once it has no children
///    │ view(key, parent)            ▼                                  ▼
///    └─────────────▶ view "key" ─▶ gone                               gone
/// ```
///
/// Keys and names share one space. An empty parent means an empty file system. The mounts that `prepare`, `view` and
/// `mounts` return are for the caller to mount, wherever and as often as it likes; a snapshot must be unmounted before
/// it is committed. Everything is durable when a call returns, except the content of files.
///
/// Unpacking a layer upon another:
///
/// ```no_run
/// # use snapshotter::{CommitOptions, Labels, Snapshotter};
/// # fn unpack(snapshotter: &dyn Snapshotter, chain: &str, parent: &str) -> sys::Result<()> {
/// let key = format!("extract {chain}");
/// let mounts = snapshotter.prepare(&key, parent, &Labels::new())?;
/// let mounted = sys::mount::TempMount::new(&mounts)?;
/// // ... write the layer's files below `mounted.path()` ...
/// mounted.close()?;
/// snapshotter.commit(chain, &key, &CommitOptions::default())
/// # }
/// ```
pub trait Snapshotter: Send + Sync {
    /// Returns the record of a snapshot, or `NotFound`.
    fn stat(&self, key: &str) -> Result<Info>;

    /// Changes the labels of `info.name` and returns its record.
    ///
    /// `fieldpaths` are `labels` or `labels.<key>`, anything else is `InvalidArgument`; none replaces all labels. A
    /// label set to nothing is deleted.
    fn update(&self, info: &Info, fieldpaths: &[String]) -> Result<Info>;

    /// Returns what a snapshot takes; for an active one that is counted now, which may take a while.
    fn usage(&self, key: &str) -> Result<Usage>;

    /// Returns the mounts of an active snapshot or a view; `FailedPrecondition` if it is committed.
    fn mounts(&self, key: &str) -> Result<Vec<Mount>>;

    /// Creates a writable snapshot upon a committed one.
    ///
    /// `AlreadyExists` if the key is taken, `NotFound` without the parent, `InvalidArgument` if the parent is not
    /// committed.
    fn prepare(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>>;

    /// Creates a read-only snapshot of a committed one; errors are those of `prepare`.
    fn view(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>>;

    /// Turns the active snapshot `key` into the committed snapshot `name`, under which alone it is known from then on.
    ///
    /// `AlreadyExists` if the name is taken, `NotFound` without the active snapshot or its new parent,
    /// `FailedPrecondition` if it is not active or the new parent not committed, `InvalidArgument` if it would change
    /// its parent.
    fn commit(&self, name: &str, key: &str, options: &CommitOptions) -> Result<()>;

    /// Removes a snapshot; `FailedPrecondition` while others have it as parent.
    fn remove(&self, key: &str) -> Result<()>;

    /// Removes several snapshots and returns those that stay because others have them as parent.
    ///
    /// One that is not there is no error. Others may change snapshots between any two of the removals.
    fn remove_all(&self, keys: &[String]) -> Result<Vec<String>> {
        let mut kept = Vec::new();
        for key in keys {
            match self.remove(key) {
                Err(error) if error.kind() == sys::Kind::FailedPrecondition => {
                    kept.push(key.clone());
                }
                Err(error) if error.kind() != sys::Kind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(kept)
    }

    /// Calls `visit` with every snapshot in the order of their names; its error ends the walk.
    fn walk(&self, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()>;

    /// Frees the disk space of snapshots that were removed or never finished.
    fn cleanup(&self) -> Result<()>;

    /// Ends the use of the snapshotter; closing it again is no error.
    fn close(&self) -> Result<()>;

    /// Returns the names of what it can do beyond the contract, such as `rebase`.
    fn capabilities(&self) -> Vec<&str> {
        Vec::new()
    }
}
