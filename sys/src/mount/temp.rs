//! A mount for a while, at a folder of its own.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Mount, mount_all, unmount_all};
use crate::{Context, Result};

/// Mounts at a temporary folder; dropping it unmounts them and removes the folder.
#[derive(Debug)]
pub struct TempMount {
    path: PathBuf,
}

impl TempMount {
    /// Mounts `mounts` at a new folder in the folder for temporary files.
    pub fn new(mounts: &[Mount]) -> Result<Self> {
        Self::new_in(&std::env::temp_dir(), mounts)
    }

    /// Mounts `mounts` at a new folder in `dir`.
    pub fn new_in(dir: &Path, mounts: &[Mount]) -> Result<Self> {
        // From here on dropping it removes the folder.
        let mount = Self { path: create(dir)? };
        mount_all(mounts, &mount.path)?;
        Ok(mount)
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts it and removes the folder, and says if that failed.
    pub fn close(self) -> Result<()> {
        let path = self.path.clone();
        std::mem::forget(self);
        unmount_all(&path)?;
        std::fs::remove_dir(&path).context(|| format!("remove {path:?}"))
    }
}

impl Drop for TempMount {
    fn drop(&mut self) {
        // Never recursively: if it is still mounted, that would delete what is in the mount.
        if unmount_all(&self.path).is_ok() {
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

/// Makes an empty folder that only its owner can enter.
pub(super) fn create(dir: &Path) -> Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("corten-mount-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).context(|| format!("create folder {path:?}")),
        }
    }
}
