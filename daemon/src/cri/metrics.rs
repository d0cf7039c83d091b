//! ListMetricDescriptors, ListPodSandboxMetrics and StreamPodSandboxMetrics.

use api_protos::runtime::v1::{
    ContainerMetrics, ContainerStats, Metric, MetricDescriptor, MetricType, PodSandboxMetrics,
    UInt64Value,
};

use super::container::stats;
use super::{Cri, nanoseconds};

/// What the values of every metric are labelled with.
const LABELS: [&str; 5] = ["id", "name", "image", "pod", "namespace"];

/// A metric: its name, what it is, and how it is had.
struct Known {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: fn(&ContainerStats) -> Option<UInt64Value>,
}

const KNOWN: [Known; 7] = [
    Known {
        name: "container_cpu_usage_seconds_total",
        help: "Cumulative cpu time consumed in seconds.",
        kind: MetricType::Counter,
        value: |stats| {
            let used = stats.cpu.as_ref()?.usage_core_nano_seconds?.value;
            stats::value(used / 1_000_000_000)
        },
    },
    Known {
        name: "container_memory_usage_bytes",
        help: "Current memory usage in bytes, with all memory whenever it was accessed.",
        kind: MetricType::Gauge,
        value: |stats| stats.memory.as_ref()?.usage_bytes,
    },
    Known {
        name: "container_memory_working_set_bytes",
        help: "Current working set in bytes.",
        kind: MetricType::Gauge,
        value: |stats| stats.memory.as_ref()?.working_set_bytes,
    },
    Known {
        name: "container_memory_rss",
        help: "Size of resident memory in bytes.",
        kind: MetricType::Gauge,
        value: |stats| stats.memory.as_ref()?.rss_bytes,
    },
    Known {
        name: "container_memory_swap",
        help: "Swap usage in bytes.",
        kind: MetricType::Gauge,
        value: |stats| stats.swap.as_ref()?.swap_usage_bytes,
    },
    Known {
        name: "container_fs_usage_bytes",
        help: "Bytes that the container's writable layer takes.",
        kind: MetricType::Gauge,
        value: |stats| stats.writable_layer.as_ref()?.used_bytes,
    },
    Known {
        name: "container_fs_inodes_total",
        help: "Inodes that the container's writable layer takes.",
        kind: MetricType::Gauge,
        value: |stats| stats.writable_layer.as_ref()?.inodes_used,
    },
];

/// Returns what metrics there are.
pub fn descriptors() -> Vec<MetricDescriptor> {
    let known = KNOWN.iter().map(|known| MetricDescriptor {
        name: known.name.into(),
        help: known.help.into(),
        label_keys: LABELS.map(str::to_owned).to_vec(),
    });
    known.collect()
}

/// Returns the metrics of all pods that run.
pub async fn list(cri: &Cri) -> Vec<PodSandboxMetrics> {
    let mut all = Vec::new();
    for pod in cri.store.pods() {
        let record = pod.record();
        if !record.ready {
            continue;
        }
        let metadata = record.config.and_then(|config| config.metadata);
        let metadata = metadata.unwrap_or_default();
        let containers = cri.store.containers_of(&pod.id);
        let images = containers.iter().map(|container| {
            let image = container.config().image.unwrap_or_default().image;
            (container.id.clone(), image)
        });
        let images: std::collections::HashMap<String, String> = images.collect();
        let of_pod = [metadata.name, metadata.namespace];
        let metrics = stats::all(cri, containers).await;
        let metrics = metrics
            .iter()
            .map(|stats| of_container(stats, &images, &of_pod));
        all.push(PodSandboxMetrics {
            pod_sandbox_id: pod.id.clone(),
            metrics: Vec::new(),
            container_metrics: metrics.collect(),
        });
    }
    all
}

fn of_container(
    stats: &ContainerStats,
    images: &std::collections::HashMap<String, String>,
    [pod, namespace]: &[String; 2],
) -> ContainerMetrics {
    let attributes = stats.attributes.clone().unwrap_or_default();
    let id = attributes.id;
    let labels = [
        id.clone(),
        attributes.metadata.unwrap_or_default().name,
        images.get(&id).cloned().unwrap_or_default(),
        pod.clone(),
        namespace.clone(),
    ];
    let metrics = KNOWN.iter().filter_map(|known| {
        Some(Metric {
            name: known.name.into(),
            timestamp: nanoseconds(),
            metric_type: known.kind.into(),
            label_values: labels.to_vec(),
            value: Some((known.value)(stats)?),
        })
    });
    ContainerMetrics {
        metrics: metrics.collect(),
        container_id: id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_protos::runtime::v1::MemoryUsage;

    #[test]
    fn every_value_has_a_descriptor_with_as_many_labels() {
        let stats = ContainerStats {
            memory: Some(MemoryUsage {
                usage_bytes: stats::value(5),
                ..MemoryUsage::default()
            }),
            ..ContainerStats::default()
        };
        let found = of_container(&stats, &Default::default(), &Default::default());
        let descriptors = descriptors();
        assert_eq!(found.metrics.len(), 1);
        for metric in found.metrics {
            let of = descriptors.iter().find(|known| known.name == metric.name);
            assert_eq!(of.unwrap().label_keys.len(), metric.label_values.len());
        }
    }
}
