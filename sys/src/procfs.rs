//! The process file system by a descriptor that was verified, so that a write lands where it is meant to.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::mutant::{self, Mutant};
use crate::{Context, Error, Kind, Result};

/// The inode number that the root of every procfs has.
const ROOT_INODE: u64 = 1;

/// A verified procfs of the namespace it was opened in.
#[derive(Debug)]
pub struct Procfs(OwnedFd);

impl Procfs {
    /// Opens `/proc` and makes sure that it is a procfs and its root.
    pub fn open() -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir =
            rustix::fs::openat(CWD, "/proc", flags, Mode::empty()).context(|| "open \"/proc\"")?;
        let fs = rustix::fs::fstatfs(&dir).context(|| "stat file system \"/proc\"")?;
        let root = rustix::fs::fstat(&dir).context(|| "stat \"/proc\"")?;
        if fs.f_type != rustix::fs::PROC_SUPER_MAGIC || root.st_ino != ROOT_INODE {
            let message = "\"/proc\" is not the root of a procfs";
            return Err(Error::new(Kind::FailedPrecondition, message));
        }
        Ok(Self(dir))
    }

    /// Returns the descriptor's number, to keep it open.
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Opens `path`; a mount or symlink on the way is refused, but `self` may be the first component.
    pub fn open_file(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let strict = ResolveFlags::BENEATH
            | ResolveFlags::NO_XDEV
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_SYMLINKS;
        let own = path.strip_prefix("self/").map(|rest| {
            let number = rustix::fs::readlinkat(&self.0, "self", Vec::new())?;
            Ok::<_, Errno>(format!("{}/{rest}", number.to_string_lossy()))
        });
        let path = match own {
            Some(own) => own?,
            None => path.to_string(),
        };
        rustix::fs::openat2(
            &self.0,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            strict,
        )
    }

    /// Writes `content` to `path` in one call, as the kernel's files want it.
    pub fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        if mutant::is(Mutant::AnyProc) {
            let path = format!("/proc/{path}");
            return std::fs::write(&path, content).context(|| format!("write {path:?}"));
        }
        self.open_file(path, OFlags::WRONLY)
            .and_then(|file| rustix::io::write(&file, content))
            .context(|| {
                format!(
                    "write {:?} to \"/proc/{path}\"",
                    String::from_utf8_lossy(content)
                )
            })
            .map(drop)
    }

    /// Reads the whole of `path`.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let read = || {
            let file = self.open_file(path, OFlags::RDONLY)?;
            let mut content = vec![0; 4096];
            let mut length = 0;
            loop {
                match rustix::io::read(&file, &mut content[length..])? {
                    0 => break,
                    count => length += count,
                }
                if length == content.len() {
                    content.resize(length * 2, 0);
                }
            }
            content.truncate(length);
            Ok::<_, Errno>(content)
        };
        read().context(|| format!("read \"/proc/{path}\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_links_are_refused() {
        let proc = Procfs::open().unwrap();
        assert!(proc.read("self/status").unwrap().starts_with(b"Name:"));
        assert!(
            proc.read("sys/kernel/ostype")
                .unwrap()
                .starts_with(b"Linux")
        );
        for path in ["mounts", "self/exe", "../etc/passwd", "/etc/passwd"] {
            assert!(proc.open_file(path, OFlags::RDONLY).is_err(), "{path}");
        }
    }
}
