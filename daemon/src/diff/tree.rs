//! The tree that a layer is written to: folders found and made strictly inside it, by descriptor.
//!
//! Every path of an archive is resolved in-root: `..` and symlinks, absolute ones too, end at the tree's own root, and
//! each step is taken by descriptor, so that nobody who renames things meanwhile can lead a step astray.
//!
//! The tree may lie upon others, as an overlay's upper folder does on its lower ones. What a layer does not bring
//! along then comes from there: folders with their owner and mode, and symlinks on the way.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::Permissions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

use crate::error::{Context, Result};

const FOLDER: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// As many open folders are remembered; entries of one folder follow each other.
const REMEMBERED: usize = 64;
const MAX_SYMLINKS: usize = 40;
const OPAQUE: &str = "trusted.overlay.opaque";

/// How deletions are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// What is deleted is removed from the tree.
    Remove,
    /// As overlay reads them in an upper folder: character devices 0:0, and opaque folders.
    Overlay,
}

/// A tree and what is below it.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    lower: Option<OwnedFd>,
    whiteouts: Whiteouts,
    folders: HashMap<Vec<u8>, Rc<Folder>>,
    /// The folders that no entry described, by inode.
    implied: HashMap<u64, PathBuf>,
}

/// An open folder of the tree.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    /// Whether new files get the folder's group.
    pub setgid: bool,
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A step of a walk: a folder of the tree, and the one below it that shows through.
struct Step {
    name: OsString,
    fd: OwnedFd,
    lower: Option<OwnedFd>,
}

/// Where a step leads.
enum Next {
    Folder(Step),
    Symlink(Vec<u8>),
}

/// What a folder has under a name.
enum Found {
    Folder,
    Symlink(Vec<u8>),
    Whiteout,
    Other,
    Nothing,
}

impl Tree {
    /// Returns the tree whose root is `root`, upon `lower` if that is known.
    pub fn new(root: OwnedFd, lower: Option<OwnedFd>, whiteouts: Whiteouts) -> Self {
        Self {
            root,
            lower,
            whiteouts,
            folders: HashMap::new(),
            implied: HashMap::new(),
        }
    }

    /// Returns how deletions are recorded.
    pub fn whiteouts(&self) -> Whiteouts {
        self.whiteouts
    }

