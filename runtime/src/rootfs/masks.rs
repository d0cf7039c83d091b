//! Paths that a container must not read or must not write.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use sys::attach::{self, Change};
use sys::mount::{Mount, open_detached};
use sys::mutant::{self, Mutant};
use sys::path::Root;
use sys::{Context, Error, Kind, Result};

use super::mounts::READ_ONLY;

/// What is attached over masked paths: each made once, then cloned.
#[derive(Default)]
struct Covers {
    folder: Option<OwnedFd>,
    null: Option<OwnedFd>,
}

/// Masks paths, and makes others read-only; a path that does not exist is skipped.
pub(crate) fn apply(root: &Root, spec: &Spec) -> Result<()> {
    let Some(linux) = spec.linux() else {
        return Ok(());
    };
    for path in linux.readonly_paths().iter().flatten() {
        make_read_only(root, Path::new(path)).context(|| format!("make {path:?} read-only"))?;
    }
    let mut covers = Covers::default();
    let mut masked = HashSet::new();
    for path in linux.masked_paths().iter().flatten() {
        if !masked.insert(Path::new(path)) {
            continue;
        }
        mask(root, Path::new(path), &mut covers).context(|| format!("mask {path:?}"))?;
    }
    Ok(())
}

fn make_read_only(root: &Root, path: &Path) -> Result<()> {
    let place = match root.open(path, OFlags::PATH) {
        Ok(place) => place,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno).context(|| "open"),
    };
    let read_only = Change {
        set: READ_ONLY,
        ..Change::default()
    };
    let tree = attach::clone_tree(place.as_fd(), c"", true).context(|| "clone")?;
    attach::change(&tree, &read_only)
        .and_then(|()| attach::attach(&tree, &place))
        .context(|| "attach")
}

fn mask(root: &Root, path: &Path, covers: &mut Covers) -> Result<()> {
    let place = match root.open(path, OFlags::PATH) {
        Ok(place) => place,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(errno) => return Err(errno).context(|| "open"),
    };
    let stat = rustix::fs::fstat(&place).context(|| "stat")?;
    let cover = match FileType::from_raw_mode(stat.st_mode).is_dir() {
        true => covers.folder()?,
        false => covers.null(root)?,
    };
    let clone = attach::clone_tree(cover.as_fd(), c"", false).context(|| "clone cover")?;
    attach::attach(&clone, &place).context(|| "attach cover")
}

impl Covers {
    /// Returns an empty folder that stays empty: one file system for all masked folders.
    fn folder(&mut self) -> Result<&OwnedFd> {
        let made = match self.folder.take() {
            Some(made) => made,
            None => open_detached(&Mount {
                fstype: "tmpfs".to_string(),
                source: "tmpfs".to_string(),
                options: ["ro", "nr_blocks=1", "nr_inodes=1"]
                    .map(str::to_string)
                    .to_vec(),
                ..Mount::default()
            })?,
        };
        Ok(self.folder.insert(made))
    }

    /// Returns the null device of the container, which must be one.
    fn null(&mut self, root: &Root) -> Result<&OwnedFd> {
        let opened = match self.null.take() {
            Some(opened) => opened,
            None => open_null(root)?,
        };
        Ok(self.null.insert(opened))
    }
}

fn open_null(root: &Root) -> Result<OwnedFd> {
    let path = Path::new("/dev/null");
    let null = root.open(path, OFlags::PATH | OFlags::NOFOLLOW);
    let null = null.context(|| "open \"/dev/null\"")?;
    let stat = rustix::fs::fstat(&null).context(|| "stat \"/dev/null\"")?;
    let number = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    if FileType::from_raw_mode(stat.st_mode).is_char_device() && number == (1, 3)
        || mutant::is(Mutant::NoNullCheck)
    {
        return Ok(null);
    }
    let message = "\"/dev/null\" of the container is not the null device";
    Err(Error::new(Kind::FailedPrecondition, message))
}
