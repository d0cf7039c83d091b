//! Session keyrings: a container's own, so that it cannot use its maker's keys.

use std::ffi::CString;

use rustix::io::Errno;

use crate::process::last_errno;

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
const KEYCTL_SETPERM: libc::c_long = 5;

/// A new session keyring's own rights (the possessor all, the user view, read and link) and search for the user,
/// without which a process with another user of the same container finds no key.
const PERMISSIONS: libc::c_long = 0x3f1b_0000;

/// Gives the calling process a new session keyring called `name`; the processes it makes inherit it.
pub fn join_session(name: &str) -> Result<(), Errno> {
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    // SAFETY: the name is a string that ends with a NUL and outlives the call.
    let keyring =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    if keyring < 0 {
        return Err(last_errno());
    }
    // SAFETY: keyctl(2) reads no memory of ours for this command.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, keyring, PERMISSIONS) };
    match result {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}
