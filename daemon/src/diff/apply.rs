//! Applying a layer: an archive's entries become files of a tree, its whiteouts deletions.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, Timestamps, Uid, XattrFlags, makedev,
};
use rustix::io::Errno;

use super::entries::{Entries, Entry, Type};
use super::tree::{self, Folder, Tree, Whiteouts};
use crate::error::{Context, Error, Result, invalid};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What became of a layer.
#[derive(Debug)]
pub enum Applied {
    /// It is in the tree, whole.
    Whole(Tree),
    /// It links to a file that is below the tree, so it can be applied only where that is known.
    NeedsLower,
}

/// Applies the layer that `input` yields to `tree`, and reads `input` to its end.
pub fn apply<R: BufRead>(tree: Tree, input: R) -> Result<Applied> {
    let mut layer = Layer {
        tree,
        root: rustix::process::geteuid().is_root(),
        dirs: Vec::new(),
        unpacked: HashSet::new(),
    };
    let mut entries = Entries::new(input);
    while let Some(entry) = entries.next_entry()? {
        let done = layer.entry(&entry, &mut entries);
        let path = || format!("unpack {:?}", OsStr::from_bytes(&entry.path));
        if done.context(path)? == Done::NeedsLower {
            return Ok(Applied::NeedsLower);
        }
    }
    layer.set_dir_times()?;
    entries.finish()?;
    Ok(Applied::Whole(layer.tree))
}

/// A layer that is being applied.
struct Layer {
    tree: Tree,
    /// Whether what this process makes is root's.
    root: bool,
    /// Folders get their times last, since what is put in them changes those.
    dirs: Vec<(Vec<u8>, u64, Timestamps)>,
    /// The inodes that came out of the layer: an opaque folder keeps these.
    unpacked: HashSet<u64>,
}

#[derive(Debug, PartialEq, Eq)]
enum Done {
    Yes,
    NeedsLower,
}

impl Layer {
    fn entry<R: BufRead>(&mut self, entry: &Entry, data: &mut Entries<R>) -> Result<Done> {
        let path = clean(&entry.path);
        let (parent, name) = split(&path);
        // The root itself is the snapshotter's to describe, whatever the archive says.
        if name.is_empty() {
            return Ok(Done::Yes);
        }
        let folder = self.tree.folder(parent)?;
        if name.starts_with(WHITEOUT) {
            return self.whiteout(&folder, name, entry).map(|()| Done::Yes);
        }
        let name = OsStr::from_bytes(name);
        match entry.kind {
            Type::Regular => self.regular(&folder, name, entry, data)?,
            Type::Directory => self.directory(&folder, name, entry, &path)?,
            Type::Symlink => self.replacing(&folder, name, |folder| {
                rustix::fs::symlinkat(OsStr::from_bytes(&entry.link), folder, name)
            })?,
            Type::Hardlink => {
                if self.hardlink(&folder, name, entry)? == Done::NeedsLower {
                    return Ok(Done::NeedsLower);
                }
            }
            Type::Character | Type::Block | Type::Fifo => {
                let (kind, device) = node(entry);
                self.replacing(&folder, name, |folder| {
                    rustix::fs::mknodat(folder, name, kind, Mode::from_raw_mode(0o600), device)
                })?;
            }
        }
        if !matches!(entry.kind, Type::Regular | Type::Directory) {
            describe(folder.as_fd(), name, entry)?;
            self.unpacked.extend(inode(folder.as_fd(), name)?);
        }
        Ok(Done::Yes)
    }

