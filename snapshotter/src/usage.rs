//! Counting what a folder takes on disk.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sys::{Context, Result};

use crate::Usage;

/// The unit of `st_blocks`.
const BLOCK: u64 = 512;

/// Counts the inodes and blocks of `folder` and all below it; each hardlinked file once.
///
/// What vanishes while it is counted is not counted: a container may be at work there.
pub fn count(folder: &Path) -> Result<Usage> {
    let root = folder
        .symlink_metadata()
        .context(|| format!("stat {folder:?}"))?;
    let mut counter = Counter::default();
    counter.add(&root);
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        counter.add_entries(&folder, &mut folders)?;
    }
    Ok(counter.usage)
}

#[derive(Default)]
struct Counter {
    usage: Usage,
    linked: HashSet<(u64, u64)>,
}

impl Counter {
    fn add_entries(&mut self, folder: &Path, folders: &mut Vec<PathBuf>) -> Result<()> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.context(|| format!("read folder {folder:?}"))?,
        };
        for entry in entries {
            let entry = entry.context(|| format!("read folder {folder:?}"))?;
            match entry.metadata() {
                Ok(metadata) => {
                    self.add(&metadata);
                    if metadata.is_dir() {
                        folders.push(entry.path());
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).context(|| format!("stat {:?}", entry.path())),
            }
        }
        Ok(())
    }

    fn add(&mut self, metadata: &Metadata) {
        let linked = metadata.nlink() > 1 && !metadata.is_dir();
        if linked && !self.linked.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        self.usage.inodes += 1;
        self.usage.size += (metadata.blocks() * BLOCK) as i64;
    }
}
