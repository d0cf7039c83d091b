//! What a group uses, as cgroup v1 counts it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sys::Result;

use super::{Pids, Rdma, huge_page_sizes};
use crate::cgroup::dir::{Dir, pairs};

/// What a group uses; a controller that the host has not is None.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    pub hugetlb: Vec<Hugetlb>,
    pub pids: Option<Pids>,
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
    pub memory_oom_control: Option<MemoryOomControl>,
    pub blkio: Option<Blkio>,
    pub rdma: Option<Rdma>,
}

/// Huge pages of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hugetlb {
    pub pagesize: String,
    pub usage: u64,
    pub max: u64,
    pub failcnt: u64,
}

/// Time of processors, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    pub total: u64,
    pub kernel: u64,
    pub user: u64,
    pub per_cpu: Vec<u64>,
    pub throttling: Throttling,
}

/// How often and how long, in nanoseconds, the group was out of quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_time: u64,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The counters of `memory.stat`, by name.
    pub stat: BTreeMap<String, u64>,
    pub usage: MemoryEntry,
    pub swap: Option<MemoryEntry>,
    pub kernel: Option<MemoryEntry>,
    pub kernel_tcp: Option<MemoryEntry>,
    pub use_hierarchy: bool,
}

/// One kind of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEntry {
    pub limit: u64,
    pub usage: u64,
    pub max: u64,
    pub failcnt: u64,
}

/// What happens, and how often it did, when memory runs out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryOomControl {
    pub oom_kill_disable: u64,
    pub under_oom: u64,
    pub oom_kill: u64,
}

/// Block devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blkio {
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    pub io_serviced_recursive: Vec<BlkioEntry>,
    pub io_queued_recursive: Vec<BlkioEntry>,
    pub io_service_time_recursive: Vec<BlkioEntry>,
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    pub io_merged_recursive: Vec<BlkioEntry>,
    pub io_time_recursive: Vec<BlkioEntry>,
    pub sectors_recursive: Vec<BlkioEntry>,
}

/// One count of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlkioEntry {
    pub op: String,
    pub major: u64,
    pub minor: u64,
    pub value: u64,
}

pub(super) fn read(paths: &BTreeMap<String, PathBuf>) -> Result<Metrics> {
    let open = |name: &str| paths.get(name).map(|path| Dir::open(path)).transpose();
    let memory = open("memory")?;
    let mut metrics = Metrics {
        pids: open("pids")?.map_or(Ok(None), |dir| super::pids(&dir))?,
        cpu: cpu(open("cpuacct")?, open("cpu")?)?,
        memory: memory.as_ref().map(read_memory).transpose()?,
        memory_oom_control: memory.as_ref().map(oom_control).transpose()?,
        blkio: open("blkio")?.as_ref().map(blkio).transpose()?,
        rdma: open("rdma")?.map_or(Ok(None), |dir| super::rdma(&dir))?,
        hugetlb: Vec::new(),
    };
    if let Some(dir) = open("hugetlb")? {
        for size in huge_page_sizes() {
            metrics.hugetlb.extend(hugetlb(&dir, size)?);
        }
    }
    Ok(metrics)
}

fn cpu(accounting: Option<Dir>, control: Option<Dir>) -> Result<Option<Cpu>> {
    if accounting.is_none() && control.is_none() {
        return Ok(None);
    }
    let mut cpu = Cpu::default();
    if let Some(dir) = accounting {
        cpu.total = dir.number("cpuacct.usage")?;
        let per_cpu = dir.read_optional("cpuacct.usage_percpu")?;
        cpu.per_cpu = per_cpu
            .iter()
            .flat_map(|text| text.split_whitespace())
            .filter_map(|number| number.parse().ok())
            .collect();
        // The kernel counts these in ticks of 1/100 s.
        const TICK: u64 = 10_000_000;
        for (name, ticks) in pairs(&dir.read("cpuacct.stat")?) {
            match name {
                "user" => cpu.user = ticks * TICK,
                "system" => cpu.kernel = ticks * TICK,
                _ => {}
            }
        }
    }
    let text = control.map_or(Ok(None), |dir| dir.read_optional("cpu.stat"))?;
    for (name, value) in pairs(&text.unwrap_or_default()) {
        match name {
            "nr_periods" => cpu.throttling.periods = value,
            "nr_throttled" => cpu.throttling.throttled_periods = value,
            "throttled_time" => cpu.throttling.throttled_time = value,
            _ => {}
        }
    }
    Ok(Some(cpu))
}

