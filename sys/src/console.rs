//! Pseudo-terminals of a container's own devpts, opened so that nothing in its root file system can stand in for them.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::path::Root;
use crate::{Context, Error, Kind, Result};

/// The type that statfs(2) reports for devpts.
const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;

/// A pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    /// The end of who emulates the terminal.
    pub master: OwnedFd,
    /// The end of the processes in the terminal.
    pub slave: OwnedFd,
}

impl Pty {
    /// Opens a new pseudo-terminal of the devpts that is mounted in the root at `/dev/pts`.
    pub fn open(root: &Root) -> Result<Self> {
        let path = Path::new("/dev/pts/ptmx");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW;
        let master = root
            .open(path, flags)
            .context(|| format!("open {path:?}"))?;
        verify(&master, 5, 2..=2)?;
        rustix::pty::unlockpt(&master).context(|| "unlock pseudo-terminal")?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        // By the master and not by the number in /dev/pts, where something else may be mounted.
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)
            .context(|| "open pseudo-terminal's slave")?;
        verify(&slave, 136, 0..=u32::MAX)?;
        Ok(Self { master, slave })
    }

    /// Sets the terminal's size.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        resize(&self.master, rows, columns)
    }
}

/// Sets the size of the terminal with this master.
pub fn resize(master: &OwnedFd, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(master, size)
        .context(|| format!("resize terminal to {columns}x{rows}"))
}

/// Makes sure that a descriptor is a character device of a devpts.
fn verify(fd: &OwnedFd, major: u32, minors: std::ops::RangeInclusive<u32>) -> Result<()> {
    let fs = rustix::fs::fstatfs(fd).context(|| "stat file system of terminal")?;
    let stat = rustix::fs::fstat(fd).context(|| "stat terminal")?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    let numbers = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    // Slaves have the majors 136 to 143.
    let is_major = numbers.0 == major || major == 136 && (136..=143).contains(&numbers.0);
    if fs.f_type as u64 == DEVPTS_SUPER_MAGIC
        && kind.is_char_device()
        && is_major
        && minors.contains(&numbers.1)
    {
        return Ok(());
    }
    let message =
        format!("\"/dev/pts/ptmx\" of the container is no pseudo-terminal but device {numbers:?}");
    Err(Error::new(Kind::FailedPrecondition, message))
}
