//! What the daemon tells of itself and its tasks: metrics for Prometheus, and variables for who debugs it.
//!
//! | file | what |
//! |---|---|
//! | `cgroups.rs` | the control groups of tasks, under containerd's names |
//! | `calls.rs` | the calls of the gRPC services |
//! | `operations.rs` | the operations of CRI |
//! | `process.rs` | the daemon's own process |
//! | `page.rs` | Prometheus's text format |
//! | `serve.rs` | the HTTP server of both |

pub mod calls;
pub mod cgroups;
pub mod operations;
pub mod page;
mod process;
pub mod serve;

use std::collections::HashMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use prost_types::Any;
use serde_json::{Value, json};

use crate::blocking::blocking;
use crate::context::Context;
use crate::error::Result;
use crate::gc::Collector;
use crate::metadata::{Containers, Namespaces, Store};
use crate::tasks::Tasks;
use calls::Calls;
use cgroups::Owner;
use operations::Operations;
use page::Page;
use process::Usage;

/// Where metrics are taken from; clones share it.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub namespaces: Namespaces,
    pub containers: Containers,
    pub tasks: Tasks,
    pub collector: Collector,
    pub store: std::sync::Arc<Store>,
    pub calls: Calls,
    /// Of CRI, if there is one.
    pub operations: Option<std::sync::Arc<Operations>>,
    /// Whether control groups of tasks are among them.
    pub of_tasks: bool,
    pub started: Started,
    /// The daemon's version and revision.
    pub build: [&'static str; 2],
}

/// When the daemon was started.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    at: SystemTime,
    instant: Instant,
}

impl Started {
    /// Returns the present moment.
    pub fn now() -> Self {
        Self {
            at: SystemTime::now(),
            instant: Instant::now(),
        }
    }
}

/// A task and what it uses.
struct Sample {
    namespace: String,
    id: String,
    runtime: String,
    stats: Any,
}

impl Metrics {
    /// Returns a page of all metrics. A shim that hangs costs it the time of one question, whatever else there is.
    pub async fn page(&self) -> Result<String> {
        let samples = match self.of_tasks {
            true => self.samples().await?,
            false => Vec::new(),
        };
        let mut page = Page::default();
        for sample in &samples {
            let owner = Owner {
                id: &sample.id,
                namespace: &sample.namespace,
                runtime: &sample.runtime,
            };
            cgroups::write(&mut page, owner, &sample.stats);
        }
        self.calls.write(&mut page);
        if let Some(operations) = &self.operations {
            operations.write(&mut page);
        }
        self.own(&mut page);
        Ok(page.finish())
    }

    /// Returns the daemon's variables, for who wants to know what it is busy with.
    pub async fn variables(&self) -> Result<Value> {
        let usage = Usage::read();
        let mut tasks = serde_json::Map::new();
        for namespace in self.contexts().await? {
            let count = self.tasks.shims().list(namespace.namespace()).len();
            tasks.insert(namespace.namespace().to_owned(), count.into());
        }
        let runtime = tokio::runtime::Handle::current();
        let (runtime, collections) = (runtime.metrics(), self.collector.collections());
        let changes = self.store.changes();
        Ok(json!({
            "cmdline": std::env::args().collect::<Vec<String>>(),
            "version": self.build[0],
            "revision": self.build[1],
            "uptime_seconds": self.started.instant.elapsed().as_secs(),
            "process": {
                "cpu_seconds": usage.cpu_seconds,
                "resident_bytes": usage.resident_bytes,
                "virtual_bytes": usage.virtual_bytes,
                "threads": usage.threads,
                "descriptors": usage.descriptors,
            },
            "runtime": {
                "workers": runtime.num_workers(),
                "alive_tasks": runtime.num_alive_tasks(),
                "waiting_tasks": runtime.global_queue_depth(),
            },
            "tasks": tasks,
            "calls": self.calls.running(),
            "store": {"mutations": changes.mutations(), "removals": changes.removals()},
            "gc": {"succeeded": collections.succeeded(), "failed": collections.failed()},
        }))
    }

    async fn contexts(&self) -> Result<Vec<Context>> {
        let namespaces = self.namespaces.clone();
        let names = blocking(move || namespaces.list()).await?;
        names
            .into_iter()
            .map(|(name, _)| Context::new(name))
            .collect()
    }

    /// Asks the tasks of all namespaces at once.
    async fn samples(&self) -> Result<Vec<Sample>> {
        let asked = self.contexts().await?;
        let asked = asked.into_iter().map(|context| self.samples_of(context));
        let mut samples = Vec::new();
        for answer in join_all(asked).await {
            samples.extend(answer?);
        }
        Ok(samples)
    }

    async fn samples_of(&self, context: Context) -> Result<Vec<Sample>> {
        let metrics = self.tasks.metrics(&context, &[] as &[&str]).await?;
        if metrics.is_empty() {
            return Ok(Vec::new());
        }
        let (containers, owner) = (self.containers.clone(), context.clone());
        let containers = blocking(move || containers.list(&owner, &[] as &[&str])).await?;
        let runtimes = containers
            .into_iter()
            .map(|container| (container.id, container.runtime));
        let mut runtimes: HashMap<String, String> = runtimes.collect();
        let samples = metrics.into_iter().filter_map(|metric| {
            Some(Sample {
                namespace: context.namespace().to_owned(),
                runtime: runtimes.remove(&metric.id).unwrap_or_default(),
                id: metric.id,
                stats: metric.data?,
            })
        });
        Ok(samples.collect())
    }

    /// Adds what there is to tell of the daemon itself.
    fn own(&self, page: &mut Page) {
        let [version, revision] = self.build;
        page.counter(
            "containerd_build_info_total",
            "The build, in labels.",
            &[("revision", revision), ("version", version)],
            1,
        );
        let collections = self.collector.collections();
        for (status, count) in [
            ("success", collections.succeeded()),
            ("fail", collections.failed()),
        ] {
            page.counter(
                "containerd_gc_collections_total",
                "Collections of garbage.",
                &[("status", status)],
                count,
            );
        }
        let help = "How long collections of garbage have taken.";
        page.histogram("containerd_gc_gc_seconds", help, &[], &collections.seconds);
        let usage = Usage::read();
        let started = self.started.at.duration_since(UNIX_EPOCH);
        page.counter(
            "process_cpu_seconds_total",
            "Processor time of the daemon.",
            &[],
            usage.cpu_seconds,
        );
        for (name, help, value) in [
            (
                "resident_memory_bytes",
                "Resident memory.",
                usage.resident_bytes,
            ),
            (
                "virtual_memory_bytes",
                "Address space.",
                usage.virtual_bytes,
            ),
            ("open_fds", "Open descriptors.", usage.descriptors),
            ("max_fds", "The most descriptors.", usage.max_descriptors),
            ("threads", "Threads.", usage.threads),
            (
                "start_time_seconds",
                "When the daemon was started, since the epoch.",
                started.unwrap_or_default().as_secs(),
            ),
        ] {
            page.gauge(&format!("process_{name}"), help, &[], value);
        }
    }
}
