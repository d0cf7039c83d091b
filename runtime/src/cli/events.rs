//! `events`: prints what a container uses.

use std::time::{Duration, Instant};

use runtime::Status;
use runtime::cgroup::OomWatch;
use runtime::cgroup::stats::{Pids, Stats, v1, v2};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sys::{Context, Error, Kind, Result};

use super::Global;

/// Flags of `events`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the container
    id: String,
    /// Time between two prints, such as 5s or 100ms
    #[arg(long, default_value = "5s")]
    interval: String,
    /// Print once and end
    #[arg(long)]
    stats: bool,
}

/// A line, with its members in runc's order.
#[derive(Debug, Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    data: Value,
}

/// Prints statistics until the container has ended, or once.
pub(super) fn run(global: &Global, args: &Args) -> Result<u8> {
    let interval = parse_duration(&args.interval)?;
    let container = global.load(&args.id)?;
    // A host without the memory controller has nothing to tell.
    let mut watch = container.cgroup().oom_watch().ok();
    loop {
        let stats = match container.stats() {
            // It ended meanwhile.
            Err(_) if !args.stats && container.status()? == Status::Stopped => return Ok(0),
            stats => stats?,
        };
        let event = Event {
            kind: "stats",
            id: &args.id,
            data: data(&stats),
        };
        let line = serde_json::to_string(&event)
            .map_err(|error| Error::other("encode the statistics", error))?;
        println!("{line}");
        if args.stats || container.status()? == Status::Stopped {
            return Ok(0);
        }
        wait(&mut watch, interval, &args.id)?;
    }
}

/// Waits for the time of the next print; says meanwhile when the kernel kills for want of memory.
fn wait(watch: &mut Option<OomWatch>, interval: Duration, id: &str) -> Result<()> {
    let Some(watch) = watch else {
        std::thread::sleep(interval);
        return Ok(());
    };
    let end = Instant::now() + interval;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left)
            .map_err(|error| Error::other("wait for the next print", error))?;
        match poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(()),
            Err(Errno::INTR) => {}
            Ok(_) => {
                if watch.take()? {
                    println!("{{\"type\":\"oom\",\"id\":\"{id}\"}}");
                }
            }
            Err(errno) => return Err(errno).context(|| "wait for events"),
        }
    }
}

/// Parses a time as Go prints it: numbers, each with its unit.
fn parse_duration(text: &str) -> Result<Duration> {
    let invalid = || Error::new(Kind::InvalidArgument, format!("invalid duration {text:?}"));
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, after) = rest.split_at(digits.ok_or_else(invalid)?);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, after) = after.split_at(end.unwrap_or(after.len()));
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "\u{b5}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(invalid()),
        };
        let number: f64 = number.parse().map_err(|_| invalid())?;
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| invalid())?;
        rest = after;
    }
    match total.is_zero() {
        true => Err(Error::new(
            Kind::InvalidArgument,
            "duration interval must be greater than 0",
        )),
        false => Ok(total),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_as_go_has_it() {
        for (text, milliseconds) in [("5s", 5000), ("100ms", 100), ("1m0.5s", 60_500)] {
            let parsed = parse_duration(text).unwrap();
            assert_eq!(parsed, Duration::from_millis(milliseconds), "{text}");
        }
        for text in ["", "0s", "5", "s", "1x", "-1s"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }
}
