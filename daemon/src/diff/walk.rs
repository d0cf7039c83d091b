//! Walking two file systems, and writing as an archive what the second has otherwise than the first.
//!
//! Both are gone through by descriptor, folder by folder, names in order. A folder of the second may also be the upper
//! folder of an overlay upon the first: then only the names that it has can have changed, and overlay's whiteouts say
//! what is gone. A folder there that is opaque is compared name by name again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{Dir, FileType, Mode, OFlags, Stat, major, minor};

use super::entries::Type;
use super::tree;
use super::write::{Archive, Header};
use crate::error::{Context, Error, Kind, Result};

const WHITEOUT: &[u8] = b".wh.";
const CAPABILITY: &str = "security.capability";
/// Overlay's marks of files that are not all in the upper folder.
const ELSEWHERE: [&str; 2] = ["trusted.overlay.redirect", "trusted.overlay.metacopy"];
/// The deepest folder: no path within the kernel's limit has more names.
const MAX_DEPTH: usize = 2048;
const BUFFER: usize = 256 << 10;

/// How much of the second side there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// All of it.
    Whole,
    /// What an overlay's upper folder has.
    Upper,
}

/// What became of a comparison.
#[derive(Debug)]
pub enum Compared<W> {
    /// The archive is whole.
    Written(W),
    /// The upper folder has files of which parts are below it, so that it has to be looked at as overlay shows it.
    NeedsMount,
}

