//! Mounts by descriptor: trees cloned and attached, file systems mounted on an open folder, a new root entered.

use std::ffi::CStr;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    move_mount, open_tree,
};

use crate::mount::entries;
use crate::process::last_errno;
use crate::{Context, Result};

/// What to change of a mount, all at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<'a> {
    /// The attributes to set.
    pub set: u64,
    /// The attributes to clear.
    pub clear: u64,
    /// The propagation to set: one of `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or 0.
    pub propagation: u64,
    /// The user namespace by whose maps files are owned.
    pub userns: Option<BorrowedFd<'a>>,
    /// Whether the mounts below are changed too.
    pub recursive: bool,
}

/// The kernel's `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes an open mount.
pub fn change(mount: impl AsFd, change: &Change<'_>) -> Result<(), Errno> {
    let mut attr = MountAttr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: 0,
    };
    if let Some(userns) = change.userns {
        attr.attr_set |= u64::from(MountAttrFlags::MOUNT_ATTR_IDMAP.bits());
        attr.userns_fd = userns.as_raw_fd() as u64;
    }
    let mut flags = libc::AT_EMPTY_PATH;
    if change.recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path ends with a NUL, and the size is that of the struct, which outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Returns a detached copy of the mount at `path`, relative to `dir`, or of `dir` itself for an empty path.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.is_empty());
    open_tree(dir, path, flags)
}

/// Attaches a detached tree at an open target.
pub fn attach(tree: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let by_descriptor =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree.as_fd(), "", target.as_fd(), "", by_descriptor)
}

/// Mounts a file system on an open target, by the caller's own `/proc`, in which no container has had a say.
pub fn mount(
    target: impl AsFd,
    fstype: &str,
    source: &str,
    flags: MountFlags,
    data: &CStr,
) -> Result<(), Errno> {
    let target = format!("/proc/self/fd/{}", target.as_fd().as_raw_fd());
    rustix::mount::mount(source, target, fstype, flags, data)
}

/// Sets the propagation of every mount of the namespace.
pub fn change_all(propagation: MountPropagationFlags) -> Result<()> {
    rustix::mount::mount_change("/", propagation | MountPropagationFlags::REC)
        .context(|| "set the propagation of all mounts")
}

/// Makes `root`, which must be a mount, the root of the namespace and the working folder; detaches the old one.
pub fn pivot(root: impl AsFd) -> Result<()> {
    let old = open_path(Path::new("/")).context(|| "open the old root")?;
    rustix::process::fchdir(root.as_fd()).context(|| "change to the root file system")?;
    // The old root lands on top of the new one: no folder is needed to put it, and none can be in the way.
    rustix::process::pivot_root(".", ".").context(|| "pivot_root")?;
    // Without this "." is the new root, whose mounts keep the propagation that they were given.
    rustix::process::fchdir(&old).context(|| "change to the old root")?;
    // Where the root's propagation is shared, the mounts of the old root still have peers on the host, which would go too.
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change(".", slave).context(|| "cut the old root off from the host")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).context(|| "detach the old root")?;
    rustix::process::chdir("/").context(|| "change to the new root")
}

/// Moves `root` over `/` and enters it: for an initramfs, which pivot_root(2) refuses to leave.
pub fn move_root(root: impl AsFd) -> Result<()> {
    rustix::process::fchdir(root.as_fd()).context(|| "change to the root file system")?;
    remove_kernels_own()?;
    rustix::mount::mount_move(".", "/").context(|| "move the root file system over \"/\"")?;
    rustix::process::chroot(".").context(|| "change root")?;
    rustix::process::chdir("/").context(|| "change to the new root")
}

/// Unmounts what outside the working folder shows the kernel's own state whole: what is moved over stays in the namespace,
/// and while it does, the kernel lets who has a user namespace in it mount the same afresh, without what is masked.
fn remove_kernels_own() -> Result<()> {
    let here = rustix::process::getcwd(Vec::new()).context(|| "get the root file system's path")?;
    let here = PathBuf::from(OsString::from_vec(here.into_bytes()));
    let mut mounts = entries()?;
    mounts.retain(|mount| ["proc", "sysfs"].contains(&mount.fstype.as_str()));
    // The kernel lists a mount before those on it.
    for mount in mounts
        .iter()
        .rev()
        .filter(|mount| !mount.target.starts_with(&here))
    {
        let target = &mount.target;
        let covered = match rustix::mount::unmount(target, UnmountFlags::DETACH) {
            // One that came with others from another user namespace cannot be had alone.
            Err(Errno::INVAL | Errno::PERM) => {
                rustix::mount::mount("tmpfs", target, "tmpfs", MountFlags::empty(), None)
            }
            unmounted => unmounted,
        };
        covered.context(|| format!("hide {target:?}"))?;
    }
    Ok(())
}

/// Opens the file or folder at a path of the caller's own, only to refer to it.
pub fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}
