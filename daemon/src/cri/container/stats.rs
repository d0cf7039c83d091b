//! ContainerStats, ListContainerStats and StreamContainerStats.

use std::sync::Arc;

use api_protos::any;
use api_protos::io::containerd::cgroups::{v1, v2};
use api_protos::runtime::v1::{
    ContainerAttributes, ContainerStats, ContainerStatsFilter, CpuUsage, FilesystemIdentifier,
    FilesystemUsage, MemoryUsage, SwapUsage, UInt64Value,
};
use futures_util::{StreamExt, stream};
use prost_types::Any;

use crate::cri::pod::selected;
use crate::cri::store::{Container, Sample};
use crate::cri::usage::Measured;
use crate::cri::{Cri, nanoseconds};
use crate::error::{Error, Kind, Result};

/// How many containers are asked at a time.
const CONCURRENT: usize = 32;

/// What a container, or a pod's sandbox, uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Nanoseconds of processor time.
    pub cpu: u64,
    pub memory: u64,
    pub inactive_file: u64,
    pub limit: u64,
    pub rss: u64,
    pub faults: u64,
    pub major_faults: u64,
    pub swap: Option<(u64, u64)>,
    pub processes: u64,
}

/// Returns what a container uses.
pub async fn stats(cri: &Cri, id: &str) -> Result<ContainerStats> {
    let container = cri.store.container(id)?;
    of(cri, &container).await
}

/// Returns what the containers use that the filter asks for; those that cannot be asked are left out.
pub async fn list(cri: &Cri, filter: Option<ContainerStatsFilter>) -> Vec<ContainerStats> {
    let filter = filter.unwrap_or_default();
    let mut containers = match filter.id.as_str() {
        "" => cri.store.containers(),
        id => cri.store.container(id).into_iter().collect(),
    };
    containers.retain(|container| {
        let pod = filter.pod_sandbox_id.is_empty()
            || container.record.pod.starts_with(&filter.pod_sandbox_id);
        pod && selected(&container.config().labels, &filter.label_selector)
            && container.state().pid().is_some()
    });
    all(cri, containers).await
}

/// Returns what containers use, asking many at a time.
pub async fn all(cri: &Cri, containers: Vec<Arc<Container>>) -> Vec<ContainerStats> {
    let asked = containers.into_iter().map(|container| async move {
        let stats = of(cri, &container).await;
        (container, stats)
    });
    let mut answers = Vec::new();
    let mut arriving = stream::iter(asked).buffer_unordered(CONCURRENT);
    while let Some((container, stats)) = arriving.next().await {
        match stats {
            Ok(stats) => answers.push(stats),
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => tracing::debug!(id = container.id, "stats of a container: {error:#}"),
        }
    }
    answers
}

async fn of(cri: &Cri, container: &Container) -> Result<ContainerStats> {
    let config = container.config();
    let mut stats = ContainerStats {
        attributes: Some(ContainerAttributes {
            id: container.id.clone(),
            metadata: config.metadata,
            labels: config.labels,
            annotations: config.annotations,
        }),
        writable_layer: writable_layer(cri, container).await,
        ..ContainerStats::default()
    };
    if container.state().pid().is_none() {
        return Ok(stats);
    }
    let usage = usage(cri, &container.id).await?;
    let now = Sample {
        at: nanoseconds(),
        usage: usage.cpu,
    };
    let before = container.sample(now);
    (stats.cpu, stats.memory) = (Some(cpu(&usage, now, before)), Some(memory(&usage)));
    stats.swap = usage.swap.map(|(used, limit)| SwapUsage {
        timestamp: now.at,
        swap_available_bytes: value(limit.saturating_sub(used)),
        swap_usage_bytes: value(used),
    });
    Ok(stats)
}

/// Returns what the processes of a container, or of a pod's sandbox, use.
pub async fn usage(cri: &Cri, id: &str) -> Result<Usage> {
    let task = cri.parts.tasks.get(&cri.store.context, id).await?;
    let stats = task.stats().await?;
    let stats = stats.ok_or_else(|| Error::new(Kind::Unavailable, "the shim has no metrics"))?;
    decode(&stats)
}

/// Returns processor time as CRI has it, with the rate since the sample before.
pub fn cpu(usage: &Usage, now: Sample, before: Option<Sample>) -> CpuUsage {
    CpuUsage {
        timestamp: now.at,
        usage_core_nano_seconds: value(usage.cpu),
        usage_nano_cores: before.and_then(|before| value(rate(before, now)?)),
        psi: None,
    }
}

