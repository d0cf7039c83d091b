//! The Container Device Interface: devices by name, and files in which vendors say what a container needs for each.
//!
//! | file | what |
//! |---|---|
//! | `name.rs` | `vendor.com/class=name` |
//! | `file.rs` | what a vendor writes down, and what of it is refused |
//! | `edits.rs` | what of it a configuration gets |
//!
//! The rules are those of version 1.1 of the specification, and where it leaves something open, those of the library
//! that containerd uses.

mod edits;
mod file;
pub mod name;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sys::{Context as _, Error, Kind, Result};

use edits::Edits;
use file::File;

/// Where the files are unless something else is said; of two that know a device, the one in the later folder counts.
pub const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// The beginning of the keys of annotations that ask for devices.
const ANNOTATION: &str = "cdi.k8s.io/";

/// The devices that the files of some folders know.
#[derive(Debug, Default)]
pub struct Registry {
    devices: BTreeMap<String, Device>,
    /// What is wrong with a file, for each that cannot be used.
    refused: BTreeMap<PathBuf, String>,
    /// The files that a device is in, for each that cannot be used because it is in several.
    ambiguous: BTreeMap<String, BTreeSet<PathBuf>>,
}

#[derive(Clone, Debug)]
struct Device {
    file: Arc<Read>,
    /// The device's own edits.
    edits: Edits,
}

/// A file that was read.
#[derive(Debug)]
struct Read {
    path: PathBuf,
    /// The place of its folder.
    priority: usize,
    /// What every container gets that is given one of its devices.
    edits: Edits,
}

impl Registry {
    /// Reads the files in these folders. One that is wrong stands in nobody's way but of those who want its devices.
    pub fn read(folders: &[PathBuf]) -> Self {
        let mut registry = Self::default();
        for (priority, folder) in folders.iter().enumerate() {
            match files(folder) {
                Ok(paths) => {
                    for path in paths {
                        if let Err(error) = registry.add(&path, priority) {
                            registry.refused.insert(path, format!("{error:#}"));
                        }
                    }
                }
                Err(error) => {
                    let wrong = format!("{error:#}");
                    registry.refused.insert(folder.clone(), wrong);
                }
            }
        }
        for name in registry.ambiguous.keys() {
            registry.devices.remove(name);
        }
        registry
    }

    fn add(&mut self, path: &Path, priority: usize) -> Result<()> {
        let File {
            kind,
            edits,
            devices,
        } = File::read(path)?;
        let read = Arc::new(Read {
            path: path.to_owned(),
            priority,
            edits,
        });
        for (device, edits) in devices {
            let name = format!("{kind}={device}");
            if let Some(other) = self.devices.get(&name)
                && other.file.priority == priority
            {
                let paths = self.ambiguous.entry(name.clone()).or_default();
                paths.extend([other.file.path.clone(), read.path.clone()]);
            }
            let file = read.clone();
            self.devices.insert(name, Device { file, edits });
        }
        Ok(())
    }

    /// Returns what is wrong with the files that cannot be used, a sentence for each.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let refused = self.refused.iter();
        let refused = refused.map(|(path, wrong)| format!("{}: {wrong}", path.display()));
        let ambiguous = self.ambiguous.iter();
        refused.chain(ambiguous.map(|(name, paths)| conflict(name, paths)))
    }

    /// Gives a container's configuration these devices, each once; nothing changes if one of them cannot be had.
    pub fn inject(&self, spec: &mut Value, names: &[String]) -> Result<()> {
        let mut unresolvable = Vec::new();
        let mut files = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut edits = Edits::default();
        for name in names.iter().filter(|name| seen.insert(*name)) {
            let Some(device) = self.devices.get(name) else {
                unresolvable.push(name.as_str());
                continue;
            };
            if files.insert(&device.file.path) {
                edits.append(&device.file.edits);
            }
            edits.append(&device.edits);
        }
        if !unresolvable.is_empty() {
            return Err(self.unresolvable(&unresolvable));
        }
        let mut changed = spec.clone();
        edits
            .apply(&mut changed)
            .context(|| "CDI device injection failed: failed to inject devices")?;
        *spec = changed;
        Ok(())
    }

    fn unresolvable(&self, names: &[&str]) -> Error {
        let mut message = format!(
            "CDI device injection failed: unresolvable CDI devices {}",
            names.join(", ")
        );
        let ambiguous = names.iter().filter_map(|name| {
            let paths = self.ambiguous.get(*name)?;
            Some(conflict(name, paths))
        });
        // Whose devices are in a file that cannot be read, nobody knows.
        let refused = self.refused.iter();
        let refused = refused.map(|(path, wrong)| format!("{}: {wrong}", path.display()));
        for reason in ambiguous.chain(refused) {
            message += "; ";
            message += &reason;
        }
        Error::new(Kind::Unknown, message)
    }
}

/// Returns the devices that annotations ask for, those of one annotation in its order.
pub fn asked_by_annotations<'a>(
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<Vec<String>> {
    let asked = annotations.into_iter();
    let asked: BTreeMap<_, _> = asked
        .filter(|(key, _)| key.starts_with(ANNOTATION))
        .collect();
    let mut devices = Vec::new();
    for name in asked.values().flat_map(|names| names.split(',')) {
        if !name::is_qualified(name) {
            let message =
                format!("failed to parse CDI device annotations: invalid CDI device name {name:?}");
            return Err(Error::new(Kind::InvalidArgument, message));
        }
        devices.push(name.to_owned());
    }
    Ok(devices)
}

/// Returns the files in a folder, which need not be there.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(|| "read the folder")?,
    };
    let known = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("json" | "yaml")) && !path.is_dir()
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(known);
    paths.sort();
    Ok(paths)
}

fn conflict(name: &str, paths: &BTreeSet<PathBuf>) -> String {
    let paths: Vec<_> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    format!("conflicting device {name:?} (specs {})", paths.join(", "))
}

#[cfg(test)]
mod tests;
