//! A task's bundle: the folder that its shim runs in, and what a later daemon must know of it.
//!
//! ```text
//! <state>/io.containerd.runtime.v2.task/<namespace>/<id>/
//!   config.json        the OCI spec, as the client wrote it
//!   rootfs/            where the shim mounts the root file system
//!   work               -> <root>/io.containerd.runtime.v2.task/<namespace>/<id>
//!   log                a FIFO: what the shim logs
//!   shim-binary-path   the shim's executable, written before it is started
//!   bootstrap.json     where the shim listens, written once it does
//!   address            the same in the form of old shims, written by them
//!   deleting           there while a client's deletion of the task goes on
//! ```

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Gid, Mode};
use serde::Deserialize;

use super::bootstrap::Endpoint;
use crate::error::{Context, Error, Kind, Result};
use sys::failpoint;

/// The name of the folders that hold the bundles, under the root and under the state directory.
pub const FOLDER: &str = "io.containerd.runtime.v2.task";

const BINARY_PATH: &str = "shim-binary-path";
const BOOTSTRAP: &str = "bootstrap.json";
const DELETING: &str = "deleting";

/// A task's bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    pub namespace: String,
    pub id: String,
    /// The folder.
    pub path: PathBuf,
}

/// Where bundles and the working folders of tasks are.
#[derive(Clone, Debug)]
pub struct Folders {
    state: PathBuf,
    root: PathBuf,
}

impl Folders {
    /// Returns the folders below a daemon's root and state directories, and makes them.
    pub fn open(root: &Path, state: &Path) -> Result<Self> {
        let folders = Self {
            state: state.join(FOLDER),
            root: root.join(FOLDER),
        };
        for path in [&folders.state, &folders.root] {
            make_all(path, 0o711)?;
        }
        Ok(folders)
    }

    /// Returns where bundles are.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Returns where the working folders are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the bundle of a task, whether or not it is there.
    pub fn bundle(&self, namespace: &str, id: &str) -> Bundle {
        Bundle {
            namespace: namespace.to_owned(),
            id: id.to_owned(),
            path: self.state.join(namespace).join(id),
        }
    }

    /// Makes the bundle of a task from its spec; what an earlier task left behind is removed first.
    ///
    /// The caller must have made sure that no task of this name lives.
    pub fn create(&self, namespace: &str, id: &str, spec: &[u8]) -> Result<Bundle> {
        let bundle = self.bundle(namespace, id);
        if bundle.path.symlink_metadata().is_ok() {
            bundle.delete()?;
        }
        let made = self.fill(&bundle, spec);
        if made.is_err() {
            let _ = bundle.delete();
        }
        made.map(|()| bundle)
    }

    fn fill(&self, bundle: &Bundle, spec: &[u8]) -> Result<()> {
        make_all(&self.state.join(&bundle.namespace), 0o711)?;
        make(&bundle.path, 0o700)?;
        admit(&bundle.path, remapped_group(spec)?)?;
        make(&bundle.path.join("rootfs"), 0o711)?;
        let work = self.root.join(&bundle.namespace).join(&bundle.id);
        make_all(&self.root.join(&bundle.namespace), 0o711)?;
        delete_hidden(&work)?;
        make(&work, 0o711)?;
        let link = bundle.path.join("work");
        std::os::unix::fs::symlink(&work, &link).context(|| format!("link {link:?}"))?;
        bundle.write("config.json", spec, 0o644)?;
        let log = bundle.log();
        rustix::fs::mkfifoat(CWD, &log, Mode::from_raw_mode(0o700))
            .context(|| format!("make the FIFO {log:?}"))
    }

    /// Returns all bundles, and removes what an interrupted removal left.
    pub fn list(&self) -> Result<Vec<Bundle>> {
        let mut bundles = Vec::new();
        for namespace in names(&self.state)? {
            for id in names(&self.state.join(&namespace))? {
                if id.starts_with('.') {
                    let _ = fs::remove_dir_all(self.state.join(&namespace).join(&id));
                } else {
                    bundles.push(self.bundle(&namespace, &id));
                }
            }
        }
        Ok(bundles)
    }

    /// Removes the working folders of tasks that `lives` does not know: a reboot leaves them behind.
    pub fn sweep(&self, lives: impl Fn(&str, &str) -> bool) -> Result<()> {
        for namespace in names(&self.root)? {
            let folder = self.root.join(&namespace);
            for id in names(&folder)? {
                if !lives(&namespace, &id) {
                    let path = folder.join(&id);
                    fs::remove_dir_all(&path).context(|| format!("remove {path:?}"))?;
                }
            }
        }
        Ok(())
    }
}

