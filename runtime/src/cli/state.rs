//! `state`: prints a container's state as JSON.

use sys::{Error, Result};

use super::Global;

/// Flags of `state`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the container
    id: String,
}

/// Prints the state.
pub(super) fn run(global: &Global, args: &Args) -> Result<u8> {
    let state = global.load(&args.id)?.state()?;
    let text = serde_json::to_string_pretty(&state)
        .map_err(|error| Error::other("encode the state", error))?;
    println!("{text}");
    Ok(0)
}
