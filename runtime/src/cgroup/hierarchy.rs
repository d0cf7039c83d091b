//! Which hierarchies the host has, where they are mounted, and in which group of each the caller is.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use sys::{Context, Error, Kind, Result};

use super::{UNIFIED, Version};

/// The controllers of v1 that a container gets a group of, as far as the host has them.
const CONTROLLERS: [&str; 15] = [
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "freezer",
    "rdma",
    "name=systemd",
    "misc",
];

/// The hierarchies of this host, as the caller sees them.
#[derive(Debug)]
pub(super) struct Host {
    version: Version,
    hierarchies: BTreeMap<String, Hierarchy>,
}

/// Where a hierarchy is mounted, and where there the caller's own group is.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    own: PathBuf,
}

impl Host {
    /// Asks the kernel.
    pub(super) fn read() -> Result<Self> {
        Self::read_of("/proc/self/cgroup")
    }

    /// Asks the kernel as if the process `pid` were the caller.
    pub(super) fn of_process(pid: i32) -> Result<Self> {
        Self::read_of(&format!("/proc/{pid}/cgroup"))
    }

    fn read_of(own: &str) -> Result<Self> {
        let read = |path: &str| std::fs::read(path).context(|| format!("read {path:?}"));
        Self::parse(&read("/proc/self/mountinfo")?, &read(own)?)
    }

    /// Returns the folders of the caller's own group.
    pub(super) fn own_paths(&self) -> BTreeMap<String, PathBuf> {
        let hierarchies = self.hierarchies.iter();
        hierarchies
            .map(|(controller, hierarchy)| (controller.clone(), hierarchy.own.clone()))
            .collect()
    }

    fn parse(mountinfo: &[u8], own: &[u8]) -> Result<Self> {
        let own = own_groups(own);
        let mut hierarchies = BTreeMap::new();
        for mount in cgroup_mounts(mountinfo) {
            for controller in mount.controllers() {
                let Some(group) = own.get(controller) else {
                    continue;
                };
                // The mount shows the hierarchy from `root` down; the caller's group may be above it.
                let below = group.strip_prefix(&mount.root).unwrap_or(Path::new(""));
                hierarchies
                    .entry(controller.to_owned())
                    .or_insert_with(|| Hierarchy {
                        mount: mount.point.clone(),
                        own: mount.point.join(below),
                    });
            }
        }
        let version = match hierarchies.len() {
            0 => {
                return Err(Error::new(
                    Kind::FailedPrecondition,
                    "no cgroup file system is mounted",
                ));
            }
            1 if hierarchies.contains_key(UNIFIED) => Version::V2,
            _ => Version::V1,
        };
        Ok(Self {
            version,
            hierarchies,
        })
    }

    /// Returns which interface controls resources.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Returns where a hierarchy is mounted.
    pub(super) fn root(&self, controller: &str) -> &Path {
        match self.hierarchies.get(controller) {
            Some(hierarchy) => &hierarchy.mount,
            None => Path::new("/"),
        }
    }

    /// Returns the folders of the group `inner`.
    pub(super) fn paths(&self, inner: &Path) -> Result<BTreeMap<String, PathBuf>> {
        // Without device rules a container could open every device of the host.
        if self.version == Version::V1 && !self.hierarchies.contains_key("devices") {
            return Err(Error::new(
                Kind::FailedPrecondition,
                "mountpoint for devices not found",
            ));
        }
        let paths = self.hierarchies.iter().map(|(controller, hierarchy)| {
            let path = match inner.strip_prefix("/") {
                Ok(below) => hierarchy.mount.join(below),
                // A group with processes can not have controllers for groups below it, so v2 goes beside it.
                Err(_) if self.version == Version::V2 && hierarchy.own != hierarchy.mount => {
                    let beside = hierarchy.own.parent().unwrap_or(&hierarchy.mount);
                    beside.join(inner)
                }
                Err(_) => hierarchy.own.join(inner),
            };
            (controller.clone(), path)
        });
        Ok(paths.collect())
    }
}

/// Returns the group that a container asks for: a clean path, which starts with `/` only if the container's does.
pub(super) fn inner_path(path: Option<&Path>, id: &str) -> PathBuf {
    match path {
        Some(path) if path.is_absolute() => Path::new("/").join(relative(path)),
        Some(path) if !path.as_os_str().is_empty() => relative(path),
        _ => relative(Path::new(id)),
    }
}

/// Returns a path that stays where it starts: `..` goes no higher than that.
pub(super) fn relative(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// Returns a path that is nowhere above where it starts.
pub(super) fn below(path: &Path) -> Option<PathBuf> {
    let mut depth = 0_usize;
    for component in path.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth = depth.checked_sub(1)?,
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Some(relative(path))
}

/// A mounted cgroup file system.
struct CgroupMount<'a> {
    unified: bool,
    root: PathBuf,
    point: PathBuf,
    options: &'a [u8],
}

