//! The settings of transfers.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::config::duration;
use crate::error::{Result, invalid};

/// The plugin under which containerd keeps them.
pub const PLUGIN: &str = "io.containerd.transfer.v1.local";

/// The settings of transfers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How many layers of an image are fetched and unpacked at a time.
    pub downloads: usize,
    /// How many blobs of an image are pushed at a time.
    pub uploads: usize,
    /// The folder with the settings of registries, for clients that name none.
    pub host_dir: Option<PathBuf>,
    /// How long a registry may send next to nothing.
    pub stall: Duration,
    /// The snapshotter for clients that name none.
    pub snapshotter: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            downloads: 3,
            uploads: 3,
            host_dir: None,
            stall: crate::registry::hosts::Patience::default().stall,
            snapshotter: "overlayfs".to_owned(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Written {
    max_concurrent_downloads: Option<usize>,
    max_concurrent_uploaded_layers: Option<usize>,
    config_path: Option<PathBuf>,
    progress_timeout: Option<String>,
    default_snapshotter: Option<String>,
}

impl Config {
    /// Returns what the table of the plugin says.
    pub fn read(table: Option<&toml::Table>) -> Result<Self> {
        let written: Written = match table {
            Some(table) => table
                .clone()
                .try_into()
                .map_err(|error| invalid(format!("plugin {PLUGIN:?}: {error}")))?,
            None => Written::default(),
        };
        let default = Self::default();
        let stall = match written.progress_timeout {
            Some(text) => duration::parse(&text)
                .filter(|stall| !stall.is_zero())
                .ok_or_else(|| invalid(format!("plugin {PLUGIN:?}: {text:?} is no duration")))?,
            None => default.stall,
        };
        let some =
            |count: Option<usize>, default| count.filter(|count| *count > 0).unwrap_or(default);
        let host_dir = written.config_path;
        Ok(Self {
            downloads: some(written.max_concurrent_downloads, default.downloads),
            uploads: some(written.max_concurrent_uploaded_layers, default.uploads),
            host_dir: host_dir.filter(|path| !path.as_os_str().is_empty()),
            stall,
            snapshotter: written.default_snapshotter.unwrap_or(default.snapshotter),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_defaults_and_zero_means_the_default() {
        let table = "max_concurrent_downloads = 0\nconfig_path = \"\"\nprogress_timeout = \"2s\"\n";
        let config = Config::read(Some(&table.parse().unwrap())).unwrap();
        let expected = Config {
            stall: Duration::from_secs(2),
            ..Config::default()
        };
        assert_eq!(config, expected);
        let endless = "progress_timeout = \"0\"\n".parse().unwrap();
        assert!(Config::read(Some(&endless)).is_err());
    }
}
