//! `kill`: sends a signal to a container's first process, or to all its processes.

use sys::{Error, Kind, Result};

use super::Global;

/// Names of signals by their number.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

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

/// Returns the number of a signal.
fn parse(text: &str) -> Result<i32> {
    let unknown = || Error::new(Kind::InvalidArgument, format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return (0..=64)
            .contains(&number)
            .then_some(number)
            .ok_or_else(unknown);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let (base, offset) = match name.split_once(['+', '-']) {
        Some(("RTMIN", offset)) => (34, offset.parse::<i32>().ok()),
        Some(("RTMAX", offset)) => (64, offset.parse::<i32>().ok().map(|offset| -offset)),
        _ => (0, None),
    };
    if let Some(offset) = offset {
        let number = base + offset;
        return (34..=64)
            .contains(&number)
            .then_some(number)
            .ok_or_else(unknown);
    }
    let number = match name {
        "RTMIN" => Some(34),
        "RTMAX" => Some(64),
        "CLD" => Some(17),
        "POLL" => Some(29),
        "IOT" => Some(6),
        name => NAMES
            .iter()
            .position(|other| *other == name)
            .map(|at| at as i32 + 1),
    };
    number.ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        let cases = [
            ("TERM", 15),
            ("SIGKILL", 9),
            ("sigusr1", 10),
            ("9", 9),
            ("0", 0),
            ("SYS", 31),
            ("RTMIN", 34),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
        ];
        for (text, number) in cases {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["", "FROB", "65", "-1", "RTMIN+40"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
