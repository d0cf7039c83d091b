//! `tmpcopyup`: what a folder holds, copied into the tmpfs that is mounted over it.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use sys::{Context, Error, Kind, Result};

/// How deep folders may be: the copy holds two descriptors open for each level.
const DEPTH_MAX: usize = 200;

/// Copies the content of `from` to `to`, and the rights of the folder itself.
pub(super) fn copy_up(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    copy_folder(from.as_fd(), to.as_fd(), 0)
}

fn copy_folder(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> Result<()> {
    if depth > DEPTH_MAX {
        let message = format!("more than {DEPTH_MAX} folders below each other");
        return Err(Error::new(Kind::InvalidArgument, message));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = rustix::fs::openat(from, ".", flags, Mode::empty()).context(|| "open folder")?;
    for entry in Dir::read_from(&from).context(|| "list folder")? {
        let entry = entry.context(|| "list folder")?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from.as_fd(), to, name, depth).context(|| format!("copy {name:?}"))?;
        }
    }
    let stat = rustix::fs::fstat(&from).context(|| "stat folder")?;
    let to = rustix::fs::openat(to, ".", flags, Mode::empty()).context(|| "open copy")?;
    own(&stat, |uid, gid| rustix::fs::fchown(&to, uid, gid))
        .and_then(|()| rustix::fs::fchmod(&to, mode(&stat)))
        .context(|| "set rights of folder")
}

fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<()> {
    let nofollow = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).context(|| "stat")?;
    let own_link = |uid, gid| rustix::fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | nofollow;
            let source = rustix::fs::openat(from, name, flags, Mode::empty());
            let source = source.context(|| "open")?;
            rustix::fs::mkdirat(to, name, Mode::RWXU).context(|| "make folder")?;
            let copy = rustix::fs::openat(to, name, flags, Mode::empty());
            let copy = copy.context(|| "open copy")?;
            copy_folder(source.as_fd(), copy.as_fd(), depth + 1)
        }
        FileType::RegularFile => {
            let source = rustix::fs::openat(from, name, OFlags::RDONLY | nofollow, Mode::empty());
            let mut source = File::from(source.context(|| "open")?);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | nofollow;
            let copy = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR);
            let mut copy = File::from(copy.context(|| "create")?);
            std::io::copy(&mut source, &mut copy).context(|| "write")?;
            own(&stat, |uid, gid| rustix::fs::fchown(&copy, uid, gid))
                .and_then(|()| rustix::fs::fchmod(&copy, mode(&stat)))
                .context(|| "set rights")
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new());
            rustix::fs::symlinkat(&*target.context(|| "read link")?, to, name)
                .and_then(|()| own(&stat, own_link))
                .context(|| "link")
        }
        kind @ (FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo) => {
            rustix::fs::mknodat(to, name, kind, mode(&stat), stat.st_rdev)
                .and_then(|()| own(&stat, own_link))
                .context(|| "make device")
        }
        // A socket is nothing without the process that listens at it.
        FileType::Socket | FileType::Unknown => Ok(()),
    }
}

fn own(
    stat: &Stat,
    chown: impl FnOnce(Option<Uid>, Option<Gid>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chown(Some(uid), Some(gid))
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}
