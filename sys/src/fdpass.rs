//! Messages between processes over a socket, with a file descriptor if wanted.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg,
    socket_with, socketpair,
};

use crate::{Context, Result};

/// Returns two connected sockets that keep messages apart.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .context(|| "make a pair of sockets")
}

/// Connects to the stream socket at `path`, which may be longer than a socket address.
pub fn connect(path: &Path) -> Result<OwnedFd> {
    use rustix::fs::{CWD, Mode, OFlags};
    let connect = || {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        let short = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let address = SocketAddrUnix::new(short.as_str())?;
        let kind = SocketType::STREAM;
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&socket, &address)?;
        Ok::<_, Errno>(socket)
    };
    connect().context(|| format!("connect to {path:?}"))
}

/// Sends one message, and `fd` with it.
pub fn send(socket: impl AsFd, message: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let message = [IoSlice::new(message)];
    loop {
        match sendmsg(&socket, &message, &mut ancillary, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            result => return result.map(drop),
        }
    }
}

/// Receives one message into `buffer`; returns its length, 0 at the end, and the descriptor it came with.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let length = loop {
        let mut into = [IoSliceMut::new(buffer)];
        match recvmsg(&socket, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            result => break result?.bytes,
        }
    };
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok((length, fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_takes_a_descriptor_along() {
        let (ours, theirs) = pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        send(&ours, b"plain", None).unwrap();
        send(&ours, b"with", Some(file.as_fd())).unwrap();
        drop(ours);
        let mut buffer = [0; 16];
        let (length, fd) = receive(&theirs, &mut buffer).unwrap();
        assert_eq!((&buffer[..length], fd.is_some()), (&b"plain"[..], false));
        let (length, fd) = receive(&theirs, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"with");
        let stat = rustix::fs::fstat(fd.unwrap()).unwrap();
        assert_eq!(stat.st_rdev, rustix::fs::fstat(&file).unwrap().st_rdev);
        assert_eq!(receive(&theirs, &mut buffer).unwrap().0, 0);
    }
}