impl CgroupMount<'_> {
    fn controllers(&self) -> Vec<&'static str> {
        if self.unified {
            return vec![UNIFIED];
        }
        let mounted = |name: &&str| {
            let mut options = self.options.split(|byte| *byte == b',');
            options.any(|option| option == name.as_bytes())
        };
        CONTROLLERS.into_iter().filter(mounted).collect()
    }
}

fn cgroup_mounts(mountinfo: &[u8]) -> impl Iterator<Item = CgroupMount<'_>> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(|line| {
        // 36 35 98:0 /root /point rw,noatime shared:1 - type source options
        let mut fields = line.split(|byte| *byte == b' ');
        let root = fields.nth(3)?;
        let point = fields.next()?;
        let kind = fields.by_ref().skip_while(|field| *field != b"-").nth(1)?;
        Some(CgroupMount {
            unified: match kind {
                b"cgroup" => false,
                b"cgroup2" => true,
                _ => return None,
            },
            root: unescape(root),
            point: unescape(point),
            options: fields.nth(1)?,
        })
    })
}

fn own_groups(text: &[u8]) -> BTreeMap<&str, PathBuf> {
    let mut groups = BTreeMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        // 4:cpu,cpuacct:/path
        let mut fields = line.splitn(3, |byte| *byte == b':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        for controller in std::str::from_utf8(controllers)
            .unwrap_or_default()
            .split(',')
        {
            groups.insert(controller, PathBuf::from(OsStr::from_bytes(path)));
        }
    }
    groups
}

/// Undoes the kernel's octal escapes of white space.
fn unescape(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| std::str::from_utf8(after.get(..3)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsStr::from_bytes(&plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str =
        "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const HYBRID: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 master:2 - cgroup cgroup rw,cpu,cpuacct\n\
        33 31 0:30 /docker/x /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
        34 31 0:31 / /a\\040b/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
        35 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        36 31 0:30 /docker/x /mnt/devices rw - cgroup cgroup rw,devices\n";

    fn paths(mountinfo: &str, own: &str, inner: &str) -> BTreeMap<String, PathBuf> {
        let host = Host::parse(mountinfo.as_bytes(), own.as_bytes()).unwrap();
        host.paths(Path::new(inner)).unwrap()
    }

    #[test]
    fn a_hybrid_host_has_the_first_mount_of_each_hierarchy() {
        let own = "4:cpu,cpuacct:/me\n3:devices:/docker/x/me\n1:name=systemd:/me\n0::/\n";
        let found = paths(HYBRID, own, "/group");
        let expected = [
            ("", "/sys/fs/cgroup/unified/group"),
            ("cpu", "/sys/fs/cgroup/cpu,cpuacct/group"),
            ("cpuacct", "/sys/fs/cgroup/cpu,cpuacct/group"),
            ("devices", "/sys/fs/cgroup/devices/group"),
            ("name=systemd", "/a b/systemd/group"),
        ];
        let expected =
            expected.map(|(controller, path)| (controller.to_owned(), PathBuf::from(path)));
        assert_eq!(found, BTreeMap::from(expected));

        let below = paths(HYBRID, own, "group");
        assert_eq!(
            below["cpu"],
            Path::new("/sys/fs/cgroup/cpu,cpuacct/me/group")
        );
        // The mount shows only a part of the hierarchy.
        assert_eq!(
            below["devices"],
            Path::new("/sys/fs/cgroup/devices/me/group")
        );
    }

    #[test]
    fn on_v2_a_relative_group_is_beside_the_callers() {
        let own = "0::/user.slice/session-1.scope\n";
        assert_eq!(
            paths(V2, own, "group")[UNIFIED],
            Path::new("/sys/fs/cgroup/user.slice/group")
        );
        assert_eq!(
            paths(V2, own, "/group")[UNIFIED],
            Path::new("/sys/fs/cgroup/group")
        );
        assert_eq!(
            paths(V2, "0::/\n", "group")[UNIFIED],
            Path::new("/sys/fs/cgroup/group")
        );
    }

    #[test]
    fn a_host_without_device_rules_is_refused() {
        let mountinfo = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let host = Host::parse(mountinfo.as_bytes(), b"4:cpu:/\n").unwrap();
        let error = host.paths(Path::new("/group")).unwrap_err();
        assert_eq!(error.to_string(), "mountpoint for devices not found");
        assert!(Host::parse(b"", b"").is_err());
    }

    #[test]
    fn a_path_below_is_not_above() {
        for (path, expected) in [
            ("a/b", Some("a/b")),
            ("/", Some("")),
            ("a/../b", Some("b")),
            ("..", None),
            ("a/../../a", None),
        ] {
            assert_eq!(below(Path::new(path)).as_deref(), expected.map(Path::new));
        }
    }

    #[test]
    fn no_path_leaves_the_hierarchy() {
        for (path, expected) in [
            (Some("/../../etc"), "/etc"),
            (Some("../../etc"), "etc"),
            (Some("a/../../b/./c"), "b/c"),
            (Some("/"), "/"),
            (Some(""), "id"),
            (None, "id"),
        ] {
            let found = inner_path(path.map(Path::new), "id");
            assert_eq!(found, Path::new(expected), "{path:?}");
        }
    }
}
