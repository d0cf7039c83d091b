//! The ways by which a new process gets into a group without stopping the machine.
//!
//! Moving another process, or one with its threads, makes the kernel wait until nobody on any processor is in the
//! middle of a fork, which takes milliseconds. It need not wait for a process that is born in the group (version 2, and
//! the unified hierarchy of a hybrid host), nor for a thread that moves itself by `tasks` (version 1).

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sys::{Context, Result};

use super::UNIFIED;
use super::dir::{Dir, write_all};

/// Open ways into a group. A container must not get hold of them: a new process closes its copies once it is inside.
///
/// By default there are none, for a process that somebody else moves.
#[derive(Debug, Default)]
pub struct Entrance {
    unified: Option<OwnedFd>,
    tasks: Vec<OwnedFd>,
}

impl Entrance {
    /// Opens the ways into the group with these folders, with the rights that the caller has now.
    pub(super) fn open(paths: &BTreeMap<String, PathBuf>) -> Result<Self> {
        let mut unified = None;
        let mut tasks = Vec::with_capacity(paths.len());
        let mut opened: Vec<&Path> = Vec::with_capacity(paths.len());
        for (controller, path) in paths {
            // Controllers that are mounted together share a folder.
            if opened.contains(&path.as_path()) {
                continue;
            }
            opened.push(path);
            let dir = Dir::open(path)?;
            if controller == UNIFIED {
                unified = Some(dir.into());
                continue;
            }
            let file = dir.file("tasks", OFlags::WRONLY);
            tasks.push(file.context(|| format!("open {:?}", path.join("tasks")))?);
        }
        Ok(Self { unified, tasks })
    }

    /// Returns the folder with which clone3 makes a process in the group's part of the unified hierarchy.
    pub fn clone_fd(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(OwnedFd::as_fd)
    }

    /// Moves the calling thread, which should be its process's only one, into the group's part of the other hierarchies.
    pub fn enter(&self) -> Result<()> {
        for file in &self.tasks {
            write_all(file, "0").context(|| "move into the control group")?;
        }
        Ok(())
    }

    /// Returns the descriptors' numbers, to keep them open.
    pub fn raw(&self) -> impl Iterator<Item = RawFd> {
        self.unified
            .iter()
            .chain(&self.tasks)
            .map(AsRawFd::as_raw_fd)
    }
}