    /// Makes something in a folder; what is there already makes way.
    fn replacing<T>(
        &mut self,
        folder: &Folder,
        name: &OsStr,
        make: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T> {
        match make(folder.as_fd()) {
            Err(Errno::EXIST) => {
                self.tree.remove(folder.as_fd(), name)?;
                make(folder.as_fd())
            }
            other => other,
        }
        .context(|| format!("create {name:?}"))
    }

    fn regular<R: BufRead>(
        &mut self,
        folder: &Folder,
        name: &OsStr,
        entry: &Entry,
        data: &mut Entries<R>,
    ) -> Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.replacing(folder, name, |folder| {
            rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o600))
        })?;
        let mut file = File::from(fd);
        data.copy(entry, &mut file)?;
        let rootly = entry.uid == 0 && entry.gid == 0 && self.root && !folder.setgid;
        if !rootly {
            let (uid, gid) = owner(entry);
            rustix::fs::fchown(&file, Some(uid), Some(gid)).context(|| "set owner")?;
        }
        for (name, value) in xattrs(entry) {
            let set = rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty());
            check_xattr(set, name, entry)?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode)).context(|| "set mode")?;
        rustix::fs::futimens(&file, &times(entry)).context(|| "set times")?;
        if self.tree.whiteouts() == Whiteouts::Remove {
            let stat = rustix::fs::fstat(&file).context(|| "stat file")?;
            self.unpacked.insert(stat.st_ino);
        }
        Ok(())
    }

    fn directory(
        &mut self,
        folder: &Folder,
        name: &OsStr,
        entry: &Entry,
        path: &[u8],
    ) -> Result<()> {
        let private = Mode::from_raw_mode(0o700);
        match rustix::fs::mkdirat(folder, name, private) {
            Err(Errno::EXIST) => self.merge(folder, name)?,
            made => made.context(|| format!("create folder {name:?}"))?,
        }
        let fd = tree::open_folder(folder.as_fd(), name)?;
        let stat = rustix::fs::fstat(&fd).context(|| "stat folder")?;
        let magic = tree::magic(fd.as_fd(), None);
        let (uid, gid) = owner(entry);
        std::os::unix::fs::chown(&magic, Some(uid.as_raw()), Some(gid.as_raw()))
            .context(|| "set owner")?;
        for (name, value) in xattrs(entry) {
            let set = rustix::fs::setxattr(&magic, name, value, XattrFlags::empty());
            check_xattr(set, name, entry)?;
        }
        tree::set_mode(fd.as_fd(), entry.mode)?;
        if entry.mode & 0o2000 != 0 {
            self.tree.forget();
        }
        self.tree.described(stat.st_ino);
        self.unpacked.insert(stat.st_ino);
        self.dirs.push((path.to_vec(), stat.st_ino, times(entry)));
        Ok(())
    }

    /// Keeps a folder that is there already; anything else makes way for a new one.
    fn merge(&mut self, folder: &Folder, name: &OsStr) -> Result<()> {
        let stat = tree::stat(folder.as_fd(), name)?;
        let is_folder = stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
        if is_folder {
            return Ok(());
        }
        self.tree.remove(folder.as_fd(), name)?;
        rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o700))
            .context(|| format!("create folder {name:?}"))?;
        if self.tree.whiteouts() == Whiteouts::Overlay {
            // What was here hid a folder of the same name below; the new one must not show it again.
            tree::set_opaque(tree::open_folder(folder.as_fd(), name)?)?;
        }
        Ok(())
    }

    fn hardlink(&mut self, folder: &Folder, name: &OsStr, entry: &Entry) -> Result<Done> {
        let trimmed = entry.link.strip_suffix(b"/").unwrap_or(&entry.link);
        let (parent, target) = split(trimmed);
        if matches!(target, b"" | b"." | b"..") {
            return Err(invalid(format!(
                "hardlink to {:?}",
                OsStr::from_bytes(&entry.link)
            )));
        }
        let target = OsStr::from_bytes(target);
        let from = self.tree.open(parent, OFlags::PATH | OFlags::DIRECTORY);
        let known = match &from {
            Ok(from) => tree::stat(from.as_fd(), target)?,
            Err(_) => None,
        };
        if known.is_none() || known.is_some_and(|stat| tree::is_whiteout(&stat)) {
            if self.tree.whiteouts() == Whiteouts::Remove {
                return Err(Errno::NOENT).context(|| format!("link to {target:?}"));
            }
            if !self.tree.has_lower() {
                return Ok(Done::NeedsLower);
            }
            self.copy_up(parent, target, &entry.link)?;
        }
        let from = self
            .tree
            .open(parent, OFlags::PATH | OFlags::DIRECTORY)
            .context(|| format!("open the folder of {target:?}"))?;
        if inode(from.as_fd(), target)? == inode(folder.as_fd(), name)? {
            return Ok(Done::Yes);
        }
        self.replacing(folder, name, |folder| {
            rustix::fs::linkat(&from, target, folder, name, AtFlags::empty())
        })?;
        Ok(Done::Yes)
    }

    /// Copies a file from below into the tree, as overlay does before it changes or links one.
    fn copy_up(&mut self, parent: &[u8], name: &OsStr, path: &[u8]) -> Result<()> {
        let below = self
            .tree
            .open_below(path, OFlags::PATH)
            .ok_or_else(|| Error::other(format!("link to {name:?}"), Errno::NOENT))?;
        let stat = rustix::fs::fstat(&below).context(|| "stat file")?;
        let folder = self.tree.folder(parent)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(invalid(format!("hardlink to {name:?} in another layer")));
        }
        let from = tree::magic(below.as_fd(), None);
        let mut source = File::open(&from).context(|| format!("open {name:?}"))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let fd = rustix::fs::openat(&folder, name, flags, mode)
            .context(|| format!("create {name:?}"))?;
        let mut file = File::from(fd);
        std::io::copy(&mut source, &mut file).context(|| format!("copy {name:?}"))?;
        std::os::unix::fs::fchown(&file, Some(stat.st_uid), Some(stat.st_gid))
            .context(|| "set owner")?;
        tree::copy_xattrs(&from, &tree::magic(file.as_fd(), None))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(stat.st_mode & 0o7777))
            .context(|| "set mode")?;
        rustix::fs::futimens(&file, &tree::times(&stat)).context(|| "set times")
    }

    fn whiteout(&mut self, folder: &Rc<Folder>, name: &[u8], entry: &Entry) -> Result<()> {
        if name == OPAQUE {
            return match self.tree.whiteouts() {
                Whiteouts::Overlay => tree::set_opaque(folder.as_fd()),
                Whiteouts::Remove => self.empty(folder.as_fd()),
            };
        }
        let original = &name[WHITEOUT.len()..];
        if matches!(original, b"" | b"." | b"..") {
            return Err(invalid("invalid whiteout name"));
        }
        let original = OsStr::from_bytes(original);
        if self.tree.whiteouts() == Whiteouts::Remove {
            return self.tree.remove(folder.as_fd(), original);
        }
        let mode = Mode::from_raw_mode(0);
        self.replacing(folder, original, |folder| {
            rustix::fs::mknodat(folder, original, FileType::CharacterDevice, mode, 0)
        })?;
        let (uid, gid) = owner(entry);
        rustix::fs::chownat(
            folder,
            original,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .context(|| "set owner")
    }

    /// Removes what is in a folder, at any depth, and did not come out of this layer.
    fn empty(&mut self, folder: BorrowedFd<'_>) -> Result<()> {
        let open = rustix::fs::openat(
            folder,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let dir = open
            .and_then(rustix::fs::Dir::new)
            .context(|| "open folder")?;
        for found in dir {
            let found = found.context(|| "list folder")?;
            let name = OsStr::from_bytes(found.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let Some(stat) = tree::stat(folder, name)? else {
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                self.empty(tree::open_folder(folder, name)?.as_fd())?;
                if !self.unpacked.contains(&stat.st_ino) && !self.tree.is_implied(stat.st_ino) {
                    self.remove_empty(folder, name)?;
                }
            } else if !self.unpacked.contains(&stat.st_ino) {
                self.tree.remove(folder, name)?;
            }
        }
        Ok(())
    }

    /// Removes a folder, unless something of this layer is in it.
    fn remove_empty(&mut self, folder: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        self.tree.forget();
        match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOTEMPTY | Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).context(|| format!("remove {name:?}")),
        }
    }

    fn set_dir_times(&mut self) -> Result<()> {
        for (path, inode, times) in std::mem::take(&mut self.dirs) {
            let Ok(fd) = self.tree.open(&path, OFlags::PATH | OFlags::DIRECTORY) else {
                continue;
            };
            let stat = rustix::fs::fstat(&fd).context(|| "stat folder")?;
            if stat.st_ino == inode {
                let magic = tree::magic(fd.as_fd(), None);
                rustix::fs::utimensat(CWD, &magic, &times, AtFlags::empty())
                    .context(|| format!("set times of {:?}", OsStr::from_bytes(&path)))?;
            }
        }
        Ok(())
    }
}

