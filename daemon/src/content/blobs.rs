//! The files of the content store.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Context, Error, Kind, Result};

/// The directory with the blobs, the ingests and the trash.
#[derive(Debug)]
pub(super) struct Blobs {
    root: PathBuf,
    trashed: AtomicU64,
}

/// An open blob.
#[derive(Debug)]
pub struct Reader {
    file: File,
    size: u64,
}

impl Reader {
    /// Returns how many bytes the blob has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` from `offset` on and returns how many bytes there were.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self
                .file
                .read_at(&mut buffer[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context(|| "read content"),
            }
        }
        Ok(filled)
    }

    /// Returns the file, whose position is at the start.
    pub fn into_file(self) -> File {
        self.file
    }
}

impl Blobs {
    pub(super) fn open(root: &Path) -> Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        let blobs = Algorithm::ALL.map(|algorithm| root.join("blobs").join(algorithm.name()));
        for directory in blobs
            .iter()
            .chain(&[root.join("ingest"), root.join("trash")])
        {
            builder
                .create(directory)
                .context(|| format!("create directory {directory:?}"))?;
        }
        let blobs = Self {
            root: root.to_owned(),
            trashed: AtomicU64::new(0),
        };
        blobs.empty_trash()?;
        Ok(blobs)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn open_blob(&self, digest: &Digest) -> Result<Reader> {
        let path = self.blob(digest);
        let open = || {
            let file = File::open(&path)?;
            let size = file.metadata()?.len();
            Ok(Reader { file, size })
        };
        open().map_err(|error: io::Error| gone_or(error, &format!("content {digest}")))
    }

    /// Returns the size of a blob if its bytes are here.
    pub(super) fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.blob(digest))
            .ok()
            .map(|found| found.len())
    }

    pub(super) fn open_ingest(&self, name: &str) -> Result<File> {
        let path = self.ingest(name);
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .context(|| format!("open ingest {path:?}"))
    }

    pub(super) fn ingest_metadata(&self, name: &str) -> Option<fs::Metadata> {
        fs::metadata(self.ingest(name)).ok()
    }

    pub(super) fn remove_ingest(&self, name: &str) -> Result<()> {
        let path = self.ingest(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context(|| format!("remove ingest {path:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Makes an ingest whose data is synced a blob, durably.
    pub(super) fn commit(&self, name: &str, digest: &Digest) -> Result<()> {
        let (from, to) = (self.ingest(name), self.blob(digest));
        let publish = || {
            if to.exists() {
                return fs::remove_file(&from);
            }
            fs::set_permissions(&from, fs::Permissions::from_mode(0o444))?;
            fs::rename(&from, &to)?;
            File::open(to.parent().expect("blobs are in a directory"))?.sync_all()
        };
        publish().context(|| format!("commit content {digest}"))
    }

    /// Makes the file `from` a blob, durably: as another name of it, or as a copy that has the right digest.
    pub(super) fn take(&self, digest: &Digest, from: &Path) -> Result<()> {
        let to = self.blob(digest);
        match fs::hard_link(from, &to) {
            Ok(()) => sys::fs::sync_dir(to.parent().expect("blobs are in a directory")),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // Another file system, one without links, or a file that may not have another name.
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::XDEV | Errno::OPNOTSUPP | Errno::MLINK | Errno::PERM)
                ) =>
            {
                self.copy(digest, from)
            }
            Err(error) => Err(error).context(|| format!("link {from:?}")),
        }
    }

    fn copy(&self, digest: &Digest, from: &Path) -> Result<()> {
        let name = format!("copy-{}", digest.hex());
        let mut source = File::open(from).context(|| format!("open {from:?}"))?;
        let mut target = self.open_ingest(&name)?;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; 1 << 20];
        target.set_len(0).context(|| "empty a copy")?;
        loop {
            let count = source
                .read(&mut buffer)
                .context(|| format!("read {from:?}"))?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            target
                .write_all(&buffer[..count])
                .context(|| "write a copy")?;
        }
        if hasher.finish() != *digest {
            self.remove_ingest(&name)?;
            let message = format!("{from:?} does not have the digest {digest}");
            return Err(Error::new(Kind::DataLoss, message));
        }
        target.sync_all().context(|| "sync a copy")?;
        self.commit(&name, digest)
    }

    /// Returns the digests of all blobs here.
    pub(super) fn digests(&self) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for algorithm in Algorithm::ALL {
            let names = names(&self.root.join("blobs").join(algorithm.name()))?;
            digests.extend(
                names
                    .iter()
                    .filter_map(|name| Digest::parse(&format!("{}:{name}", algorithm.name())).ok()),
            );
        }
        Ok(digests)
    }

    /// Returns the names of all ingests here.
    pub(super) fn ingests(&self) -> Result<Vec<String>> {
        names(&self.root.join("ingest"))
    }

    /// Takes a blob out of sight; [`Blobs::empty_trash`] frees its bytes.
    pub(super) fn trash(&self, digest: &Digest) -> Result<()> {
        let number = self.trashed.fetch_add(1, Ordering::Relaxed);
        let to = self.root.join("trash").join(number.to_string());
        fs::rename(self.blob(digest), to).context(|| format!("remove content {digest}"))
    }

    pub(super) fn empty_trash(&self) -> Result<()> {
        let trash = self.root.join("trash");
        for name in names(&trash)? {
            let path = trash.join(name);
            fs::remove_file(&path).context(|| format!("remove {path:?}"))?;
        }
        Ok(())
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        let algorithm = digest.algorithm().name();
        self.root.join("blobs").join(algorithm).join(digest.hex())
    }

    fn ingest(&self, name: &str) -> PathBuf {
        self.root.join("ingest").join(name)
    }
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let list = || -> io::Result<Vec<String>> {
        fs::read_dir(directory)?
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    list().context(|| format!("list {directory:?}"))
}

fn gone_or(error: io::Error, what: &str) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        Error::new(Kind::NotFound, what)
    } else {
        Error::other(format!("open {what}"), error)
    }
}
