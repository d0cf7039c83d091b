//! Where `tests/peers` has put the foreign programs.

use std::fs;
use std::path::PathBuf;

/// The folders of the peers' programs.
#[derive(Debug, Clone)]
pub struct Peers {
    /// Debian sid's containerd, ctr, shim, runc and crun.
    pub sid: PathBuf,
    /// Debian bookworm's containerd, ctr and shim.
    pub bookworm: PathBuf,
}

impl Peers {
    /// Returns the peers, or nothing when `tests/peers` has not run on this machine.
    pub fn find() -> Option<Peers> {
        let value = |name| folder("peers.env", name);
        Some(Peers {
            sid: value("PEERS_SID")?,
            bookworm: value("PEERS_BOOKWORM")?,
        })
    }

    /// Returns the peers, or prints why the test is skipped.
    pub fn or_skip() -> Option<Peers> {
        let found = if rustix::process::geteuid().is_root() {
            Peers::find()
        } else {
            None
        };
        if found.is_none() {
            crate::print_skip("needs root and the peers: run tests/peers");
        }
        found
    }
}

/// Returns the folder that one of the scripts has written down by this name, if it is there.
pub fn folder(file: &str, name: &str) -> Option<PathBuf> {
    let cache =
        std::env::var_os("CORTEN_PEERS").unwrap_or_else(|| "/var/cache/corten-peers".into());
    let text = fs::read_to_string(PathBuf::from(cache).join(file)).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .map(PathBuf::from)
        .filter(|dir| dir.is_dir())
}
