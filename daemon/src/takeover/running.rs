//! What still goes on in a containerd: its own process, shims with their tasks, mounts.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::error::{Context, Result};

/// Keeps containerd from opening its databases, as it does at its start, while it lives.
#[derive(Debug, Default)]
pub struct Hold(Vec<File>);

impl Hold {
    /// Takes hold of a database; false if containerd has it, which is so while it runs.
    pub fn take(&mut self, database: &Path) -> Result<bool> {
        let context = || format!("lock {database:?}");
        let file = File::open(database).context(context)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                self.0.push(file);
                Ok(true)
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(errno) => Err(errno).context(context),
        }
    }
}

/// Returns the tasks that run below the state of a containerd, each as a sentence.
///
/// A bundle without a process and without a shim is what a crash left: containerd cleans it up, and nothing of it runs.
pub fn tasks(state: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for namespace in folders(&state.join("io.containerd.runtime.v2.task"))? {
        for bundle in folders(&namespace)? {
            let name = |path: &Path| path.file_name().unwrap_or_default().display().to_string();
            let task = format!("task {} in namespace {}", name(&bundle), name(&namespace));
            let pid = fs::read_to_string(bundle.join("init.pid")).unwrap_or_default();
            let pid = pid.trim();
            if !pid.is_empty() && Path::new("/proc").join(pid).exists() {
                found.push(format!("{task} has process {pid}: stop and delete it"));
            } else if shim(&bundle).is_some_and(|socket| UnixStream::connect(socket).is_ok()) {
                found.push(format!("{task} has ended, its shim has not: delete it"));
            }
        }
    }
    Ok(found)
}

/// Returns the mounts of what is below the root of a containerd, each as a sentence.
pub fn mounts(root: &Path) -> Result<Vec<String>> {
    let within = |path: &Path| path.starts_with(root);
    let option = |options: &str| {
        let mut options = options
            .split(',')
            .filter_map(|option| option.split_once('='));
        options.any(|(key, value)| key == "upperdir" && within(Path::new(value)))
    };
    let mounts = sys::mount::entries()?;
    let used = mounts.iter().filter(|mount| {
        let overlay = mount.fstype == "overlay" && option(&mount.super_options);
        overlay || within(&mount.target) && mount.target != root
    });
    Ok(used
        .map(|mount| format!("{:?} is mounted: unmount it", mount.target))
        .collect())
}

/// Returns where the shim of a bundle listens: containerd 2 writes it as JSON, the older ones as it is.
fn shim(bundle: &Path) -> Option<PathBuf> {
    let written = fs::read(bundle.join("bootstrap.json")).ok();
    let written = written.and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok());
    let address = match written {
        Some(json) => json.get("address")?.as_str()?.to_owned(),
        None => fs::read_to_string(bundle.join("address")).ok()?,
    };
    Some(address.trim().strip_prefix("unix://")?.into())
}

/// Returns the folders in a folder; none if there is no such folder.
fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("list {folder:?}");
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(context)?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.context(context)?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}
