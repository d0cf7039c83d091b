//! The settings of NRI: the keys of containerd's NRI plugin.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::config::duration;
use crate::error::{Error, Kind, Result, invalid};

/// The plugin under which containerd keeps settings of NRI.
pub const PLUGIN: &str = "io.containerd.nri.v1.nri";

/// The settings of NRI; nothing is left open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub disable: bool,
    pub disable_connections: bool,
    pub socket_path: PathBuf,
    /// The folder of the plugins that are started by the daemon.
    pub plugin_path: PathBuf,
    /// The folder of what they are configured with.
    pub plugin_config_path: PathBuf,
    /// How long a plugin may take to register.
    pub registration: Duration,
    /// How long a plugin may take to answer.
    pub request: Duration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Written {
    disable: bool,
    disable_connections: bool,
    socket_path: Option<PathBuf>,
    plugin_path: Option<PathBuf>,
    plugin_config_path: Option<PathBuf>,
    plugin_registration_timeout: Option<String>,
    plugin_request_timeout: Option<String>,
    default_validator: Validator,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Validator {
    enable: bool,
}

impl Config {
    /// Returns what the table of the plugin says. A daemon whose `state` is not the usual one has its socket there.
    pub fn read(table: Option<&toml::Table>, state: &Path) -> Result<Self> {
        let table = table.cloned().unwrap_or_default();
        let written: Written = table
            .try_into()
            .map_err(|error| invalid(format!("plugin {PLUGIN:?}: {error}")))?;
        if written.default_validator.enable {
            return Err(Error::new(
                Kind::Unimplemented,
                format!("plugin {PLUGIN:?}: default_validator is not supported"),
            ));
        }
        let usual = state == crate::config::Config::default().state;
        let socket = match usual {
            true => "/var/run/nri/nri.sock".into(),
            false => state.join("nri/nri.sock"),
        };
        let path = |written: Option<PathBuf>, default: PathBuf| {
            let written = written.filter(|path| !path.as_os_str().is_empty());
            written.unwrap_or(default)
        };
        Ok(Self {
            disable: written.disable,
            disable_connections: written.disable_connections,
            socket_path: path(written.socket_path, socket),
            plugin_path: path(written.plugin_path, "/opt/nri/plugins".into()),
            plugin_config_path: path(written.plugin_config_path, "/etc/nri/conf.d".into()),
            registration: time(written.plugin_registration_timeout, 5)?,
            request: time(written.plugin_request_timeout, 2)?,
        })
    }
}

/// Returns a time that is written down, or so many seconds; zero is as good as nothing.
fn time(written: Option<String>, seconds: u64) -> Result<Duration> {
    let Some(text) = written.filter(|text| !text.is_empty()) else {
        return Ok(Duration::from_secs(seconds));
    };
    let time = duration::parse(&text)
        .ok_or_else(|| invalid(format!("plugin {PLUGIN:?}: {text:?} is no duration")))?;
    match time.is_zero() {
        true => Ok(Duration::from_secs(seconds)),
        false => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, state: &str) -> Result<Config> {
        Config::read(Some(&text.parse().unwrap()), Path::new(state))
    }

    #[test]
    fn what_is_not_said_is_as_in_containerd() {
        let config = read("", "/run/corten").unwrap();
        assert_eq!(config.socket_path, Path::new("/var/run/nri/nri.sock"));
        assert_eq!(config.plugin_path, Path::new("/opt/nri/plugins"));
        assert_eq!(config.registration, Duration::from_secs(5));
        assert_eq!(config.request, Duration::from_secs(2));
        assert!(!config.disable && !config.disable_connections);
        let other = read("plugin_request_timeout = '300ms'\ndisable = true", "/tmp/x").unwrap();
        assert_eq!(other.socket_path, Path::new("/tmp/x/nri/nri.sock"));
        assert_eq!(other.request, Duration::from_millis(300));
        assert!(other.disable);
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        for text in [
            "plugin_request_timeout = '5'",
            "disable = 3",
            "[default_validator]\nenable = true",
        ] {
            assert!(read(text, "/run/corten").is_err(), "{text}");
        }
        read("[default_validator]\nenable = false", "/run/corten").unwrap();
    }
}
