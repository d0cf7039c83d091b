//! `corten tasks metrics`

use anyhow::{Result, bail};
use api_protos::any;
use api_protos::containerd::services::tasks::v1::MetricsRequest;
use api_protos::io::containerd::cgroups::{v1, v2};
use clap::Args;
use serde_json::json;

use crate::cli::Session;
use crate::client::Doing as _;
use crate::commands::output::List;
use crate::format::{bytes, time};

/// Show what a container uses
#[derive(Debug, Args)]
#[command(visible_alias = "metric")]
pub struct Options {
    /// The container
    id: String,
}

/// Shows.
pub async fn run(session: &Session, options: Options) -> Result<()> {
    let id = options.id;
    let request = MetricsRequest {
        filters: vec![format!("id=={id}")],
    };
    let answer = session
        .client
        .tasks()
        .metrics(request)
        .await
        .doing(|| format!("measure task {id}"))?;
    let Some(metric) = answer.into_inner().metrics.into_iter().next() else {
        bail!("measure task {id}: the daemon has no figures for it");
    };
    let data = metric.data.unwrap_or_default();
    let mut rows: Vec<(&str, u64, bool)> = Vec::new();
    if let Some(figures) = any::unpack::<v2::Metrics>(&data) {
        let figures = figures?;
        let (memory, cpu, pids) = (
            figures.memory.unwrap_or_default(),
            figures.cpu.unwrap_or_default(),
            figures.pids.unwrap_or_default(),
        );
        rows.extend([
            ("memory.usage", memory.usage, true),
            ("memory.limit", memory.usage_limit, true),
            ("memory.anon", memory.anon, true),
            ("memory.file", memory.file, true),
            ("cpu.usage_usec", cpu.usage_usec, false),
            ("cpu.user_usec", cpu.user_usec, false),
            ("cpu.system_usec", cpu.system_usec, false),
            ("pids.current", pids.current, false),
            ("pids.limit", pids.limit, false),
        ]);
    } else if let Some(figures) = any::unpack::<v1::Metrics>(&data) {
        let figures = figures?;
        let memory = figures.memory.unwrap_or_default();
        let usage = memory.usage.unwrap_or_default();
        let cpu = figures.cpu.unwrap_or_default().usage.unwrap_or_default();
        let pids = figures.pids.unwrap_or_default();
        rows.extend([
            ("memory.usage", usage.usage, true),
            ("memory.limit", usage.limit, true),
            ("memory.rss", memory.rss, true),
            ("memory.cache", memory.cache, true),
            ("cpu.usage_usec", cpu.total / 1000, false),
            ("cpu.user_usec", cpu.user / 1000, false),
            ("cpu.system_usec", cpu.kernel / 1000, false),
            ("pids.current", pids.current, false),
            ("pids.limit", pids.limit, false),
        ]);
    } else {
        bail!(
            "measure task {id}: figures of the unknown type {}",
            data.type_url
        );
    }
    let mut list = List::new(&["METRIC", "VALUE"]);
    list.add(
        vec!["id".into(), id.clone()],
        json!({"metric": "id", "value": id}),
    );
    let at = time(metric.timestamp.as_ref());
    list.add(
        vec!["timestamp".into(), at.clone()],
        json!({"metric": "timestamp", "value": at}),
    );
    for (name, value, size) in rows {
        // What has no limit says so by the largest number there is, or the largest of whole pages; of processes by 0.
        let text = match value {
            0 if name == "pids.limit" => "no limit".into(),
            value if value >= u64::MAX / 4 => "no limit".into(),
            value if size => bytes(value),
            value => value.to_string(),
        };
        list.add(
            vec![name.into(), text],
            json!({"metric": name, "value": value}),
        );
    }
    list.print(session, false)
}
