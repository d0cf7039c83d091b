//! All that a daemon has at one moment, by its clients' answers and by what is on the machine, so that two moments can
//! be compared: what was lost between them, and what was leaked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::leftovers::{Leftovers, SOCKETS};
use crate::{Daemon, image};

/// What can be lost, leaked or wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// The end of a container that nobody was told of.
    Exit,
    /// An exit code that is not the one that the process ended with.
    Code,
    /// A process.
    Process,
    /// A mount.
    Mount,
    /// A control group.
    Cgroup,
    /// A file or folder of the daemon's, of a shim's or of a runtime's.
    File,
    /// A snapshot.
    Snapshot,
    /// A lease that does not expire.
    Lease,
    /// A blob whose bytes are not those of its name.
    Blob,
    /// An image, blob, container or task by its record.
    Record,
    /// A call that failed, or did not end, though nothing was in its way.
    Call,
}

impl Loss {
    /// All of them.
    pub const ALL: [Loss; 11] = [
        Loss::Exit,
        Loss::Code,
        Loss::Process,
        Loss::Mount,
        Loss::Cgroup,
        Loss::File,
        Loss::Snapshot,
        Loss::Lease,
        Loss::Blob,
        Loss::Record,
        Loss::Call,
    ];
}

/// What a daemon has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint(BTreeMap<Loss, BTreeSet<String>>);

impl Footprint {
    /// Returns what `daemon`, which must serve, has now; `ids` are those of all containers that there may be.
    pub fn of(daemon: &Daemon, ids: &[&str]) -> Footprint {
        let mut found: BTreeMap<Loss, BTreeSet<String>> = BTreeMap::new();
        let mut add = |loss, what: String| {
            found.entry(loss).or_default().insert(what);
        };
        let ctr = daemon.ctr();
        let records = [
            (Loss::Record, "image", &["images", "ls", "-q"][..]),
            (Loss::Record, "container", &["containers", "ls", "-q"]),
            (Loss::Record, "task", &["tasks", "ls", "-q"]),
            (Loss::Record, "blob", &["content", "ls", "-q"]),
            (Loss::Lease, "lease", &["leases", "ls", "-q"]),
        ];
        let mut wrong = Vec::new();
        let mut answer = |command: &[&str]| {
            let finished = ctr.run(command);
            if finished.code != Some(0) {
                wrong.push(finished.to_string());
            }
            finished.stdout
        };
        for (loss, what, command) in records {
            for line in answer(command).lines() {
                add(loss, format!("{what} {line}"));
            }
        }
        for line in answer(&["snapshots", "ls"]).lines().skip(1) {
            add(Loss::Snapshot, line.to_owned());
        }
        for line in answer(&["content", "active"]).lines().skip(1) {
            add(Loss::Record, format!("ingest {line}"));
        }
        for wrong in wrong {
            add(Loss::Call, wrong);
        }
        let left = Leftovers::find(daemon.folder(), &daemon.namespace);
        for (pid, line) in left.processes {
            if pid as u32 != daemon.pid() {
                add(Loss::Process, format!("{pid} {line}"));
            }
        }
        for mount in left.mounts {
            add(Loss::Mount, mount.display().to_string());
        }
        for group in left.cgroups {
            add(Loss::Cgroup, group.display().to_string());
        }
        let sockets = ids.iter().map(|id| socket(daemon, id));
        for file in files(daemon)
            .into_iter()
            .chain(sockets.filter(|path| path.exists()))
        {
            if let Some(digest) = broken(&file) {
                add(Loss::Blob, format!("{} is {digest}", file.display()));
            }
            add(Loss::File, file.display().to_string());
        }
        Footprint(found)
    }

    /// Returns what is in this one and not in `earlier`, and the other way round.
    pub fn differences(&self, earlier: &Footprint) -> Vec<(Loss, String)> {
        let mut differences = Vec::new();
        let none = BTreeSet::new();
        for loss in Loss::ALL {
            let now = self.0.get(&loss).unwrap_or(&none);
            let then = earlier.0.get(&loss).unwrap_or(&none);
            let leaked = now.difference(then).map(|what| format!("leaked: {what}"));
            let lost = then.difference(now).map(|what| format!("lost: {what}"));
            differences.extend(leaked.chain(lost).map(|what| (loss, what)));
        }
        differences
    }
}

/// Returns the files and folders of a daemon that come and go with what its clients do.
fn files(daemon: &Daemon) -> Vec<PathBuf> {
    let root = daemon.folder().join("root");
    let content = root.join("io.containerd.content.v1.content");
    let tasks = "io.containerd.runtime.v2.task";
    let namespace = &daemon.namespace;
    let folders = [
        content.join("blobs/sha256"),
        content.join("ingest"),
        content.join("trash"),
        root.join("io.containerd.snapshotter.v1.overlayfs/snapshots"),
        root.join(tasks).join(namespace),
        daemon.folder().join("state").join(tasks).join(namespace),
        Path::new("/run/containerd/runc").join(namespace),
    ];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).ok());
    let entries = entries.flat_map(|entries| entries.flatten());
    entries.map(|entry| entry.path()).collect()
}

/// Returns where the shim of a container listens, ours and upstream's.
pub fn socket(daemon: &Daemon, id: &str) -> PathBuf {
    let name = format!("{}/{}/{id}", daemon.address().display(), daemon.namespace);
    let digest = image::digest(name.as_bytes());
    Path::new(SOCKETS).join(digest.trim_start_matches("sha256:"))
}

/// Returns the digest of a blob whose name it is not.
fn broken(file: &Path) -> Option<String> {
    let folder = file.parent()?;
    if !folder.ends_with("blobs/sha256") {
        return None;
    }
    // One that a collection removes meanwhile is not broken.
    let bytes = fs::read(file).ok()?;
    let digest = image::digest(&bytes);
    (format!("sha256:{}", file.file_name()?.to_str()?) != digest).then_some(digest)
}
