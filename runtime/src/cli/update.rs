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
    /// CPUs to use
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// Memory limit in bytes
    #[arg(long, allow_hyphen_values = true)]
    memory: Option<i64>,
    /// Soft memory limit in bytes
    #[arg(long, allow_hyphen_values = true)]
    memory_reservation: Option<i64>,
    /// Limit of memory and swap in bytes
    #[arg(long, allow_hyphen_values = true)]
    memory_swap: Option<i64>,
    /// Limit of processes
    #[arg(long, allow_hyphen_values = true)]
    pids_limit: Option<i64>,
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
            "realtimePeriod": self.cpu_rt_period, "cpus": self.cpuset_cpus,
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
