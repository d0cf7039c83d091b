//! Signals: their names, and how they are read from a descriptor instead of interrupting.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::process::last_errno;
use crate::{Context, Result};

/// The first and the last of the real-time signals; the C library keeps two below them for itself.
const REAL_TIME: (u32, u32) = (34, 64);

/// The names of the others, without `SIG`; where two have one number, the usual one is first.
const NAMES: [(&str, u32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// Returns the number of a signal written as `TERM`, `SIGTERM`, `15`, `RTMIN+3` or `RTMAX-3`, in any case.
pub fn number(text: &str) -> Option<u32> {
    let (first, last) = REAL_TIME;
    if let Ok(number) = text.parse::<u32>() {
        return (1..=last).contains(&number).then_some(number);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign)?.parse::<u32>().ok(),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        first.checked_add(offset(rest, '+')?)?
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        last.checked_sub(offset(rest, '-')?)?
    } else {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        return found.map(|(_, number)| *number);
    };
    (first..=last).contains(&number).then_some(number)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, wanted) in [
            ("TERM", Some(15)),
            ("sigkill", Some(9)),
            ("SIGCLD", Some(17)),
            ("SYS", Some(31)),
            ("9", Some(9)),
            ("64", Some(64)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("rtmax-1", Some(63)),
            ("SIGRTMAX", Some(64)),
            ("", None),
            ("0", None),
            ("65", None),
            ("-1", None),
            ("SIGNOPE", None),
            ("RTMIN+31", None),
            ("RTMIN-1", None),
            ("RTMIN+4294967295", None),
            ("RTMAX+1", None),
            ("RTMAX-31", None),
        ] {
            assert_eq!(number(text), wanted, "{text}");
        }
    }
}
