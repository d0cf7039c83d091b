//! The metrics of control groups under containerd's names: `container_`, what is measured, and the unit.
//!
//! Values of `memory.stat` have the kernel's own words for names, and all of them the unit `bytes`, which is containerd's
//! doing: some are counts of events.

use api_protos::any;
use api_protos::io::containerd::cgroups::{v1, v2};
use prost_types::Any;

use super::page::Page;

/// A name with its unit, what it means, and the value.
type Scalar<T> = (&'static str, &'static str, fn(&T) -> Option<u64>);
/// A word of `memory.stat`, and its value.
type Stat<T> = (&'static str, fn(&T) -> u64);

/// Makes a list of [`Stat`]s from words and fields.
macro_rules! stats {
    ($type:ty: $($word:literal $field:ident),* $(,)?) => {
        &[$(($word, |stat: &$type| stat.$field)),*]
    };
}

/// Makes a list of [`Scalar`]s from names, meanings and the fields that lead to the value.
macro_rules! scalars {
    ($type:ty: $($name:literal $help:literal $($optional:ident)+ => $field:ident),* $(,)?) => {
        &[$(($name, $help, |metrics: &$type| Some(metrics$(.$optional.as_ref()?)+.$field))),*]
    };
}

const STATS_V1: &[Stat<v1::MemoryStat>] = stats!(v1::MemoryStat:
    "cache" cache, "rss" rss, "rss_huge" rss_huge, "mapped_file" mapped_file, "dirty" dirty,
    "writeback" writeback, "pgpgin" pg_pg_in, "pgpgout" pg_pg_out, "pgfault" pg_fault,
    "pgmajfault" pg_maj_fault, "inactive_anon" inactive_anon, "active_anon" active_anon,
    "inactive_file" inactive_file, "active_file" active_file, "unevictable" unevictable,
    "hierarchical_memory_limit" hierarchical_memory_limit,
    "hierarchical_memsw_limit" hierarchical_swap_limit,
    "total_cache" total_cache, "total_rss" total_rss, "total_rss_huge" total_rss_huge,
    "total_mapped_file" total_mapped_file, "total_dirty" total_dirty,
    "total_writeback" total_writeback, "total_pgpgin" total_pg_pg_in,
    "total_pgpgout" total_pg_pg_out, "total_pgfault" total_pg_fault,
    "total_pgmajfault" total_pg_maj_fault, "total_inactive_anon" total_inactive_anon,
    "total_active_anon" total_active_anon, "total_inactive_file" total_inactive_file,
    "total_active_file" total_active_file, "total_unevictable" total_unevictable,
);

const STATS_V2: &[Stat<v2::MemoryStat>] = stats!(v2::MemoryStat:
    "file_mapped" file_mapped, "file_dirty" file_dirty, "file_writeback" file_writeback,
    "pgactivate" pgactivate, "pgdeactivate" pgdeactivate, "pgfault" pgfault,
    "pgmajfault" pgmajfault, "pglazyfree" pglazyfree, "pgrefill" pgrefill,
    "pglazyfreed" pglazyfreed, "pgscan" pgscan, "pgsteal" pgsteal,
    "inactive_anon" inactive_anon, "active_anon" active_anon, "inactive_file" inactive_file,
    "active_file" active_file, "unevictable" unevictable, "anon" anon, "file" file,
    "kernel_stack" kernel_stack, "slab" slab, "sock" sock, "shmem" shmem, "anon_thp" anon_thp,
    "slab_reclaimable" slab_reclaimable, "slab_unreclaimable" slab_unreclaimable,
    "workingset_refault" workingset_refault, "workingset_activate" workingset_activate,
    "workingset_nodereclaim" workingset_nodereclaim, "thp_fault_alloc" thp_fault_alloc,
    "thp_collapse_alloc" thp_collapse_alloc,
);

const SCALARS_V1: &[Scalar<v1::Metrics>] = scalars!(v1::Metrics:
    "pids_limit" "The most processes and threads there may be." pids => limit,
    "pids_current" "Processes and threads." pids => current,
    "cpu_total_nanoseconds" "Processor time." cpu usage => total,
    "cpu_kernel_nanoseconds" "Processor time in the kernel." cpu usage => kernel,
    "cpu_user_nanoseconds" "Processor time in user space." cpu usage => user,
    "cpu_throttle_periods_total" "Periods in which processor time was limited."
        cpu throttling => periods,
    "cpu_throttled_periods_total" "Periods in which the limit was reached."
        cpu throttling => throttled_periods,
    "cpu_throttled_time_nanoseconds" "Time spent at the limit." cpu throttling => throttled_time,
    "memory_usage_failcnt_total" "How often the limit of memory was hit." memory usage => failcnt,
    "memory_usage_limit_bytes" "The limit of memory." memory usage => limit,
    "memory_usage_max_bytes" "The most memory that was used." memory usage => max,
    "memory_usage_usage_bytes" "Memory in use." memory usage => usage,
    "memory_swap_failcnt_total" "How often the limit of memory and swap was hit."
        memory swap => failcnt,
    "memory_swap_limit_bytes" "The limit of memory and swap." memory swap => limit,
    "memory_swap_max_bytes" "The most memory and swap that was used." memory swap => max,
    "memory_swap_usage_bytes" "Memory and swap in use." memory swap => usage,
    "memory_kernel_failcnt_total" "How often the limit of kernel memory was hit."
        memory kernel => failcnt,
    "memory_kernel_limit_bytes" "The limit of kernel memory." memory kernel => limit,
    "memory_kernel_max_bytes" "The most kernel memory that was used." memory kernel => max,
    "memory_kernel_usage_bytes" "Kernel memory in use." memory kernel => usage,
    "memory_kerneltcp_failcnt_total" "How often the limit of TCP buffers was hit."
        memory kernel_tcp => failcnt,
    "memory_kerneltcp_limit_bytes" "The limit of TCP buffers." memory kernel_tcp => limit,
    "memory_kerneltcp_max_bytes" "The most TCP buffers that were used." memory kernel_tcp => max,
    "memory_kerneltcp_usage_bytes" "TCP buffers in use." memory kernel_tcp => usage,
    "memory_oom_total" "Processes that were killed for want of memory."
        memory_oom_control => oom_kill,
);

const SCALARS_V2: &[Scalar<v2::Metrics>] = scalars!(v2::Metrics:
    "pids_limit" "The most processes and threads there may be." pids => limit,
    "pids_current" "Processes and threads." pids => current,
    "cpu_usage_usec_microseconds" "Processor time." cpu => usage_usec,
    "cpu_user_usec_microseconds" "Processor time in user space." cpu => user_usec,
    "cpu_system_usec_microseconds" "Processor time in the kernel." cpu => system_usec,
    "cpu_nr_periods_total" "Periods in which processor time was limited." cpu => nr_periods,
    "cpu_nr_throttled_total" "Periods in which the limit was reached." cpu => nr_throttled,
    "cpu_throttled_usec_microseconds" "Time spent at the limit." cpu => throttled_usec,
    "memory_usage_bytes" "Memory in use." memory => usage,
    "memory_usage_limit_bytes" "The limit of memory." memory => usage_limit,
    "memory_swap_usage_bytes" "Swap in use." memory => swap_usage,
    "memory_swap_limit_bytes" "The limit of swap." memory => swap_limit,
    "memory_oom_total" "How often memory was wanting." memory_events => oom,
);

/// Values for each device: a name with its unit, and the entries.
type DevicesV1 = (&'static str, fn(&v1::BlkIoStat) -> &[v1::BlkIoEntry]);
/// The same of version 2: a name with its unit, what it means, and the value of an entry.
type DevicesV2 = (&'static str, &'static str, fn(&v2::IoEntry) -> u64);

const DEVICES_V1: &[DevicesV1] = &[
    ("io_merged_recursive_total", |io| &io.io_merged_recursive),
    ("io_queued_recursive_total", |io| &io.io_queued_recursive),
    ("io_service_bytes_recursive_bytes", |io| {
        &io.io_service_bytes_recursive
    }),
    ("io_service_time_recursive_total", |io| {
        &io.io_service_time_recursive
    }),
    ("io_serviced_recursive_total", |io| {
        &io.io_serviced_recursive
    }),
    ("io_time_recursive_total", |io| &io.io_time_recursive),
    ("sectors_recursive_total", |io| &io.sectors_recursive),
];

const DEVICES_V2: &[DevicesV2] = &[
    ("io_rbytes_bytes", "Bytes read.", |entry| entry.rbytes),
    ("io_wbytes_bytes", "Bytes written.", |entry| entry.wbytes),
    ("io_rios_total", "Times read.", |entry| entry.rios),
    ("io_wios_total", "Times written.", |entry| entry.wios),
];

/// A task whose metrics are to be written.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    pub id: &'a str,
    pub namespace: &'a str,
    pub runtime: &'a str,
}

/// Adds what a task uses; statistics of a kind that is not known, as of another system's guests, are left out.
pub fn write(page: &mut Page, owner: Owner<'_>, stats: &Any) {
    let mut writer = Writer { page, owner };
    if let Some(Ok(metrics)) = any::unpack::<v1::Metrics>(stats) {
        writer.v1(&metrics);
    } else if let Some(Ok(metrics)) = any::unpack::<v2::Metrics>(stats) {
        writer.v2(&metrics);
    }
}

struct Writer<'a> {
    page: &'a mut Page,
    owner: Owner<'a>,
}