/// Returns memory as CRI has it.
pub fn memory(usage: &Usage) -> MemoryUsage {
    let working_set = usage.memory.saturating_sub(usage.inactive_file);
    // A limit that no machine has is none.
    let limited = usage.limit > 0 && usage.limit < 1 << 62;
    MemoryUsage {
        timestamp: nanoseconds(),
        working_set_bytes: value(working_set),
        available_bytes: limited.then(|| UInt64Value {
            value: usage.limit.saturating_sub(working_set),
        }),
        usage_bytes: value(usage.memory),
        rss_bytes: value(usage.rss),
        page_faults: value(usage.faults),
        major_page_faults: value(usage.major_faults),
        psi: None,
    }
}

/// Returns a number as CRI has it.
pub fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

/// Returns how many nanoseconds of processor time passed in a second.
fn rate(before: Sample, now: Sample) -> Option<u64> {
    let passed = u64::try_from(now.at - before.at)
        .ok()
        .filter(|passed| *passed > 0)?;
    let used = now.usage.checked_sub(before.usage)?;
    Some((u128::from(used) * 1_000_000_000 / u128::from(passed)) as u64)
}

fn decode(stats: &Any) -> Result<Usage> {
    let broken = |error| Error::other("decode metrics", error);
    if let Some(metrics) = any::unpack::<v1::Metrics>(stats) {
        return metrics.map(|metrics| of_v1(&metrics)).map_err(broken);
    }
    if let Some(metrics) = any::unpack::<v2::Metrics>(stats) {
        return metrics.map(|metrics| of_v2(&metrics)).map_err(broken);
    }
    let message = format!("metrics of type {:?}", stats.type_url);
    Err(Error::new(Kind::Unimplemented, message))
}

fn of_v1(metrics: &v1::Metrics) -> Usage {
    let cpu = metrics
        .cpu
        .clone()
        .unwrap_or_default()
        .usage
        .unwrap_or_default();
    let memory = metrics.memory.unwrap_or_default();
    let used = memory.usage.unwrap_or_default();
    let swap = memory.swap.map(|swap| {
        // The counter has memory in it.
        let only = swap.usage.saturating_sub(used.usage);
        (only, swap.limit.saturating_sub(used.limit))
    });
    Usage {
        cpu: cpu.total,
        memory: used.usage,
        inactive_file: memory.total_inactive_file,
        limit: used.limit,
        rss: memory.total_rss,
        faults: memory.total_pg_fault,
        major_faults: memory.total_pg_maj_fault,
        swap,
        processes: metrics.pids.unwrap_or_default().current,
    }
}

fn of_v2(metrics: &v2::Metrics) -> Usage {
    let cpu = metrics.cpu.unwrap_or_default();
    let memory = metrics.memory.unwrap_or_default();
    Usage {
        cpu: cpu.usage_usec * 1000,
        memory: memory.usage,
        inactive_file: memory.inactive_file,
        limit: memory.usage_limit,
        rss: memory.anon,
        faults: memory.pgfault,
        major_faults: memory.pgmajfault,
        swap: Some((memory.swap_usage, memory.swap_limit)),
        processes: metrics.pids.unwrap_or_default().current,
    }
}

async fn writable_layer(cri: &Cri, container: &Container) -> Option<FilesystemUsage> {
    let snapshotter = container.record.snapshotter.clone();
    let mountpoint = cri.folders.snapshotter(&snapshotter);
    let measured = cri.usages.of((snapshotter, container.id.clone())).await;
    let Measured { usage, at } = measured.ok()?;
    Some(FilesystemUsage {
        timestamp: at,
        fs_id: Some(FilesystemIdentifier {
            mountpoint: mountpoint.to_string_lossy().into_owned(),
        }),
        used_bytes: value(usage.size.max(0) as u64),
        inodes_used: value(usage.inodes.max(0) as u64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_time_between_two_samples() {
        let sample = |at, usage| Sample { at, usage };
        for (before, now, wanted) in [
            (sample(0, 0), sample(1_000_000_000, 5), Some(5)),
            (sample(0, 10), sample(500_000_000, 20), Some(20)),
            (sample(5, 10), sample(5, 20), None),
            (sample(0, 10), sample(5, 1), None),
        ] {
            assert_eq!(rate(before, now), wanted);
        }
    }

    #[test]
    fn metrics_of_both_versions_are_understood() {
        let first = v1::Metrics {
            memory: Some(v1::MemoryStat {
                usage: Some(v1::MemoryEntry {
                    usage: 100,
                    limit: 400,
                    ..Default::default()
                }),
                total_inactive_file: 30,
                ..Default::default()
            }),
            ..Default::default()
        };
        let usage = decode(&any::pack(&first)).unwrap();
        let cri = memory(&usage);
        assert_eq!(cri.working_set_bytes, value(70));
        assert_eq!(cri.available_bytes, value(330));
        let second = v2::Metrics {
            cpu: Some(v2::CpuStat {
                usage_usec: 7,
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(decode(&any::pack(&second)).unwrap().cpu, 7000);
        assert!(decode(&Any::default()).is_err());
    }
}
