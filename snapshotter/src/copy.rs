//! Copying a tree of files with all that a container can tell: owners, modes, times, attributes, links, holes, devices.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;
use sys::{Context, Result};

/// How deep a tree may be: each folder on the way holds two descriptors.
const MAX_DEPTH: usize = 400;

/// How the files of a tree come into the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    /// Each tree has its own.
    Copied,
    /// As further names of the same files, where the file system has that: nobody may write to either tree.
    Linked,
}

/// Copies all below the folder `source`, and its own attributes, to the existing, empty folder `target`.
pub(crate) fn tree(source: &Path, target: &Path, files: Files) -> Result<()> {
    let from = open_dir(CWD.as_fd(), source)?;
    let to = open_dir(CWD.as_fd(), target)?;
    let stat = rustix::fs::fstat(&from).context(|| format!("stat {source:?}"))?;
    let mut copier = Copier {
        linked: HashMap::new(),
        files,
        root: to.try_clone().context(|| "duplicate a descriptor")?,
        path: Vec::new(),
    };
    copier.entries(from.as_fd(), to.as_fd())?;
    let (from, to) = (of_descriptor(from.as_fd()), of_descriptor(to.as_fd()));
    copy_attributes(&from, &to, &stat, true)
        .context(|| format!("copy attributes of {source:?} to {target:?}"))
}

struct Copier {
    /// Where files that have more than one link were copied to, below `root`.
    linked: HashMap<(u64, u64), CString>,
    root: OwnedFd,
    path: Vec<CString>,
    files: Files,
}

impl Copier {
    fn entries(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
        let context = |path: &[CString]| format!("read folder {:?}", shown(path));
        let dir = Dir::read_from(from).context(|| context(&self.path))?;
        for entry in dir {
            let entry = entry.context(|| context(&self.path))?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.path.push(name.to_owned());
            self.entry(from, to, name)
                .context(|| format!("copy {:?}", shown(&self.path)))?;
            self.path.pop();
        }
        Ok(())
    }

    fn entry(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).context(|| "stat")?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory {
            if self.files == Files::Linked && self.share(from, to, name)? {
                return Ok(());
            }
            if stat.st_nlink > 1 && self.link(to, name, &stat)? {
                return Ok(());
            }
        }
        match kind {
            FileType::Directory => self.folder(from, to, name)?,
            FileType::RegularFile => file(from, to, name)?,
            FileType::Symlink => {
                let text =
                    rustix::fs::readlinkat(from, name, Vec::new()).context(|| "read symlink")?;
                rustix::fs::symlinkat(&text, to, name).context(|| "create symlink")?;
            }
            _ => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)
                    .context(|| "create special file")?;
            }
        }
        let (source, target) = (below(from, name), below(to, name));
        copy_attributes(&source, &target, &stat, kind != FileType::Symlink)
            .context(|| "copy attributes")
    }

    /// Makes `name` another name of the same file; false where that cannot be.
    fn share(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<bool> {
        match rustix::fs::linkat(from, name, to, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            // Another file system, or one without links: that holds for all files.
            Err(Errno::XDEV | Errno::OPNOTSUPP) => {
                self.files = Files::Copied;
                Ok(false)
            }
            // This file has as many names as it can, or is marked as immutable.
            Err(Errno::MLINK | Errno::PERM) => Ok(false),
            Err(errno) => Err(errno).context(|| "create hard link"),
        }
    }

    /// Links `name` to the copy of a file that was met before; false the first time.
    fn link(&mut self, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<bool> {
        let inode = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.linked.get(&inode) {
            rustix::fs::linkat(&self.root, first.as_c_str(), to, name, AtFlags::empty())
                .context(|| "create hard link")?;
            return Ok(true);
        }
        let path = self.path.iter().map(|name| name.to_bytes());
        let path = path.collect::<Vec<_>>().join(&b'/');
        if let Ok(path) = CString::new(path) {
            self.linked.insert(inode, path);
        }
        Ok(false)
    }

    fn folder(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        if self.path.len() > MAX_DEPTH {
            return Err(Errno::NAMETOOLONG).context(|| "descend into folder");
        }
        rustix::fs::mkdirat(to, name, Mode::RWXU).context(|| "create folder")?;
        let from = open_dir(from, name)?;
        let to = open_dir(to, name)?;
        self.entries(from.as_fd(), to.as_fd())
    }
}

fn shown(path: &[CString]) -> String {
    let names = path.iter().map(|name| name.to_string_lossy());
    names.collect::<Vec<_>>().join("/")
}

fn open_dir<P: rustix::path::Arg + Copy + std::fmt::Debug>(
    dir: BorrowedFd<'_>,
    path: P,
) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, path, flags, Mode::empty()).context(|| format!("open folder {path:?}"))
}