impl Writer<'_> {
    fn value(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        let own = [
            ("container_id", self.owner.id),
            ("namespace", self.owner.namespace),
            ("runtime", self.owner.runtime),
        ];
        let name = format!("container_{name}");
        self.page
            .gauge(&name, help, &[&own[..], labels].concat(), value);
    }

    fn scalars<T>(&mut self, scalars: &[Scalar<T>], metrics: &T) {
        for (name, help, value) in scalars {
            if let Some(value) = value(metrics) {
                self.value(name, help, &[], value);
            }
        }
    }

    fn memory<T>(&mut self, stats: &[Stat<T>], memory: &T) {
        for (word, value) in stats {
            let name = format!("memory_{word}_bytes");
            let help = format!("The value {word} of memory.stat.");
            self.value(&name, &help, &[], value(memory));
        }
    }

    fn v1(&mut self, metrics: &v1::Metrics) {
        self.scalars(SCALARS_V1, metrics);
        if let Some(memory) = &metrics.memory {
            self.memory(STATS_V1, memory);
        }
        let usage = metrics.cpu.as_ref().and_then(|cpu| cpu.usage.as_ref());
        let per_cpu = usage.map_or(&[][..], |usage| &usage.per_cpu);
        for (cpu, time) in per_cpu.iter().enumerate() {
            let cpu = cpu.to_string();
            let help = "Processor time of each processor.";
            self.value("per_cpu_nanoseconds", help, &[("cpu", &cpu)], *time);
        }
        for pages in &metrics.hugetlb {
            let size = [("page", pages.pagesize.as_str())];
            let mut value = |name, help, value| self.value(name, help, &size, value);
            value("hugetlb_usage_bytes", "Huge pages in use.", pages.usage);
            value(
                "hugetlb_failcnt_total",
                "How often the limit of huge pages was hit.",
                pages.failcnt,
            );
            value(
                "hugetlb_max_bytes",
                "The most huge pages that were used.",
                pages.max,
            );
        }
        for (name, entries) in DEVICES_V1 {
            let entries = metrics.blkio.as_ref().map_or(&[][..], entries);
            for entry in entries {
                let (major, minor) = (entry.major.to_string(), entry.minor.to_string());
                let labels = [
                    ("op", entry.op.as_str()),
                    ("device", entry.device.as_str()),
                    ("major", major.as_str()),
                    ("minor", minor.as_str()),
                ];
                let help = "Input and output of block devices.";
                self.value(&format!("blkio_{name}"), help, &labels, entry.value);
            }
        }
    }

    fn v2(&mut self, metrics: &v2::Metrics) {
        self.scalars(SCALARS_V2, metrics);
        if let Some(memory) = &metrics.memory {
            self.memory(STATS_V2, memory);
        }
        let entries = metrics.io.as_ref().map_or(&[][..], |io| &io.usage);
        for entry in entries {
            let (major, minor) = (entry.major.to_string(), entry.minor.to_string());
            let labels = [("major", major.as_str()), ("minor", minor.as_str())];
            for (name, help, value) in DEVICES_V2 {
                self.value(name, help, &labels, value(entry));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner<'_> = Owner {
        id: "c1",
        namespace: "n",
        runtime: "r",
    };

    fn text(stats: &Any) -> String {
        let mut page = Page::default();
        write(&mut page, OWNER, stats);
        page.finish()
    }

    #[test]
    fn what_there_is_of_version_one_is_written() {
        let metrics = v1::Metrics {
            memory: Some(v1::MemoryStat {
                total_pg_maj_fault: 3,
                ..Default::default()
            }),
            blkio: Some(v1::BlkIoStat {
                sectors_recursive: vec![v1::BlkIoEntry {
                    op: "Read".into(),
                    major: 8,
                    value: 5,
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        let text = text(&any::pack(&metrics));
        let own = "container_id=\"c1\",namespace=\"n\",runtime=\"r\"";
        for line in [
            format!("container_memory_total_pgmajfault_bytes{{{own}}} 3"),
            format!(
                "container_blkio_sectors_recursive_total{{{own},op=\"Read\",device=\"\",major=\"8\",minor=\"0\"}} 5"
            ),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("container_pids"), "{text}");
    }

    #[test]
    fn what_there_is_of_version_two_is_written() {
        let metrics = v2::Metrics {
            cpu: Some(v2::CpuStat {
                usage_usec: 7,
                ..Default::default()
            }),
            io: Some(v2::IoStat {
                usage: vec![v2::IoEntry {
                    wbytes: 9,
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        let text = text(&any::pack(&metrics));
        let own = "container_id=\"c1\",namespace=\"n\",runtime=\"r\"";
        for line in [
            format!("container_cpu_usage_usec_microseconds{{{own}}} 7"),
            format!("container_io_wbytes_bytes{{{own},major=\"0\",minor=\"0\"}} 9"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn other_statistics_are_left_out() {
        let other = Any {
            type_url: "windows.Statistics".into(),
            value: vec![1, 2],
        };
        assert_eq!(text(&other), "");
    }
}
