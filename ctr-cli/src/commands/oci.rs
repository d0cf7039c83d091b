//! `corten oci`

use anyhow::Result;
use clap::Subcommand;

use super::output::print_json;
use crate::spec::defaults;

/// What can be done with configurations.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the configuration that containers have by default, as JSON
    Spec,
}

/// Runs a command on configurations.
pub fn run(command: Command) -> Result<()> {
    let Command::Spec = command;
    print_json(&defaults::linux("default", ""))
}
