//! seccomp: loads a filter of classic BPF into the calling thread.

use std::ops::BitOr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// One instruction of classic BPF, laid out as the kernel's `sock_filter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Instruction {
    /// The operation.
    pub code: u16,
    /// How many instructions to skip if the comparison holds.
    pub jt: u8,
    /// How many instructions to skip if it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// How the kernel is to treat a filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// Log every action but "allow".
    pub const LOG: Self = Self(1 << 1);
    /// Leave speculative store bypass as it is.
    pub const SPEC_ALLOW: Self = Self(1 << 2);
    /// Return a descriptor on which another process answers notifications.
    pub const NEW_LISTENER: Self = Self(1 << 3);
    /// Let only fatal signals interrupt a call whose notification was received.
    pub const WAIT_KILLABLE_RECV: Self = Self(1 << 5);

    /// Reports whether all of `other` is set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the bits as the kernel counts them.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Confines the calling thread, and what it starts, to `filter`; returns the listener if [`Flags::NEW_LISTENER`] asks
/// for it.
///
/// Makes one system call and allocates nothing, so it may be called between fork and exec.
pub fn set_filter(filter: &[Instruction], flags: Flags) -> Result<Option<OwnedFd>, Errno> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const Instruction,
    }
    let program = Program {
        len: u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?,
        filter: filter.as_ptr(),
    };
    // SAFETY: `program` is laid out as sock_fprog, and it and the `len` instructions it points to outlive the call,
    // which only reads them.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags.bits(),
            &raw const program,
        )
    };
    if returned < 0 {
        return Err(last_errno());
    }
    if !flags.contains(Flags::NEW_LISTENER) {
        return Ok(None);
    }
    // SAFETY: with NEW_LISTENER the call returns a new descriptor, which nothing else owns.
    let listener = unsafe { OwnedFd::from_raw_fd(returned as RawFd) };
    Ok(Some(listener))
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}
