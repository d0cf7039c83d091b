//! `spec`: writes a configuration to start from.

use std::io::Write;
use std::path::PathBuf;

use runtime::spec::defaults;
use sys::{Context, Error, Kind, Result};

/// Flags of `spec`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder in which config.json is written
    #[arg(short, long, default_value = ".")]
    bundle: PathBuf,
    /// Write a configuration for an ordinary user
    #[arg(long)]
    rootless: bool,
}

/// Writes `config.json`, unless there is one.
pub(super) fn run(args: &Args) -> Result<u8> {
    let config = match args.rootless {
        true => defaults::rootless_config(),
        false => defaults::config(),
    };
    let path = args.bundle.join("config.json");
    let text = serde_json::to_string_pretty(&config)
        .map_err(|error| Error::other("encode the configuration", error))?;
    let mut file = match std::fs::File::create_new(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let message = "File config.json exists. Remove it first";
            return Err(Error::new(Kind::AlreadyExists, message));
        }
        created => created.context(|| format!("create {path:?}"))?,
    };
    writeln!(file, "{text}").context(|| format!("write {path:?}"))?;
    Ok(0)
}
