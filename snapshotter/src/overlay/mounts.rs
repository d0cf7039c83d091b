//! The mounts of an overlay snapshot: a bind where there is one layer, else overlay.

use std::path::Path;

use sys::mount::{Mount, TempMount};
use sys::{Context, Error, Result};

use crate::Kind;
use crate::mapping::Mapping;
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
    /// Lower folders can have their owners mapped, by the kernel (from 5.19) and by the file system they are on.
    pub maps_owners: bool,
}

impl Features {
    /// Asks the kernel what it can do with folders in `root`.
    pub fn detect(root: &Path) -> Self {
        let userxattr = in_user_namespace();
        Self {
            index_off: Path::new("/sys/module/overlay/parameters/index").exists(),
            userxattr,
            maps_owners: !userxattr && maps_owners(root).is_ok(),
        }
    }
}

/// Mounts two folders with mapped owners: only that tells whether it can be done.
fn maps_owners(root: &Path) -> Result<()> {
    let folder = root.join("mapping");
    let lower = [folder.join("1"), folder.join("2")];
    let tried = lower
        .iter()
        .try_for_each(std::fs::create_dir_all)
        .context(|| format!("create folders in {folder:?}"))
        .and_then(|()| {
            let [one, two] = [in_option(&lower[0])?, in_option(&lower[1])?];
            let options = ["uidmap=0:1:1", "gidmap=0:1:1"].map(str::to_owned);
            let mut mount = overlay_mount(options.into());
            mount.options.push(format!("lowerdir={one}:{two}"));
            TempMount::new_in(&folder, &[mount])?.close()
        });
    let _ = std::fs::remove_dir_all(&folder);
    tried
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
        // The folder has its owner already.
        (Kind::Active, []) => bind(&snapshot.folder, "rw", None),
        (_, []) => bind(&snapshot.folder, "ro", None),
        (Kind::View, [only]) => bind(only, "ro", snapshot.mapping.as_ref()),
        _ => overlay(snapshot, features, extra),
    }
}

/// Returns the folder of a snapshot's own files.
pub(super) fn upper(folder: &Path) -> Result<String> {
    in_option(&folder.join("fs"))
}

fn bind(folder: &Path, access: &str, mapping: Option<&Mapping>) -> Result<Vec<Mount>> {
    let mut options = vec![access.to_owned(), "rbind".to_owned()];
    options.extend(mapping.into_iter().flat_map(Mapping::options));
    Ok(vec![Mount {
        fstype: "bind".to_owned(),
        source: upper(folder)?,
        target: String::new(),
        options,
    }])
}

fn overlay_mount(options: Vec<String>) -> Mount {
    Mount {
        fstype: "overlay".to_owned(),
        source: "overlay".to_owned(),
        target: String::new(),
        options,
    }
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
    let mut options = Vec::with_capacity(7 + extra.len());
    options.extend(snapshot.mapping.iter().flat_map(Mapping::options));
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
    Ok(vec![overlay_mount(options)])
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

#[cfg(test)]
mod tests {
    use super::*;

    fn located(kind: Kind, parents: usize) -> Located {
        Located {
            kind,
            folder: "/s/9".into(),
            parents: (0..parents)
                .rev()
                .map(|id| format!("/s/{id}").into())
                .collect(),
            mapping: None,
        }
    }

    #[test]
    fn the_shape_of_mounts_follows_kind_and_layers() {
        let features = Features {
            index_off: true,
            userxattr: false,
            maps_owners: true,
        };
        let shapes: [(Kind, usize, &str, &str, &[&str]); 5] = [
            (Kind::Active, 0, "bind", "/s/9/fs", &["rw", "rbind"]),
            (Kind::View, 0, "bind", "/s/9/fs", &["ro", "rbind"]),
            (Kind::View, 1, "bind", "/s/0/fs", &["ro", "rbind"]),
            (
                Kind::View,
                2,
                "overlay",
                "overlay",
                &["index=off", "volatile", "lowerdir=/s/1/fs:/s/0/fs"],
            ),
            (
                Kind::Active,
                1,
                "overlay",
                "overlay",
                &[
                    "index=off",
                    "volatile",
                    "workdir=/s/9/work",
                    "upperdir=/s/9/fs",
                    "lowerdir=/s/0/fs",
                ],
            ),
        ];
        for (kind, parents, fstype, source, options) in shapes {
            let extra = ["volatile".to_string()];
            let mounts = of(&located(kind, parents), &features, &extra).unwrap();
            let expected = Mount {
                fstype: fstype.to_string(),
                source: source.to_string(),
                target: String::new(),
                options: options.iter().map(ToString::to_string).collect(),
            };
            assert_eq!(mounts, [expected], "{kind} of {parents}");
        }
    }

    #[test]
    fn what_is_below_has_its_owners_mapped() {
        let features = Features {
            index_off: false,
            userxattr: false,
            maps_owners: true,
        };
        let labels = ["uid", "gid"].map(|name| {
            let label = format!("containerd.io/snapshot/{name}mapping");
            (label, "0:7:9".to_owned())
        });
        let mapping = Mapping::of(&labels.into()).unwrap();
        for (kind, parents, mapped) in [
            (Kind::Active, 0, false),
            (Kind::View, 1, true),
            (Kind::View, 2, true),
            (Kind::Active, 1, true),
        ] {
            let snapshot = Located {
                mapping: mapping.clone(),
                ..located(kind, parents)
            };
            let options = &of(&snapshot, &features, &[]).unwrap()[0].options;
            for option in ["uidmap=0:7:9", "gidmap=0:7:9"] {
                let has = options.contains(&option.to_owned());
                assert_eq!(has, mapped, "{kind} of {parents}");
            }
        }
    }

    #[test]
    fn a_user_namespace_gets_userxattr() {
        let features = Features {
            index_off: false,
            userxattr: true,
            maps_owners: false,
        };
        let mounts = of(&located(Kind::View, 2), &features, &[]).unwrap();
        assert_eq!(mounts[0].options[0], "userxattr");
    }

    #[test]
    fn more_layers_than_overlay_takes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let features = Features::detect(dir.path());
        of(&located(Kind::Active, MAX_LOWER), &features, &[]).unwrap();
        let error = of(&located(Kind::Active, MAX_LOWER + 1), &features, &[]).unwrap_err();
        assert_eq!(error.kind(), sys::Kind::FailedPrecondition);
    }

    #[test]
    fn folders_that_would_split_an_option_are_refused() {
        for folder in ["/a,b", "/a:b", "/a\\b"] {
            assert!(upper(Path::new(folder)).is_err(), "{folder}");
        }
    }
}
