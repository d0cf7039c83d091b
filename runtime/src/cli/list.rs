//! `list`: prints the containers of the state folder.

use sys::{Context, Error, Result};

use super::{Global, default_root};

/// Flags of `list`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Print only names
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

/// Prints the containers.
pub(super) fn run(global: &Global, args: &Args) -> Result<u8> {
    // The default one appears with the first container; another one that is not there is a mistake.
    if global.root != default_root() {
        std::fs::metadata(&global.root).context(|| format!("open {:?}", global.root))?;
    }
    let containers = runtime::list(&global.root)?;
    let states = containers
        .iter()
        .map(runtime::Container::state)
        .collect::<Result<Vec<_>>>()?;
    match args.format {
        _ if args.quiet => states.iter().for_each(|state| println!("{}", state.id)),
        Format::Json => {
            let text = serde_json::to_string(&states)
                .map_err(|error| Error::other("encode the list", error))?;
            println!("{text}");
        }
        Format::Table => {
            let width = states
                .iter()
                .map(|state| state.id.len())
                .max()
                .unwrap_or(0)
                .max(8)
                + 4;
            println!(
                "{:width$}{:<12}{:<12}{:<24}CREATED{:27}OWNER",
                "ID", "PID", "STATUS", "BUNDLE", ""
            );
            for state in states {
                let (status, bundle) = (state.status.to_string(), state.bundle.display());
                println!(
                    "{:width$}{:<12}{status:<12}{bundle:<24}{:<34}{}",
                    state.id, state.pid, state.created, state.owner
                );
            }
        }
    }
    Ok(0)
}
