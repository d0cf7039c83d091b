//! What a group uses, as cgroup v2 counts it.

use std::collections::BTreeMap;

use sys::Result;

use super::{Pids, Rdma, huge_page_sizes};
use crate::cgroup::dir::{Dir, pairs, parse_number};

/// What a group uses; a controller that the group has not is None.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    pub pids: Option<Pids>,
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
    pub memory_events: Option<MemoryEvents>,
    pub io: Option<Io>,
    pub hugetlb: Vec<Hugetlb>,
    pub rdma: Option<Rdma>,
}

/// Time of processors, in microseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cpu {
    pub usage_usec: u64,
    pub user_usec: u64,
    pub system_usec: u64,
    pub nr_periods: u64,
    pub nr_throttled: u64,
    pub throttled_usec: u64,
    pub nr_bursts: u64,
    pub burst_usec: u64,
    pub psi: Option<Psi>,
}

/// Memory, in bytes; a limit that is not set is the highest number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// The counters of `memory.stat`, by name.
    pub stat: BTreeMap<String, u64>,
    pub usage: u64,
    pub usage_limit: u64,
    pub max_usage: u64,
    pub swap_usage: u64,
    pub swap_limit: u64,
    pub swap_max_usage: u64,
    pub psi: Option<Psi>,
}

/// How often the group ran into its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    pub low: u64,
    pub high: u64,
    pub max: u64,
    pub oom: u64,
    pub oom_kill: u64,
    pub oom_group_kill: u64,
}

/// Block devices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Io {
    pub usage: Vec<IoEntry>,
    pub psi: Option<Psi>,
}

/// One block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoEntry {
    pub major: u64,
    pub minor: u64,
    pub rbytes: u64,
    pub wbytes: u64,
    pub rios: u64,
    pub wios: u64,
}

/// Huge pages of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hugetlb {
    pub pagesize: String,
    pub current: u64,
    pub max: u64,
    pub failcnt: u64,
}

/// How long processes waited for a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Psi {
    /// At least one of them waited.
    pub some: PsiData,
    /// All of them waited.
    pub full: PsiData,
}

/// Shares of time in percent, and the total in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PsiData {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

pub(super) fn read(dir: &Dir) -> Result<Metrics> {
    let events = dir.read_optional("memory.events")?;
    let mut metrics = Metrics {
        pids: match super::pids(dir)? {
            None => Some(count_processes(dir)?),
            counted => counted,
        },
        cpu: cpu(dir)?,
        memory: memory(dir)?,
        memory_events: events.map(|text| memory_events(&text)),
        io: io(dir)?,
        hugetlb: Vec::new(),
        rdma: super::rdma(dir)?,
    };
    for pagesize in huge_page_sizes() {
        metrics.hugetlb.extend(hugetlb(dir, pagesize)?);
    }
    Ok(metrics)
}

/// Counts the processes where no controller does.
fn count_processes(dir: &Dir) -> Result<Pids> {
    let text = match dir.read_optional("cgroup.procs")? {
        Some(text) => text,
        None => dir.read("cgroup.threads")?,
    };
    Ok(Pids {
        current: text.lines().count() as u64,
        limit: 0,
    })
}

fn cpu(dir: &Dir) -> Result<Option<Cpu>> {
    let Some(text) = dir.read_optional("cpu.stat")? else {
        return Ok(None);
    };
    let mut cpu = Cpu {
        psi: psi(dir, "cpu.pressure")?,
        ..Cpu::default()
    };
    for (name, value) in pairs(&text) {
        match name {
            "usage_usec" => cpu.usage_usec = value,
            "user_usec" => cpu.user_usec = value,
            "system_usec" => cpu.system_usec = value,
            "nr_periods" => cpu.nr_periods = value,
            "nr_throttled" => cpu.nr_throttled = value,
            "throttled_usec" => cpu.throttled_usec = value,
            "nr_bursts" => cpu.nr_bursts = value,
            "burst_usec" => cpu.burst_usec = value,
            _ => {}
        }
    }
    Ok(Some(cpu))
}

