//! The numbered folders: filled aside and renamed into place, renamed aside and then deleted.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use sys::{Context, Result};

/// The folder of folders.
#[derive(Debug)]
pub(super) struct Folders {
    path: PathBuf,
    /// Held for reading while a folder is made and recorded, for writing while strays are looked for.
    making: RwLock<()>,
}

/// A folder that is being filled; it goes when this is dropped before it is placed.
pub(super) struct Making<'a> {
    folders: &'a Folders,
    path: PathBuf,
    _guard: RwLockReadGuard<'a, ()>,
}

impl Folders {
    /// Opens or creates `root/snapshots`.
    pub fn open(root: &Path) -> Result<Self> {
        let path = root.join("snapshots");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .context(|| format!("create folder {path:?}"))?;
        Ok(Self {
            path,
            making: RwLock::new(()),
        })
    }

    /// Returns the folder of the snapshot `id`.
    pub fn path(&self, id: u64) -> PathBuf {
        self.path.join(id.to_string())
    }

    /// Begins to make a folder.
    pub fn begin(&self) -> Result<Making<'_>> {
        let guard = self.making.read().unwrap_or_else(PoisonError::into_inner);
        let path = self.aside("new");
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .context(|| format!("create folder {path:?}"))?;
        Ok(Making {
            folders: self,
            path,
            _guard: guard,
        })
    }

    /// Renames a folder aside and deletes it; what stays behind is a stray.
    pub fn discard(&self, folder: &Path) {
        let aside = self.aside("rm");
        if fs::rename(folder, &aside).is_ok() {
            super::crash_point("aside");
            let _ = delete(&aside);
        }
    }

    /// Deletes the folders that are not of the snapshots that `known` returns.
    pub fn sweep(&self, known: impl FnOnce() -> Result<Vec<u64>>) -> Result<()> {
        let mut strays = Vec::new();
        {
            let _guard = self.making.write().unwrap_or_else(PoisonError::into_inner);
            let known: HashSet<String> = known()?.iter().map(u64::to_string).collect();
            let context = || format!("read folder {:?}", self.path);
            for entry in fs::read_dir(&self.path).context(context)? {
                let entry = entry.context(context)?;
                let name = entry.file_name();
                if name.to_str().is_some_and(|name| known.contains(name)) {
                    continue;
                }
                let aside = self.aside("rm");
                match fs::rename(entry.path(), &aside) {
                    Ok(()) => strays.push(aside),
                    // A removal that runs at the same time deletes it.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => {
                        return Err(error).context(|| format!("rename {:?} aside", entry.path()));
                    }
                }
            }
        }
        for stray in strays {
            delete(&stray)?;
        }
        Ok(())
    }

    fn aside(&self, prefix: &str) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        loop {
            let nonce = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_nanos());
            let path = self.path.join(format!("{prefix}-{nonce:x}-{number}"));
            if !path.exists() {
                return path;
            }
        }
    }
}

impl Making<'_> {
    /// Returns the path of the folder while it is filled.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Renames the folder to its number, in the place of what a crash left there.
    pub fn place(&self, id: u64) -> Result<PathBuf> {
        let place = self.folders.path(id);
        if place.symlink_metadata().is_ok() {
            self.folders.discard(&place);
        }
        fs::rename(&self.path, &place)
            .context(|| format!("rename {:?} to {place:?}", self.path))?;
        Ok(place)
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let _ = delete(&self.path);
    }
}

fn delete(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context(|| format!("delete {folder:?}"))
        }
        _ => Ok(()),
    }
}
