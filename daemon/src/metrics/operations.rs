//! How long the operations of CRI take, under the names that containerd has for them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::page::Page;
use crate::histogram::Histogram;

/// What CRI does; of each, only what succeeds counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    ListPods,
    ConnectPod,
    DisconnectPod,
    RunPod,
    StopPod,
    RemovePod,
    ListContainers,
    CreateContainer,
    StartContainer,
    StopContainer,
    RemoveContainer,
}

/// What network plugins are asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetworkOperation {
    SetUp,
    TearDown,
}

/// The operations so far.
#[derive(Debug, Default)]
pub struct Operations {
    /// By the runtime, which some are told with.
    took: Mutex<BTreeMap<(Operation, String), Histogram>>,
    networks: Mutex<BTreeMap<NetworkOperation, Network>>,
    pulls: Mutex<Pulls>,
}

#[derive(Debug, Default)]
struct Network {
    failed: u64,
    took: Histogram,
}

#[derive(Debug, Default)]
struct Pulls {
    running: u64,
    succeeded: u64,
    failed: u64,
}

/// A pull that goes on; one that is dropped before it has succeeded has failed.
#[derive(Debug)]
pub struct Pull<'a> {
    operations: &'a Operations,
    succeeded: bool,
}

impl Pull<'_> {
    /// Ends the pull as one that has succeeded.
    pub fn succeeded(mut self) {
        self.succeeded = true;
    }
}

impl Drop for Pull<'_> {
    fn drop(&mut self) {
        let mut pulls = lock(&self.operations.pulls);
        pulls.running -= 1;
        match self.succeeded {
            true => pulls.succeeded += 1,
            false => pulls.failed += 1,
        }
    }
}

impl Operation {
    /// Those that are told without a runtime.
    const OF_NONE: [Self; 4] = [
        Self::ListPods,
        Self::ConnectPod,
        Self::DisconnectPod,
        Self::ListContainers,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::ListPods => "sandbox_list",
            Self::ConnectPod => "sandbox_create_network",
            Self::DisconnectPod => "sandbox_delete_network",
            Self::RunPod => "sandbox_runtime_create",
            Self::StopPod => "sandbox_runtime_stop",
            Self::RemovePod => "sandbox_remove",
            Self::ListContainers => "container_list",
            Self::CreateContainer => "container_create",
            Self::StartContainer => "container_start",
            Self::StopContainer => "container_stop",
            Self::RemoveContainer => "container_remove",
        }
    }
}

impl NetworkOperation {
    fn name(self) -> &'static str {
        match self {
            Self::SetUp => "set_up_pod",
            Self::TearDown => "tear_down_pod",
        }
    }
}

impl Operations {
    /// Counts an operation that has succeeded, with the runtime that it is told with.
    pub fn succeeded(&self, operation: Operation, runtime: &str, since: Instant) {
        let key = (operation, runtime.to_owned());
        let mut took = lock(&self.took);
        took.entry(key).or_default().add(since.elapsed());
    }

    /// Counts what network plugins were asked to do.
    pub fn asked_network(&self, operation: NetworkOperation, since: Instant, succeeded: bool) {
        let mut networks = lock(&self.networks);
        let network = networks.entry(operation).or_default();
        network.took.add(since.elapsed());
        network.failed += u64::from(!succeeded);
    }

    /// Counts a pull that begins.
    pub fn pull(&self) -> Pull<'_> {
        lock(&self.pulls).running += 1;
        Pull {
            operations: self,
            succeeded: false,
        }
    }

    /// Adds what was counted.
    pub fn write(&self, page: &mut Page) {
        let add = |page: &mut Page, operation: Operation, runtime: &str, took: &Histogram| {
            let name = format!("containerd_cri_{}_seconds", operation.name());
            let help = "How long operations of CRI have taken that succeeded.";
            match Operation::OF_NONE.contains(&operation) {
                true => page.histogram(&name, help, &[], took),
                false => page.histogram(&name, help, &[("runtime", runtime)], took),
            }
        };
        let took = lock(&self.took);
        // Those without a runtime are there from the beginning.
        for operation in Operation::OF_NONE {
            if !took.contains_key(&(operation, String::new())) {
                add(page, operation, "", &Histogram::default());
            }
        }
        for ((operation, runtime), took) in took.iter() {
            add(page, *operation, runtime, took);
        }
        for (operation, network) in lock(&self.networks).iter() {
            let labels = [("operation_type", operation.name())];
            let name = "containerd_cri_network_plugin_operations";
            let help = "What network plugins were asked to do.";
            let count = network.took.count();
            page.counter(&format!("{name}_total"), help, &labels, count);
            if network.failed > 0 {
                let help = "What network plugins were asked to do and could not.";
                page.counter(
                    &format!("{name}_errors_total"),
                    help,
                    &labels,
                    network.failed,
                );
            }
            let help = "How long network plugins have taken.";
            // Containerd has the unit twice.
            let name = format!("{name}_duration_seconds_seconds");
            page.histogram(&name, help, &labels, &network.took);
        }
        let pulls = lock(&self.pulls);
        let name = "containerd_cri_sandboxed_image_pulls_total";
        for (status, count) in [("success", pulls.succeeded), ("failure", pulls.failed)] {
            if count > 0 {
                page.counter(name, "Pulls of images.", &[("status", status)], count);
            }
        }
        let name = "containerd_cri_sandboxed_in_progress_image_pulls_total";
        page.gauge(name, "Pulls of images that go on.", &[], pulls.running);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_told_under_containerds_names() {
        let operations = Operations::default();
        let now = Instant::now();
        operations.succeeded(Operation::ListPods, "", now);
        operations.succeeded(Operation::RunPod, "io.containerd.runc.v2", now);
        operations.asked_network(NetworkOperation::SetUp, now, false);
        let _running = operations.pull();
        operations.pull().succeeded();
        let mut page = Page::default();
        operations.write(&mut page);
        let text = page.finish();
        for line in [
            "containerd_cri_sandbox_list_seconds_count 1",
            "containerd_cri_container_list_seconds_count 0",
            "containerd_cri_sandbox_runtime_create_seconds_count{runtime=\"io.containerd.runc.v2\"} 1",
            "containerd_cri_network_plugin_operations_total{operation_type=\"set_up_pod\"} 1",
            "containerd_cri_network_plugin_operations_errors_total{operation_type=\"set_up_pod\"} 1",
            "containerd_cri_sandboxed_image_pulls_total{status=\"success\"} 1",
            "containerd_cri_sandboxed_in_progress_image_pulls_total 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}: {text}");
        }
    }
}
