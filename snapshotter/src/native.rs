//! The copying snapshotter: each snapshot a whole file system, which needs nothing of the kernel but bind mounts.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sys::mount::Mount;
use sys::{Context, Error, Result};

use crate::mapping::Mapping;
use crate::store::{Layout, Located, Store};
use crate::{CommitOptions, Foreign, Info, Kind, Labels, Snapshotter, Usage, copy};

/// Snapshots as copies: `<root>/snapshots/<n>` holds all files of the snapshot and of those below it.
#[derive(Debug)]
pub struct Native {
    store: Store,
}

impl Native {
    /// Opens or creates the snapshotter in the folder `root`.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let context = || format!("open native snapshotter {root:?}");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .context(context)?;
        let root = root.canonicalize().context(context)?;
        let layout = Layout {
            fill,
            content: "",
            rebase: false,
            maps_owners: false,
        };
        Ok(Self {
            store: Store::open(&root, layout).context(context)?,
        })
    }

    /// Takes `snapshots`, and nothing else, from the folder of folders of another snapshotter of this kind.
    ///
    /// What an earlier call has taken stays; files that are never written to again are shared by links.
    pub fn take(&self, from: &Path, snapshots: &[Foreign]) -> Result<()> {
        self.store.take(from, snapshots)
    }
}

impl Snapshotter for Native {
    fn stat(&self, key: &str) -> Result<Info> {
        self.store.stat(key)
    }

    fn update(&self, info: &Info, fieldpaths: &[String]) -> Result<Info> {
        self.store.update(info, fieldpaths)
    }

    fn usage(&self, key: &str) -> Result<Usage> {
        self.store.usage(key)
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        mounts(&self.store.locate(key)?)
    }

    fn prepare(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        mounts(&self.store.create(Kind::Active, key, parent, labels)?)
    }

    fn view(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        mounts(&self.store.create(Kind::View, key, parent, labels)?)
    }

    fn commit(&self, name: &str, key: &str, options: &CommitOptions) -> Result<()> {
        self.store.commit(name, key, options)
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.store.remove(key)
    }

    fn remove_all(&self, keys: &[String]) -> Result<Vec<String>> {
        self.store.remove_all(keys)
    }

    fn walk(&self, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()> {
        self.store.walk(visit)
    }

    fn cleanup(&self) -> Result<()> {
        self.store.cleanup()
    }

    fn close(&self) -> Result<()> {
        self.store.close();
        Ok(())
    }
}

/// A view needs no copy: it shows its parent, read-only.
fn mounts(snapshot: &Located) -> Result<Vec<Mount>> {
    let (folder, access) = match (snapshot.kind, snapshot.parents.first()) {
        (Kind::View, Some(parent)) => (parent, "ro"),
        (Kind::View, None) => (&snapshot.folder, "ro"),
        _ => (&snapshot.folder, "rw"),
    };
    let source = folder.to_str().ok_or_else(|| {
        let message = format!("folder {folder:?} of a snapshot is not UTF-8");
        Error::new(sys::Kind::InvalidArgument, message)
    })?;
    Ok(vec![Mount {
        fstype: "bind".to_owned(),
        source: source.to_owned(),
        target: String::new(),
        options: vec!["rbind".to_owned(), access.to_owned()],
    }])
}

fn fill(folder: &Path, kind: Kind, parents: &[PathBuf], _: Option<&Mapping>) -> Result<()> {
    match (kind, parents.first()) {
        (Kind::Active, Some(parent)) => copy::tree(parent, folder, copy::Files::Copied),
        _ => fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
            .context(|| format!("change mode of {folder:?}")),
    }
}
