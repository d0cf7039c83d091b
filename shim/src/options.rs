//! The options of a container: what a client asks of the OCI runtime beyond the specification.
//!
//! `BinaryName` decides who makes the container. Clients that know of no other runtime send `runc` (dockerd always
//! does), so that word means the default, and the default is the runtime that is built into the shim:
//!
//! | `BinaryName` | runtime |
//! |---|---|
//! | empty, `runc`, `corten-runtime`, a path that ends in `/corten-runtime` | built in: nothing is executed |
//! | anything else, such as `crun` or `/usr/sbin/runc` | that program, by its command line |

use std::path::{Path, PathBuf};

use api_protos::any;
use api_protos::containerd::runc::v1::Options as Wire;
use prost_types::Any;
use serde::{Deserialize, Serialize};
use sys::{Context, Error, Kind, Result};

/// The file in the bundle that `delete` finds the options in.
const FILE: &str = "options.json";

/// What a client asks of the OCI runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// The program that makes the container, if it is not the built-in one.
    pub binary: Option<PathBuf>,
    /// The folder with the records of containers; each namespace has one below it.
    pub root: Option<PathBuf>,
    pub systemd_cgroup: bool,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    /// Who owns the pipes of the container's processes.
    pub io_owner: (u32, u32),
    /// The control group that the shim itself moves to.
    pub shim_cgroup: String,
    pub criu_work_path: PathBuf,
}

impl Options {
    /// Reads the options of a request; options of another runtime's kind mean nothing here.
    pub fn read(options: Option<&Any>) -> Result<Self> {
        let wire = match options.and_then(any::unpack::<Wire>) {
            Some(wire) => wire.map_err(|error| {
                Error::new(Kind::InvalidArgument, format!("decode options: {error}"))
            })?,
            None => return Ok(Self::default()),
        };
        Ok(Self {
            binary: foreign(&wire.binary_name),
            root: Some(PathBuf::from(wire.root)).filter(|root| !root.as_os_str().is_empty()),
            systemd_cgroup: wire.systemd_cgroup,
            no_pivot: wire.no_pivot_root,
            no_new_keyring: wire.no_new_keyring,
            io_owner: (wire.io_uid, wire.io_gid),
            shim_cgroup: wire.shim_cgroup,
            criu_work_path: wire.criu_work_path.into(),
        })
    }

    /// Loads the options that a container of `bundle` was created with.
    pub fn load(bundle: &Path) -> Result<Self> {
        let path = bundle.join(FILE);
        let text = std::fs::read(&path).context(|| format!("read {path:?}"))?;
        serde_json::from_slice(&text)
            .map_err(|error| Error::other(format!("parse {path:?}"), error))
    }

    /// Writes the options down for [`Options::load`].
    pub fn save(&self, bundle: &Path) -> Result<()> {
        let path = bundle.join(FILE);
        let text =
            serde_json::to_vec(self).map_err(|error| Error::other("encode the options", error))?;
        std::fs::write(&path, text).context(|| format!("write {path:?}"))
    }

    /// Returns the folder of the records of a namespace's containers.
    ///
    /// Without one from the client the record lives and dies with the bundle.
    pub fn records(&self, namespace: &str, bundle: &Path) -> PathBuf {
        match &self.root {
            Some(root) => root.join(namespace),
            None => bundle.join("runtime"),
        }
    }
}

/// Returns the program that `name` stands for, unless that is the built-in runtime.
fn foreign(name: &str) -> Option<PathBuf> {
    let own = matches!(name, "" | "runc") || Path::new(name).ends_with("corten-runtime");
    (!own).then(|| PathBuf::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_name_is_another_program() {
        for name in ["", "runc", "corten-runtime", "/usr/bin/corten-runtime"] {
            assert_eq!(foreign(name), None, "{name}");
        }
        for name in ["crun", "/usr/bin/runc", "./runc"] {
            assert_eq!(foreign(name), Some(name.into()));
        }
    }

    #[test]
    fn options_survive_their_file() {
        let wire = Wire {
            binary_name: "crun".into(),
            root: "/run/x".into(),
            io_uid: 7,
            ..Wire::default()
        };
        let options = Options::read(Some(&any::pack(&wire))).unwrap();
        let dir = tempfile::tempdir().unwrap();
        options.save(dir.path()).unwrap();
        assert_eq!(Options::load(dir.path()).unwrap(), options);
        assert_eq!(options.records("ns", dir.path()), Path::new("/run/x/ns"));
        assert_eq!(Options::read(None).unwrap(), Options::default());
        let other = Any {
            type_url: "runtimeoptions.v1.Options".into(),
            value: vec![1],
        };
        assert_eq!(Options::read(Some(&other)).unwrap(), Options::default());
    }
}
