//! Configuration as text, in the form of version 4: what `cortend config default`, `dump` and `migrate` print.

use std::path::Path;
use std::time::Duration;

use toml::{Table, Value};

use super::{
    Config, DEBUG, Endpoint, GRPC, HISTOGRAM, METADATA, METRICS, SCHEDULER, Socket, TTRPC,
};
use crate::error::{Error, Kind, Result};

const VERSION: i64 = 4;
/// Sections of the versions before 4, and the plugins that they have become.
const MOVED: [(&str, &str); 4] = [
    ("grpc", GRPC),
    ("ttrpc", TTRPC),
    ("debug", DEBUG),
    ("metrics", METRICS),
];

/// Returns all settings of a configuration as text.
pub fn dump(config: &Config) -> Result<String> {
    let mut plugins = Table::new();
    for (uri, table) in &config.plugins {
        plugins.insert(uri.clone(), Value::Table(table.clone()));
    }
    let mut add = |uri: &str, settings: Vec<(&str, Value)>| {
        let entry = plugins.entry(uri).or_insert_with(|| Table::new().into());
        if let Some(table) = entry.as_table_mut() {
            table.extend(
                settings
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value)),
            );
        }
    };
    let size = i64::try_from(config.max_message).unwrap_or(i64::MAX);
    let mut grpc = socket(&config.grpc);
    grpc.push(("max_recv_message_size", size.into()));
    grpc.push(("max_send_message_size", size.into()));
    add(GRPC, grpc);
    add(TTRPC, socket(&config.ttrpc));
    let format = if config.log_json { "json" } else { "text" };
    let level = config.log_level.as_str();
    let mut debug = match &config.debug {
        None => vec![("address", "".into())],
        Some(Endpoint::Tcp(address)) => vec![("address", address.as_str().into())],
        Some(Endpoint::Unix(path)) => socket(path),
    };
    debug.extend([("level", level.into()), ("format", format.into())]);
    add(DEBUG, debug);
    let address = config.metrics.as_deref().unwrap_or_default();
    add(METRICS, vec![("address", address.into())]);
    add(HISTOGRAM, vec![("grpc_histogram", config.histogram.into())]);
    let policy = if config.content_shared {
        "shared"
    } else {
        "isolated"
    };
    add(METADATA, vec![("content_sharing_policy", policy.into())]);
    let gc = &config.gc;
    let threshold = |count: u64| Value::from(i64::try_from(count).unwrap_or(i64::MAX));
    add(
        SCHEDULER,
        vec![
            ("pause_threshold", gc.pause_threshold.into()),
            ("deletion_threshold", threshold(gc.deletion_threshold)),
            ("mutation_threshold", threshold(gc.mutation_threshold)),
            ("schedule_delay", duration(gc.schedule_delay).into()),
            ("startup_delay", duration(gc.startup_delay).into()),
        ],
    );
    let mut table = Table::new();
    table.insert("version".into(), VERSION.into());
    table.insert("root".into(), text(&config.root));
    table.insert("state".into(), text(&config.state));
    if let Some(score) = config.oom_score {
        table.insert("oom_score".into(), i64::from(score).into());
    }
    let disabled = config.disabled.iter().cloned().map(Value::String);
    table.insert("disabled_plugins".into(), Value::Array(disabled.collect()));
    let path = config.cgroup.clone().unwrap_or_default();
    let cgroup = Table::from_iter([("path".to_owned(), text(&path))]);
    table.insert("cgroup".into(), cgroup.into());
    let required = config.required.iter().cloned().map(Value::String);
    table.insert("required_plugins".into(), Value::Array(required.collect()));
    let timeouts = config.timeouts.iter();
    let timeouts = timeouts.map(|(key, limit)| (key.to_owned(), duration(limit).into()));
    table.insert("timeouts".into(), Value::Table(timeouts.collect()));
    let proxies = Table::try_from(&config.snapshotters)
        .map_err(|error| Error::other("write TOML", error).with_kind(Kind::Internal))?;
    table.insert("proxy_plugins".into(), proxies.into());
    table.insert("plugins".into(), plugins.into());
    print(&table)
}

/// Returns what a file of an earlier version says, in the form of version 4.
pub fn migrate(mut table: Table) -> Result<String> {
    let mut plugins = match table.remove("plugins") {
        Some(Value::Table(plugins)) => plugins,
        _ => Table::new(),
    };
    for (section, uri) in MOVED {
        if let Some(settings) = table.remove(section) {
            plugins.entry(uri).or_insert(settings);
        }
    }
    table.insert("version".into(), VERSION.into());
    table.insert("plugins".into(), plugins.into());
    print(&table)
}

fn print(table: &Table) -> Result<String> {
    toml::to_string_pretty(table)
        .map_err(|error| Error::other("write TOML", error).with_kind(Kind::Internal))
}

fn socket(socket: &Socket) -> Vec<(&'static str, Value)> {
    vec![
        ("address", text(&socket.path)),
        ("uid", i64::from(socket.uid).into()),
        ("gid", i64::from(socket.gid).into()),
    ]
}

fn text(path: &Path) -> Value {
    Value::String(path.to_string_lossy().into_owned())
}

fn duration(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::ProxyPlugin;

    #[test]
    fn what_is_printed_is_read_as_the_same() {
        let mut config = Config {
            root: "/r".into(),
            oom_score: Some(-7),
            metrics: Some("127.0.0.1:1338".into()),
            histogram: true,
            debug: Some(Endpoint::Unix(Socket {
                path: "/d".into(),
                uid: 3,
                gid: 4,
            })),
            ..Config::default()
        };
        config
            .disabled
            .push("io.containerd.snapshotter.v1.native".into());
        let proxy = ProxyPlugin {
            kind: "snapshot".into(),
            address: "/s".into(),
            capabilities: vec!["rebase".into()],
            ..ProxyPlugin::default()
        };
        config.snapshotters.insert("far".into(), proxy);
        config.timeouts.load = Duration::from_secs(9);
        config.cgroup = Some("/daemons".into());
        config.required.push("io.containerd.grpc.v1.cri".into());
        config.gc.schedule_delay = Duration::from_millis(1500);
        let own = "env = [\"A=1\"]".parse().unwrap();
        config
            .plugins
            .insert("io.containerd.shim.v1.manager".into(), own);
        let mut unknown = Vec::new();
        let again = Config::parse(&dump(&config).unwrap(), &mut unknown).unwrap();
        assert_eq!((again, unknown), (config, Vec::new()));
    }

    #[test]
    fn sections_of_old_files_become_plugins() {
        let old = "version = 2\nroot = \"/r\"\n[grpc]\naddress = \"/a\"\ngid = 5\n[debug]\nlevel = \"debug\"\n\
                   address = \"/d\"\n[metrics]\naddress = \"h:1\"\ngrpc_histogram = true\n\
                   [plugins.\"io.containerd.gc.v1.scheduler\"]\nmutation_threshold = 3\n";
        let new = migrate(old.parse().unwrap()).unwrap();
        assert!(new.contains("version = 4"), "{new}");
        let parse = |text: &str| Config::parse(text, &mut Vec::new()).unwrap();
        assert_eq!(parse(&new), parse(old));
    }
}
