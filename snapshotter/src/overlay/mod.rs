//! The overlay snapshotter: each snapshot a folder, mounted above those of its parents.

mod mounts;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sys::mount::Mount;
use sys::{Context, Result};

use crate::mapping::Mapping;
use crate::store::{Layout, Store};
use crate::{CommitOptions, Foreign, Info, Kind, Labels, Snapshotter, Usage};
use mounts::Features;

/// The label that tells where a snapshot's own files are, if that is asked for.
const UPPER_DIR_LABEL: &str = "containerd.io/snapshot/overlay.upperdir";

/// What can be chosen of the overlay snapshotter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Options added to every overlay mount, such as `volatile`.
    pub mount_options: Vec<String>,
    /// Whether records show the folder of the snapshot's own files as a label.
    pub upperdir_label: bool,
}

/// Snapshots as layers of overlay mounts.
///
/// ```text
///  <root>/snapshots/<n>/fs     the files of this layer: overlay's upperdir while active, a lowerdir later
///                     /work    overlay's workdir, of active snapshots only
/// ```
#[derive(Debug)]
pub struct Overlay {
    store: Store,
    features: Features,
    options: Options,
}

impl Overlay {
    /// Opens or creates the snapshotter in the folder `root`.
    pub fn open(root: impl AsRef<Path>, options: Options) -> Result<Self> {
        let root = root.as_ref();
        let context = || format!("open overlay snapshotter {root:?}");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .context(context)?;
        // The paths go into mount options, which another process in another folder may use.
        let root = root.canonicalize().context(context)?;
        let features = Features::detect(&root);
        let layout = Layout {
            fill,
            content: "fs",
            rebase: !features.userxattr,
            maps_owners: features.maps_owners,
        };
        Ok(Self {
            store: Store::open(&root, layout).context(context)?,
            features,
            options,
        })
    }

    /// Takes `snapshots`, and nothing else, from the folder of folders of another snapshotter of this kind.
    ///
    /// What an earlier call has taken stays; files that are never written to again are shared by links.
    pub fn take(&self, from: &Path, snapshots: &[Foreign]) -> Result<()> {
        self.store.take(from, snapshots)
    }

    /// Adds the label of the upper folder, if that is asked for.
    fn labelled(&self, mut info: Info) -> Result<Info> {
        if self.options.upperdir_label {
            let folder = self.store.folder(&info.name)?;
            let upper = mounts::upper(&folder)?;
            info.labels.insert(UPPER_DIR_LABEL.to_owned(), upper);
        }
        Ok(info)
    }

    fn create(&self, kind: Kind, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        let snapshot = self.store.create(kind, key, parent, labels)?;
        mounts::of(&snapshot, &self.features, &self.options.mount_options)
    }
}

impl Snapshotter for Overlay {
    fn stat(&self, key: &str) -> Result<Info> {
        self.labelled(self.store.stat(key)?)
    }

    fn update(&self, info: &Info, fieldpaths: &[String]) -> Result<Info> {
        self.labelled(self.store.update(info, fieldpaths)?)
    }

    fn usage(&self, key: &str) -> Result<Usage> {
        self.store.usage(key)
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let snapshot = self.store.locate(key)?;
        mounts::of(&snapshot, &self.features, &self.options.mount_options)
    }

    fn prepare(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        self.create(Kind::Active, key, parent, labels)
    }

    fn view(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        self.create(Kind::View, key, parent, labels)
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
        match self.options.upperdir_label {
            true => self.store.walk(&mut |info| match self.labelled(info) {
                // It was removed while the walk went on.
                Err(error) if error.kind() == sys::Kind::NotFound => Ok(()),
                info => visit(info?),
            }),
            false => self.store.walk(visit),
        }
    }

    fn cleanup(&self) -> Result<()> {
        self.store.cleanup()
    }

    fn close(&self) -> Result<()> {
        self.store.close();
        Ok(())
    }

    /// A snapshot that is rebased must hold a layer in overlay's own form, whiteouts included: it is mounted as a
    /// plain folder while it has no parent.
    fn capabilities(&self) -> Vec<&str> {
        match (self.features.userxattr, self.features.maps_owners) {
            // In a user namespace the whiteouts of a plain folder cannot be made.
            (true, _) => Vec::new(),
            (false, false) => vec!["rebase"],
            (false, true) => vec!["remap-ids", "rebase"],
        }
    }
}

/// Makes the folders of a snapshot; the root has owner and mode of the one below, which it hides in the mount.
fn fill(folder: &Path, kind: Kind, parents: &[PathBuf], mapping: Option<&Mapping>) -> Result<()> {
    let upper = folder.join("fs");
    create(&upper, 0o755)?;
    if kind == Kind::Active {
        create(&folder.join("work"), 0o711)?;
    }
    if let Some(parent) = parents.first() {
        inherit(&upper, &parent.join("fs"))?;
    }
    match mapping {
        Some(mapping) => give(&upper, mapping),
        None => Ok(()),
    }
}

/// Gives `upper` to those that the mapping makes its owners: a mount maps the folders below, never the upper one.
fn give(upper: &Path, mapping: &Mapping) -> Result<()> {
    let found = upper
        .symlink_metadata()
        .context(|| format!("stat {upper:?}"))?;
    let (uid, gid) = mapping.owner(found.uid(), found.gid());
    std::os::unix::fs::lchown(upper, Some(uid), Some(gid))
        .context(|| format!("change owner of {upper:?}"))
}

/// Gives `upper` the owner and mode of `lower`.
fn inherit(upper: &Path, lower: &Path) -> Result<()> {
    let below = lower
        .symlink_metadata()
        .context(|| format!("stat {lower:?}"))?;
    std::os::unix::fs::lchown(upper, Some(below.uid()), Some(below.gid()))
        .context(|| format!("change owner of {upper:?}"))?;
    let mode = fs::Permissions::from_mode(below.mode() & 0o7777);
    fs::set_permissions(upper, mode).context(|| format!("change mode of {upper:?}"))
}

/// Creates a folder with exactly `mode`, whatever the umask.
fn create(folder: &Path, mode: u32) -> Result<()> {
    fs::create_dir(folder)
        .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(mode)))
        .context(|| format!("create folder {folder:?}"))
}