/// Writes how `upper` differs from `lower`; no time in the archive is later than `latest`.
pub fn compare<W: Write>(
    lower: Option<BorrowedFd<'_>>,
    upper: BorrowedFd<'_>,
    view: View,
    latest: Option<i64>,
    output: W,
) -> Result<Compared<W>> {
    let mut walk = Walk {
        archive: Archive::new(output),
        latest,
        parents: Vec::new(),
        written: HashSet::new(),
        sources: HashMap::new(),
        unchanged: HashMap::new(),
        buffer: vec![0; BUFFER],
    };
    let upper = open_folder(upper, OsStr::new("."))?;
    let lower = lower.map(|lower| open_folder(lower, OsStr::new(".")));
    match walk.folder(lower.transpose()?, upper, b"", view)? {
        Step::Done => Ok(Compared::Written(walk.archive.finish()?)),
        Step::NeedsMount => Ok(Compared::NeedsMount),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Done,
    NeedsMount,
}

/// An inode, by device and number.
type Inode = (u64, u64);

struct Walk<W> {
    archive: Archive<W>,
    latest: Option<i64>,
    /// The folders on the way, whose headers are written as soon as something in them is.
    parents: Vec<Header>,
    /// Those that have been.
    written: HashSet<Vec<u8>>,
    /// The first name written of an inode with several names.
    sources: HashMap<Inode, Vec<u8>>,
    /// Names of such an inode that have not changed; they have to be links to whatever does change.
    unchanged: HashMap<Inode, Vec<Vec<u8>>>,
    buffer: Vec<u8>,
}

/// A name in a folder of the second side, and what the first has there.
struct Pair<'a> {
    lower: Option<(&'a OwnedFd, Stat)>,
    upper: (&'a OwnedFd, Stat),
    name: &'a OsStr,
    path: Vec<u8>,
}

impl<W: Write> Walk<W> {
    fn folder(
        &mut self,
        lower: Option<OwnedFd>,
        upper: OwnedFd,
        path: &[u8],
        view: View,
    ) -> Result<Step> {
        if self.parents.len() > MAX_DEPTH {
            let message = format!("folders more than {MAX_DEPTH} deep");
            return Err(Error::new(Kind::InvalidArgument, message));
        }
        let opaque = view == View::Upper && tree::is_opaque(upper.as_fd());
        let view = if opaque { View::Whole } else { view };
        let mut names = names(&upper)?;
        if view == View::Whole
            && let Some(lower) = &lower
        {
            names.extend(self::names(lower)?);
        }
        for name in names {
            let path = join(path, &name);
            let stat = |folder: Option<&OwnedFd>| match folder {
                Some(folder) => tree::stat(folder.as_fd(), &name),
                None => Ok(None),
            };
            let below = stat(lower.as_ref())?;
            let here = stat(Some(&upper))?;
            // An opaque folder may have whiteouts too; they say nothing that it does not.
            let here = here.filter(|stat| !tree::is_whiteout(stat));
            match (below, here) {
                (None, None) => {}
                (Some(_), None) => self.whiteout(&path)?,
                (below, Some(here)) => {
                    let pair = Pair {
                        lower: below.and_then(|stat| Some((lower.as_ref()?, stat))),
                        upper: (&upper, here),
                        name: &name,
                        path,
                    };
                    let step = self.pair(&pair, view);
                    let step = step.context(|| format!("compare {}", shown(&pair.path)))?;
                    if step == Step::NeedsMount {
                        return Ok(step);
                    }
                }
            }
        }
        Ok(Step::Done)
    }

    fn pair(&mut self, pair: &Pair<'_>, view: View) -> Result<Step> {
        let (folder, stat) = &pair.upper;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if view == View::Upper && matches!(kind, FileType::Directory | FileType::RegularFile) {
            let at = tree::magic(folder.as_fd(), Some(pair.name));
            for mark in ELSEWHERE {
                if tree::xattr(&at, OsStr::new(mark))?.is_some() {
                    return Ok(Step::NeedsMount);
                }
            }
        }
        let Some(header) = self.header(pair)? else {
            return Ok(Step::Done);
        };
        let changed = match &pair.lower {
            Some(lower) => !same(lower, &pair.upper, pair.name)?,
            None => true,
        };
        if kind != FileType::Directory {
            self.file(pair, header, changed)?;
            return Ok(Step::Done);
        }
        if changed {
            self.parents()?;
            self.put(&header)?;
        }
        let lower = match &pair.lower {
            Some((folder, stat)) if FileType::from_raw_mode(stat.st_mode).is_dir() => {
                Some(open_folder(folder.as_fd(), pair.name)?)
            }
            _ => None,
        };
        let upper = open_folder(folder.as_fd(), pair.name)?;
        self.parents.push(header);
        let step = self.folder(lower, upper, &pair.path, view)?;
        self.parents.pop();
        Ok(step)
    }

    /// Writes a file if it has changed, as a link if another name of it has been written.
    fn file(&mut self, pair: &Pair<'_>, mut header: Header, changed: bool) -> Result<()> {
        let (folder, stat) = &pair.upper;
        let inode = (stat.st_dev, stat.st_ino);
        let mut links = Vec::new();
        if stat.st_nlink > 1 {
            match self.sources.get(&inode) {
                Some(source) => {
                    header.kind = Type::Hardlink;
                    header.link.clone_from(source);
                    header.size = 0;
                    self.parents()?;
                    return self.put(&header);
                }
                None if !changed => {
                    let names = self.unchanged.entry(inode).or_default();
                    names.push(pair.path.clone());
                }
                None => {
                    self.sources.insert(inode, pair.path.clone());
                    links = self.unchanged.remove(&inode).unwrap_or_default();
                }
            }
        }
        if !changed {
            return Ok(());
        }
        self.parents()?;
        self.put(&header)?;
        if header.kind == Type::Regular && header.size > 0 {
            let file = open_file(folder.as_fd(), pair.name)?;
            self.data(file, header.size)?;
        }
        for path in links {
            header.kind = Type::Hardlink;
            header.link.clone_from(&pair.path);
            header.path = path;
            header.size = 0;
            self.put(&header)?;
        }
        Ok(())
    }

    fn data(&mut self, mut file: File, size: u64) -> Result<()> {
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
            let count = file
                .read(&mut self.buffer[..most])
                .context(|| "read file")?;
            if count == 0 {
                return Err(Error::new(
                    Kind::Aborted,
                    "the file shrinks while it is read",
                ));
            }
            self.archive
                .write_all(&self.buffer[..count])
                .context(|| "write archive")?;
            left -= count as u64;
        }
        Ok(())
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        let split = path.iter().rposition(|byte| *byte == b'/');
        let split = split.map_or(0, |slash| slash + 1);
        let (folder, name) = path.split_at(split);
        self.parents()?;
        self.put(&Header {
            path: [folder, WHITEOUT, name].concat(),
            ..Header::default()
        })
    }

    /// Writes the folders on the way that have not been written yet.
    fn parents(&mut self) -> Result<()> {
        let parents = std::mem::take(&mut self.parents);
        let mut result = Ok(());
        for parent in &parents {
            if result.is_ok() && !self.written.contains(&parent.path) {
                result = self.put(parent);
            }
        }
        self.parents = parents;
        result
    }

    fn put(&mut self, header: &Header) -> Result<()> {
        if header.kind == Type::Directory {
            self.written.insert(header.path.clone());
        }
        self.archive.entry(header)
    }

    /// Returns what describes a file; a socket is nothing that an archive can have.
    fn header(&self, pair: &Pair<'_>) -> Result<Option<Header>> {
        let (folder, stat) = &pair.upper;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Type::Regular,
            FileType::Directory => Type::Directory,
            FileType::Symlink => Type::Symlink,
            FileType::CharacterDevice => Type::Character,
            FileType::BlockDevice => Type::Block,
            FileType::Fifo => Type::Fifo,
            _ => return Ok(None),
        };
        let mut header = Header {
            kind,
            path: pair.path.clone(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: self
                .latest
                .map_or(stat.st_mtime, |latest| latest.min(stat.st_mtime)),
            ..Header::default()
        };
        match kind {
            Type::Regular => header.size = u64::try_from(stat.st_size).unwrap_or(0),
            Type::Directory => header.path.push(b'/'),
            Type::Character | Type::Block => {
                header.device = (major(stat.st_rdev), minor(stat.st_rdev));
            }
            Type::Symlink => {
                let target = rustix::fs::readlinkat(folder, pair.name, Vec::new());
                header.link = target.context(|| "read link")?.into_bytes();
            }
            _ => {}
        }
        if kind == Type::Regular
            && let Some(value) = capability(folder, pair.name)?
        {
            header.xattrs.push((CAPABILITY.as_bytes().to_vec(), value));
        }
        Ok(Some(header))
    }
}

/// Returns whether a name stands for the same on both sides, as far as an archive could tell.
fn same(lower: &(&OwnedFd, Stat), upper: &(&OwnedFd, Stat), name: &OsStr) -> Result<bool> {
    let ((below, one), (above, other)) = (lower, upper);
    if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino) {
        return Ok(true);
    }
    let described = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
    if described(one) != described(other) {
        return Ok(false);
    }
    let kind = FileType::from_raw_mode(one.st_mode);
    if kind == FileType::RegularFile && capability(below, name)? != capability(above, name)? {
        return Ok(false);
    }
    if kind == FileType::Directory {
        return Ok(true);
    }
    if one.st_size != other.st_size || one.st_mtime != other.st_mtime {
        return Ok(false);
    }
    // An archive has whole seconds: a file that came from one may have been written in the same second.
    if one.st_mtime_nsec != 0 && other.st_mtime_nsec != 0 {
        return Ok(one.st_mtime_nsec == other.st_mtime_nsec);
    }
    match kind {
        FileType::RegularFile if one.st_size > 0 => {
            let below = open_file(below.as_fd(), name)?;
            let above = open_file(above.as_fd(), name)?;
            same_bytes(below, above)
        }
        FileType::Symlink => {
            let target = |folder: &OwnedFd| {
                rustix::fs::readlinkat(folder, name, Vec::new()).context(|| "read link")
            };
            Ok(target(below)? == target(above)?)
        }
        _ => Ok(true),
    }
}

