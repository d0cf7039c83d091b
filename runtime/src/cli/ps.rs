//! `ps`: lists the processes of a container.

use std::process::Command;

use sys::{Context, Error, Kind, Result};

use super::Global;

/// Flags of `ps`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How to print
    #[arg(short, long, default_value = "table")]
    format: String,
    /// Name of the container
    id: String,
    /// Options of ps(1)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// Prints the processes, by ps(1) unless as JSON.
pub(super) fn run(global: &Global, args: &Args) -> Result<u8> {
    let pids = global.load(&args.id)?.pids()?;
    match args.format.as_str() {
        "json" => {
            println!("{pids:?}");
            return Ok(0);
        }
        "table" => {}
        other => {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!("invalid format option {other:?}"),
            ));
        }
    }
    let options = match args.options.is_empty() {
        true => vec!["-ef".to_string()],
        false => args.options.clone(),
    };
    let output = Command::new("ps")
        .args(&options)
        .output()
        .context(|| "execute ps")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let title = lines.next().unwrap_or_default();
    let column = title
        .split_ascii_whitespace()
        .position(|name| name == "PID");
    let Some(column) = column else {
        return Err(Error::new(
            Kind::InvalidArgument,
            "couldn't find PID field in ps output",
        ));
    };
    println!("{title}");
    for line in lines {
        let pid = line
            .split_ascii_whitespace()
            .nth(column)
            .and_then(|pid| pid.parse().ok());
        if pid.is_some_and(|pid: i32| pids.contains(&pid)) {
            println!("{line}");
        }
    }
    Ok(0)
}
