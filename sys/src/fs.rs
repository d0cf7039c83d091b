//! Files that are whole for all who read them: written aside, and renamed into place.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Context, Error, Kind, Result};

/// Replaces the file at `path` by one with `content` and `mode`, durable when the call returns.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    write_beside(path, content, mode, |file, temporary| {
        file.sync_all()
            .context(|| format!("sync {temporary:?}"))
            .and_then(|()| rename_durable(temporary, path))
    })
}

/// Replaces the file at `path` like [`write_atomic`], for a file whose subject does not outlive the machine either: a
/// power cut may leave it empty or lose it.
pub fn write_volatile(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    write_beside(path, content, mode, |_, temporary| rename(temporary, path))
}

/// Writes a file beside `path` and lets `place` put it there; it is removed when that fails.
fn write_beside(
    path: &Path,
    content: &[u8],
    mode: u32,
    place: impl FnOnce(&File, &Path) -> Result<()>,
) -> Result<()> {
    let (mut file, temporary) = create_beside(path, mode)?;
    let written = file
        .write_all(content)
        .context(|| format!("write {temporary:?}"))
        .and_then(|()| place(&file, &temporary));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Renames `from` to `to`, and syncs the folder that `to` is in.
pub fn rename_durable(from: &Path, to: &Path) -> Result<()> {
    rename(from, to)?;
    sync_dir(parent(to)?)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).context(|| format!("rename {from:?} to {to:?}"))
}

/// Makes the entries of a folder durable.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .context(|| format!("sync folder {dir:?}"))
}

fn parent(path: &Path) -> Result<&Path> {
    match path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(dir) => Ok(dir),
        None => Err(Error::new(
            Kind::InvalidArgument,
            format!("{path:?} is in no folder"),
        )),
    }
}

/// Creates a hidden file in the same folder as `path`.
fn create_beside(path: &Path, mode: u32) -> Result<(File, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let dir = parent(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = dir.join(format!(".{name}.{}-{number}", std::process::id()));
        let created = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary);
        match created {
            Ok(file) => return Ok((file, temporary)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).context(|| format!("create {temporary:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_atomic(&path, b"old", 0o644).unwrap();
        write_atomic(&path, b"new", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        write_volatile(&path, b"newest", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"newest");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        std::fs::create_dir(&path).unwrap();
        for write in [write_atomic, write_volatile] {
            let error = write(&path, b"new", 0o600).unwrap_err();
            assert_eq!(error.errno(), Some(rustix::io::Errno::ISDIR));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
