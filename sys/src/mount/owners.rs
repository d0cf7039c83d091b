//! Mounts whose files belong to others than on disk: by the maps of a user namespace that is made for it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::options::{Owners, lower_dirs};
use super::{Mount, unmount_all};
use crate::attach::{Change, change};
use crate::procfs::Procfs;
use crate::{Context, Error, Kind, Result};

/// Makes a user namespace with these maps; it lives as long as something uses it.
pub(super) fn namespace(owners: &Owners) -> Result<OwnedFd> {
    if owners.uids.is_empty() || owners.gids.is_empty() {
        return Err(Error::new(
            Kind::InvalidArgument,
            "uidmap and gidmap are only valid together",
        ));
    }
    crate::namespace::mapped_user(&Procfs::open()?, &owners.uids, &owners.gids)
        .context(|| "make a user namespace with the maps")
}

/// Gives the files of a detached mount to the users of a namespace.
pub(super) fn give(tree: &OwnedFd, userns: &OwnedFd) -> Result<()> {
    let given = Change {
        userns: Some(userns.as_fd()),
        ..Change::default()
    };
    change(tree, &given).context(|| "map the owners of a mount")
}

/// Returns the folder as a detached mount whose files belong to the users of a namespace.
fn folder(path: &str, userns: &OwnedFd) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, path, flags).context(|| format!("clone mount {path:?}"))?;
    give(&tree, userns)?;
    Ok(tree)
}

/// Detached mounts of folders, which last as long as this: a file system must be made of them before they go.
#[derive(Debug)]
pub(super) struct Folders {
    userns: OwnedFd,
    trees: Vec<OwnedFd>,
}

impl Folders {
    /// Returns no folders yet.
    pub fn new(owners: &Owners) -> Result<Self> {
        Ok(Self {
            userns: namespace(owners)?,
            trees: Vec::new(),
        })
    }

    /// Opens a folder whose files belong to the users of the namespace.
    pub fn open(&mut self, path: &str) -> Result<OwnedFd> {
        let tree = folder(path, &self.userns)?;
        // Older kernels take no descriptors of paths here.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&tree, ".", flags, Mode::empty())
            .context(|| format!("open {path:?}"))?;
        self.trees.push(tree);
        Ok(opened)
    }
}

/// Mounts of overlay's lower folders at names, for kernels that take no detached ones (before 6.15).
///
/// Overlay clones them when it is mounted: they need not outlive that.
#[derive(Debug)]
pub(super) struct Named {
    folder: PathBuf,
}

impl Named {
    /// Mounts the lower folders of `mount`, and returns it with their new names.
    pub fn new(mount: &Mount, owners: &Owners) -> Result<(Self, Mount)> {
        let userns = namespace(owners)?;
        let named = Self {
            folder: super::temp::create(&std::env::temp_dir())?,
        };
        let mut mount = mount.clone();
        mount
            .options
            .retain(|option| !option.starts_with("uidmap=") && !option.starts_with("gidmap="));
        for option in &mut mount.options {
            let Some(value) = option.strip_prefix("lowerdir=") else {
                continue;
            };
            let lower = lower_dirs(value).ok_or_else(|| {
                let message = "the owners of data-only layers cannot be mapped";
                Error::new(Kind::Unimplemented, message)
            })?;
            let mut names = Vec::new();
            for (number, path) in lower.iter().enumerate() {
                names.push(named.add(number, &folder(path, &userns)?)?);
            }
            *option = format!("lowerdir={}", names.join(":"));
        }
        Ok((named, mount))
    }

    fn add(&self, number: usize, tree: &OwnedFd) -> Result<String> {
        let name = self.folder.join(number.to_string());
        std::fs::create_dir(&name).context(|| format!("create folder {name:?}"))?;
        let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(tree, "", CWD, &name, empty).context(|| format!("attach at {name:?}"))?;
        Ok(name.to_string_lossy().into_owned())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let Ok(names) = std::fs::read_dir(&self.folder) else {
            return;
        };
        for name in names.flatten() {
            // Never recursively: what is still mounted would be deleted.
            if unmount_all(&name.path()).is_ok() {
                let _ = std::fs::remove_dir(name.path());
            }
        }
        let _ = std::fs::remove_dir(&self.folder);
    }
}
