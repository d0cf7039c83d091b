//! PodSandboxStats, ListPodSandboxStats and StreamPodSandboxStats.

use std::path::Path;

use api_protos::runtime::v1::{
    CpuUsage, LinuxPodSandboxStats, MemoryUsage, NetworkInterfaceUsage, NetworkUsage,
    PodSandboxAttributes, PodSandboxStats, PodSandboxStatsFilter, ProcessUsage,
};

use futures_util::{StreamExt, stream};

use super::selected;
use crate::blocking::blocking;
use crate::cri::container::stats::{self, Usage, value};
use crate::cri::store::{Pod, Sample};
use crate::cri::{Cri, nanoseconds, netns};
use crate::error::{Context as _, Error, Kind, Result};

/// How many pods are asked at a time.
const CONCURRENT: usize = 16;
/// The pod's main interface.
const DEFAULT: &str = "eth0";

/// Returns what a pod uses.
pub async fn of_id(cri: &Cri, id: &str) -> Result<PodSandboxStats> {
    let pod = cri.store.pod(id)?;
    of(cri, &pod).await
}

/// Returns what the pods use that the filter asks for; those that cannot be asked are left out.
pub async fn list(cri: &Cri, filter: Option<PodSandboxStatsFilter>) -> Vec<PodSandboxStats> {
    let filter = filter.unwrap_or_default();
    let mut pods = match filter.id.as_str() {
        "" => cri.store.pods(),
        id => cri.store.pod(id).into_iter().collect(),
    };
    pods.retain(|pod| pod.record().ready && selected(&pod.config().labels, &filter.label_selector));
    // Each waits for its shim and its network: many at a time, in their order.
    let asked = pods.into_iter().map(|pod| async move {
        let told = of(cri, &pod).await;
        told.inspect_err(|error| tracing::debug!(id = pod.id, "stats of a pod: {error:#}"))
    });
    let answers = stream::iter(asked).buffered(CONCURRENT);
    answers
        .filter_map(|told| std::future::ready(told.ok()))
        .collect()
        .await
}

async fn of(cri: &Cri, pod: &Pod) -> Result<PodSandboxStats> {
    let record = pod.record();
    if !record.ready {
        let message = format!("failed to get sandbox {:?}: not running", pod.id);
        return Err(Error::new(Kind::FailedPrecondition, message));
    }
    let config = record.config.unwrap_or_default();
    let containers = cri.store.containers_of(&pod.id);
    let path = record.netns.clone();
    let (containers, sandbox, network) = tokio::join!(
        stats::all(cri, containers),
        stats::usage(cri, &pod.id),
        blocking(move || interfaces(&path)),
    );
    let (sandbox, network) = (sandbox.unwrap_or_default(), network.ok());
    Ok(PodSandboxStats {
        attributes: Some(PodSandboxAttributes {
            id: pod.id.clone(),
            metadata: config.metadata,
            labels: config.labels,
            annotations: config.annotations,
        }),
        linux: Some(LinuxPodSandboxStats {
            cpu: Some(cpu(&sandbox, &containers)),
            memory: Some(memory(&sandbox, &containers)),
            network,
            process: Some(ProcessUsage {
                timestamp: nanoseconds(),
                process_count: value(sandbox.processes),
            }),
            containers,
            io: None,
        }),
        windows: None,
    })
}

type Containers = [api_protos::runtime::v1::ContainerStats];

/// Returns the sum of what the sandbox and the containers have used.
fn cpu(sandbox: &Usage, containers: &Containers) -> CpuUsage {
    let now = Sample {
        at: nanoseconds(),
        usage: sandbox.cpu,
    };
    let mut sum = stats::cpu(sandbox, now, None);
    let used = |cpu: &CpuUsage| cpu.usage_core_nano_seconds.map_or(0, |used| used.value);
    let rate = |cpu: &CpuUsage| cpu.usage_nano_cores.map_or(0, |rate| rate.value);
    let all = || {
        containers
            .iter()
            .filter_map(|container| container.cpu.as_ref())
    };
    sum.usage_core_nano_seconds = value(sandbox.cpu + all().map(used).sum::<u64>());
    sum.usage_nano_cores = value(all().map(rate).sum());
    sum
}

fn memory(sandbox: &Usage, containers: &Containers) -> MemoryUsage {
    let mut sum = stats::memory(sandbox);
    let all = containers
        .iter()
        .filter_map(|container| container.memory.as_ref());
    for memory in all {
        for (sum, more) in [
            (&mut sum.working_set_bytes, memory.working_set_bytes),
            (&mut sum.usage_bytes, memory.usage_bytes),
            (&mut sum.rss_bytes, memory.rss_bytes),
            (&mut sum.page_faults, memory.page_faults),
            (&mut sum.major_page_faults, memory.major_page_faults),
        ] {
            let before = sum.map_or(0, |sum| sum.value);
            *sum = value(before + more.map_or(0, |more| more.value));
        }
    }
    sum
}

/// Returns what has passed the interfaces of a network namespace; the node's is none of the pod's business.
fn interfaces(path: &str) -> Result<NetworkUsage> {
    if path.is_empty() {
        return Err(Error::new(Kind::NotFound, "the pod has the node's network"));
    }
    let path = path.to_owned();
    let read = move || {
        netns::enter(Path::new(&path))?;
        // The table of the calling thread: that of the process is of another namespace.
        let table = std::fs::read_to_string("/proc/thread-self/net/dev");
        table.context(|| "read the table of interfaces")
    };
    let joined = std::thread::spawn(read).join();
    let table =
        joined.unwrap_or_else(|_| Err(Error::new(Kind::Internal, "a thread ended early")))?;
    let mut interfaces: Vec<NetworkInterfaceUsage> = table.lines().filter_map(interface).collect();
    interfaces.retain(|interface| interface.name != "lo");
    let default = interfaces
        .iter()
        .position(|interface| interface.name == DEFAULT);
    let default_interface = default.map(|at| interfaces.remove(at));
    Ok(NetworkUsage {
        timestamp: nanoseconds(),
        default_interface,
        interfaces,
    })
}

/// Parses a line of the kernel's table: name, then bytes, packets and errors received, and so on.
fn interface(line: &str) -> Option<NetworkInterfaceUsage> {
    let (name, counters) = line.split_once(':')?;
    let counters: Vec<u64> = counters
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    Some(NetworkInterfaceUsage {
        name: name.trim().to_owned(),
        rx_bytes: value(*counters.first()?),
        rx_errors: value(*counters.get(2)?),
        tx_bytes: value(*counters.get(8)?),
        tx_errors: value(*counters.get(10)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_understood() {
        let line = "  eth0: 1500 10 1 0 0 0 0 0 700 8 2 0 0 0 0 0";
        let found = interface(line).unwrap();
        assert_eq!(found.name, "eth0");
        assert_eq!((found.rx_bytes, found.rx_errors), (value(1500), value(1)));
        assert_eq!((found.tx_bytes, found.tx_errors), (value(700), value(2)));
        assert!(interface("Inter-|   Receive").is_none());
    }
}
