//! The harness of the black-box tests: daemons, registries, images and clients as fixtures that clean up when they are dropped.
//!
//! Every fixture that can be ours or upstream's says so by [`Engine`]; a case that fails against upstream is a wrong case.
#![forbid(unsafe_code)]

pub mod api;
pub mod binaries;
pub mod bundle;
pub mod command;
pub mod ctr;
pub mod daemon;
pub mod docker;
pub mod footprint;
pub mod image;
pub mod leftovers;
pub mod network;
pub mod node;
pub mod nri;
pub mod peers;
pub mod random;
pub mod registry;
pub mod terminal;
pub mod vm;

use std::time::{Duration, Instant};

pub use api::Api;
pub use bundle::{Bundle, Runtime};
pub use command::Finished;
pub use ctr::Ctr;
pub use daemon::{Daemon, Engine};
pub use docker::{DockerPeers, Dockerd};
pub use footprint::Footprint;
pub use image::Image;
pub use network::Network;
pub use peers::{Criu, Peers};
pub use random::Random;
pub use registry::Registry;
pub use terminal::Terminal;

/// Ends the test early with a line `SKIP: why`, which the count of `make test` takes out of the passed ones.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {{
        $crate::print_skip(&format!($($why)*));
        return;
    }};
}

/// Prints the line of a skipped test past libtest's capture.
pub fn print_skip(why: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("\nSKIP: {why}\n").as_bytes());
}

/// Returns what `attempt` gives as soon as it gives something, or panics with `what` when `limit` has passed.
pub fn eventually<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "still not so after {limit:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
