//! `update`: changes limits of a running container.

use std::io::Read;
use std::path::PathBuf;

use runtime::oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};
use sys::{Context, Error, Kind, Result};

use super::Global;

/// Flags of `update`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the container
    id: String,
    /// File with resources as JSON, or "-" for stdin; other flags are left out of account
    #[arg(short, long)]
    resources: Option<PathBuf>,
    /// Weight of block IO
    #[arg(long)]
    blkio_weight: Option<u16>,
    /// Period of the CPU quota in microseconds
    #[arg(long)]
    cpu_period: Option<u64>,
    /// CPU time in a period in microseconds
    #[arg(long, allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// CPU time that may be saved up, in microseconds
    #[arg(long)]
    cpu_burst: Option<u64>,
    /// Period of the real-time quota in microseconds
    #[arg(long)]
    cpu_rt_period: Option<u64>,
    /// Real-time CPU time in a period in microseconds
    #[arg(long, allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// Weight of CPU time
    #[arg(long, visible_alias = "cpu-shares")]
    cpu_share: Option<u64>,
    /// 1 for processes that get only what nobody else wants, 0 for others
    #[arg(long, allow_hyphen_values = true)]
    cpu_idle: Option<i64>,
    /// CPUs to use
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// Memory limit in bytes, or with a unit such as M
    #[arg(long, allow_hyphen_values = true, value_parser = bytes)]
    memory: Option<i64>,
    /// Soft memory limit
    #[arg(long, allow_hyphen_values = true, value_parser = bytes)]
    memory_reservation: Option<i64>,
    /// Limit of memory and swap
    #[arg(long, allow_hyphen_values = true, value_parser = bytes)]
    memory_swap: Option<i64>,
    /// Limit of processes
    #[arg(long, allow_hyphen_values = true)]
    pids_limit: Option<i64>,
}

/// Parses a number of bytes, with a unit of which each is 1024 of the one before; -1 is without limit.
fn bytes(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid size: {text:?}");
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.to_lowercase();
    let plain = lower.strip_suffix('b').unwrap_or(&lower);
    let plain = plain.strip_suffix('i').unwrap_or(plain);
    let unit = |letter: char| "kmgtp".find(letter);
    let (number, power) = match plain.chars().last().and_then(unit) {
        Some(at) => (&plain[..plain.len() - 1], at as u32 + 1),
        None => (plain, 0),
    };
    let value: f64 = number.trim().parse().map_err(|_| invalid())?;
    let value = value * 1024_f64.powi(power as i32);
    match (0.0..i64::MAX as f64).contains(&value) {
        true => Ok(value as i64),
        false => Err(invalid()),
    }
}

/// Changes limits.
pub(super) fn run(global: &Global, args: &Args) -> Result<u8> {
    let resources = match &args.resources {
        Some(path) => read(path)?,
        None => args.resources()?,
    };
    global.load(&args.id)?.update(&resources)?;
    Ok(0)
}

fn read(path: &PathBuf) -> Result<LinuxResources> {
    let mut text = String::new();
    match path.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut text).map(drop),
        _ => std::fs::read_to_string(path).map(|read| text = read),
    }
    .context(|| format!("read resources from {path:?}"))?;
    serde_json::from_str(&text)
        .map_err(|error| Error::other("parse resources", error).with_kind(Kind::InvalidArgument))
}

impl Args {
    fn resources(&self) -> Result<LinuxResources> {
        let cpu = json!({
            "shares": self.cpu_share, "quota": self.cpu_quota, "period": self.cpu_period,
            "burst": self.cpu_burst, "realtimeRuntime": self.cpu_rt_runtime,
            "realtimePeriod": self.cpu_rt_period, "idle": self.cpu_idle, "cpus": self.cpuset_cpus,
            "mems": self.cpuset_mems,
        });
        let memory = json!({
            "limit": self.memory, "reservation": self.memory_reservation, "swap": self.memory_swap,
        });
        let block_io = json!({ "weight": self.blkio_weight });
        let mut resources = Map::new();
        for (name, group) in [("cpu", cpu), ("memory", memory), ("blockIO", block_io)] {
            let Value::Object(mut group) = group else {
                continue;
            };
            group.retain(|_, value| !value.is_null());
            if !group.is_empty() {
                resources.insert(name.to_string(), Value::Object(group));
            }
        }
        if let Some(limit) = self.pids_limit {
            resources.insert("pids".to_string(), json!({ "limit": limit }));
        }
        serde_json::from_value(Value::Object(resources))
            .map_err(|error| Error::other("read limits from the command line", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, value) in [
            ("-1", -1),
            ("0", 0),
            ("1024", 1024),
            ("50M", 50 << 20),
            ("1.5g", 3 << 29),
            ("2KiB", 2048),
        ] {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
        for text in ["", "M", "-2", "1x", "nan", "9999999P"] {
            assert!(bytes(text).is_err(), "{text:?}");
        }
    }
}