    /// Returns the folder at `path`, making those that are not there.
    pub fn folder(&mut self, path: &[u8]) -> Result<Rc<Folder>> {
        if let Some(folder) = self.folders.get(path) {
            return Ok(folder.clone());
        }
        let fd = match open_inside(self.root.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT | Errno::NOTDIR) => self.walk(path),
            other => other.context(|| "resolve"),
        };
        let fd = fd.context(|| format!("open folder {:?}", OsStr::from_bytes(path)))?;
        let stat = rustix::fs::fstat(&fd).context(|| "stat folder")?;
        let folder = Rc::new(Folder {
            fd,
            setgid: stat.st_mode & 0o2000 != 0,
        });
        if self.folders.len() >= REMEMBERED {
            self.folders.clear();
        }
        self.folders.insert(path.to_vec(), folder.clone());
        Ok(folder)
    }

    /// Opens something inside the tree, resolving symlinks but the last; nothing is made.
    pub fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        open_inside(self.root.as_fd(), path, flags | OFlags::NOFOLLOW)
    }

    /// Opens a file that the tree itself does not have, in what is below it.
    pub fn open_below(&self, path: &[u8], flags: OFlags) -> Option<OwnedFd> {
        let lower = self.lower.as_ref()?;
        open_inside(lower.as_fd(), path, flags | OFlags::NOFOLLOW).ok()
    }

    /// Returns whether there is anything below the tree that is known.
    pub fn has_lower(&self) -> bool {
        self.lower.is_some()
    }

    /// Forgets the folders that are open, since one of them may be gone.
    pub fn forget(&mut self) {
        self.folders.clear();
    }

    /// Notes that an entry has described the folder with this inode.
    pub fn described(&mut self, inode: u64) {
        self.implied.remove(&inode);
    }

    /// Returns whether no entry has described the folder with this inode, which was made for what is in it.
    pub fn is_implied(&self, inode: u64) -> bool {
        self.implied.contains_key(&inode)
    }

    /// Returns the folders that no entry described, those nearest to the root first.
    pub fn into_implied(self) -> Vec<(PathBuf, u64)> {
        let implied = self.implied.into_iter();
        let mut implied: Vec<_> = implied.map(|(inode, path)| (path, inode)).collect();
        implied.sort();
        implied
    }

    /// Removes what `name` names in `folder`, with all that is in it; that it is not there is no error.
    pub fn remove(&mut self, folder: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) => self.folders.clear(),
            Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                self.folders.clear();
                // The standard library descends by descriptor and follows no symlink.
                std::fs::remove_dir_all(magic(folder, Some(name)))
                    .context(|| format!("remove {name:?}"))?;
            }
            Err(errno) => return Err(errno).context(|| format!("remove {name:?}")),
        }
        Ok(())
    }

    /// Goes to `path` step by step, following symlinks of the tree and of what is below it, and makes what is missing.
    fn walk(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let mut steps: Vec<Step> = Vec::new();
        let mut pending = names(path);
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            if name == ".." {
                steps.pop();
                continue;
            }
            match self.step(&steps, &name)? {
                Next::Folder(step) => steps.push(step),
                Next::Symlink(target) => {
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(Errno::LOOP).context(|| format!("follow {name:?}"));
                    }
                    if target.starts_with(b"/") {
                        steps.clear();
                    }
                    let mut target = names(&target);
                    target.append(&mut pending);
                    pending = target;
                }
            }
        }
        match steps.pop() {
            Some(step) => Ok(step.fd),
            None => self.root.try_clone().context(|| "reopen the root"),
        }
    }

    /// Takes one step from where `steps` have led.
    fn step(&mut self, steps: &[Step], name: &OsStr) -> Result<Next> {
        let (at, below) = match steps.last() {
            Some(step) => (step.fd.as_fd(), step.lower.as_ref()),
            None => (self.root.as_fd(), self.lower.as_ref()),
        };
        let below = below.filter(|_| !is_opaque(at)).map(AsFd::as_fd);
        let (fd, lower) = match find(at, name)? {
            Found::Folder => {
                let lower = below.and_then(|below| open_folder(below, name).ok());
                (open_folder(at, name)?, lower)
            }
            Found::Symlink(target) => return Ok(Next::Symlink(target)),
            Found::Whiteout if self.whiteouts == Whiteouts::Overlay => {
                rustix::fs::unlinkat(at, name, AtFlags::empty())
                    .context(|| format!("remove {name:?}"))?;
                let fd = make_folder(at, name)?;
                set_opaque(&fd)?;
                (fd, None)
            }
            Found::Whiteout | Found::Other => {
                return Err(Errno::NOTDIR).context(|| format!("open {name:?}"));
            }
            Found::Nothing => match below.map_or(Ok(Found::Nothing), |below| find(below, name))? {
                Found::Symlink(target) => return Ok(Next::Symlink(target)),
                Found::Folder => {
                    let below = below.expect("the folder was found there");
                    let lower = open_folder(below, name)?;
                    let fd = make_folder(at, name)?;
                    copy_folder(lower.as_fd(), fd.as_fd())?;
                    (fd, Some(lower))
                }
                Found::Nothing => {
                    let fd = make_folder(at, name)?;
                    let stat = rustix::fs::fstat(&fd).context(|| "stat folder")?;
                    let path = steps.iter().map(|step| step.name.as_os_str());
                    let path = path.chain([name]).collect();
                    self.implied.insert(stat.st_ino, path);
                    (fd, None)
                }
                Found::Whiteout | Found::Other => {
                    return Err(Errno::NOTDIR).context(|| format!("open {name:?}"));
                }
            },
        };
        let name = name.to_owned();
        Ok(Next::Folder(Step { name, fd, lower }))
    }
}

/// Gives folders of a tree that no entry described what the folders of `lower` at the same place have.
///
/// Returns `false` if `lower` has something else at such a place, so that the layer has to be applied upon it anew.
pub fn complete(
    root: BorrowedFd<'_>,
    implied: &[(PathBuf, u64)],
    lower: BorrowedFd<'_>,
) -> Result<bool> {
    for (path, inode) in implied {
        let plain = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let Ok(fd) = rustix::fs::openat2(root, path, FOLDER, Mode::empty(), plain) else {
            continue;
        };
        let stat = rustix::fs::fstat(&fd).context(|| "stat folder")?;
        if stat.st_ino != *inode || hidden(root, path) {
            continue;
        }
        match rustix::fs::openat2(lower, path, FOLDER, Mode::empty(), plain) {
            Ok(below) => copy_folder(below.as_fd(), fd.as_fd())
                .context(|| format!("complete folder {path:?}"))?,
            Err(Errno::NOENT) => {}
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

/// Returns whether a folder on the way to `path` is opaque.
fn hidden(root: BorrowedFd<'_>, path: &Path) -> bool {
    let plain = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let above = path.ancestors().skip(1);
    let mut above = above.filter(|path| !path.as_os_str().is_empty());
    above.any(|path| {
        rustix::fs::openat2(root, path, FOLDER, Mode::empty(), plain)
            .is_ok_and(|fd| is_opaque(fd.as_fd()))
    })
}

/// Returns the path that leads to what `folder` has under `name`, through the descriptor.
pub fn magic(folder: BorrowedFd<'_>, name: Option<&OsStr>) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    path.extend(name);
    path
}

/// Returns whether an inode stands for something deleted in an overlay's upper folder.
pub fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Returns the inode that `folder` has under `name`, if there is one; a symlink is not followed.
pub fn stat(folder: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Stat>> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).context(|| format!("stat {name:?}")),
    }
}

/// Opens a folder right in `folder`.
pub fn open_folder(folder: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    rustix::fs::openat(folder, name, FOLDER, Mode::empty())
        .context(|| format!("open folder {name:?}"))
}

fn open_inside(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = match path {
        b"" => OsStr::new("."),
        path => OsStr::from_bytes(path),
    };
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        let flags = flags | OFlags::CLOEXEC;
        match rustix::fs::openat2(root, path, flags, Mode::empty(), inside) {
            // Something was renamed while `..` was resolved.
            Err(Errno::AGAIN) if tries < 32 => tries += 1,
            other => return other,
        }
    }
}

