//! Copying without threads: from pipe to FIFO inside the kernel, elsewhere through a small buffer.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use sys::{Context, Error, Kind, Result};
use tokio::io::unix::AsyncFd;

use super::fifo;

/// How much is moved at a time: what a pipe holds.
const CHUNK: usize = 64 << 10;
const BUFFER: usize = 8 << 10;

/// Where a process's output goes.
#[derive(Debug)]
pub enum Sink {
    /// A FIFO, a pipe or a terminal.
    Stream(Arc<AsyncFd<OwnedFd>>),
    /// A file, which is always ready.
    File(File),
    /// Nowhere.
    Nothing,
}

impl Sink {
    /// Opens where `uri` leads to: a FIFO by its path or with `fifo://`, or a file with `file://`.
    pub fn open(uri: &str) -> Result<Self> {
        let path = match uri.split_once("://") {
            None if uri.is_empty() => return Ok(Self::Nothing),
            None => Path::new(uri),
            Some(("fifo", path)) => Path::new(path),
            Some(("file", path)) => return append(Path::new(path)),
            Some((scheme, _)) => {
                return Err(Error::new(
                    Kind::InvalidArgument,
                    format!("unknown STDIO scheme {scheme}"),
                ));
            }
        };
        match fifo::is_fifo(path) {
            true => Self::pipe(fifo::hold(path)?),
            false => append(path),
        }
    }

    /// Returns a sink of the writing end of a pipe.
    pub fn pipe(fd: OwnedFd) -> Result<Self> {
        asynchronous(fd).map(|fd| Self::Stream(Arc::new(fd)))
    }

    async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all(bytes),
            Self::Nothing => Ok(()),
            Self::Stream(fd) => {
                while !bytes.is_empty() {
                    let mut writable = fd.writable().await?;
                    match rustix::io::write(fd.get_ref(), bytes) {
                        Ok(count) => bytes = &bytes[count..],
                        Err(Errno::AGAIN) => writable.clear_ready(),
                        Err(Errno::INTR) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                }
                Ok(())
            }
        }
    }
}

/// Returns a descriptor that is waited for by the runtime.
// Newer tokio has this marked because a type could hand out ever other numbers; an OwnedFd never does, and the call in
// its place is unsafe.
#[allow(deprecated)]
pub fn asynchronous(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    let flags = rustix::fs::fcntl_getfl(&fd).context(|| "read descriptor flags")?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)
        .context(|| "make descriptor non-blocking")?;
    AsyncFd::new(fd).context(|| "watch descriptor")
}

/// Copies until `from` ends.
pub async fn copy(from: Arc<AsyncFd<OwnedFd>>, mut to: Sink) -> io::Result<()> {
    if let Sink::Stream(stream) = &to
        && move_all(&from, stream).await?
    {
        return Ok(());
    }
    loop {
        let mut readable = from.readable().await?;
        match read(from.get_ref()) {
            Ok(bytes) if bytes.is_empty() => return Ok(()),
            Ok(bytes) => to.write_all(&bytes).await?,
            Err(Errno::AGAIN) => readable.clear_ready(),
            Err(Errno::INTR) => {}
            // All processes in the terminal are gone.
            Err(Errno::IO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Moves data inside the kernel until `from` ends; false if these two descriptors cannot.
async fn move_all(from: &AsyncFd<OwnedFd>, to: &AsyncFd<OwnedFd>) -> io::Result<bool> {
    loop {
        let mut readable = from.readable().await?;
        match splice(
            from.get_ref(),
            None,
            to.get_ref(),
            None,
            CHUNK,
            SpliceFlags::NONBLOCK,
        ) {
            Ok(0) => return Ok(true),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if is_ready(from.get_ref(), PollFlags::IN) => {
                // There is something to move, so that the other end must be full.
                let mut writable = to.writable().await?;
                if !is_ready(to.get_ref(), PollFlags::OUT) {
                    writable.clear_ready();
                }
            }
            Err(Errno::AGAIN) => readable.clear_ready(),
            Err(Errno::INVAL) => return Ok(false),
            Err(Errno::IO) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn is_ready(fd: impl AsFd, flags: PollFlags) -> bool {
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&fd, flags)];
    poll(&mut fds, Some(&at_once)).is_ok_and(|count| count > 0)
}

/// Reads what is there; the buffer is on the stack, so that an idle copy has none.
fn read(fd: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut buffer = [0; BUFFER];
    let count = rustix::io::read(fd, &mut buffer)?;
    Ok(buffer[..count].to_vec())
}

/// Opens a log file to append to, and makes the folders above it.
fn append(path: &Path) -> Result<Sink> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .context(|| format!("make {folder:?}"))?;
    }
    let file = File::options()
        .append(true)
        .create(true)
        .mode(0o644)
        .open(path)
        .context(|| format!("open log {path:?}"))?;
    Ok(Sink::File(file))
}
