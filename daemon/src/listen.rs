//! The daemon's unix sockets: who may connect is settled before anyone can.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{FlockOperation, Gid, Mode, Uid};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::config::Socket;
use crate::error::{Context, Error, Kind, Result};

const MAX_QUEUED: i32 = 1024;

/// Keeps other daemons from a directory while it lives.
#[derive(Debug)]
pub struct Lock {
    _file: fs::File,
}

impl Lock {
    /// Takes the lock of `root`, or fails with `FailedPrecondition` if another daemon has it.
    pub fn take(root: &Path) -> Result<Self> {
        let path = root.join("cortend.lock");
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .context(|| format!("open {path:?}"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::new(
                Kind::FailedPrecondition,
                format!("another daemon works on {root:?}"),
            )),
            Err(errno) => Err(errno).context(|| format!("lock {path:?}")),
        }
    }
}

/// Makes a directory with exactly `mode`, and its parents where they are missing.
pub fn directory(path: &Path, mode: u32) -> Result<()> {
    let make = || {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    make().context(|| format!("create directory {path:?}"))
}

/// Listens on a socket with mode 0660; a socket file that nobody listens on any more is replaced.
pub fn bind(socket: &Socket) -> Result<tokio::net::UnixListener> {
    let path = &socket.path;
    let listener = listen(socket).context(|| format!("listen on {path:?}"))?;
    let listen = || {
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener)
    };
    listen().context(|| format!("listen on {path:?}"))
}

fn listen(socket: &Socket) -> Result<std::os::unix::net::UnixListener> {
    let path = &socket.path;
    if let Some(parent) = path.parent()
        && !parent.exists()
    {
        directory(parent, 0o711)?;
    }
    match UnixStream::connect(path) {
        Ok(_) => {
            return Err(Error::new(
                Kind::FailedPrecondition,
                "another process listens there",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).context(|| "remove stale socket")?;
        }
        Err(_) => {}
    }
    let fd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .context(|| "make socket")?;
    let address = SocketAddrUnix::new(path).context(|| "socket address")?;
    rustix::net::bind(&fd, &address).context(|| "bind")?;
    // Nobody can connect before `listen`, so there is no moment in which the mode is wrong.
    rustix::fs::chmod(path, Mode::from_raw_mode(0o660)).context(|| "set mode")?;
    let (uid, gid) = (Uid::from_raw(socket.uid), Gid::from_raw(socket.gid));
    rustix::fs::chown(path, Some(uid), Some(gid)).context(|| "set owner")?;
    rustix::net::listen(&fd, MAX_QUEUED).context(|| "listen")?;
    Ok(fd.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn socket(path: &Path) -> Socket {
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        Socket {
            path: path.to_owned(),
            uid: uid.as_raw(),
            gid: gid.as_raw(),
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/s");
        let listener = bind(&socket(&path)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o660);
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777,
            0o711
        );
        let error = bind(&socket(&path)).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        drop(listener);
        bind(&socket(&path)).unwrap();
    }

    #[test]
    fn the_second_daemon_on_a_root_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let lock = Lock::take(directory.path()).unwrap();
        let error = Lock::take(directory.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        drop(lock);
        Lock::take(directory.path()).unwrap();
    }
}
