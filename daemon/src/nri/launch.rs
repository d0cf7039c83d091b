//! Plugins that the daemon starts: programs in a folder, named by number and name, each with a connection as its
//! standard input.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tokio::net::UnixStream;

use super::Nri;
use super::config::Config;
use super::plugin::{Installed, Plugin, check_name};
use crate::blocking::blocking;
use crate::error::{Context, Result, invalid};

/// Starts all that are installed; one that does not work is said in the log, and keeps no other from it.
pub(super) async fn all(nri: &Nri) {
    let config = nri.shared.config.clone();
    let found = match blocking(move || discover(&config.plugin_path)).await {
        Ok(found) => found,
        Err(error) => {
            tracing::error!("look for installed plugins: {error:#}");
            return;
        }
    };
    for path in found {
        if let Err(error) = start(nri, &path).await {
            tracing::warn!(?path, "start an installed plugin: {error:#}");
        }
    }
}

async fn start(nri: &Nri, path: &Path) -> Result<()> {
    let (config, path) = (nri.shared.config.clone(), path.to_owned());
    let (socket, installed) = blocking(move || launch(&config, &path)).await?;
    let socket = UnixStream::from_std(socket).context(|| "take the plugin's connection")?;
    let plugin = Plugin::connect(socket, Some(installed), &nri.shared).await?;
    nri.add(plugin).await
}

/// Returns the programs in the folder of plugins, which need not be there.
fn discover(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(|| format!("read folder {folder:?}"))?,
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| {
        let found = path.metadata();
        found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    });
    paths.sort();
    Ok(paths)
}

fn launch(config: &Config, path: &Path) -> Result<(std::os::unix::net::UnixStream, Installed)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (index, base) = name.split_once('-').ok_or_else(|| {
        invalid(format!(
            "invalid plugin name {name:?}, idx-pluginname expected"
        ))
    })?;
    check_name(index, base)?;
    let given = given(&config.plugin_config_path, index, base)?;
    let pair = std::os::unix::net::UnixStream::pair();
    let (own, other) = pair.context(|| "make a connection")?;
    own.set_nonblocking(true).context(|| "make a connection")?;
    let child = Command::new(path)
        .env_clear()
        .env("NRI_PLUGIN_NAME", base)
        .env("NRI_PLUGIN_IDX", index)
        .env("NRI_PLUGIN_SOCKET", "0")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(other)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context(|| format!("execute {path:?}"))?;
    let installed = Installed {
        index: index.to_owned(),
        base: base.to_owned(),
        config: given,
        child,
    };
    Ok((own, installed))
}

/// Returns what a plugin is configured with: the file of its number and name, or else that of its name.
fn given(folder: &Path, index: &str, base: &str) -> Result<String> {
    for name in [format!("{index}-{base}.conf"), format!("{base}.conf")] {
        let path = folder.join(name);
        match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            read => return read.context(|| format!("read {path:?}")),
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn programs_are_plugins_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, mode) in [("20-b", 0o755), ("10-a", 0o755), ("05-notes", 0o644)] {
            fs::write(path(name), "").unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(path("00-folder")).unwrap();
        assert_eq!(
            discover(folder.path()).unwrap(),
            [path("10-a"), path("20-b")]
        );
        assert!(discover(&path("none")).unwrap().is_empty());
    }

    #[test]
    fn the_nearer_name_has_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(given(folder.path(), "10", "a").unwrap(), "");
        fs::write(folder.path().join("a.conf"), "all").unwrap();
        assert_eq!(given(folder.path(), "10", "a").unwrap(), "all");
        fs::write(folder.path().join("10-a.conf"), "this").unwrap();
        assert_eq!(given(folder.path(), "10", "a").unwrap(), "this");
        assert_eq!(given(folder.path(), "20", "a").unwrap(), "all");
    }
}