fn find(folder: BorrowedFd<'_>, name: &OsStr) -> Result<Found> {
    let Some(stat) = stat(folder, name)? else {
        return Ok(Found::Nothing);
    };
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Found::Folder,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(folder, name, Vec::new());
            Found::Symlink(
                target
                    .context(|| format!("read link {name:?}"))?
                    .into_bytes(),
            )
        }
        _ if is_whiteout(&stat) => Found::Whiteout,
        _ => Found::Other,
    })
}

/// Makes a folder as it is made when nothing says how: 0755, root's.
fn make_folder(at: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    let mode = Mode::from_raw_mode(0o755);
    rustix::fs::mkdirat(at, name, mode).context(|| format!("create folder {name:?}"))?;
    let fd = open_folder(at, name)?;
    set_mode(fd.as_fd(), 0o755)?;
    Ok(fd)
}

/// Sets the mode of an open inode, which may be open for its path only.
pub fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    std::fs::set_permissions(magic(fd, None), Permissions::from_mode(mode))
        .context(|| format!("set mode {mode:o}"))
}

/// Gives a folder the owner, mode, xattrs and times of another.
fn copy_folder(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let stat = rustix::fs::fstat(from).context(|| "stat folder")?;
    let (from, path) = (magic(from, None), magic(to, None));
    std::os::unix::fs::chown(&path, Some(stat.st_uid), Some(stat.st_gid))
        .context(|| "set owner")?;
    copy_xattrs(&from, &path)?;
    set_mode(to, stat.st_mode & 0o7777)?;
    rustix::fs::utimensat(CWD, &path, &times(&stat), AtFlags::empty()).context(|| "set times")
}

/// Returns the times of an inode.
pub fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanos| Timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec as _),
    }
}

/// Copies the xattrs of one inode to another, but not those by which overlay works.
pub fn copy_xattrs(from: &Path, to: &Path) -> Result<()> {
    for name in xattrs(from)? {
        let value = xattr(from, &name)?.unwrap_or_default();
        match rustix::fs::setxattr(to, name.as_os_str(), &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(errno) => return Err(errno).context(|| format!("set xattr {name:?}")),
        }
    }
    Ok(())
}

/// Returns the names of an inode's xattrs, without those by which overlay works.
pub fn xattrs(path: &Path) -> Result<Vec<OsString>> {
    let mut list = Vec::with_capacity(4096);
    loop {
        match rustix::fs::listxattr(path, spare_capacity(&mut list)) {
            Ok(_) => break,
            Err(Errno::RANGE) if list.capacity() < 1 << 16 => list.reserve(1 << 16),
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno).context(|| format!("list xattrs of {path:?}")),
        }
    }
    let names = list.split(|byte| *byte == 0);
    let names = names.filter(|name| !name.is_empty() && !is_overlay_xattr(name));
    Ok(names
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect())
}

/// Returns the value of an xattr, if there is one.
pub fn xattr(path: &Path, name: &OsStr) -> Result<Option<Vec<u8>>> {
    let mut value = Vec::with_capacity(1 << 16);
    match rustix::fs::getxattr(path, name, spare_capacity(&mut value)) {
        Ok(_) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(errno) => Err(errno).context(|| format!("read xattr {name:?}")),
    }
}

/// Returns whether overlay gives an xattr a meaning: a layer that brings one could show files that are not its own.
pub fn is_overlay_xattr(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// Returns whether nothing of the folder below shows through.
pub fn is_opaque(folder: BorrowedFd<'_>) -> bool {
    let value = xattr(&magic(folder, None), OsStr::new(OPAQUE));
    value.is_ok_and(|value| value.as_deref() == Some(b"y"))
}

/// Makes a folder opaque: nothing of the folder below shows through.
pub fn set_opaque(folder: impl AsFd) -> Result<()> {
    let path = magic(folder.as_fd(), None);
    rustix::fs::setxattr(path, OPAQUE, b"y", XattrFlags::empty())
        .context(|| "make the folder opaque")
}

/// Returns the names in a path, without those that stay where they are.
fn names(path: &[u8]) -> VecDeque<OsString> {
    let names = path.split(|byte| *byte == b'/');
    let names = names.filter(|name| !name.is_empty() && *name != b".");
    names
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect()
}
