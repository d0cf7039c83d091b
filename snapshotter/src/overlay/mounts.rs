//! The mounts of an overlay snapshot: a bind where there is one layer, else overlay.

use std::path::Path;

use sys::mount::Mount;
use sys::{Error, Result};

use crate::Kind;
use crate::store::Located;

/// The kernel refuses more lower layers.
const MAX_LOWER: usize = 500;

/// What overlay can and must be told on this kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Features {
    /// The inode index can be switched off: it would keep a lower layer from having two upper ones.
    pub index_off: bool,
    /// We are in a user namespace, where overlay cannot write `trusted.` attributes.
    pub userxattr: bool,
}

impl Features {
    /// Asks the kernel.
    pub fn detect() -> Self {
        Self {
            index_off: Path::new("/sys/module/overlay/parameters/index").exists(),
            userxattr: in_user_namespace(),
        }
    }
}

/// A process of the first user namespace maps all ids onto themselves.
fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        let map: Vec<&str> = map.split_whitespace().collect();
        map != ["0", "0", "4294967295"]
    })
}

/// Returns the mounts of a snapshot.
pub(super) fn of(snapshot: &Located, features: &Features, extra: &[String]) -> Result<Vec<Mount>> {
    match (snapshot.kind, snapshot.parents.as_slice()) {
        (Kind::Active, []) => bind(&snapshot.folder, "rw"),
        (_, []) => bind(&snapshot.folder, "ro"),
        (Kind::View, [only]) => bind(only, "ro"),
        _ => overlay(snapshot, features, extra),
    }
}

/// Returns the folder of a snapshot's own files.
pub(super) fn upper(folder: &Path) -> Result<String> {
    in_option(&folder.join("fs"))
}

fn bind(folder: &Path, access: &str) -> Result<Vec<Mount>> {
    Ok(vec![Mount {
        fstype: "bind".to_owned(),
        source: upper(folder)?,
        target: String::new(),
        options: vec![access.to_owned(), "rbind".to_owned()],
    }])
}

fn overlay(snapshot: &Located, features: &Features, extra: &[String]) -> Result<Vec<Mount>> {
    let parents = &snapshot.parents;
    if parents.len() > MAX_LOWER {
        return Err(Error::new(
            sys::Kind::FailedPrecondition,
            format!(
                "snapshot has {} layers below it, overlay takes {MAX_LOWER}",
                parents.len()
            ),
        ));
    }
    let mut options = Vec::with_capacity(5 + extra.len());
    if features.index_off {
        options.push("index=off".to_owned());
    }
    if features.userxattr {
        options.push("userxattr".to_owned());
    }
    options.extend_from_slice(extra);
    if snapshot.kind == Kind::Active {
        let work = in_option(&snapshot.folder.join("work"))?;
        options.push(format!("workdir={work}"));
        options.push(format!("upperdir={}", upper(&snapshot.folder)?));
    }
    let lower: Result<Vec<String>> = parents.iter().map(|parent| upper(parent)).collect();
    options.push(format!("lowerdir={}", lower?.join(":")));
    Ok(vec![Mount {
        fstype: "overlay".to_owned(),
        source: "overlay".to_owned(),
        target: String::new(),
        options,
    }])
}

/// Returns a path as it can stand in overlay's options, which whoever mounts may split at commas and colons.
fn in_option(path: &Path) -> Result<String> {
    match path.to_str() {
        Some(text) if !text.contains([',', ':', '\\']) => Ok(text.to_owned()),
        _ => Err(Error::new(
            sys::Kind::InvalidArgument,
            format!(
                "folder {path:?} of a snapshot cannot be a mount option: it has a comma, a colon, a backslash or is not UTF-8"
            ),
        )),
    }
}
