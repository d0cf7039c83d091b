//! A watch on a group that tells when the kernel kills one of its processes for want of memory.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use rustix::fs::inotify::{CreateFlags, WatchFlags};
use rustix::io::Errno;
use sys::{Context, Result};

use super::Version;
use super::dir::{Dir, pairs};

/// A descriptor that polls readable when the group may have run out of memory.
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
    kind: Watch,
}

#[derive(Debug)]
enum Watch {
    /// The kernel counts the times in an eventfd.
    V1 { dir: Dir },
    /// The kernel says that a file of counters changed.
    V2 { dir: Dir, kills: u64 },
}

impl OomWatch {
    pub(super) fn new(version: Version, path: &Path) -> Result<Self> {
        let dir = Dir::open(path)?;
        match version {
            Version::V1 => Self::v1(dir),
            Version::V2 => Self::v2(dir),
        }
    }

    fn v1(dir: Dir) -> Result<Self> {
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context(|| "create eventfd")?;
        let control = dir
            .file("memory.oom_control", OFlags::RDONLY)
            .context(|| format!("open memory.oom_control of {:?}", dir.path()))?;
        let registration = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
        dir.write("cgroup.event_control", registration)?;
        Ok(Self {
            fd,
            kind: Watch::V1 { dir },
        })
    }

    fn v2(dir: Dir) -> Result<Self> {
        let fd = rustix::fs::inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .context(|| "create inotify")?;
        let file = dir.path().join("memory.events");
        rustix::fs::inotify::add_watch(&fd, &file, WatchFlags::MODIFY)
            .context(|| format!("watch {file:?}"))?;
        let kills = kills(&dir)?;
        Ok(Self {
            fd,
            kind: Watch::V2 { dir, kills },
        })
    }

    /// Returns whether the kernel has killed since the last call, without waiting.
    pub fn take(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        let read = match rustix::io::read(&self.fd, &mut buffer) {
            Ok(_) => true,
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(errno) => return Err(errno).context(|| "read out-of-memory events"),
        };
        match &mut self.kind {
            // The kernel also counts the group's removal.
            Watch::V1 { dir } => Ok(read && dir.has("memory.oom_control")),
            Watch::V2 { dir, kills: known } => {
                let now = kills(dir)?;
                let killed = now > *known;
                *known = now;
                Ok(killed)
            }
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Returns how many processes were killed, 0 where nobody counts.
pub(super) fn count(version: Version, dir: &Dir) -> u64 {
    match version {
        Version::V1 => {
            let text = dir.try_read("memory.oom_control").unwrap_or_default();
            let found = pairs(&text).find(|(name, _)| *name == "oom_kill");
            found.map_or(0, |(_, count)| count)
        }
        Version::V2 => kills(dir).unwrap_or_default(),
    }
}

/// Returns how many processes were killed; a group that is gone kills no more.
fn kills(dir: &Dir) -> Result<u64> {
    let text = match dir.try_read("memory.events") {
        Err(Errno::NOENT | Errno::NODEV) => return Ok(0),
        other => other.context(|| format!("read memory.events of {:?}", dir.path()))?,
    };
    let found = pairs(&text).find(|(name, _)| *name == "oom_kill");
    Ok(found.map_or(0, |(_, count)| count))
}