fn same_bytes(mut one: File, mut other: File) -> Result<bool> {
    let mut buffers = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let count = one.read(&mut buffers.0).context(|| "read file")?;
        if count == 0 {
            return Ok(true);
        }
        if other.read_exact(&mut buffers.1[..count]).is_err()
            || buffers.0[..count] != buffers.1[..count]
        {
            return Ok(false);
        }
    }
}

fn capability(folder: &OwnedFd, name: &OsStr) -> Result<Option<Vec<u8>>> {
    let at = tree::magic(folder.as_fd(), Some(name));
    let value = tree::xattr(&at, OsStr::new(CAPABILITY))?;
    Ok(value.filter(|value| !value.is_empty()))
}

/// Opens a folder right in another, or that other anew, for listing.
fn open_folder(folder: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
        .context(|| format!("open folder {name:?}"))
}

fn open_file(folder: BorrowedFd<'_>, name: &OsStr) -> Result<File> {
    // Whatever has taken the file's place meanwhile must not make us wait.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, name, flags, Mode::empty())
        .context(|| format!("open {name:?}"))?;
    Ok(File::from(fd))
}

fn names(folder: &OwnedFd) -> Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in Dir::read_from(folder).context(|| "list folder")? {
        let entry = entry.context(|| "list folder")?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.insert(OsString::from_vec(name.to_vec()));
        }
    }
    Ok(names)
}

fn join(folder: &[u8], name: &OsStr) -> Vec<u8> {
    match folder {
        b"" => name.as_bytes().to_vec(),
        folder => [folder, b"/", name.as_bytes()].concat(),
    }
}

fn shown(path: &[u8]) -> String {
    format!("{:?}", OsStr::from_bytes(path))
}
