//! Mounts as containerd describes them: applied in order, undone as a whole, unmounted recursively.
//!
//! The new mount API comes first, because mount(2) cuts overlay's option string at a page; mount(2) is for kernels
//! without `lowerdir+` by file descriptor (before 6.13).

mod new;
mod old;
mod options;
mod owners;
mod table;
mod temp;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use crate::{Context, Error, Kind, Result};

pub use new::attributes;
pub use options::{Options, read_only};
pub use table::{Entry, entries};
pub use temp::TempMount;

/// A mount as clients and snapshotters exchange it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// The file system's type, or `bind`.
    pub fstype: String,
    /// What is mounted: a folder, a device, or a name without meaning.
    pub source: String,
    /// Where below the given target to mount; empty is the target itself.
    pub target: String,
    /// The options as in fstab: flags such as `ro`, and what the file system itself understands.
    pub options: Vec<String>,
}

impl Mount {
    /// Mounts this at `target`, which must exist.
    pub fn mount(&self, target: &Path) -> Result<()> {
        mount_all(std::slice::from_ref(self), target)
    }
}

/// Mounts each of `mounts` in order at `target`; undoes what it did if one of them fails.
pub fn mount_all(mounts: &[Mount], target: &Path) -> Result<()> {
    for (done, mount) in mounts.iter().enumerate() {
        let mounted = resolve(mount, target)
            .and_then(|at| attach(mount, at.as_fd()))
            .context(|| format!("mount {} on {target:?}", describe(mount)));
        if let Err(error) = mounted {
            if done > 0 {
                let _ = unmount_all(target);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Unmounts everything at and below `target`; a mount that stays busy is detached.
///
/// A target that does not exist or is not a mount point is no error.
pub fn unmount_all(target: &Path) -> Result<()> {
    let target = match target.canonicalize() {
        Ok(target) => target,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context(|| format!("resolve {target:?}")),
    };
    loop {
        match rustix::mount::unmount(&target, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(_) => {
                unmount_below(&target)?;
                unmount_busy(&target)?;
            }
        }
    }
    unmount_below(&target)
}

/// Unmounts what is mounted below `target`, the latest first.
fn unmount_below(target: &Path) -> Result<()> {
    let mut below: Vec<PathBuf> = entries()?
        .into_iter()
        .map(|entry| entry.target)
        .filter(|path| path != target && path.starts_with(target))
        .collect();
    while let Some(path) = below.pop() {
        unmount_busy(&path)?;
    }
    Ok(())
}

/// Unmounts one mount point: waits a moment for a user to go away, then detaches it.
fn unmount_busy(path: &Path) -> Result<()> {
    for _ in 0..10 {
        match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) => sleep(Duration::from_millis(10)),
            Err(errno) => return Err(errno).context(|| format!("unmount {path:?}")),
        }
    }
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).context(|| format!("detach {path:?}")),
    }
}

/// Detaches the mount at `target` at once, even if it is in use.
pub fn detach(target: &Path) -> Result<()> {
    rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
        .context(|| format!("detach {target:?}"))
}

/// Makes the mount at `target` read-only, and those below it if `recursive`; other attributes stay.
pub fn remount_readonly(target: &Path, recursive: bool) -> Result<()> {
    let fd = rustix::fs::open(target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .context(|| format!("open {target:?}"))?;
    match new::set_attributes(fd.as_fd(), new::READ_ONLY, recursive) {
        Err(Errno::NOSYS) => old::remount_readonly(target, recursive),
        result => result.context(|| format!("make {target:?} read-only")),
    }
}

/// Returns a tree of mounts attached nowhere, which lives as long as the descriptor.
pub fn open_detached(mount: &Mount) -> Result<OwnedFd> {
    let options = Options::parse(&mount.options);
    match new::create(mount, &options)? {
        new::Created::Tree(tree) => Ok(tree),
        new::Created::Unsupported => Err(Error::new(
            Kind::Unimplemented,
            format!("this kernel cannot mount {} detached", describe(mount)),
        )),
    }
}

/// Gives the calling thread, and the threads and processes it starts, a private mount namespace.
pub fn private_namespace() -> Result<()> {
    // SAFETY: the flag leaves the file descriptor table shared, which is all that unshare_unsafe asks for.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
        .context(|| "unshare the mount namespace")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).context(|| "make all mounts private")
}

/// Opens where `mount` goes; a target below the target never leaves it by `..` or symlinks.
fn resolve(mount: &Mount, target: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, target, flags, Mode::empty())
        .context(|| format!("open {target:?}"))?;
    if mount.target.is_empty() {
        return Ok(root);
    }
    let below = &mount.target;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(&root, below.as_str(), flags, Mode::empty(), inside)
        .context(|| format!("open {below:?} in {target:?}"))
}

/// Mounts one mount at an open target, by the new mount API if it can.
fn attach(mount: &Mount, target: BorrowedFd<'_>) -> Result<()> {
    let options = Options::parse(&mount.options);
    if !options.remount {
        match new::create(mount, &options)? {
            new::Created::Tree(tree) => {
                new::attach(tree.as_fd(), target)?;
                return old::set_propagation(&options, target);
            }
            new::Created::Unsupported => {}
        }
    }
    old::mount(mount, &options, target)?;
    old::set_propagation(&options, target)
}

/// Returns the mount in a few words, for messages.
fn describe(mount: &Mount) -> String {
    let Mount {
        fstype,
        source,
        target,
        ..
    } = mount;
    let mut words = match fstype == source {
        true => fstype.clone(),
        false => format!("{fstype} {source:?}"),
    };
    if !target.is_empty() {
        words.push_str(&format!(" at {target:?}"));
    }
    words
}

#[cfg(test)]
mod tests;
