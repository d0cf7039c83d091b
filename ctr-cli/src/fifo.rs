//! The FIFOs between `corten` and a process in a container, in a private folder of their own.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat, open};

/// The name of a folder of FIFOs begins so; only such folders are ever removed.
const PREFIX: &str = "corten-";

/// The paths of a process's standard streams; an empty path is a stream that the process does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fifos {
    /// What the process reads.
    pub stdin: String,
    /// What the process writes, both streams with a terminal.
    pub stdout: String,
    /// Its errors.
    pub stderr: String,
}

impl Fifos {
    /// Makes FIFOs in a new folder below `parent`, with one for input if asked, and none for errors with a terminal.
    pub fn make(parent: &Path, input: bool, terminal: bool) -> Result<Fifos> {
        let folder = parent.join(format!("{PREFIX}{}", random()?));
        let made = || -> Result<Fifos> {
            DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(parent)?;
            DirBuilder::new().mode(0o700).create(&folder)?;
            let make = |name: &str, wanted: bool| -> Result<String> {
                if !wanted {
                    return Ok(String::new());
                }
                let path = folder.join(name);
                mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
                Ok(path.display().to_string())
            };
            Ok(Fifos {
                stdin: make("stdin", input)?,
                stdout: make("stdout", true)?,
                stderr: make("stderr", !terminal)?,
            })
        };
        made().with_context(|| format!("make FIFOs in {}", folder.display()))
    }

    /// Removes the FIFOs and their folder, if it is one that [`Fifos::make`] made.
    pub fn remove(&self) {
        for path in [&self.stdin, &self.stdout, &self.stderr] {
            let path = Path::new(path);
            let folder = path.parent().filter(|folder| {
                let name = folder.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| name.starts_with(PREFIX))
            });
            let is_fifo = |path: &Path| {
                fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_fifo())
            };
            if let Some(folder) = folder {
                if is_fifo(path) {
                    let _ = fs::remove_file(path);
                }
                let _ = fs::remove_dir(folder);
            }
        }
    }
}

/// Opens a FIFO to read, whether or not there is a writer yet; reads wait.
pub fn open_reader(path: &str) -> Result<File> {
    // Without a writer a plain open would wait for one, and the shim waits for a reader.
    let fd = open(
        path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .with_context(|| format!("open {path}"))?;
    fcntl_setfl(&fd, OFlags::empty()).with_context(|| format!("make {path} blocking"))?;
    Ok(File::from(fd))
}

/// Opens a FIFO to write, whether or not there is a reader yet.
pub fn open_writer(path: &str) -> Result<File> {
    // Only with both directions does Linux open a FIFO that nobody reads.
    let fd = open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("open {path}"))?;
    Ok(File::from(fd))
}

/// Returns the folder for FIFOs if none is given.
pub fn default_folder() -> PathBuf {
    PathBuf::from("/run/corten/fifo")
}

/// Returns 16 hexadecimal digits that nobody can guess.
pub fn random() -> Result<String> {
    let mut bytes = [0; 8];
    match File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).context("read /dev/urandom");
        }
        Err(error) => return Err(error).context("open /dev/urandom"),
        Ok(()) => {}
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn fifos_carry_bytes_and_leave_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let fifos = Fifos::make(parent.path(), true, false).unwrap();
        let mut reader = open_reader(&fifos.stdout).unwrap();
        let mut writer = open_writer(&fifos.stdout).unwrap();
        writer.write_all(b"out").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "out");
        fifos.remove();
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_fifos_in_folders_of_ours_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("log");
        fs::write(&file, "x").unwrap();
        let fifos = Fifos {
            stdout: file.display().to_string(),
            ..Fifos::default()
        };
        fifos.remove();
        assert!(file.exists());
        assert_eq!(Fifos::make(parent.path(), false, true).unwrap().stderr, "");
    }
}
