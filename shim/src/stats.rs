//! What a container uses, in the messages that clients know: one kind for each version of control groups.

use std::collections::BTreeMap;

use ::runtime::cgroup::stats::{Pids, Rdma, RdmaEntry, Stats, v1, v2};
use api_protos::any;
use api_protos::io::containerd::cgroups::{v1 as wire1, v2 as wire2};
use prost_types::Any;

/// Returns the numbers as `io.containerd.cgroups.v1.Metrics` or `io.containerd.cgroups.v2.Metrics`.
pub fn pack(stats: &Stats) -> Any {
    match stats {
        Stats::V1(metrics) => any::pack(&metrics1(metrics)),
        Stats::V2(metrics) => any::pack(&metrics2(metrics)),
    }
}

fn metrics1(metrics: &v1::Metrics) -> wire1::Metrics {
    let hugetlb = metrics.hugetlb.iter().map(|size| wire1::HugetlbStat {
        usage: size.usage,
        max: size.max,
        failcnt: size.failcnt,
        pagesize: size.pagesize.clone(),
    });
    wire1::Metrics {
        hugetlb: hugetlb.collect(),
        pids: metrics
            .pids
            .map(|Pids { current, limit }| wire1::PidsStat { current, limit }),
        cpu: metrics.cpu.as_ref().map(cpu1),
        memory: metrics.memory.as_ref().map(memory1),
        blkio: metrics.blkio.as_ref().map(blkio1),
        rdma: metrics.rdma.as_ref().map(|Rdma { current, limit }| {
            let entries = |entries: &[RdmaEntry]| entries.iter().map(rdma1).collect();
            wire1::RdmaStat {
                current: entries(current),
                limit: entries(limit),
            }
        }),
        memory_oom_control: metrics.memory_oom_control.as_ref().map(|control| {
            wire1::MemoryOomControl {
                oom_kill_disable: control.oom_kill_disable,
                under_oom: control.under_oom,
                oom_kill: control.oom_kill,
            }
        }),
        ..wire1::Metrics::default()
    }
}

fn cpu1(cpu: &v1::Cpu) -> wire1::CpuStat {
    wire1::CpuStat {
        usage: Some(wire1::CpuUsage {
            total: cpu.total,
            kernel: cpu.kernel,
            user: cpu.user,
            per_cpu: cpu.per_cpu.clone(),
        }),
        throttling: Some(wire1::Throttle {
            periods: cpu.throttling.periods,
            throttled_periods: cpu.throttling.throttled_periods,
            throttled_time: cpu.throttling.throttled_time,
        }),
    }
}

fn memory1(memory: &v1::Memory) -> wire1::MemoryStat {
    let stat = |name: &str| number(&memory.stat, name);
    wire1::MemoryStat {
        cache: stat("cache"),
        rss: stat("rss"),
        rss_huge: stat("rss_huge"),
        mapped_file: stat("mapped_file"),
        dirty: stat("dirty"),
        writeback: stat("writeback"),
        pg_pg_in: stat("pgpgin"),
        pg_pg_out: stat("pgpgout"),
        pg_fault: stat("pgfault"),
        pg_maj_fault: stat("pgmajfault"),
        inactive_anon: stat("inactive_anon"),
        active_anon: stat("active_anon"),
        inactive_file: stat("inactive_file"),
        active_file: stat("active_file"),
        unevictable: stat("unevictable"),
        hierarchical_memory_limit: stat("hierarchical_memory_limit"),
        hierarchical_swap_limit: stat("hierarchical_memsw_limit"),
        total_cache: stat("total_cache"),
        total_rss: stat("total_rss"),
        total_rss_huge: stat("total_rss_huge"),
        total_mapped_file: stat("total_mapped_file"),
        total_dirty: stat("total_dirty"),
        total_writeback: stat("total_writeback"),
        total_pg_pg_in: stat("total_pgpgin"),
        total_pg_pg_out: stat("total_pgpgout"),
        total_pg_fault: stat("total_pgfault"),
        total_pg_maj_fault: stat("total_pgmajfault"),
        total_inactive_anon: stat("total_inactive_anon"),
        total_active_anon: stat("total_active_anon"),
        total_inactive_file: stat("total_inactive_file"),
        total_active_file: stat("total_active_file"),
        total_unevictable: stat("total_unevictable"),
        usage: Some(memory_entry(&memory.usage)),
        swap: memory.swap.as_ref().map(memory_entry),
        kernel: memory.kernel.as_ref().map(memory_entry),
        kernel_tcp: memory.kernel_tcp.as_ref().map(memory_entry),
    }
}

fn memory_entry(entry: &v1::MemoryEntry) -> wire1::MemoryEntry {
    wire1::MemoryEntry {
        limit: entry.limit,
        usage: entry.usage,
        max: entry.max,
        failcnt: entry.failcnt,
    }
}

fn blkio1(blkio: &v1::Blkio) -> wire1::BlkIoStat {
    let entries = |entries: &[v1::BlkioEntry]| {
        let entries = entries.iter().map(|entry| wire1::BlkIoEntry {
            op: entry.op.clone(),
            device: String::new(),
            major: entry.major,
            minor: entry.minor,
            value: entry.value,
        });
        entries.collect()
    };
    wire1::BlkIoStat {
        io_service_bytes_recursive: entries(&blkio.io_service_bytes_recursive),
        io_serviced_recursive: entries(&blkio.io_serviced_recursive),
        io_queued_recursive: entries(&blkio.io_queued_recursive),
        io_service_time_recursive: entries(&blkio.io_service_time_recursive),
        io_wait_time_recursive: entries(&blkio.io_wait_time_recursive),
        io_merged_recursive: entries(&blkio.io_merged_recursive),
        io_time_recursive: entries(&blkio.io_time_recursive),
        sectors_recursive: entries(&blkio.sectors_recursive),
    }
}

