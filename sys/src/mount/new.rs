//! Mounting by the new mount API: every layer by file descriptor, so that neither their number nor their names matter.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    move_mount, open_tree,
};

use super::Mount;
use super::options::{Options, lower_dirs};
use super::owners::{self, Folders};
use crate::{Context, Error, Result};

/// The attributes of a read-only mount.
pub(super) const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// The kernel refuses longer strings in fsconfig(2).
const STRING_MAX: usize = 255;

/// What came of an attempt to make a mount.
pub(super) enum Created {
    /// A mount that is attached nowhere.
    Tree(OwnedFd),
    /// This kernel, or the new API, cannot express it.
    Unsupported,
}

/// Makes a detached mount.
pub(super) fn create(mount: &Mount, options: &Options) -> Result<Created> {
    let created = match options.flags.contains(MountFlags::BIND) {
        true => clone_tree(mount, options),
        false => create_filesystem(mount, options),
    };
    match created {
        Err(error) if error.errno() == Some(Errno::NOSYS) => Ok(Created::Unsupported),
        created => created,
    }
}

/// Attaches a detached mount.
pub(super) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let by_descriptor =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", by_descriptor).context(|| "attach")
}

fn clone_tree(mount: &Mount, options: &Options) -> Result<Created> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if options.flags.contains(MountFlags::REC) {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let source = &mount.source;
    let tree =
        open_tree(CWD, source.as_str(), flags).context(|| format!("clone mount {source:?}"))?;
    let attributes = attributes(options.flags);
    if !attributes.is_empty() {
        // As with mount(2), the flags are for the mount itself, not for those below it.
        set_attributes(tree.as_fd(), attributes, false).context(|| "set mount attributes")?;
    }
    if let Some(owners) = &options.owners {
        owners::give(&tree, &owners::namespace(owners)?)?;
    }
    Ok(Created::Tree(tree))
}

fn create_filesystem(mount: &Mount, options: &Options) -> Result<Created> {
    let fstype = mount.fstype.as_str();
    let context =
        fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).context(|| format!("open {fstype:?}"))?;
    let fs = context.as_fd();
    let mut lower = match &options.owners {
        Some(owners) if fstype == "overlay" => Some(Folders::new(owners)?),
        Some(_) => return Ok(Created::Unsupported),
        None => None,
    };
    if mount.source.len() > STRING_MAX {
        return Ok(Created::Unsupported);
    }
    if !mount.source.is_empty() {
        configure(fs, "source", &mount.source)?;
    }
    for name in super_flags(options.flags) {
        fsconfig_set_flag(fs, name).map_err(|errno| explain(fs, errno, name))?;
    }
    for option in &options.data {
        let supported = match option.split_once('=') {
            None => {
                fsconfig_set_flag(fs, option.as_str())
                    .map_err(|errno| explain(fs, errno, option))?;
                true
            }
            Some((key @ ("lowerdir" | "upperdir" | "workdir"), value)) if fstype == "overlay" => {
                set_layers(fs, key, value, lower.as_mut())?
            }
            Some((_, value)) if value.len() > STRING_MAX => false,
            Some((key, value)) => {
                configure(fs, key, value)?;
                true
            }
        };
        if !supported {
            return Ok(Created::Unsupported);
        }
    }
    match fsconfig_create(fs) {
        // The kernel takes descriptors, but not of detached mounts (6.13 and 6.14).
        Err(Errno::INVAL) if lower.is_some() => return Ok(Created::Unsupported),
        created => created.map_err(|errno| explain(fs, errno, "create file system"))?,
    }
    let tree = fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes(options.flags))
        .context(|| "create mount")?;
    Ok(Created::Tree(tree))
}

