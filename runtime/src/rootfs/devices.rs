//! Devices: those every container has, those the specification names, and the links beside them.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Spec};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use sys::attach;
use sys::path::Root;
use sys::{Context, Error, Kind, Result};

use crate::spec::namespace;

/// The character devices that the specification promises, with their numbers.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("random", 1, 8),
    ("full", 1, 7),
    ("tty", 5, 0),
    ("zero", 1, 5),
    ("urandom", 1, 9),
];

const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

/// Tells whether devices are to be made: not in a `/dev` that is someone else's.
pub(super) fn are_ours(spec: &Spec) -> bool {
    !spec.mounts().iter().flatten().any(|mount| {
        let options = mount.options().as_deref().unwrap_or_default();
        let bind = mount.typ().as_deref() == Some("bind")
            || options
                .iter()
                .any(|option| option == "bind" || option == "rbind");
        bind && mount.destination() == Path::new("/dev")
    })
}

/// Returns the devices that are mounts of the host's: the kernel lets no user namespace make devices.
pub(super) fn lent(spec: &Spec) -> Vec<PathBuf> {
    if !are_ours(spec) || namespace(spec, LinuxNamespaceType::User).is_none() {
        return Vec::new();
    }
    let linux = spec.linux().as_ref();
    let named = linux.and_then(|linux| linux.devices().as_deref());
    let named = named.unwrap_or_default().iter();
    let default = DEFAULT
        .iter()
        .map(|(name, ..)| Path::new("/dev").join(name));
    default
        .chain(named.map(|device| device.path().clone()))
        .collect()
}

/// Makes all devices and links.
pub(super) fn create(root: &Root, spec: &Spec) -> Result<()> {
    let dev = root.create_dir_all(Path::new("/dev"), 0o755)?;
    // The kernel lets no user namespace make devices: the host's are lent.
    let lend = namespace(spec, LinuxNamespaceType::User).is_some();
    let umask = rustix::process::umask(Mode::empty());
    let linux = spec.linux().as_ref();
    let named = linux
        .and_then(|linux| linux.devices().as_deref())
        .unwrap_or_default();
    for (name, major, minor) in DEFAULT {
        if named
            .iter()
            .any(|device| device.path() == &Path::new("/dev").join(name))
        {
            continue;
        }
        let number = rustix::fs::makedev(major, minor);
        let mode = Mode::from_raw_mode(0o666);
        if lend {
            let path = Path::new("/dev").join(name);
            lend_device(root, &path, FileType::CharacterDevice, number)?;
            continue;
        }
        match rustix::fs::mknodat(&dev, name, FileType::CharacterDevice, mode, number) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).context(|| format!("make device \"/dev/{name}\"")),
        }
    }
    for device in named {
        make(root, device, lend).context(|| format!("make device {:?}", device.path()))?;
    }
    rustix::process::umask(umask);
    for (target, name) in LINKS {
        link(&dev, target, name)?;
    }
    if Path::new("/proc/kcore").exists() {
        link(&dev, "/proc/kcore", "core")?;
    }
    match rustix::fs::unlinkat(&dev, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno).context(|| "remove \"/dev/ptmx\""),
    }
    link(&dev, "pts/ptmx", "ptmx")
}

fn link(dev: &std::os::fd::OwnedFd, target: &str, name: &str) -> Result<()> {
    match rustix::fs::symlinkat(target, dev, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno).context(|| format!("link \"/dev/{name}\"")),
    }
}

/// Takes the container's own null device for those of stdin, stdout and stderr that are the host's: a process that has
/// nothing open of outside can be checkpointed.
pub(crate) fn reopen_null(root: &Root, spec: &Spec) -> Result<()> {
    use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stderr, stdin, stdout};
    if !are_ours(spec) {
        return Ok(());
    }
    let reopen = || {
        let null = root.open(Path::new("/dev/null"), OFlags::RDWR)?;
        let number = rustix::fs::fstat(&null)?.st_rdev;
        let is_null = |fd: BorrowedFd<'_>| {
            rustix::fs::fstat(fd).is_ok_and(|stat| {
                FileType::from_raw_mode(stat.st_mode).is_char_device() && stat.st_rdev == number
            })
        };
        if is_null(stdin()) {
            dup2_stdin(&null)?;
        }
        if is_null(stdout()) {
            dup2_stdout(&null)?;
        }
        if is_null(stderr()) {
            dup2_stderr(&null)?;
        }
        Ok::<_, Errno>(())
    };
    reopen().context(|| "reopen the null device inside")
}

/// Attaches a device of the host at the same path, and makes sure that it is the one that is meant.
fn lend_device(root: &Root, path: &Path, kind: FileType, number: u64) -> Result<()> {
    let device = attach::open_path(path).context(|| format!("open device {path:?} of the host"))?;
    let stat = rustix::fs::fstat(&device).context(|| format!("stat device {path:?}"))?;
    if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_rdev != number {
        let message = format!("{path:?} of the host is another device");
        return Err(Error::new(Kind::FailedPrecondition, message));
    }
    let place = root.create_file(path, 0o755)?;
    attach::clone_tree(device.as_fd(), c"", false)
        .and_then(|tree| attach::attach(&tree, &place))
        .context(|| format!("attach device {path:?}"))
}

fn make(root: &Root, device: &LinuxDevice, lend: bool) -> Result<()> {
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => {
            return Err(Error::new(
                Kind::InvalidArgument,
                "a device cannot have the type \"a\"",
            ));
        }
    };
    let number = |number: i64| {
        u32::try_from(number)
            .map_err(|_| Error::new(Kind::InvalidArgument, format!("device number {number}")))
    };
    let number = rustix::fs::makedev(number(device.major())?, number(device.minor())?);
    if lend && kind != FileType::Fifo {
        return lend_device(root, device.path(), kind, number);
    }
    let (parent, name) = root.parent(device.path())?;
    let mode = Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777);
    match rustix::fs::mknodat(&parent, name, kind, mode, number) {
        Ok(()) => {}
        Err(Errno::EXIST) => return verify(&parent, name, kind, number),
        Err(errno) => return Err(errno).context(|| "mknod"),
    }
    let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    if owner != (0, 0) {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(owner.0),
            rustix::fs::Gid::from_raw(owner.1),
        );
        rustix::fs::chownat(
            &parent,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .context(|| "chown")?;
    }
    Ok(())
}

/// Accepts a device that is there already if it is the one that was to be made.
fn verify(
    parent: &std::os::fd::OwnedFd,
    name: &std::ffi::OsStr,
    kind: FileType,
    number: u64,
) -> Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let stat = rustix::fs::openat(parent, name, flags, Mode::empty())
        .and_then(rustix::fs::fstat)
        .context(|| "stat what is there already")?;
    let same = FileType::from_raw_mode(stat.st_mode) == kind
        && (kind == FileType::Fifo || stat.st_rdev == number);
    match same {
        true => Ok(()),
        false => Err(Error::new(
            Kind::FailedPrecondition,
            "something else is there already",
        )),
    }
}
