//! The names of a container's unit and of the slice that it is in, and their folder below a hierarchy's root.

use std::path::{Path, PathBuf};

use sys::{Error, Kind, Result};

/// Where a unit goes that names no slice, and what its name starts with then: runc's, by which tools find containers.
const SLICE: &str = "system.slice";
const PREFIX: &str = "runc";

/// A unit of systemd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cgroup) struct Unit {
    /// Its name: `<prefix>-<name>.scope`, or that of a slice.
    pub name: String,
    /// The slice that it is in.
    pub slice: String,
    /// Its folder below the root of a hierarchy.
    pub path: PathBuf,
}

impl Unit {
    /// Returns the unit that `cgroupsPath` of the specification names as `slice:prefix:name`.
    pub fn parse(path: Option<&Path>, id: &str) -> Result<Self> {
        let text = path.unwrap_or(Path::new("")).to_string_lossy();
        let (slice, prefix, name) = match text.split(':').collect::<Vec<_>>()[..] {
            [""] => ("", PREFIX, id),
            [slice, prefix, name] => (slice, prefix, name),
            _ => {
                let message = format!(
                    "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {text:?} instead"
                );
                return Err(Error::new(Kind::InvalidArgument, message));
            }
        };
        let slice = if slice.is_empty() { SLICE } else { slice };
        let name = match (prefix, name.ends_with(".slice")) {
            (_, true) => name.to_owned(),
            ("", false) => format!("{name}.scope"),
            (prefix, false) => format!("{prefix}-{name}.scope"),
        };
        if name.contains('/') || name.starts_with('.') {
            let message = format!("unit name {name:?} is not valid");
            return Err(Error::new(Kind::InvalidArgument, message));
        }
        let path = expand(slice)?.join(&name);
        Ok(Self {
            name,
            slice: slice.to_owned(),
            path,
        })
    }

    /// Tells whether it is a slice, which has no processes of its own.
    pub fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }
}

/// Returns the folder of a slice: `a-b.slice` is in `a.slice` (systemd.slice(5)).
fn expand(slice: &str) -> Result<PathBuf> {
    let invalid = || {
        let message = format!("invalid slice name: {slice:?}");
        Error::new(Kind::InvalidArgument, message)
    };
    let stem = slice.strip_suffix(".slice").ok_or_else(invalid)?;
    if stem == "-" {
        return Ok(PathBuf::new());
    }
    let mut path = PathBuf::new();
    let mut name = String::new();
    for part in stem.split('-') {
        if part.is_empty() || part.contains('/') || part.starts_with('.') {
            return Err(invalid());
        }
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(part);
        path.push(format!("{name}.slice"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_in_the_folder_of_their_slice() {
        let cases = [
            (
                "",
                "runc-c1.scope",
                "system.slice",
                "system.slice/runc-c1.scope",
            ),
            (
                "user.slice:docker:abc",
                "docker-abc.scope",
                "user.slice",
                "user.slice/docker-abc.scope",
            ),
            (
                "a-b-c.slice:cri:x",
                "cri-x.scope",
                "a-b-c.slice",
                "a.slice/a-b.slice/a-b-c.slice/cri-x.scope",
            ),
            ("-.slice::x", "x.scope", "-.slice", "x.scope"),
            (
                ":p:n",
                "p-n.scope",
                "system.slice",
                "system.slice/p-n.scope",
            ),
            (
                "a.slice:p:a-b.slice",
                "a-b.slice",
                "a.slice",
                "a.slice/a-b.slice",
            ),
        ];
        for (text, name, slice, path) in cases {
            let unit = Unit::parse(Some(Path::new(text)), "c1").unwrap();
            let told = (unit.name.as_str(), unit.slice.as_str(), unit.path.as_path());
            assert_eq!(told, (name, slice, Path::new(path)), "{text}");
        }
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let texts = [
            "/docker/abc",
            "a:b",
            "a.slice:b:c:d",
            "a:p:n",
            "a--b.slice:p:n",
            "-a.slice:p:n",
            "../x.slice:p:n",
            "a.slice:../p:n",
            "a.slice::../n",
        ];
        for text in texts {
            assert!(Unit::parse(Some(Path::new(text)), "c1").is_err(), "{text}");
        }
    }
}