impl Bundle {
    /// Returns the path of the FIFO that the shim logs to.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Returns whether a shim was ever started in the bundle, or about to be.
    pub fn is_blank(&self) -> bool {
        names(&self.path).is_ok_and(|names| names.is_empty())
    }

    /// Writes down which executable the shim is.
    pub fn write_binary(&self, binary: &Path) -> Result<()> {
        failpoint!("tasks.create.bundle");
        self.write(BINARY_PATH, binary.as_os_str().as_bytes(), 0o600)
    }

    /// Returns which executable the shim is, where that was written down.
    pub fn binary(&self) -> Result<Option<PathBuf>> {
        let bytes = self.read(BINARY_PATH)?.filter(|bytes| !bytes.is_empty());
        Ok(bytes.map(|bytes| PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))))
    }

    /// Writes down where the shim listens: a daemon that cannot find a shim cannot end it. A power cut ends the shim too.
    pub fn write_endpoint(&self, endpoint: &Endpoint) -> Result<()> {
        let path = self.path.join(BOOTSTRAP);
        sys::fs::write_volatile(&path, &endpoint.to_json(), 0o644)
    }

    /// Returns where the shim listens, where that was written down, by a daemon or by the shim itself.
    pub fn endpoint(&self) -> Result<Option<Endpoint>> {
        let answer = match self.read(BOOTSTRAP)? {
            Some(answer) => Some(answer),
            None => self.read("address")?.filter(|bytes| !bytes.is_empty()),
        };
        answer.map(|answer| Endpoint::parse(&answer)).transpose()
    }

    /// Writes down that a client deletes the task: it knows how that ended, and its shim may be gone before the bundle is.
    pub fn mark_deletion(&self) -> Result<()> {
        self.write(DELETING, b"", 0o600)
    }

    /// Takes back what [`Bundle::mark_deletion`] wrote, if it did: the task is still there.
    pub fn unmark_deletion(&self) -> Result<()> {
        let path = self.path.join(DELETING);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).context(|| format!("remove {path:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Returns whether a client was deleting the task when the daemon died.
    pub fn is_being_deleted(&self) -> bool {
        self.path.join(DELETING).exists()
    }

    /// Unmounts the root file system and removes the bundle and the working folder.
    pub fn delete(&self) -> Result<()> {
        let rootfs = self.path.join("rootfs");
        failpoint!("tasks.bundle.delete");
        sys::mount::unmount_all(&rootfs)?;
        // Only an empty folder: if anything is still mounted there, removing what is in it must fail.
        match fs::remove_dir(&rootfs) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).context(|| format!("remove {rootfs:?}"));
            }
            _ => {}
        }
        let work = fs::read_link(self.path.join("work"));
        failpoint!("tasks.bundle.unmounted");
        delete_hidden(&self.path)?;
        failpoint!("tasks.bundle.removed");
        match work {
            Ok(work) => delete_hidden(&work),
            Err(_) => Ok(()),
        }
    }

    fn write(&self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        let path = self.path.join(name);
        fs::write(&path, content)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .context(|| format!("write {path:?}"))
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(|| format!("read {path:?}")),
        }
    }
}

/// Returns the names in a folder, none if it is not there.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(|| format!("list {folder:?}")),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.context(|| format!("list {folder:?}"))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

fn make(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .mode(mode)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .context(|| format!("make {path:?}"))
}

fn make_all(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .context(|| format!("make {path:?}"))
}

/// Renames `path` to a hidden name before it removes it, so that no half of it is ever taken for the whole.
fn delete_hidden(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let hidden = path.with_file_name(format!(".{name}"));
    let remove = |path: &Path| match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context(|| format!("remove {path:?}"))
        }
        _ => Ok(()),
    };
    if hidden.symlink_metadata().is_ok() {
        remove(&hidden)?;
    }
    match fs::rename(path, &hidden) {
        Ok(()) => remove(&hidden),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).context(|| format!("rename {path:?}")),
    }
}

/// Lets the group that is root's in the container's user namespace pass through the bundle.
fn admit(path: &Path, group: u32) -> Result<()> {
    if group == 0 {
        return Ok(());
    }
    rustix::fs::chown(path, None, Some(Gid::from_raw(group)))
        .context(|| format!("chown {path:?}"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o710))
        .context(|| format!("chmod {path:?}"))
}

