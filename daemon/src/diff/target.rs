//! Where a layer goes: what lies behind the mounts of a snapshot, written to without mounting where that is right.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use sys::mount::{Mount, TempMount, open_detached};

use super::tree::{Tree, Whiteouts};
use crate::error::{Context, Result};

/// An open folder that layers are written to.
#[derive(Debug)]
pub struct Target {
    root: OwnedFd,
    lower: Option<OwnedFd>,
    whiteouts: Whiteouts,
    mount: Option<TempMount>,
}

impl Target {
    /// Opens what `mounts` would show: an overlay's upper folder, a bind mount's source, or a mount made for it.
    pub fn open(mounts: &[Mount]) -> Result<Self> {
        if let [mount] = mounts {
            if mount.fstype == "overlay"
                && let Some(target) = Self::upper(mount)?
            {
                return Ok(target);
            }
            let plain = mount.fstype == "bind" || mount.options.iter().any(|o| o.ends_with("bind"));
            if plain && mount.target.is_empty() && !mount.options.iter().any(|o| o == "ro") {
                return Ok(Self {
                    root: open(Path::new(&mount.source))?,
                    lower: None,
                    whiteouts: Whiteouts::Remove,
                    mount: None,
                });
            }
        }
        let mount = TempMount::new(mounts)?;
        Ok(Self {
            root: open(mount.path())?,
            lower: None,
            whiteouts: Whiteouts::Remove,
            mount: Some(mount),
        })
    }

    /// Opens the folder of a snapshot that is to become an overlay's upper folder, upon what is not known yet.
    pub fn detached(mounts: &[Mount]) -> Result<Option<Self>> {
        let [mount] = mounts else {
            return Ok(None);
        };
        let mut target = Self::open(mounts)?;
        if mount.fstype == "overlay" || target.mount.is_some() {
            return Ok(None);
        }
        target.whiteouts = Whiteouts::Overlay;
        Ok(Some(target))
    }

    fn upper(mount: &Mount) -> Result<Option<Self>> {
        let find = |key: &str| mount.options.iter().find_map(|o| o.strip_prefix(key));
        let Some(upper) = find("upperdir=") else {
            return Ok(None);
        };
        // In a user namespace overlay's own xattrs and device nodes cannot be made: it has to be mounted.
        if mount.options.iter().any(|o| o == "userxattr") {
            return Ok(None);
        }
        Ok(Some(Self {
            root: open(Path::new(upper))?,
            lower: open_lower(mount)?,
            whiteouts: Whiteouts::Overlay,
            mount: None,
        }))
    }

    /// Returns the tree to apply a layer to.
    pub fn tree(&self) -> Result<Tree> {
        let clone = |fd: &OwnedFd| fd.try_clone().context(|| "reopen the root");
        let lower = self.lower.as_ref().map(clone).transpose()?;
        Ok(Tree::new(clone(&self.root)?, lower, self.whiteouts))
    }

    /// Writes everything in the file system of the target to disk.
    pub fn sync(&self) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.root, ".", flags, Mode::empty())
            .and_then(rustix::fs::syncfs)
            .context(|| "sync the layer")
    }

    /// Unmounts what was mounted, and says if that failed.
    pub fn close(self) -> Result<()> {
        drop((self.root, self.lower));
        self.mount.map_or(Ok(()), TempMount::close)
    }
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Opens what the mounts of a view, or the lower folders of an overlay, show, without a mount point.
pub fn open_lower(mount: &Mount) -> Result<Option<OwnedFd>> {
    if mount.fstype != "overlay" {
        return open(Path::new(&mount.source)).map(Some);
    }
    let mut lowers = Vec::new();
    let mut options = Vec::new();
    for option in &mount.options {
        match option.split_once('=') {
            Some(("lowerdir", lower)) => lowers.push(lower.to_owned()),
            Some(("upperdir" | "workdir", _)) => {}
            _ if option == "rw" || option == "volatile" => {}
            _ => options.push(option.clone()),
        }
    }
    let lowers = lowers.join(":");
    if lowers.is_empty() {
        return Ok(None);
    }
    if !lowers.contains([':', '\\']) {
        return open(Path::new(&lowers)).map(Some);
    }
    options.extend(["ro".to_owned(), format!("lowerdir={lowers}")]);
    let lower = Mount {
        options,
        ..mount.clone()
    };
    open_detached(&lower).map(Some)
}

fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).context(|| format!("open {path:?}"))
}
