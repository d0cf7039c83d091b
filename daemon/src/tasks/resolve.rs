//! From the name of a runtime to the executable of its shim.

use std::collections::BTreeMap;
use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result, invalid};

/// The shim of this project.
const OURS: &str = "containerd-shim-corten-v2";
/// The runtime names that our shim serves.
const SERVED: [&str; 2] = ["io.containerd.corten.v2", "io.containerd.runc.v2"];

/// Knows where the shims are.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    /// Executables that the configuration names, by runtime name.
    pub named: BTreeMap<String, PathBuf>,
    /// Our shim where the configuration says where it is.
    pub ours: Option<PathBuf>,
    /// The folders to look in, the first match wins.
    pub folders: Vec<PathBuf>,
}

impl Resolver {
    /// Returns a resolver that looks beside the daemon's executable, then in `PATH`.
    pub fn from_environment() -> Self {
        let beside = env::current_exe().ok();
        let beside = beside.as_deref().and_then(Path::parent).map(Path::to_owned);
        let path = env::var_os("PATH").unwrap_or_default();
        let absolute = env::split_paths(&path).filter(|folder| folder.is_absolute());
        Self {
            folders: beside.into_iter().chain(absolute).collect(),
            ..Self::default()
        }
    }

    /// Returns the shim of the runtime `name`, which may be a path.
    pub fn resolve(&self, name: &str) -> Result<PathBuf> {
        if name.is_empty() {
            return Err(invalid("no runtime name"));
        }
        if let Some(path) = self.named.get(name) {
            return existing(path);
        }
        if name.starts_with('/') {
            return existing(Path::new(name));
        }
        let binary = binary_name(name).ok_or_else(|| {
            invalid(format!(
                "invalid runtime name {name}, correct runtime name should be either format like \
                 `io.containerd.runc.v2` or a full path to the binary"
            ))
        })?;
        if SERVED.contains(&name) {
            if let Some(path) = &self.ours {
                return existing(path);
            }
            if let Some(path) = self.find(OURS) {
                return Ok(path);
            }
        }
        self.find(&binary).ok_or_else(|| {
            Error::new(
                Kind::Unknown,
                format!("runtime {name:?} binary not installed {binary:?}: file does not exist"),
            )
        })
    }

    fn find(&self, binary: &str) -> Option<PathBuf> {
        let mut paths = self.folders.iter().map(|folder| folder.join(binary));
        paths.find(|path| {
            path.metadata().is_ok_and(|metadata| {
                metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
            })
        })
    }
}

fn existing(path: &Path) -> Result<PathBuf> {
    match path.metadata() {
        Ok(_) => Ok(path.to_owned()),
        Err(error) => Err(Error::other(
            format!("invalid custom binary path {path:?}"),
            error,
        )),
    }
}

/// Returns `containerd-shim-<name>-<version>` for a name such as `io.containerd.<name>.<version>`.
fn binary_name(runtime: &str) -> Option<String> {
    let parts: Vec<&str> = runtime.split('.').collect();
    match parts.as_slice() {
        [first, .., name, version] if !first.is_empty() && !runtime.contains('/') => {
            Some(format!("containerd-shim-{name}-{version}"))
        }
        [name, version] if !name.is_empty() && !runtime.contains('/') => {
            Some(format!("containerd-shim-{name}-{version}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn install(folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn names_lead_to_shims() {
        let dir = tempfile::tempdir().unwrap();
        let runc = install(dir.path(), "containerd-shim-runc-v2");
        let kata = install(dir.path(), "containerd-shim-kata-v2");
        let mut resolver = Resolver {
            folders: vec![dir.path().to_owned()],
            ..Resolver::default()
        };
        assert_eq!(resolver.resolve("io.containerd.runc.v2").unwrap(), runc);
        assert_eq!(resolver.resolve("io.containerd.kata.v2").unwrap(), kata);
        assert_eq!(resolver.resolve("kata.v2").unwrap(), kata);

        let ours = install(dir.path(), OURS);
        for name in SERVED {
            assert_eq!(resolver.resolve(name).unwrap(), ours);
        }
        assert_eq!(resolver.resolve(runc.to_str().unwrap()).unwrap(), runc);

        resolver
            .named
            .insert("io.containerd.runc.v2".into(), runc.clone());
        assert_eq!(resolver.resolve("io.containerd.runc.v2").unwrap(), runc);
        assert_eq!(resolver.resolve("io.containerd.corten.v2").unwrap(), ours);
        resolver.ours = Some(kata.clone());
        assert_eq!(resolver.resolve("io.containerd.corten.v2").unwrap(), kata);
    }

    #[test]
    fn names_that_lead_nowhere_say_so() {
        let resolver = Resolver::default();
        for (name, wanted) in [
            ("", "no runtime name"),
            ("runc", "invalid runtime name runc,"),
            (".runc", "invalid runtime name .runc,"),
            ("../x.runc.v2", "invalid runtime name ../x.runc.v2,"),
            ("/no/such/shim", "invalid custom binary path"),
            (
                "io.containerd.none.v2",
                "binary not installed \"containerd-shim-none-v2\"",
            ),
        ] {
            let error = resolver.resolve(name).unwrap_err().to_string();
            assert!(error.contains(wanted), "{name}: {error}");
        }
    }
}