/// Gives a symlink, a link or a device node its owner, xattrs, mode and times.
fn describe(folder: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> Result<()> {
    let (uid, gid) = owner(entry);
    rustix::fs::chownat(
        folder,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .context(|| "set owner")?;
    let path = tree::magic(folder, Some(name));
    for (name, value) in xattrs(entry) {
        let set = rustix::fs::lsetxattr(&path, name, value, XattrFlags::empty());
        check_xattr(set, name, entry)?;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, name, flags, Mode::empty())
        .context(|| format!("open {name:?}"))?;
    let stat = rustix::fs::fstat(&fd).context(|| "stat")?;
    if !FileType::from_raw_mode(stat.st_mode).is_symlink() {
        tree::set_mode(fd.as_fd(), entry.mode)?;
    }
    rustix::fs::utimensat(folder, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
        .context(|| "set times")
}

fn check_xattr(set: Result<(), Errno>, name: &OsStr, entry: &Entry) -> Result<()> {
    let only_of_files = name.as_bytes().starts_with(b"user.")
        && !matches!(entry.kind, Type::Regular | Type::Directory);
    match set {
        Err(Errno::NOTSUP) => tracing::warn!("ignored xattr {name:?}: not supported"),
        Err(Errno::PERM) if only_of_files => tracing::warn!("ignored xattr {name:?}"),
        other => other.context(|| format!("set xattr {name:?}"))?,
    }
    Ok(())
}

fn xattrs(entry: &Entry) -> impl Iterator<Item = (&OsStr, &[u8])> {
    let xattrs = entry.xattrs.iter();
    let xattrs = xattrs.filter(|(name, _)| !tree::is_overlay_xattr(name));
    xattrs.map(|(name, value)| (OsStr::from_bytes(name), value.as_slice()))
}

fn inode(folder: BorrowedFd<'_>, name: &OsStr) -> Result<Option<u64>> {
    Ok(tree::stat(folder, name)?.map(|stat| stat.st_ino))
}

fn node(entry: &Entry) -> (FileType, Dev) {
    let (major, minor) = entry.device;
    match entry.kind {
        Type::Character => (FileType::CharacterDevice, makedev(major, minor)),
        Type::Block => (FileType::BlockDevice, makedev(major, minor)),
        _ => (FileType::Fifo, 0),
    }
}

fn owner(entry: &Entry) -> (Uid, Gid) {
    (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid))
}

fn times(entry: &Entry) -> Timestamps {
    Timestamps {
        last_access: entry.accessed,
        last_modification: entry.modified,
    }
}

/// Returns a path without `.`, without `..` and what that takes back, and without slashes at its ends.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.join(&b'/')
}

/// Returns the folder of a path, and the name in it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests;
