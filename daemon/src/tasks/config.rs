//! The settings of tasks: which shim serves which runtime, and what shims find in their environment.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::error::{Result, invalid};

/// The plugin under which containerd keeps settings of shims.
pub const PLUGIN: &str = "io.containerd.shim.v1.manager";

/// The settings of tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// More variables for the environment of shims, each as `NAME=value`.
    pub env: Vec<String>,
    /// Where `containerd-shim-corten-v2` is, if not beside the daemon or in `PATH`.
    pub shim: Option<PathBuf>,
    /// Shims in place of the usual ones, by runtime name.
    pub shims: BTreeMap<String, PathBuf>,
}

impl Config {
    /// Returns what the table of the plugin says.
    pub fn read(table: Option<&toml::Table>) -> Result<Self> {
        let Some(table) = table else {
            return Ok(Self::default());
        };
        let config: Self = table
            .clone()
            .try_into()
            .map_err(|error| invalid(format!("plugin {PLUGIN:?}: {error}")))?;
        let paths = config.shims.values().chain(&config.shim);
        match paths.into_iter().find(|path| !path.is_absolute()) {
            Some(path) => Err(invalid(format!(
                "plugin {PLUGIN:?}: {path:?} is not an absolute path"
            ))),
            None => Ok(config),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shims_are_named_by_runtime() {
        let table = "env = [\"A=b\"]\n[shims]\n\"io.containerd.runc.v2\" = \"/usr/bin/shim\"\n";
        let config = Config::read(Some(&table.parse().unwrap())).unwrap();
        assert_eq!(
            config.shims["io.containerd.runc.v2"],
            PathBuf::from("/usr/bin/shim")
        );
        assert_eq!(Config::read(None).unwrap(), Config::default());
        let relative = "shim = \"shim\"\n".parse().unwrap();
        assert!(Config::read(Some(&relative)).is_err());
    }
}
