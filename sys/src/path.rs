//! Paths inside a root folder that someone else controls: resolved by descriptor, so that no symlink leads out.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::mutant::{self, Mutant};
use crate::{Context, Error, Kind, Result};

/// How many symlinks a path may pass through; the kernel's own limit.
const SYMLINKS_MAX: usize = 40;

/// A folder that is the root of every path opened in it.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    resolver: Resolver,
}

/// Who resolves a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolver {
    /// The kernel, by openat2(2) with `RESOLVE_IN_ROOT`.
    Kernel,
    /// Ourselves, one component after the other, where openat2(2) is missing (Linux 5.5 or a sandbox).
    Walk,
}

impl Root {
    /// Makes an open folder the root, and finds out who can resolve paths in it.
    pub fn new(dir: OwnedFd) -> Self {
        let resolver = match open_kernel(dir.as_fd(), Path::new("."), OFlags::PATH, Mode::empty()) {
            Err(Errno::NOSYS | Errno::PERM) => Resolver::Walk,
            _ => Resolver::Kernel,
        };
        Self { dir, resolver }
    }

    /// Makes an open folder the root with a resolver of the caller's choice.
    pub fn with_resolver(dir: OwnedFd, resolver: Resolver) -> Self {
        Self { dir, resolver }
    }

    /// Returns the root folder itself.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Opens `path`; its symlinks are resolved inside the root, the last one too unless `flags` has `NOFOLLOW`.
    pub fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.open_mode(path, flags, Mode::empty())
    }

    fn open_mode(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        match self.resolver {
            Resolver::Kernel => open_kernel(self.dir(), path, flags, mode),
            Resolver::Walk => open_walk(self.dir(), path, flags, mode),
        }
    }

    /// Opens the folder `path`, and creates it and the folders above it that are missing.
    pub fn create_dir_all(&self, path: &Path, mode: u32) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open(path, flags) {
            Ok(dir) => return Ok(dir),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).context(|| format!("open {path:?} in the root")),
        }
        let path = &self
            .follow(path)
            .context(|| format!("resolve {path:?} in the root"))?;
        let mut done = PathBuf::from("/");
        let mut dir = self.open(&done, flags).context(|| "open the root")?;
        for component in path.components() {
            match component {
                Component::Normal(name) => {
                    done.push(name);
                    dir = self.enter_or_create(&dir, &done, name, mode)?;
                }
                Component::ParentDir => {
                    return Err(Error::new(
                        Kind::InvalidArgument,
                        format!("create folder {path:?}: \"..\" below a missing folder"),
                    ));
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(dir)
    }

    /// Returns a path with its symlinks followed as far as they are there, also one that leads to nothing.
    ///
    /// Only a guess of what is to be created: what is there by then is looked at again when it is.
    pub fn follow(&self, path: &Path) -> Result<PathBuf, Errno> {
        let mut left = components(path);
        let mut done = PathBuf::from("/");
        let mut symlinks = 0;
        while let Some(name) = left.pop() {
            match name.as_bytes() {
                b"." => continue,
                b".." => {
                    done.pop();
                    continue;
                }
                _ => done.push(&name),
            }
            let opened = match self.open(&done, OFlags::PATH | OFlags::NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                opened => opened?,
            };
            let stat = rustix::fs::fstat(&opened)?;
            if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink() {
                continue;
            }
            symlinks += 1;
            if symlinks > SYMLINKS_MAX {
                return Err(Errno::LOOP);
            }
            let target = rustix::fs::readlinkat(&opened, "", Vec::new())?.into_bytes();
            match target.first() {
                Some(b'/') => done = PathBuf::from("/"),
                _ => drop(done.pop()),
            }
            left.extend(components(Path::new(OsStr::from_bytes(&target))));
        }
        Ok(done)
    }

    fn enter_or_create(
        &self,
        dir: &OwnedFd,
        path: &Path,
        name: &OsStr,
        mode: u32,
    ) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open(path, flags) {
            Err(Errno::NOENT) => {}
            opened => return opened.context(|| format!("open {path:?} in the root")),
        }
        match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).context(|| format!("create folder {path:?}")),
        }
        // A symlink that was put there meanwhile is refused: nothing of it is to be followed.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(dir, name, flags, Mode::empty())
            .context(|| format!("open folder {path:?}"))
    }

    /// Opens the file `path`, whatever it is, and creates an empty one, and the folders above it, if it is missing.
    pub fn create_file(&self, path: &Path, mode: u32) -> Result<OwnedFd> {
        match self.open(path, OFlags::PATH) {
            Ok(file) => return Ok(file),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).context(|| format!("open {path:?} in the root")),
        }
        let path = &self
            .follow(path)
            .context(|| format!("resolve {path:?} in the root"))?;
        let (parent, name) = split(path)?;
        let dir = self.create_dir_all(parent, 0o755)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(mode)) {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).context(|| format!("create file {path:?}")),
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&dir, name, flags, Mode::empty()).context(|| format!("open {path:?}"))
    }

    /// Opens the folder that `path` is in, created if missing, and returns it with the path's last name.
    pub fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr)> {
        let (parent, name) = split(path)?;
        Ok((self.create_dir_all(parent, 0o755)?, name))
    }
}

fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name)),
        _ => Err(Error::new(
            Kind::InvalidArgument,
            format!("{path:?} names no file"),
        )),
    }
}

fn open_kernel(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    if mutant::is(Mutant::FollowSymlinks) {
        let path = path.strip_prefix("/").unwrap_or(path);
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        return rustix::fs::openat(root, path, flags, mode);
    }
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(root, path, flags, mode, inside) {
            // A rename or mount anywhere on the system passed by while ".." was resolved.
            Err(Errno::AGAIN) if tries < 128 => tries += 1,
            result => return result,
        }
    }
}

/// Resolves `path` one component after the other; `..` goes back along the folders that were passed.
fn open_walk(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let step = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut left: Vec<OsString> = components(path);
    let wants_dir = path.as_os_str().as_bytes().ends_with(b"/");
    let mut passed: Vec<OwnedFd> = Vec::new();
    let mut symlinks = 0;
    while let Some(name) = left.pop() {
        let here = passed.last().map_or(root, |dir| dir.as_fd());
        match name.as_bytes() {
            b"." => continue,
            b".." => {
                passed.pop();
                continue;
            }
            _ => {}
        }
        let last = left.is_empty();
        let opened = match rustix::fs::openat(here, &name, step, Mode::empty()) {
            Err(Errno::NOENT) if last && flags.contains(OFlags::CREATE) => {
                return rustix::fs::openat(
                    here,
                    &name,
                    flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    mode,
                );
            }
            opened => opened?,
        };
        let stat = rustix::fs::fstat(&opened)?;
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        if kind.is_symlink() {
            if last && flags.contains(OFlags::NOFOLLOW) && !wants_dir {
                return finish(here, &name, opened, flags);
            }
            symlinks += 1;
            if symlinks > SYMLINKS_MAX || is_procfs(&opened)? && is_magic(&opened, &stat)? {
                return Err(Errno::LOOP);
            }
            let target = rustix::fs::readlinkat(&opened, "", Vec::new())?.into_bytes();
            if target.first() == Some(&b'/') {
                passed.clear();
            }
            left.extend(components(Path::new(OsStr::from_bytes(&target))));
            continue;
        }
        if last && !wants_dir {
            return finish(here, &name, opened, flags);
        }
        if !kind.is_dir() {
            return Err(Errno::NOTDIR);
        }
        passed.push(opened);
    }
    let here = passed.last().map_or(root, |dir| dir.as_fd());
    rustix::fs::openat(here, ".", flags | OFlags::CLOEXEC, mode)
}

/// Opens with the flags that were asked for what the walk ended at, and makes sure that it is still the same file.
fn finish(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    found: OwnedFd,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if flags == OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC {
        return Ok(found);
    }
    let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let (is, was) = (rustix::fs::fstat(&file)?, rustix::fs::fstat(&found)?);
    match (is.st_dev, is.st_ino) == (was.st_dev, was.st_ino) {
        true => Ok(file),
        false => Err(Errno::AGAIN),
    }
}

/// Returns the components of a path, the last one first.
fn components(path: &Path) -> Vec<OsString> {
    let parts = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
    let parts = parts.filter(|part| !part.is_empty());
    let mut names: Vec<OsString> = parts
        .map(|part| OsString::from_vec(part.to_vec()))
        .collect();
    names.reverse();
    names
}

fn is_procfs(fd: &OwnedFd) -> Result<bool, Errno> {
    Ok(rustix::fs::fstatfs(fd)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// Tells whether a symlink of procfs is one that the kernel follows past its text; only `self` and its like are not.
fn is_magic(link: &OwnedFd, stat: &rustix::fs::Stat) -> Result<bool, Errno> {
    let text = rustix::fs::readlinkat(link, "", Vec::new())?.into_bytes();
    let plain = text.first() != Some(&b'/') && !text.contains(&b':') && !text.is_empty();
    Ok(!plain || stat.st_mode & 0o777 != 0o777)
}

#[cfg(test)]
mod tests;