/// Gives overlay its folders; false on kernels that take them by name only.
fn set_layers(
    fs: BorrowedFd<'_>,
    key: &str,
    value: &str,
    mut lower: Option<&mut Folders>,
) -> Result<bool> {
    let Some(dirs) = lower_dirs(value) else {
        return Ok(false);
    };
    let key = match key {
        "lowerdir" => "lowerdir+",
        key => key,
    };
    for dir in &dirs {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let layer = match &mut lower {
            Some(lower) if key == "lowerdir+" => lower.open(dir)?,
            _ => rustix::fs::open(dir.as_str(), flags, Mode::empty())
                .context(|| format!("open layer {dir:?}"))?,
        };
        match fsconfig_set_fd(fs, key, &layer) {
            Ok(()) => {}
            Err(errno) => {
                let reasons = log(fs);
                if errno == Errno::INVAL && !reasons.contains("limit") {
                    return Ok(false);
                }
                return Err(Error::other(with_log(key, &reasons), errno));
            }
        }
    }
    Ok(true)
}

fn configure(fs: BorrowedFd<'_>, key: &str, value: &str) -> Result<()> {
    fsconfig_set_string(fs, key, value)
        .map_err(|errno| explain(fs, errno, &format!("{key}={value}")))
}

/// Returns an error with what the kernel says of it.
fn explain(fs: BorrowedFd<'_>, errno: Errno, step: &str) -> Error {
    Error::other(with_log(step, &log(fs)), errno)
}

fn with_log(step: &str, log: &str) -> String {
    match log.is_empty() {
        true => step.to_string(),
        false => format!("{step} ({log})"),
    }
}

/// Reads the kernel's messages about a file system being configured, without their class letter.
fn log(fs: BorrowedFd<'_>) -> String {
    let mut messages = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = rustix::io::read(fs, &mut buffer) {
        let message = String::from_utf8_lossy(&buffer[..count]);
        let message = message.trim_end();
        let bare = message.split_once(' ').map_or(message, |(_, bare)| bare);
        messages.push(bare.to_string());
    }
    messages.join("; ")
}

/// Returns the options of the file system that mount(2) has as flags.
fn super_flags(flags: MountFlags) -> Vec<&'static str> {
    let names = [
        (MountFlags::RDONLY, "ro"),
        (MountFlags::SYNCHRONOUS, "sync"),
        (MountFlags::DIRSYNC, "dirsync"),
        (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, "mand"),
        (MountFlags::LAZYTIME, "lazytime"),
    ];
    let set = names.into_iter().filter(|(flag, _)| flags.contains(*flag));
    set.map(|(_, name)| name).collect()
}

/// Returns the attributes of a mount that the flags of mount(2) stand for.
pub fn attributes(flags: MountFlags) -> MountAttrFlags {
    let pairs = [
        (MountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (MountFlags::NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
        (
            MountFlags::STRICTATIME,
            MountAttrFlags::MOUNT_ATTR_STRICTATIME,
        ),
        (
            MountFlags::NODIRATIME,
            MountAttrFlags::MOUNT_ATTR_NODIRATIME,
        ),
        (
            MountFlags::NOSYMFOLLOW,
            MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW,
        ),
    ];
    let set = pairs.into_iter().filter(|(flag, _)| flags.contains(*flag));
    set.fold(MountAttrFlags::empty(), |all, (_, attribute)| {
        all | attribute
    })
}

/// The kernel's `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes of an open mount, and of all below it if `recursive`.
pub(super) fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: MountAttrFlags,
    recursive: bool,
) -> Result<(), Errno> {
    let access_time = MountAttrFlags::MOUNT_ATTR_NOATIME | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    let clear = match attributes.intersects(access_time) {
        // The kernel wants the whole field cleared before one of its values is set.
        true => MountAttrFlags::MOUNT_ATTR__ATIME,
        false => MountAttrFlags::empty(),
    };
    let attr = MountAttr {
        attr_set: u64::from(attributes.bits()),
        attr_clr: u64::from(clear.bits()),
        propagation: 0,
        userns_fd: 0,
    };
    let flags = match recursive {
        true => libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
        false => libc::AT_EMPTY_PATH,
    };
    // SAFETY: the path ends with a NUL, and the size is that of the struct, which outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
