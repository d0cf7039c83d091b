//! `pause` and `resume`: freeze and thaw a container.

use sys::Result;

use super::Global;

/// Flags of both.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the container
    id: String,
}

/// Freezes a container.
pub(super) fn pause(global: &Global, args: &Args) -> Result<u8> {
    global.load(&args.id)?.pause()?;
    Ok(0)
}

/// Thaws a container.
pub(super) fn resume(global: &Global, args: &Args) -> Result<u8> {
    global.load(&args.id)?.resume()?;
    Ok(0)
}
