//! What shims log: read from the FIFO in each bundle, line by line, into the daemon's own log.

use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe::{OpenOptions, Receiver};
use tokio::task::AbortHandle;

use super::bundle::Bundle;
use crate::error::{Context, Result};

/// The longest line that is logged whole.
const LINE: u64 = 16 << 10;

/// Ends the reading of a shim's log when it is dropped.
#[derive(Debug)]
pub struct Follower(AbortHandle);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Follows the log of the shim of `bundle`.
pub fn follow(bundle: &Bundle) -> Result<Follower> {
    let receiver = open(&bundle.log())?;
    let (namespace, id) = (bundle.namespace.clone(), bundle.id.clone());
    let copy = tokio::spawn(async move {
        let mut reader = BufReader::with_capacity(1 << 10, receiver);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader).take(LINE).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => write(&namespace, &id, &String::from_utf8_lossy(&line)),
            }
        }
    });
    Ok(Follower(copy.abort_handle()))
}

/// Opens the FIFO for writing as well: there is no end of file before the shim comes, nor between two writers.
fn open(path: &Path) -> Result<Receiver> {
    OpenOptions::new()
        .read_write(true)
        .open_receiver(path)
        .context(|| format!("open the shim's log {path:?}"))
}

fn write(namespace: &str, id: &str, line: &str) {
    let line = line.trim_end();
    let says = |level: &str| {
        line.contains(&format!("level={level}")) || line.contains(&format!("\"level\":\"{level}\""))
    };
    if ["error", "fatal", "panic"].into_iter().any(says) {
        tracing::error!(target: "shim", ns = namespace, id, "{line}");
    } else if says("warning") || says("warn") {
        tracing::warn!(target: "shim", ns = namespace, id, "{line}");
    } else if says("debug") || says("trace") {
        tracing::debug!(target: "shim", ns = namespace, id, "{line}");
    } else {
        tracing::info!(target: "shim", ns = namespace, id, "{line}");
    }
}
