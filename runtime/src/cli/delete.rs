//! `delete`: removes what is left of a container.

use sys::{Kind, Result};

use super::Global;

/// Flags of `delete`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the container
    id: String,
    /// Kill a container that is not stopped; none is no error
    #[arg(short, long)]
    force: bool,
}

/// Deletes a container.
pub(super) fn run(global: &Global, args: &Args) -> Result<u8> {
    match global.load(&args.id) {
        Ok(container) => container.delete(args.force)?,
        Err(error) if args.force && error.kind() == Kind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(0)
}
