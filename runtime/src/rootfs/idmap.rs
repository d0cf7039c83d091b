//! Bind mounts that the creator makes, and that are attached later: those whose files are owned by other users than on
//! disk, which only the creator may make, and in a user namespace all others, whose sources may be in folders that the
//! namespace's users cannot enter.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Mount, Spec};
use rustix::fs::{Mode, OFlags};
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
    /// Only the maps, as a user namespace, for a process that has the rights to make the tree itself, when what is
    /// mounted before is in its source.
    Maps { userns: OwnedFd, recursive: bool },
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
                Some(maps) => mapped(mount, bundle, &maps, procfs, has_users)
                    .context(|| format!("map ids of mount {:?}", mount.destination()))?,
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
            Tree::Maps { userns, .. } => userns,
        })
    }
}

/// How files of a mount are to be owned.
struct Maps {
    owners: Owners,
    recursive: bool,
}

/// Where maps of owners come from.
enum Owners {
    /// The maps of users and groups in the kernel's form.
    Text { uids: String, gids: String },
    /// Those of the user namespace at this path, which the container joins.
    Joined(PathBuf),
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
    if !mounts::is_bind(mount) {
        return refuse("id-mapped mounts are only supported for bind mounts");
    }
    let owners = match namespace(spec, LinuxNamespaceType::User) {
        Some(Some(path)) if uids.is_empty() && gids.is_empty() => Owners::Joined(path),
        _ if uids.is_empty() || gids.is_empty() => {
            return refuse("id-mapped mounts need mappings of both users and groups");
        }
        _ => Owners::Text {
            uids: text(&uids),
            gids: text(&gids),
        },
    };
    Ok(Some(Maps { owners, recursive }))
}

/// Returns maps as the kernel reads them.
pub(crate) fn text(maps: &[LinuxIdMapping]) -> String {
    let lines = maps
        .iter()
        .map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size()));
    lines.collect()
}

/// Clones a source; what is mounted in the container never reaches the host, as if it had been cloned there.
fn plain(mount: &Mount, bundle: &Path) -> Result<OwnedFd> {
    let tree = mounts::clone_source(bundle, mount)?;
    let change = Change {
        propagation: u64::from(MountPropagationFlags::DOWNSTREAM.bits()),
        recursive: true,
        ..Change::default()
    };
    attach::change(&tree, &change).context(|| "keep mounts from the host")?;
    Ok(tree)
}

fn mapped(
    mount: &Mount,
    bundle: &Path,
    maps: &Maps,
    procfs: &Procfs,
    has_users: bool,
) -> Result<Tree> {
    let recursive = maps.recursive;
    let userns = match &maps.owners {
        Owners::Text { uids, gids } => sys::namespace::mapped_user(procfs, uids, gids)?,
        Owners::Joined(path) => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
                .context(|| format!("open namespace {path:?}"))?
        }
    };
    match has_users {
        true => set_maps(
            mounts::clone_source(bundle, mount)?,
            mount,
            &userns,
            recursive,
        )
        .map(Tree::Mapped),
        false => Ok(Tree::Maps { userns, recursive }),
    }
}

/// Has the files of a tree owned by other users than on disk.
pub(super) fn set_maps(
    tree: OwnedFd,
    mount: &Mount,
    userns: &OwnedFd,
    recursive: bool,
) -> Result<OwnedFd> {
    let change = Change {
        userns: Some(userns.as_fd()),
        recursive,
        ..Change::default()
    };
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    attach::change(&tree, &change).context(|| format!("set maps of {source:?}"))?;
    Ok(tree)
}
