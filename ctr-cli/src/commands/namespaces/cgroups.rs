//! The control groups above those of a namespace's containers, which outlive them.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Where control groups are mounted: version 2 itself, or the hierarchies of version 1.
pub const ROOT: &str = "/sys/fs/cgroup";

/// Removes the groups `/<namespace>` of every hierarchy; one in which something runs is an error.
pub fn remove(root: &Path, namespace: &str) -> Result<()> {
    let entries = fs::read_dir(root).with_context(|| format!("list {}", root.display()))?;
    let mut groups = vec![root.join(namespace)];
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", root.display()))?;
        // Hierarchies that are mounted together have a link for each name.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            groups.push(entry.path().join(namespace));
        }
    }
    for group in groups {
        match fs::remove_dir(&group) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("remove control group {}", group.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_groups_go_and_others_are_named() {
        let root = tempfile::tempdir().unwrap();
        for group in ["ns", "cpu/ns", "memory/ns/c1", "pids/other"] {
            fs::create_dir_all(root.path().join(group)).unwrap();
        }
        let error = remove(root.path(), "ns").unwrap_err();
        assert!(format!("{error:#}").contains("memory/ns"), "{error:#}");
        fs::remove_dir(root.path().join("memory/ns/c1")).unwrap();
        remove(root.path(), "ns").unwrap();
        for gone in ["ns", "cpu/ns", "memory/ns"] {
            assert!(!root.path().join(gone).exists(), "{gone}");
        }
        assert!(root.path().join("pids/other").exists());
    }
}
