//! What containerd's own snapshotters have: records in a bolt database, and folders with the numbers that they say.
//!
//! ```text
//! v1/snapshots/<name>    id, kind, parent, inodes, size, labels, times
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use snapshotter::{Foreign, Info, Kind, Usage};

use super::bolt::{Bucket, Database};
use super::records::{Fields, buckets, damaged, map};
use crate::error::{Context, Result};

/// A snapshotter of containerd.
#[derive(Clone, Debug)]
pub struct Snapshotter {
    /// The folder of its numbered folders.
    pub folder: PathBuf,
    /// Its snapshots, by its own names for them.
    pub snapshots: BTreeMap<String, Foreign>,
}

impl Snapshotter {
    /// Reads the records of the snapshotter in the folder `root`.
    pub fn read(root: &Path) -> Result<Self> {
        let database = Database::read(&database(root))?;
        let mut snapshots = BTreeMap::new();
        let all = match database.root().bucket("v1")? {
            Some(version) => version.bucket("snapshots")?,
            None => None,
        };
        for (name, bucket) in all
            .map(|all| buckets(&all))
            .transpose()?
            .unwrap_or_default()
        {
            let snapshot = snapshot(&name, &bucket);
            let snapshot = snapshot.context(|| format!("snapshot {name:?} in {root:?}"))?;
            snapshots.insert(name, snapshot);
        }
        Ok(Self {
            folder: root.join("snapshots"),
            snapshots,
        })
    }

    /// Returns whether a snapshot and all below it have records, and folders where they need them.
    pub fn has(&self, name: &str) -> bool {
        let mut name = name;
        // A chain that is longer than there are snapshots goes round in a circle.
        for _ in 0..=self.snapshots.len() {
            let Some(snapshot) = self.snapshots.get(name) else {
                return false;
            };
            let folder = self.folder.join(snapshot.id.to_string());
            if snapshot.info.kind != Kind::View && !folder.is_dir() {
                return false;
            }
            name = &snapshot.info.parent;
            if name.is_empty() {
                return true;
            }
        }
        false
    }

    /// Keeps the snapshots that `names` has, and all below them.
    pub fn keep<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let mut kept = BTreeMap::new();
        for name in names {
            let mut name = name.to_owned();
            while let Some(snapshot) = self.snapshots.remove(&name) {
                let parent = snapshot.info.parent.clone();
                kept.insert(name, snapshot);
                name = parent;
            }
        }
        self.snapshots = kept;
    }
}

/// Returns the database of the snapshotter in the folder `root`.
pub fn database(root: &Path) -> PathBuf {
    root.join("metadata.db")
}

fn snapshot(name: &str, bucket: &Bucket<'_>) -> Result<Foreign> {
    let fields = Fields::of(bucket)?;
    let time = |key| -> Result<SystemTime> {
        let time = fields.time(key)?.unwrap_or_default();
        SystemTime::try_from(time).map_err(|_| damaged(format!("field {key:?}: no time")))
    };
    let kind = match fields.bytes("kind") {
        [1] => Kind::View,
        [2] => Kind::Active,
        [3] => Kind::Committed,
        other => return Err(damaged(format!("kind {other:?}"))),
    };
    Ok(Foreign {
        id: fields.uvarint("id")?,
        info: Info {
            kind,
            name: name.to_owned(),
            parent: fields.text("parent")?,
            labels: map(bucket.bucket("labels")?)?,
            created: time("createdat")?,
            updated: time("updatedat")?,
        },
        usage: Usage {
            inodes: fields.varint("inodes")?,
            size: fields.varint("size")?,
        },
    })
}
