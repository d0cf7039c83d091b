//! Bind mounts that the creator makes, and that are attached later: those whose files are owned by other users than on
//! disk, which only the creator may make, and in a user namespace all others, whose sources may be in folders that the
//! namespace's users cannot enter.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Mount, Spec};
use rustix::fs::CWD;
use rustix::mount::MountPropagationFlags;
use sys::attach::{self, Change};
use sys::procfs::Procfs;
use sys::{Context, Error, Kind, Result};

use super::mounts;
use crate::spec::namespace;

/// The trees of mounts that the creator made, by the mounts' place in the specification.
#[derive(Debug, Default)]
pub(crate) struct BindTrees(Vec<Option<Tree>>);

/// The tree of a bind mount.
#[derive(Debug)]
pub(crate) enum Tree {
    /// With owners that are not those on disk.
    Mapped(OwnedFd),
    /// As it is: for a process that cannot reach the source itself.
    Plain(OwnedFd),
}

impl BindTrees {
    /// Makes the trees, with the rights and in the mount namespace of the creator.
    pub fn new(spec: &Spec, bundle: &Path, procfs: &Procfs) -> Result<Self> {
        let has_users = namespace(spec, LinuxNamespaceType::User).is_some();
        let mut trees = Vec::new();
        for (at, mount) in spec.mounts().iter().flatten().enumerate() {
            let tree = match maps(mount, spec)? {
                Some(maps) => {
                    let tree = tree(mount, bundle, &maps, procfs);
                    let tree =
                        tree.context(|| format!("map ids of mount {:?}", mount.destination()))?;
                    Tree::Mapped(tree)
                }
                // What is wrong with a source is said by the process that mounts it.
                None if has_users && mounts::is_bind(mount) => match plain(mount, bundle) {
                    Ok(tree) => Tree::Plain(tree),
                    Err(_) => continue,
                },
                None => continue,
            };
            trees.resize_with(at + 1, || None);
            trees[at] = Some(tree);
        }
        Ok(Self(trees))
    }

    /// Returns the tree of the mount at this place, if the creator made it.
    pub fn get(&self, at: usize) -> Option<&Tree> {
        self.0.get(at)?.as_ref()
    }

    /// Returns the open trees.
    pub fn iter(&self) -> impl Iterator<Item = &OwnedFd> {
        let trees = self.0.iter().flatten();
        trees.map(|tree| match tree {
            Tree::Mapped(tree) | Tree::Plain(tree) => tree,
        })
    }
}

/// The maps of users and groups in the kernel's form.
struct Maps {
    uids: String,
    gids: String,
    recursive: bool,
}

fn maps(mount: &Mount, spec: &Spec) -> Result<Option<Maps>> {
    let options = mount.options().as_deref().unwrap_or_default();
    let has = |name: &str| options.iter().any(|option| option == name);
    let (plain, recursive) = (has("idmap"), has("ridmap"));
    let own = |maps: &Option<Vec<LinuxIdMapping>>| maps.clone().unwrap_or_default();
    let (mut uids, mut gids) = (own(mount.uid_mappings()), own(mount.gid_mappings()));
    if uids.is_empty() && gids.is_empty() {
        if !plain && !recursive {
            return Ok(None);
        }
        let linux = spec.linux().as_ref();
        uids = linux.map_or(Vec::new(), |linux| own(linux.uid_mappings()));
        gids = linux.map_or(Vec::new(), |linux| own(linux.gid_mappings()));
    }
    let refuse = |message: &str| Err(Error::new(Kind::InvalidArgument, message.to_string()));
    if uids.is_empty() || gids.is_empty() {
        return refuse("id-mapped mounts need mappings of both users and groups");
    }
    if !mounts::is_bind(mount) {
        return refuse("id-mapped mounts are only supported for bind mounts");
    }
    Ok(Some(Maps {
        uids: text(&uids),
        gids: text(&gids),
        recursive,
    }))
}

/// Returns maps as the kernel reads them.
pub(crate) fn text(maps: &[LinuxIdMapping]) -> String {
    let lines = maps
        .iter()
        .map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size()));
    lines.collect()
}

fn clone(mount: &Mount, bundle: &Path) -> Result<OwnedFd> {
    let source = bundle.join(mount.source().as_deref().unwrap_or(Path::new("")));
    let path = CString::new(source.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::new(Kind::InvalidArgument, "the source has a NUL byte"))?;
    attach::clone_tree(CWD, &path, mounts::is_recursive(mount))
        .context(|| format!("clone mount of {source:?}"))
}

/// Clones a source; what is mounted in the container never reaches the host, as if it had been cloned there.
fn plain(mount: &Mount, bundle: &Path) -> Result<OwnedFd> {
    let tree = clone(mount, bundle)?;
    let change = Change {
        propagation: u64::from(MountPropagationFlags::DOWNSTREAM.bits()),
        recursive: true,
        ..Change::default()
    };
    attach::change(&tree, &change).context(|| "keep mounts from the host")?;
    Ok(tree)
}

fn tree(mount: &Mount, bundle: &Path, maps: &Maps, procfs: &Procfs) -> Result<OwnedFd> {
    let tree = clone(mount, bundle)?;
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    let userns = sys::namespace::mapped_user(procfs, &maps.uids, &maps.gids)?;
    let change = Change {
        userns: Some(userns.as_fd()),
        recursive: maps.recursive,
        ..Change::default()
    };
    attach::change(&tree, &change).context(|| format!("set maps of {source:?}"))?;
    Ok(tree)
}
