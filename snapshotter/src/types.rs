//! What is known of a snapshot.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Labels of a snapshot.
pub type Labels = BTreeMap<String, String>;

/// What can be done with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Read-only, from `view`; no snapshot can have it as parent.
    View,
    /// Writable, from `prepare`, until it is committed or removed.
    Active,
    /// Unchangeable, from `commit`; the only kind that can be a parent.
    Committed,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        })
    }
}

/// A snapshot's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// What can be done with it.
    pub kind: Kind,
    /// Its key if it is active or a view, its name once it is committed.
    pub name: String,
    /// The name of the committed snapshot below it; empty if there is none.
    pub parent: String,
    /// Its labels.
    pub labels: Labels,
    /// When it was created; for a committed snapshot, when it was committed.
    pub created: SystemTime,
    /// When its record last changed.
    pub updated: SystemTime,
}

/// A snapshot of another snapshotter that lays out its folders as ours do, such as containerd's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The number that is its folder's name.
    pub id: u64,
    /// Its record.
    pub info: Info,
    /// What it takes, if it is committed.
    pub usage: Usage,
}

/// What a snapshot itself takes, without its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The number of inodes.
    pub inodes: i64,
    /// The bytes of disk space.
    pub size: i64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, more: Self) {
        self.inodes += more.inodes;
        self.size += more.size;
    }
}
