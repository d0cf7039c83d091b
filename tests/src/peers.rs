//! Where `tests/peers` has put the foreign programs.

use std::fs;
use std::path::PathBuf;

use crate::{Finished, command};

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

/// CRIU, as `tests/peers-criu` has brought it.
#[derive(Debug, Clone)]
pub struct Criu {
    /// The folder of the program.
    pub folder: PathBuf,
}

impl Criu {
    /// Returns CRIU, or prints why the test is skipped: it is not there, or this kernel lacks what it needs.
    pub fn or_skip() -> Option<Criu> {
        let Some(folder) = folder("criu.env", "PEERS_CRIU") else {
            crate::print_skip("needs CRIU: run tests/peers-criu");
            return None;
        };
        let criu = Criu { folder };
        let checked = criu.run(&["check"]);
        if checked.code == Some(0) {
            return Some(criu);
        }
        let why = checked.stderr.lines().next().unwrap_or_default();
        crate::print_skip(&format!("criu check: {why}"));
        None
    }

    /// Tells whether this kernel has what CRIU calls by this name.
    pub fn has(&self, feature: &str) -> bool {
        self.run(&["check", "--feature", feature]).code == Some(0)
    }

    fn run(&self, args: &[&str]) -> Finished {
        command::run(std::process::Command::new(self.folder.join("criu")).args(args))
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
