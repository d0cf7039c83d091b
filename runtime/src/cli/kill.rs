//! `kill`: sends a signal to a container's first process, or to all its processes.

use sys::{Error, Kind, Result};

use super::Global;

/// Flags of `kill`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the container
    id: String,
    /// Signal by name or number
    #[arg(default_value = "SIGTERM")]
    signal: String,
    /// Signal all processes of the container
    #[arg(short, long)]
    all: bool,
}

/// Sends a signal.
pub(super) fn run(global: &Global, args: &Args) -> Result<u8> {
    let signal = parse(&args.signal)?;
    global.load(&args.id)?.kill(signal, args.all)?;
    Ok(0)
}

/// Returns the number of a signal; 0 is none, which asks whether the container is there.
fn parse(text: &str) -> Result<i32> {
    let number = match text {
        "0" => Some(0),
        text => sys::signals::number(text),
    };
    let unknown = || Error::new(Kind::InvalidArgument, format!("unknown signal {text:?}"));
    Ok(number.ok_or_else(unknown)? as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signal_that_is_none_is_accepted_and_an_unknown_one_named() {
        assert_eq!(parse("0").unwrap(), 0);
        assert_eq!(parse("SIGKILL").unwrap(), 9);
        let error = parse("FROB").unwrap_err().to_string();
        assert_eq!(error, "unknown signal \"FROB\"");
    }
}
