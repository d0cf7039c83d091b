//! Commands of runc that are refused.

use sys::{Error, Kind, Result};

/// Flags and arguments, whatever they are.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Flags and name of the container
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _rest: Vec<String>,
}

/// Refuses a command that needs CRIU.
pub(super) fn run(command: &str) -> Result<u8> {
    let message = format!("{command} is not supported: this runtime does not drive CRIU");
    Err(Error::new(Kind::Unimplemented, message))
}
