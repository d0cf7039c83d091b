//! Namespaces of the calling process: left, joined, and set up from within.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::thread::UnshareFlags;

use crate::process::{self, last_errno};
use crate::procfs::Procfs;
use crate::{Context, Error, Kind, Result};

/// Joins the namespaces of kinds `kinds` (`CLONE_NEW*`) that `fd` stands for: one namespace, or a process by its pidfd.
pub fn join(fd: BorrowedFd<'_>, kinds: i32) -> Result<(), Errno> {
    // SAFETY: setns(2) reads no memory of ours.
    match unsafe { libc::setns(fd.as_raw_fd(), kinds) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Gives the calling process new namespaces of the kinds `kinds` (`CLONE_NEW*`).
pub fn unshare(kinds: i32) -> Result<(), Errno> {
    let flags = UnshareFlags::from_bits_retain(kinds as u32).difference(UnshareFlags::FILES);
    // SAFETY: the descriptor table stays shared, which is all that unshare_unsafe asks for.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Returns a new user namespace with these maps, in which there is no process.
pub fn mapped_user(procfs: &Procfs, uids: &str, gids: &str) -> Result<OwnedFd> {
    with_mapped_user(procfs, uids, gids, false, |pid| {
        let path = format!("/proc/{pid}/ns/user");
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, rustix::fs::Mode::empty())
            .context(|| format!("open {path:?}"))
    })
}

/// Calls `take` with the id of a process in a new user namespace with these maps, which ends afterwards. With
/// `network` it is also in a new network namespace, which belongs to that user namespace and whose loopback interface
/// is up.
pub fn with_mapped_user<T>(
    procfs: &Procfs,
    uids: &str,
    gids: &str,
    network: bool,
    take: impl FnOnce(i32) -> Result<T>,
) -> Result<T> {
    let mut flags = libc::CLONE_NEWUSER as u64;
    if network {
        flags |= libc::CLONE_NEWNET as u64;
    }
    // A namespace begins with a process; this one only waits to be killed.
    let child = process::spawn(flags, None, || {
        loop {
            rustix::event::pause();
        }
    })?;
    let taken = mapped(procfs, child.pid, uids, gids)
        .and_then(|()| match network {
            true => loopback_up_of(child.pid),
            false => Ok(()),
        })
        .and_then(|()| take(child.pid));
    process::kill_and_wait(&child)?;
    taken
}

fn mapped(procfs: &Procfs, pid: i32, uids: &str, gids: &str) -> Result<()> {
    procfs.write(&format!("{pid}/uid_map"), uids.as_bytes())?;
    procfs.write(&format!("{pid}/gid_map"), gids.as_bytes())
}

/// Brings up the loopback interface of a process's network namespace, by a thread that goes there.
fn loopback_up_of(pid: i32) -> Result<()> {
    let path = format!("/proc/{pid}/ns/net");
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let namespace = rustix::fs::open(&path, flags, rustix::fs::Mode::empty())
        .context(|| format!("open {path:?}"))?;
    std::thread::spawn(move || {
        join(namespace.as_fd(), libc::CLONE_NEWNET).context(|| format!("enter {path:?}"))?;
        loopback_up()
    })
    .join()
    .unwrap_or_else(|_| Err(Error::new(Kind::Internal, "a thread ended early")))
}

/// Sets the host name of the UTS namespace.
pub fn set_hostname(name: &str) -> Result<()> {
    rustix::system::sethostname(name.as_bytes()).context(|| format!("set host name {name:?}"))
}

/// Sets the NIS domain name of the UTS namespace.
pub fn set_domainname(name: &str) -> Result<()> {
    // SAFETY: the kernel reads as many bytes as the string has.
    let result = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    match result {
        0 => Ok(()),
        _ => Err(last_errno()).context(|| format!("set domain name {name:?}")),
    }
}

/// Brings up the loopback interface of the network namespace.
pub fn loopback_up() -> Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)
        .context(|| "open socket to configure the loopback interface")?;
    let mut name = [0; libc::IFNAMSIZ];
    name[0] = b'l' as libc::c_char;
    name[1] = b'o' as libc::c_char;
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            // A fresh loopback interface has no flag that would be lost by setting these alone.
            ifru_flags: (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short,
        },
    };
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    match result {
        0 => Ok(()),
        _ => Err(last_errno()).context(|| "bring up the loopback interface"),
    }
}