fn memory(dir: &Dir) -> Result<Option<Memory>> {
    let Some(text) = dir.read_optional("memory.stat")? else {
        return Ok(None);
    };
    let number = |name: &str| dir.number_optional(name).map(Option::unwrap_or_default);
    Ok(Some(Memory {
        stat: pairs(&text)
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        usage: number("memory.current")?,
        usage_limit: number("memory.max")?,
        max_usage: number("memory.peak")?,
        swap_usage: number("memory.swap.current")?,
        swap_limit: number("memory.swap.max")?,
        swap_max_usage: number("memory.swap.peak")?,
        psi: psi(dir, "memory.pressure")?,
    }))
}

fn memory_events(text: &str) -> MemoryEvents {
    let mut events = MemoryEvents::default();
    for (name, value) in pairs(text) {
        match name {
            "low" => events.low = value,
            "high" => events.high = value,
            "max" => events.max = value,
            "oom" => events.oom = value,
            "oom_kill" => events.oom_kill = value,
            "oom_group_kill" => events.oom_group_kill = value,
            _ => {}
        }
    }
    events
}

fn io(dir: &Dir) -> Result<Option<Io>> {
    let Some(text) = dir.read_optional("io.stat")? else {
        return Ok(None);
    };
    Ok(Some(Io {
        usage: text.lines().filter_map(io_entry).collect(),
        psi: psi(dir, "io.pressure")?,
    }))
}

/// Parses `8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn io_entry(line: &str) -> Option<IoEntry> {
    let mut fields = line.split_whitespace();
    let (major, minor) = fields.next()?.split_once(':')?;
    let mut entry = IoEntry {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        ..IoEntry::default()
    };
    for (name, value) in fields.filter_map(|field| field.split_once('=')) {
        let value = parse_number(value).unwrap_or_default();
        match name {
            "rbytes" => entry.rbytes = value,
            "wbytes" => entry.wbytes = value,
            "rios" => entry.rios = value,
            "wios" => entry.wios = value,
            _ => {}
        }
    }
    Some(entry)
}

fn hugetlb(dir: &Dir, pagesize: String) -> Result<Option<Hugetlb>> {
    let prefix = format!("hugetlb.{pagesize}");
    let Some(current) = dir.number_optional(&format!("{prefix}.current"))? else {
        return Ok(None);
    };
    let events = dir.read_optional(&format!("{prefix}.events"))?;
    let events = events.unwrap_or_default();
    let failed = pairs(&events).find(|(name, _)| *name == "max");
    Ok(Some(Hugetlb {
        current,
        max: dir.number(&format!("{prefix}.max"))?,
        failcnt: failed.map_or(0, |(_, count)| count),
        pagesize,
    }))
}

/// Reads a file of pressures, None where the kernel measures none.
fn psi(dir: &Dir, file: &str) -> Result<Option<Psi>> {
    Ok(dir.read_optional(file)?.map(|text| parse_psi(&text)))
}

fn parse_psi(text: &str) -> Psi {
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let data = match fields.next() {
            Some("some") => &mut psi.some,
            Some("full") => &mut psi.full,
            _ => continue,
        };
        for (name, value) in fields.filter_map(|field| field.split_once('=')) {
            match name {
                "avg10" => data.avg10 = value.parse().unwrap_or_default(),
                "avg60" => data.avg60 = value.parse().unwrap_or_default(),
                "avg300" => data.avg300 = value.parse().unwrap_or_default(),
                "total" => data.total = value.parse().unwrap_or_default(),
                _ => {}
            }
        }
    }
    psi
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressures_are_read() {
        let psi = parse_psi(
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
        );
        assert_eq!(
            (psi.some.avg10, psi.some.avg60, psi.some.total),
            (1.5, 0.25, 42)
        );
        assert_eq!(psi.full.total, 7);
    }

    #[test]
    fn counters_of_block_devices_are_read_in_any_order() {
        let entry = io_entry("8:16 wios=4 rbytes=1 wbytes=2 rios=3 dbytes=5 dios=6").unwrap();
        let expected = IoEntry {
            major: 8,
            minor: 16,
            rbytes: 1,
            wbytes: 2,
            rios: 3,
            wios: 4,
        };
        assert_eq!(entry, expected);
        assert_eq!(io_entry("(unknown)"), None);
    }
}
