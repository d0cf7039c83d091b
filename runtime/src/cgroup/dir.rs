//! A folder of a cgroup file system, whose files are each read or written in one call.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sys::{Context, Error, Kind, Result};

/// How often a process that is still being made is tried to be moved.
const JOIN_TRIES: u32 = 5;
const JOIN_PAUSE: Duration = Duration::from_millis(30);

/// An open folder and, for messages, its path.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens a folder.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .context(|| format!("open control group {path:?}"))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// Returns the folder's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file of the folder.
    pub(super) fn file(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.fd, name, flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// Writes a value.
    pub(super) fn write(&self, name: &str, value: impl AsRef<str>) -> Result<()> {
        let value = value.as_ref();
        self.try_write(name, value)
            .context(|| format!("write {value:?} to {:?}", self.path.join(name)))
    }

    /// Writes a value; the bare error is for callers who know what it means.
    pub(super) fn try_write(&self, name: &str, value: &str) -> Result<(), Errno> {
        write_all(self.file(name, OFlags::WRONLY)?, value)
    }

    /// Reads a whole file.
    pub(super) fn read(&self, name: &str) -> Result<String> {
        self.try_read(name)
            .context(|| format!("read {:?}", self.path.join(name)))
    }

    /// Reads a whole file, None where this kernel has no such file.
    pub(super) fn read_optional(&self, name: &str) -> Result<Option<String>> {
        match self.try_read(name) {
            Ok(text) => Ok(Some(text)),
            Err(Errno::NOENT | Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(errno).context(|| format!("read {:?}", self.path.join(name))),
        }
    }

    /// Reads a whole file.
    pub(super) fn try_read(&self, name: &str) -> Result<String, Errno> {
        let file = self.file(name, OFlags::RDONLY)?;
        let mut text = Vec::with_capacity(4096);
        loop {
            text.reserve(2048);
            let count =
                retry(|| rustix::io::read(&file, rustix::buffer::spare_capacity(&mut text)))?;
            if count == 0 {
                break;
            }
        }
        String::from_utf8(text).map_err(|_| Errno::ILSEQ)
    }

    /// Reads one number; `max` is the highest there is.
    pub(super) fn number(&self, name: &str) -> Result<u64> {
        let text = self.read(name)?;
        parse_number(&text).ok_or_else(|| self.malformed(name, &text))
    }

    /// Reads one number, None where this kernel has no such file.
    pub(super) fn number_optional(&self, name: &str) -> Result<Option<u64>> {
        match self.read_optional(name)? {
            None => Ok(None),
            Some(text) => match parse_number(&text) {
                Some(number) => Ok(Some(number)),
                None => Err(self.malformed(name, &text)),
            },
        }
    }

    /// Reports whether the folder has a file.
    pub(super) fn has(&self, name: &str) -> bool {
        rustix::fs::accessat(
            &self.fd,
            name,
            rustix::fs::Access::EXISTS,
            rustix::fs::AtFlags::empty(),
        )
        .is_ok()
    }

    /// Moves a process into the group.
    pub(super) fn join(&self, pid: i32) -> Result<()> {
        let pid = pid.to_string();
        let mut tries = 1;
        loop {
            match self.try_write("cgroup.procs", &pid) {
                // The kernel may say so of a process that fork has not finished yet.
                Err(Errno::INVAL) if tries < JOIN_TRIES => std::thread::sleep(JOIN_PAUSE),
                other => {
                    return other.context(|| format!("move process {pid} to {:?}", self.path));
                }
            }
            tries += 1;
        }
    }

    fn malformed(&self, name: &str, text: &str) -> Error {
        let message = format!("{:?} has no number: {text:?}", self.path.join(name));
        Error::new(Kind::Internal, message)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> Self {
        dir.fd
    }
}

/// Writes a value in one call: the kernel takes each write of a cgroup file as a command of its own.
pub(super) fn write_all(file: impl AsFd, value: &str) -> Result<(), Errno> {
    let written = retry(|| rustix::io::write(&file, value.as_bytes()))?;
    if written == value.len() {
        Ok(())
    } else {
        Err(Errno::IO)
    }
}

/// Tells whether the kernel keeps the caller from changing control groups, as it does with an ordinary user.
pub(super) fn is_forbidden(error: &Error) -> bool {
    matches!(
        error.errno(),
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS)
    )
}

/// Parses a number; what is more than 64 bits hold, and `max`, is the highest there is. Limits of v1 that are not set
/// may be read as -1.
pub(super) fn parse_number(text: &str) -> Option<u64> {
    let text = text.trim();
    if text == "max" {
        return Some(u64::MAX);
    }
    match text.parse::<i128>() {
        Ok(number) => Some(u64::try_from(number.max(0)).unwrap_or(u64::MAX)),
        Err(_) => None,
    }
}

/// Returns the pairs of a file with a name and a number in each line.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, parse_number(value)?))
    })
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}