/// Returns the host's id of the container's group 0.
fn remapped_group(spec: &[u8]) -> Result<u32> {
    #[derive(Default, Deserialize)]
    struct Spec {
        linux: Option<Linux>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Linux {
        gid_mappings: Option<Vec<Mapping>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Mapping {
        #[serde(rename = "containerID")]
        container: u32,
        #[serde(rename = "hostID")]
        host: u32,
    }
    let spec: Spec = serde_json::from_slice(spec).map_err(|error| {
        Error::new(
            Kind::InvalidArgument,
            format!("parse the container's spec: {error}"),
        )
    })?;
    let mappings = spec
        .linux
        .and_then(|linux| linux.gid_mappings)
        .unwrap_or_default();
    let root = mappings.iter().find(|mapping| mapping.container == 0);
    Ok(root.map_or(0, |mapping| mapping.host))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn folders(dir: &Path) -> Folders {
        Folders::open(&dir.join("root"), &dir.join("state")).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_bundle_is_made_and_removed_whole() {
        let dir = tempfile::tempdir().unwrap();
        let folders = folders(dir.path());
        let bundle = folders.create("default", "c1", b"{}").unwrap();
        assert_eq!(mode(&bundle.path), 0o700);
        assert_eq!(mode(bundle.path.parent().unwrap()), 0o711);
        assert_eq!(mode(&bundle.path.join("rootfs")), 0o711);
        assert_eq!(fs::read(bundle.path.join("config.json")).unwrap(), b"{}");
        let work = fs::read_link(bundle.path.join("work")).unwrap();
        assert!(work.is_dir());
        assert_eq!(folders.list().unwrap(), std::slice::from_ref(&bundle));

        bundle.delete().unwrap();
        bundle.delete().unwrap();
        assert!(!work.exists());
        assert_eq!(folders.list().unwrap(), []);
        assert_eq!(
            names(&dir.path().join("root").join(FOLDER).join("default"))
                .unwrap()
                .len(),
            0
        );
    }

    #[test]
    fn what_an_earlier_task_left_behind_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let folders = folders(dir.path());
        let old = folders.create("default", "c1", b"{}").unwrap();
        fs::create_dir(old.path.with_file_name(".c1")).unwrap();
        fs::write(old.path.join("address"), "unix:///old").unwrap();
        let new = folders.create("default", "c1", b"{}").unwrap();
        assert_eq!(new.endpoint().unwrap(), None);
    }

    #[test]
    fn the_remapped_root_group_may_pass_through() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIP: changing a file's group needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let spec = br#"{"linux":{"gidMappings":[{"containerID":0,"hostID":7000,"size":10}]}}"#;
        let bundle = folders(dir.path()).create("default", "c1", spec).unwrap();
        assert_eq!(mode(&bundle.path), 0o710);
        assert_eq!(bundle.path.metadata().unwrap().gid(), 7000);
    }

    #[test]
    fn a_spec_that_is_no_spec_makes_no_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let folders = folders(dir.path());
        let error = folders.create("default", "c1", b"no").unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert_eq!(folders.list().unwrap(), []);
    }

    #[test]
    fn the_endpoint_is_found_where_a_daemon_or_an_old_shim_wrote_it() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = folders(dir.path()).create("default", "c1", b"{}").unwrap();
        assert_eq!(bundle.endpoint().unwrap(), None);
        fs::write(bundle.path.join("address"), "unix:///s").unwrap();
        let old = bundle.endpoint().unwrap().unwrap();
        assert_eq!((old.version, old.address.as_str()), (2, "unix:///s"));
        let new = Endpoint::parse(br#"{"version":3,"address":"unix:///t","protocol":"ttrpc"}"#);
        let new = new.unwrap();
        bundle.write_endpoint(&new).unwrap();
        assert_eq!(bundle.endpoint().unwrap(), Some(new));
    }

    #[test]
    fn working_folders_without_a_task_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let folders = folders(dir.path());
        let kept = folders.create("default", "kept", b"{}").unwrap();
        let lost = folders.root().join("default").join("lost");
        fs::create_dir(&lost).unwrap();
        folders.sweep(|_, id| id == "kept").unwrap();
        assert!(!lost.exists());
        assert!(fs::read_link(kept.path.join("work")).unwrap().exists());
    }
}
