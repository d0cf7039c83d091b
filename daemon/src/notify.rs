//! Telling the service manager how far the daemon is, by systemd's notification socket.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::error::{Context, Result};

/// The variable with the socket's address.
pub const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// Sends `state`, such as `READY=1`, to the socket `address`; without one there is nobody to tell.
pub fn send(address: Option<OsString>, state: &str) -> Result<()> {
    let Some(address) = address.filter(|address| !address.is_empty()) else {
        return Ok(());
    };
    let send = || -> io::Result<()> {
        let to = match address.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&address)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &to)?;
        Ok(())
    };
    send().context(|| format!("notify {address:?} of {state}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(Some(path.into()), "READY=1").unwrap();
        let mut buffer = [0; 32];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        send(None, "READY=1").unwrap();
    }
}