fn read_memory(dir: &Dir) -> Result<Memory> {
    Ok(Memory {
        stat: pairs(&dir.read("memory.stat")?)
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        usage: memory_entry(dir, "memory")?.unwrap_or_default(),
        swap: memory_entry(dir, "memory.memsw")?,
        kernel: memory_entry(dir, "memory.kmem")?,
        kernel_tcp: memory_entry(dir, "memory.kmem.tcp")?,
        use_hierarchy: dir.number_optional("memory.use_hierarchy")? == Some(1),
    })
}

/// Reads one kind of memory, None if this kernel does not count it.
fn memory_entry(dir: &Dir, prefix: &str) -> Result<Option<MemoryEntry>> {
    let Some(usage) = dir.number_optional(&format!("{prefix}.usage_in_bytes"))? else {
        return Ok(None);
    };
    let number = |name: &str| {
        let file = format!("{prefix}.{name}");
        dir.number_optional(&file).map(Option::unwrap_or_default)
    };
    Ok(Some(MemoryEntry {
        limit: number("limit_in_bytes")?,
        usage,
        max: number("max_usage_in_bytes")?,
        failcnt: number("failcnt")?,
    }))
}

fn oom_control(dir: &Dir) -> Result<MemoryOomControl> {
    let mut control = MemoryOomControl::default();
    for (name, value) in pairs(&dir.read("memory.oom_control")?) {
        match name {
            "oom_kill_disable" => control.oom_kill_disable = value,
            "under_oom" => control.under_oom = value,
            "oom_kill" => control.oom_kill = value,
            _ => {}
        }
    }
    Ok(control)
}

/// Reads the counters of the I/O scheduler that keeps some; without one there are those of throttling.
fn blkio(dir: &Dir) -> Result<Blkio> {
    const SCHEDULERS: [&str; 2] = ["blkio.bfq.", "blkio."];
    for prefix in SCHEDULERS {
        let read = |name: &str| entries(dir, &format!("{prefix}{name}"));
        let serviced = read("io_serviced_recursive")?;
        if serviced.is_empty() {
            continue;
        }
        return Ok(Blkio {
            io_serviced_recursive: serviced,
            io_service_bytes_recursive: read("io_service_bytes_recursive")?,
            io_queued_recursive: read("io_queued_recursive")?,
            io_service_time_recursive: read("io_service_time_recursive")?,
            io_wait_time_recursive: read("io_wait_time_recursive")?,
            io_merged_recursive: read("io_merged_recursive")?,
            io_time_recursive: read("time_recursive")?,
            sectors_recursive: read("sectors_recursive")?,
        });
    }
    let throttle = |name: &str| {
        let recursive = entries(dir, &format!("blkio.throttle.{name}_recursive"))?;
        if recursive.is_empty() {
            entries(dir, &format!("blkio.throttle.{name}"))
        } else {
            Ok(recursive)
        }
    };
    Ok(Blkio {
        io_serviced_recursive: throttle("io_serviced")?,
        io_service_bytes_recursive: throttle("io_service_bytes")?,
        ..Blkio::default()
    })
}

fn entries(dir: &Dir, file: &str) -> Result<Vec<BlkioEntry>> {
    let text = dir.read_optional(file)?.unwrap_or_default();
    Ok(text.lines().filter_map(entry).collect())
}

/// Parses `8:0 Read 124` or `8:0 124`; a line of totals has no device and is None.
fn entry(line: &str) -> Option<BlkioEntry> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (major, minor) = fields.first()?.split_once(':')?;
    let (op, value) = match fields.as_slice() {
        [_, value] => ("", value),
        [_, op, value] => (*op, value),
        _ => return None,
    };
    Some(BlkioEntry {
        op: op.to_owned(),
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        value: value.parse().ok()?,
    })
}

/// Reads the counters of one page size: of reserved pages where the kernel knows them, else of those in use.
fn hugetlb(dir: &Dir, pagesize: String) -> Result<Option<Hugetlb>> {
    for prefix in [
        format!("hugetlb.{pagesize}.rsvd"),
        format!("hugetlb.{pagesize}"),
    ] {
        if let Some(entry) = memory_entry(dir, &prefix)? {
            return Ok(Some(Hugetlb {
                pagesize,
                usage: entry.usage,
                max: entry.max,
                failcnt: entry.failcnt,
            }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_block_devices_are_read_and_totals_are_not() {
        let found =
            |line| entry(line).map(|entry| (entry.op, entry.major, entry.minor, entry.value));
        assert_eq!(found("8:0 Read 124"), Some(("Read".to_owned(), 8, 0, 124)));
        assert_eq!(found("253:1 7"), Some((String::new(), 253, 1, 7)));
        for line in ["Total 228", "", "8:0", "8 Read 1", "8:0 Read Write 1"] {
            assert_eq!(found(line), None, "{line:?}");
        }
    }
}
