//! What is on disk of a container: a folder `<root>/<id>` with `state.json` and, until it is started, `exec.fifo`.

use std::fs::{DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sys::{Context, Error, Result};

use crate::cgroup::Cgroup;
use crate::wording;

const STATE: &str = "state.json";
const GATE: &str = "exec.fifo";
const CRIU_ROOT: &str = "criu-root";

/// Everything a later caller needs to know of a container.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// The container's name.
    pub id: String,
    /// The first process's number.
    pub pid: i32,
    /// When the first process started, in ticks since boot.
    pub start_time: u64,
    /// When the container was created.
    pub created: String,
    /// The user who created it.
    pub owner: String,
    /// The folder with `config.json`.
    pub bundle: PathBuf,
    /// The root file system.
    pub rootfs: PathBuf,
    /// The control group.
    pub cgroup: Cgroup,
    /// What stdin, stdout and stderr were at first, by what the kernel calls them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub descriptors: Vec<String>,
    /// The configuration, as it was then.
    pub spec: Spec,
}

/// The folder of a container.
#[derive(Clone, Debug)]
pub(crate) struct Dir(PathBuf);

impl Dir {
    /// Makes the folder of a new container; the name is taken if there is one.
    pub fn create(root: &Path, id: &str) -> Result<Self> {
        let dir = root.join(id);
        let mut builder = DirBuilder::new();
        builder.mode(0o711);
        match builder.create(&dir) {
            Ok(()) => return Ok(Self(dir)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(wording::exists()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(|| format!("create {dir:?}")),
        }
        builder
            .recursive(true)
            .create(root)
            .context(|| format!("create {root:?}"))?;
        builder
            .recursive(false)
            .create(&dir)
            .context(|| format!("create {dir:?}"))?;
        Ok(Self(dir))
    }

    /// Finds the folder and the record of a container.
    pub fn load(root: &Path, id: &str) -> Result<(Self, Record)> {
        validate_id(id)?;
        let dir = Self(root.join(id));
        let path = dir.0.join(STATE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(wording::does_not_exist(id));
            }
            Err(error) => return Err(error).context(|| format!("read {path:?}")),
        };
        let record = serde_json::from_slice(&text)
            .map_err(|error| Error::other(format!("parse {path:?}"), error))?;
        Ok((dir, record))
    }

    /// Writes the record; a reader sees the old or the new one, whole.
    ///
    /// It is not synced: after a crash of the machine no container is left that it could tell of.
    pub fn save(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_vec(record)
            .map_err(|error| Error::other("encode the container's state", error))?;
        let (path, temporary) = (self.0.join(STATE), self.0.join(".state.json"));
        std::fs::write(&temporary, text)
            .and_then(|()| std::fs::set_permissions(&temporary, Permissions::from_mode(0o600)))
            .and_then(|()| std::fs::rename(&temporary, &path))
            .context(|| format!("write {path:?}"))
    }

    /// Makes the folder at which a restored container's root file system is attached meanwhile.
    pub fn make_criu_root(&self) -> Result<PathBuf> {
        let path = self.0.join(CRIU_ROOT);
        std::fs::create_dir(&path)
            .and_then(|()| path.canonicalize())
            .context(|| format!("make {path:?}"))
    }

    /// Makes the gate at which the first process waits, and opens it for reading.
    ///
    /// It is opened for writing too, so that reading blocks until someone has written.
    pub fn make_gate(&self) -> Result<OwnedFd> {
        let path = self.0.join(GATE);
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, mode, 0)
            .and_then(|()| {
                rustix::fs::openat(CWD, &path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            })
            .context(|| format!("make {path:?}"))
    }

    /// Tells whether the first process has not been let through the gate.
    pub fn has_gate(&self) -> bool {
        self.0.join(GATE).symlink_metadata().is_ok()
    }

    /// Lets the first process through; false if someone else did or nobody waits.
    pub fn open_gate(&self) -> Result<bool> {
        let path = self.0.join(GATE);
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let gate = match rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
            Ok(gate) => gate,
            // NXIO: no reader, so that the process is dead.
            Err(Errno::NOENT | Errno::NXIO) => return Ok(false),
            Err(errno) => return Err(errno).context(|| format!("open {path:?}")),
        };
        match rustix::fs::unlinkat(CWD, &path, rustix::fs::AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(errno).context(|| format!("remove {path:?}")),
        }
        rustix::io::write(&gate, b"0").context(|| format!("write {path:?}"))?;
        Ok(true)
    }

    /// Removes the folder.
    pub fn remove(&self) -> Result<()> {
        let criu_root = self.0.join(CRIU_ROOT);
        if criu_root.symlink_metadata().is_ok() {
            // Of a restore that was cut short: what is attached there is not to be removed.
            sys::mount::unmount_all(&criu_root)?;
        }
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.context(|| format!("remove {:?}", self.0)),
        }
    }
}

/// Checks a container's name: it becomes the name of a folder.
pub(crate) fn validate_id(id: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    let valid = !id.is_empty() && id.bytes().all(allowed) && id != "." && id != "..";
    match valid && id.len() <= 255 {
        true => Ok(()),
        false => Err(wording::invalid_id()),
    }
}

/// Returns the names that `root` has folders of.
pub(crate) fn names(root: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(|| format!("list {root:?}")),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.context(|| format!("list {root:?}"))?;
        if let (Ok(name), true) = (entry.file_name().into_string(), entry.path().is_dir()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use sys::Kind;

    use super::*;

    #[test]
    fn names_that_are_no_folder_names_are_refused() {
        for id in ["a", "a_b+c-d.e", "0", "...", &"a".repeat(255)] {
            assert!(validate_id(id).is_ok(), "{id:?}");
        }
        for id in [
            "",
            ".",
            "..",
            "a/b",
            "../a",
            "a b",
            "ä",
            "a\0",
            &"a".repeat(256),
        ] {
            assert!(validate_id(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn a_name_is_taken_once_and_the_root_is_made() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("run/corten");
        let dir = Dir::create(&root, "a").unwrap();
        assert_eq!(
            Dir::create(&root, "a").unwrap_err().kind(),
            Kind::AlreadyExists
        );
        assert_eq!(names(&root).unwrap(), ["a"]);
        assert_eq!(Dir::load(&root, "a").unwrap_err().kind(), Kind::NotFound);
        dir.remove().unwrap();
        dir.remove().unwrap();
        assert_eq!(names(&root).unwrap(), [""; 0]);
    }

    #[test]
    fn the_gate_opens_once_and_only_for_one_who_waits() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::create(temp.path(), "a").unwrap();
        let waiting = dir.make_gate().unwrap();
        assert!(dir.has_gate());
        assert!(dir.open_gate().unwrap());
        assert_eq!(rustix::io::read(&waiting, &mut [0; 1]), Ok(1));
        assert!(!dir.has_gate() && !dir.open_gate().unwrap());
        drop(dir.make_gate().unwrap());
        assert!(!dir.open_gate().unwrap());
    }
}