/// Names an entry by a path that reaches it however long its own path is, for calls that take no descriptor.
fn below(dir: BorrowedFd<'_>, name: &CStr) -> Vec<u8> {
    let mut path = of_descriptor(dir);
    path.push(b'/');
    path.extend_from_slice(name.to_bytes());
    path
}

fn of_descriptor(fd: BorrowedFd<'_>) -> Vec<u8> {
    format!("/proc/self/fd/{}/.", fd.as_raw_fd()).into_bytes()
}

/// Copies a file's content; shares its blocks where the file system can.
fn file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let source =
        rustix::fs::openat(from, name, flags, Mode::empty()).context(|| "open source file")?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target =
        rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR).context(|| "create file")?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let size = rustix::fs::fstat(&source)
        .context(|| "stat source file")?
        .st_size as u64;
    rustix::fs::ftruncate(&target, size).context(|| "set size")?;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(&source, SeekFrom::Data(at)) {
            Ok(start) => start,
            // The rest is a hole.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => at,
            Err(errno) => return Err(errno).context(|| "find data"),
        };
        let end = rustix::fs::seek(&source, SeekFrom::Hole(start)).unwrap_or(size);
        range(source.as_fd(), target.as_fd(), start, end)?;
        at = end;
    }
    Ok(())
}

fn range(source: BorrowedFd<'_>, target: BorrowedFd<'_>, start: u64, end: u64) -> Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let length = usize::try_from(end - read_at)
            .unwrap_or(usize::MAX)
            .min(1 << 30);
        let copied = rustix::fs::copy_file_range(
            source,
            Some(&mut read_at),
            target,
            Some(&mut write_at),
            length,
        );
        match copied {
            Ok(0) => break,
            Ok(_) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                return by_buffer(source, target, read_at, end);
            }
            Err(errno) => return Err(errno).context(|| "copy content"),
        }
    }
    Ok(())
}

fn by_buffer(source: BorrowedFd<'_>, target: BorrowedFd<'_>, start: u64, end: u64) -> Result<()> {
    let mut buffer = vec![0; 1 << 17];
    let mut at = start;
    while at < end {
        let wanted = (end - at).min(buffer.len() as u64) as usize;
        let count = rustix::io::pread(source, &mut buffer[..wanted], at).context(|| "read")?;
        if count == 0 {
            break;
        }
        let mut written = 0;
        while written < count {
            written += rustix::io::pwrite(target, &buffer[written..count], at + written as u64)
                .context(|| "write")?;
        }
        at += count as u64;
    }
    Ok(())
}

/// Copies owner, extended attributes, mode and times, in this order: a change of owner clears bits and capabilities.
fn copy_attributes(from: &[u8], to: &[u8], stat: &Stat, has_mode: bool) -> Result<(), Errno> {
    use rustix::fs::{Gid, Uid};
    let owner = Some(Uid::from_raw(stat.st_uid));
    let group = Some(Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(CWD, to, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
    copy_xattrs(from, to)?;
    if has_mode {
        rustix::fs::chmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    }
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)
}

fn copy_xattrs(from: &[u8], to: &[u8]) -> Result<(), Errno> {
    let names = match grow(|buffer| rustix::fs::llistxattr(from, buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        names => names?,
    };
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let value = match grow(|buffer| rustix::fs::lgetxattr(from, name, buffer)) {
            // It went, or is not ours to see.
            Err(Errno::NODATA) => continue,
            value => value?,
        };
        rustix::fs::lsetxattr(to, name, &value, XattrFlags::empty())?;
    }
    Ok(())
}

/// Calls `read` with a buffer that grows until the answer fits.
fn grow(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(count) => {
                buffer.truncate(count);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            Err(errno) => return Err(errno),
        }
    }
}
