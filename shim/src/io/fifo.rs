//! The FIFOs that clients make, opened so that no call waits for the other end.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use sys::{Context, Result};

/// Opens a FIFO for reading and writing, which never blocks and keeps both ends alive.
pub fn hold(path: &Path) -> Result<OwnedFd> {
    open(path, OFlags::RDWR | OFlags::NONBLOCK)
}

/// Opens a FIFO whose other end is open already.
pub fn open(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
        .context(|| format!("open fifo {path:?}"))
}

/// Tells whether a FIFO is at `path`.
pub fn is_fifo(path: &Path) -> bool {
    rustix::fs::stat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_fifo())
}
