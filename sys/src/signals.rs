//! Signals that are read from a descriptor instead of interrupting.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::process::last_errno;
use crate::{Context, Result};

/// All signals of the process, blocked and queued.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks all signals for the calling thread, which should be the only one, and queues them.
    pub fn block_all() -> Result<Self> {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigfillset only writes to the set it is given.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: the set was initialised by the line above, and no old set is asked for.
        let blocked =
            unsafe { libc::sigprocmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut()) };
        if blocked != 0 {
            return Err(last_errno()).context(|| "block signals");
        }
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: the set is initialised and outlives the call.
        let fd = unsafe { libc::signalfd(-1, all.as_ptr(), flags) };
        if fd < 0 {
            return Err(last_errno()).context(|| "open signalfd");
        }
        // SAFETY: the kernel has just made this descriptor, which nothing else knows of.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Returns the next signal that has arrived, if there is one.
    pub fn next(&self) -> Result<Option<i32>> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the kernel writes at most as many bytes as the struct has.
        let count = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if count == size as isize {
            // SAFETY: it was zeroed, which is a valid value, and is now what the kernel wrote.
            let info = unsafe { info.assume_init() };
            return Ok(Some(info.ssi_signo as i32));
        }
        match last_errno() {
            Errno::AGAIN | Errno::INTR => Ok(None),
            errno => Err(errno).context(|| "read signal"),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
