//! A container's states, and the record of them on disk.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sys::{Error, Result};

use crate::record::Record;

/// The version of the specification that this implements.
pub const SPEC_VERSION: &str = "1.2.1";

/// Where a container is in its life.
///
/// ```text
/// Creating ──▶ Created ──start──▶ Running ◀──pause/resume──▶ Paused
///                 └───────────────── exit ──▶ Stopped ◀─────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its first process is being made.
    Creating,
    /// Its first process waits to be started.
    Created,
    /// Its first process runs the user's program.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its first process has exited.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// A container's state as `state` prints it: the OCI specification's fields, then runc's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The version of the specification.
    pub oci_version: String,
    /// The container's name.
    pub id: String,
    /// The first process's number, 0 once it has exited.
    pub pid: i32,
    /// Where the container is in its life.
    pub status: Status,
    /// The folder with `config.json`.
    pub bundle: PathBuf,
    /// The root file system.
    pub rootfs: PathBuf,
    /// When the container was created, in RFC 3339's form.
    pub created: String,
    /// The annotations of `config.json`.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub annotations: HashMap<String, String>,
    /// The user who created it.
    pub owner: String,
}

impl State {
    /// Returns the state of a container by its record.
    pub(crate) fn new(record: &Record, status: Status, pid: i32) -> Self {
        Self {
            oci_version: SPEC_VERSION.to_string(),
            id: record.id.clone(),
            pid,
            status,
            bundle: record.bundle.clone(),
            rootfs: record.rootfs.clone(),
            created: record.created.clone(),
            annotations: record.spec.annotations().clone().unwrap_or_default(),
            owner: record.owner.clone(),
        }
    }

    /// Returns the state as hooks read it on stdin.
    pub(crate) fn text(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| Error::other("encode state for hooks", error))
    }
}
