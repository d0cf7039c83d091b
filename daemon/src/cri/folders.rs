//! Where CRI keeps its files: what outlives a reboot under the root folder, what does not under the state folder.

use std::path::{Path, PathBuf};

use super::config::PLUGIN;
use crate::error::{Context, Result};

/// Where pods share network namespaces by default.
const NETNS: &str = "/var/run/netns";
/// How snapshotters' folders begin.
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";

/// The folders of CRI.
#[derive(Clone, Debug)]
pub struct Folders {
    daemon: PathBuf,
    root: PathBuf,
    state: PathBuf,
    netns: PathBuf,
}

impl Folders {
    /// Makes the folders under those of the daemon.
    pub fn open(root: &Path, state: &Path, netns_under_state: bool) -> Result<Self> {
        let folders = Self {
            daemon: root.to_owned(),
            root: root.join(PLUGIN),
            state: state.join(PLUGIN),
            netns: match netns_under_state {
                true => state.join(PLUGIN).join("netns"),
                false => NETNS.into(),
            },
        };
        crate::listen::directory(&folders.root, 0o700)?;
        crate::listen::directory(&folders.state, 0o700)?;
        Ok(folders)
    }

    /// Returns where a snapshotter keeps its snapshots.
    pub fn snapshotter(&self, name: &str) -> PathBuf {
        self.daemon.join(format!("{SNAPSHOTTER}.{name}"))
    }

    /// Returns the folder with the root folders of CRI.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the folder with the state of CRI.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Returns the folder with a pod's files.
    pub fn pod(&self, id: &str) -> PathBuf {
        self.root.join("sandboxes").join(id)
    }

    /// Returns the pod's shared memory.
    pub fn shm(&self, id: &str) -> PathBuf {
        self.state.join("sandboxes").join(id).join("shm")
    }

    /// Returns the folder with a container's volumes.
    pub fn container(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }

    /// Returns the folder with a container's pipes.
    pub fn pipes(&self, id: &str) -> PathBuf {
        self.state.join("containers").join(id).join("io")
    }

    /// Returns the folder with the pipes of another process in a container.
    pub fn exec_pipes(&self, id: &str, exec: &str) -> PathBuf {
        self.state.join("containers").join(id).join(exec)
    }

    /// Returns the folder in which images are mounted for a container, each by the number of the mount that asks for it.
    pub fn image_mounts(&self, id: &str) -> PathBuf {
        self.state.join("containers").join(id).join("images")
    }

    /// Returns where a pod's user namespace is mounted.
    pub fn userns(&self, id: &str) -> PathBuf {
        self.state.join("sandboxes").join(id).join("userns")
    }

    /// Returns where a network namespace is mounted.
    pub fn netns(&self, name: &str) -> PathBuf {
        self.netns.join(name)
    }

    /// Removes the folders of a pod.
    pub fn remove_pod(&self, id: &str) -> Result<()> {
        let state = self.state.join("sandboxes").join(id);
        sys::mount::unmount_all(&state)?;
        remove(&state)?;
        remove(&self.pod(id))
    }

    /// Removes the folders of a container.
    pub fn remove_container(&self, id: &str) -> Result<()> {
        // Nothing is ever removed through a mount.
        sys::mount::unmount_all(&self.image_mounts(id))?;
        remove(&self.state.join("containers").join(id))?;
        remove(&self.container(id))
    }

    /// Removes the folders of containers that are not known: those that a daemon was making when it was killed.
    pub fn remove_unknown_containers(&self, known: impl Fn(&str) -> bool) -> Result<()> {
        for parent in [&self.state, &self.root].map(|folder| folder.join("containers")) {
            let entries = match std::fs::read_dir(&parent) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries.context(|| format!("list folder {parent:?}"))?,
            };
            for entry in entries {
                let name = entry
                    .context(|| format!("list folder {parent:?}"))?
                    .file_name();
                let id = name.to_string_lossy();
                if !known(&id) {
                    self.remove_container(&id)?;
                }
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(|| format!("remove folder {path:?}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_unknown_containers_go_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let [root, state] = ["root", "state"].map(|name| dir.path().join(name));
        let folders = Folders::open(&root, &state, true).unwrap();
        folders.remove_unknown_containers(|_| false).unwrap();
        let mounted = |id: &str| folders.image_mounts(id).join("0");
        for id in ["known", "begun"] {
            std::fs::create_dir_all(mounted(id)).unwrap();
            std::fs::create_dir_all(folders.container(id).join("volumes")).unwrap();
        }
        folders
            .remove_unknown_containers(|id| id == "known")
            .unwrap();
        assert!(mounted("known").exists() && folders.container("known").exists());
        assert!(!folders.image_mounts("begun").parent().unwrap().exists());
        assert!(!folders.container("begun").exists());
    }
}