fn rdma1(entry: &RdmaEntry) -> wire1::RdmaEntry {
    wire1::RdmaEntry {
        device: entry.device.clone(),
        hca_handles: entry.hca_handles,
        hca_objects: entry.hca_objects,
    }
}

fn metrics2(metrics: &v2::Metrics) -> wire2::Metrics {
    let hugetlb = metrics.hugetlb.iter().map(|size| wire2::HugeTlbStat {
        current: size.current,
        max: size.max,
        pagesize: size.pagesize.clone(),
        failcnt: size.failcnt,
    });
    wire2::Metrics {
        pids: metrics
            .pids
            .map(|Pids { current, limit }| wire2::PidsStat { current, limit }),
        cpu: metrics.cpu.as_ref().map(cpu2),
        memory: metrics.memory.as_ref().map(memory2),
        rdma: metrics.rdma.as_ref().map(|Rdma { current, limit }| {
            let entries = |entries: &[RdmaEntry]| entries.iter().map(rdma2).collect();
            wire2::RdmaStat {
                current: entries(current),
                limit: entries(limit),
            }
        }),
        io: metrics.io.as_ref().map(io2),
        hugetlb: hugetlb.collect(),
        memory_events: metrics
            .memory_events
            .as_ref()
            .map(|events| wire2::MemoryEvents {
                low: events.low,
                high: events.high,
                max: events.max,
                oom: events.oom,
                oom_kill: events.oom_kill,
                oom_group_kill: events.oom_group_kill,
            }),
        ..wire2::Metrics::default()
    }
}

fn cpu2(cpu: &v2::Cpu) -> wire2::CpuStat {
    wire2::CpuStat {
        usage_usec: cpu.usage_usec,
        user_usec: cpu.user_usec,
        system_usec: cpu.system_usec,
        nr_periods: cpu.nr_periods,
        nr_throttled: cpu.nr_throttled,
        throttled_usec: cpu.throttled_usec,
        psi: cpu.psi.as_ref().map(psi),
        nr_bursts: cpu.nr_bursts,
        burst_usec: cpu.burst_usec,
    }
}

fn memory2(memory: &v2::Memory) -> wire2::MemoryStat {
    let stat = |name: &str| number(&memory.stat, name);
    wire2::MemoryStat {
        anon: stat("anon"),
        file: stat("file"),
        kernel_stack: stat("kernel_stack"),
        slab: stat("slab"),
        sock: stat("sock"),
        shmem: stat("shmem"),
        file_mapped: stat("file_mapped"),
        file_dirty: stat("file_dirty"),
        file_writeback: stat("file_writeback"),
        anon_thp: stat("anon_thp"),
        inactive_anon: stat("inactive_anon"),
        active_anon: stat("active_anon"),
        inactive_file: stat("inactive_file"),
        active_file: stat("active_file"),
        unevictable: stat("unevictable"),
        slab_reclaimable: stat("slab_reclaimable"),
        slab_unreclaimable: stat("slab_unreclaimable"),
        pgfault: stat("pgfault"),
        pgmajfault: stat("pgmajfault"),
        // Kernels from 5.9 on count files and anonymous memory apart.
        workingset_refault: stat("workingset_refault") + stat("workingset_refault_file"),
        workingset_activate: stat("workingset_activate") + stat("workingset_activate_file"),
        workingset_nodereclaim: stat("workingset_nodereclaim"),
        pgrefill: stat("pgrefill"),
        pgscan: stat("pgscan"),
        pgsteal: stat("pgsteal"),
        pgactivate: stat("pgactivate"),
        pgdeactivate: stat("pgdeactivate"),
        pglazyfree: stat("pglazyfree"),
        pglazyfreed: stat("pglazyfreed"),
        thp_fault_alloc: stat("thp_fault_alloc"),
        thp_collapse_alloc: stat("thp_collapse_alloc"),
        usage: memory.usage,
        usage_limit: memory.usage_limit,
        swap_usage: memory.swap_usage,
        swap_limit: memory.swap_limit,
        max_usage: memory.max_usage,
        swap_max_usage: memory.swap_max_usage,
        psi: memory.psi.as_ref().map(psi),
    }
}

fn io2(io: &v2::Io) -> wire2::IoStat {
    let usage = io.usage.iter().map(|entry| wire2::IoEntry {
        major: entry.major,
        minor: entry.minor,
        rbytes: entry.rbytes,
        wbytes: entry.wbytes,
        rios: entry.rios,
        wios: entry.wios,
    });
    wire2::IoStat {
        usage: usage.collect(),
        psi: io.psi.as_ref().map(psi),
    }
}

fn rdma2(entry: &RdmaEntry) -> wire2::RdmaEntry {
    wire2::RdmaEntry {
        device: entry.device.clone(),
        hca_handles: entry.hca_handles,
        hca_objects: entry.hca_objects,
    }
}

fn psi(psi: &v2::Psi) -> wire2::PsiStats {
    let data = |data: &v2::PsiData| wire2::PsiData {
        avg10: data.avg10,
        avg60: data.avg60,
        avg300: data.avg300,
        total: data.total,
    };
    wire2::PsiStats {
        some: Some(data(&psi.some)),
        full: Some(data(&psi.full)),
    }
}

fn number(stat: &BTreeMap<String, u64>, name: &str) -> u64 {
    stat.get(name).copied().unwrap_or_default()
}
