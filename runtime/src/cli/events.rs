//! `events`: prints what a container uses.

use std::time::Duration;

use runtime::cgroup::stats::{Pids, Stats, v1, v2};
use serde_json::{Map, Value, json};
use sys::Result;

use super::Global;

/// Flags of `events`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the container
    id: String,
    /// Seconds between two prints
    #[arg(long, default_value = "5s")]
    interval: String,
    /// Print once and end
    #[arg(long)]
    stats: bool,
}

/// Prints statistics until the container has ended, or once.
pub(super) fn run(global: &Global, args: &Args) -> Result<u8> {
    let container = global.load(&args.id)?;
    let seconds = args.interval.trim_end_matches('s').parse().unwrap_or(5);
    loop {
        let stats = container.stats()?;
        let event = json!({ "type": "stats", "id": args.id, "data": data(&stats) });
        println!("{event}");
        if args.stats || container.status()? == runtime::Status::Stopped {
            return Ok(0);
        }
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

/// Returns statistics in runc's form, the same for both versions of control groups.
fn data(stats: &Stats) -> Value {
    match stats {
        Stats::V1(metrics) => data_v1(metrics),
        Stats::V2(metrics) => data_v2(metrics),
    }
}

fn data_v1(metrics: &v1::Metrics) -> Value {
    let cpu = metrics.cpu.as_ref().map(|cpu| {
        json!({
            "usage": {
                "total": cpu.total, "percpu": cpu.per_cpu, "kernel": cpu.kernel, "user": cpu.user,
            },
            "throttling": {
                "periods": cpu.throttling.periods,
                "throttledPeriods": cpu.throttling.throttled_periods,
                "throttledTime": cpu.throttling.throttled_time,
            },
        })
    });
    let entry = |entry: &v1::MemoryEntry| {
        json!({
            "limit": entry.limit, "usage": entry.usage, "max": entry.max, "failcnt": entry.failcnt,
        })
    };
    let memory = metrics.memory.as_ref().map(|memory| {
        json!({
            "cache": memory.stat.get("cache"),
            "usage": entry(&memory.usage),
            "swap": memory.swap.as_ref().map(entry),
            "kernel": memory.kernel.as_ref().map(entry),
            "kernelTCP": memory.kernel_tcp.as_ref().map(entry),
            "raw": memory.stat,
        })
    });
    let blkio = metrics.blkio.as_ref().map(|blkio| {
        json!({
            "ioServiceBytesRecursive": entries(&blkio.io_service_bytes_recursive),
            "ioServicedRecursive": entries(&blkio.io_serviced_recursive),
            "ioQueueRecursive": entries(&blkio.io_queued_recursive),
            "ioServiceTimeRecursive": entries(&blkio.io_service_time_recursive),
            "ioWaitTimeRecursive": entries(&blkio.io_wait_time_recursive),
            "ioMergedRecursive": entries(&blkio.io_merged_recursive),
            "ioTimeRecursive": entries(&blkio.io_time_recursive),
            "sectorsRecursive": entries(&blkio.sectors_recursive),
        })
    });
    let pages = metrics.hugetlb.iter().map(|one| {
        let value = json!({ "usage": one.usage, "max": one.max, "failcnt": one.failcnt });
        (one.pagesize.clone(), value)
    });
    json!({
        "cpu": cpu, "memory": memory, "pids": metrics.pids.as_ref().map(pids), "blkio": blkio,
        "hugetlb": pages.collect::<Map<_, _>>(),
    })
}

fn data_v2(metrics: &v2::Metrics) -> Value {
    // The specification of v1 counts nanoseconds.
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
    let cpu = metrics.cpu.as_ref().map(|cpu| {
        json!({
            "usage": {
                "total": nanoseconds(cpu.usage_usec),
                "kernel": nanoseconds(cpu.system_usec),
                "user": nanoseconds(cpu.user_usec),
            },
            "throttling": {
                "periods": cpu.nr_periods,
                "throttledPeriods": cpu.nr_throttled,
                "throttledTime": nanoseconds(cpu.throttled_usec),
            },
        })
    });
    let memory = metrics.memory.as_ref().map(|memory| {
        json!({
            "cache": memory.stat.get("file"),
            "usage": {
                "limit": memory.usage_limit, "usage": memory.usage, "max": memory.max_usage,
                "failcnt": 0,
            },
            "swap": {
                "limit": memory.swap_limit, "usage": memory.swap_usage,
                "max": memory.swap_max_usage, "failcnt": 0,
            },
            "raw": memory.stat,
        })
    });
    let io = metrics.io.as_ref().map(|io| {
        let values = |value: fn(&v2::IoEntry) -> [(&'static str, u64); 2]| {
            let entries = io.usage.iter().flat_map(|entry| {
                value(entry).map(|(op, value)| {
                    json!({ "major": entry.major, "minor": entry.minor, "op": op, "value": value })
                })
            });
            entries.collect::<Vec<_>>()
        };
        json!({
            "ioServiceBytesRecursive": values(|one| [("Read", one.rbytes), ("Write", one.wbytes)]),
            "ioServicedRecursive": values(|one| [("Read", one.rios), ("Write", one.wios)]),
        })
    });
    let pages = metrics.hugetlb.iter().map(|one| {
        let value = json!({ "usage": one.current, "max": one.max, "failcnt": one.failcnt });
        (one.pagesize.clone(), value)
    });
    json!({
        "cpu": cpu, "memory": memory, "pids": metrics.pids.as_ref().map(pids), "blkio": io,
        "hugetlb": pages.collect::<Map<_, _>>(),
    })
}

fn pids(pids: &Pids) -> Value {
    json!({ "current": pids.current, "limit": pids.limit })
}

fn entries(entries: &[v1::BlkioEntry]) -> Vec<Value> {
    let entries = entries.iter().map(|entry| {
        json!({
            "major": entry.major, "minor": entry.minor, "op": entry.op, "value": entry.value,
        })
    });
    entries.collect()
}
