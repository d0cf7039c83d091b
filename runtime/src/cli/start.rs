//! `start`: lets a created container run its program.

use sys::Result;

use super::Global;

/// Flags of `start`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the container
    id: String,
}

/// Starts a container.
pub(super) fn run(global: &Global, args: &Args) -> Result<u8> {
    global.load(&args.id)?.start()?;
    Ok(0)
}
