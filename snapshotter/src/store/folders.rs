//! The numbered folders: filled aside and renamed into place, renamed aside and then deleted.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sys::{Context, Result};

/// The folder of folders.
#[derive(Debug)]
pub(super) struct Folders {
    path: PathBuf,
    /// Names of folders that are being made, until their snapshots are recorded or given up.
    making: Mutex<HashSet<String>>,
}

/// A folder that is being filled; it goes when this is dropped before it is placed.
pub(super) struct Making<'a> {
    folders: &'a Folders,
    path: PathBuf,
    /// Its own name, then the number that it is to have.
    names: Mutex<Vec<String>>,
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
            making: Mutex::default(),
        })
    }

    /// Returns the folder of the snapshot `id`.
    pub fn path(&self, id: u64) -> PathBuf {
        self.path.join(id.to_string())
    }

    /// Begins to make a folder.
    pub fn begin(&self) -> Result<Making<'_>> {
        let path = self.aside("new");
        let making = Making {
            folders: self,
            path,
            names: Mutex::default(),
        };
        making.announce(&making.path);
        let path = &making.path;
        DirBuilder::new()
            .mode(0o700)
            .create(path)
            .context(|| format!("create folder {path:?}"))?;
        Ok(making)
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
    ///
    /// The folders are listed first: one that is here by then and neither being made after that nor known after that
    /// is nobody's, so nobody has to wait while this goes on.
    pub fn sweep(&self, known: impl FnOnce() -> Result<Vec<u64>>) -> Result<()> {
        let context = || format!("read folder {:?}", self.path);
        let mut strays = Vec::new();
        for entry in fs::read_dir(&self.path).context(context)? {
            strays.push(entry.context(context)?.file_name());
        }
        let making = self.lock().clone();
        let known: HashSet<String> = known()?.iter().map(u64::to_string).collect();
        strays.retain(|name| {
            let name = name.to_string_lossy();
            !making.contains(&*name) && !known.contains(&*name)
        });
        for stray in strays {
            let (path, aside) = (self.path.join(stray), self.aside("rm"));
            match fs::rename(&path, &aside) {
                Ok(()) => delete(&aside)?,
                // A removal that runs at the same time deletes it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).context(|| format!("rename {path:?} aside")),
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.announce(&place);
        if place.symlink_metadata().is_ok() {
            self.folders.discard(&place);
        }
        fs::rename(&self.path, &place)
            .context(|| format!("rename {:?} to {place:?}", self.path))?;
        Ok(place)
    }
}

impl Making<'_> {
    /// Keeps a sweep from the folder `path`.
    fn announce(&self, path: &Path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.folders.lock().insert(name.clone().into_owned());
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.push(name.into_owned());
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let _ = delete(&self.path);
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut making = self.folders.lock();
        for name in names.iter() {
            making.remove(name);
        }
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
