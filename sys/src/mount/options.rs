//! Mount options as fstab writes them, parsed into flags and the file system's own data.

use rustix::mount::{MountFlags, MountPropagationFlags};

use super::Mount;

/// Parsed options of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The flags, `BIND` and `REC` among them.
    pub flags: MountFlags,
    /// The flags that are named to be clear, as by `rw`.
    pub cleared: MountFlags,
    /// Whether an existing mount is changed.
    pub remount: bool,
    /// The propagation to set once it is mounted.
    pub propagation: Option<MountPropagationFlags>,
    /// Whose the files are to be: the maps of users and of groups, of a bind mount or of overlay's lower folders.
    pub owners: Option<Owners>,
    /// What the file system itself understands: `key` or `key=value`.
    pub data: Vec<String>,
}

/// Maps of users and groups in the kernel's form, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// The map of users.
    pub uids: String,
    /// The map of groups.
    pub gids: String,
}

impl Options {
    /// Parses fstab's options; what is not a flag is data for the file system.
    pub fn parse(options: &[String]) -> Self {
        let mut parsed = Self {
            flags: MountFlags::empty(),
            cleared: MountFlags::empty(),
            remount: false,
            propagation: None,
            owners: None,
            data: Vec::new(),
        };
        for option in options {
            if let Some((set, flag)) = flag(option) {
                parsed.flags.set(flag, set);
                parsed.cleared.set(flag, !set);
            } else if let Some(propagation) = propagation(option) {
                parsed.propagation = Some(propagation);
            } else if option == "remount" {
                parsed.remount = true;
            } else if let Some(map) = option.strip_prefix("uidmap=") {
                parsed.owners.get_or_insert_default().uids = lines(map);
            } else if let Some(map) = option.strip_prefix("gidmap=") {
                parsed.owners.get_or_insert_default().gids = lines(map);
            } else if option != "defaults" && !option.is_empty() {
                parsed.data.push(option.clone());
            }
        }
        parsed
    }
}

/// Returns a map, `container:host:length` with commas between, in the kernel's form.
fn lines(map: &str) -> String {
    let lines = map.split(',').map(|line| line.replace(':', " ") + "\n");
    lines.collect()
}

/// Returns the flag that an option sets (true) or clears.
fn flag(option: &str) -> Option<(bool, MountFlags)> {
    Some(match option {
        "async" => (false, MountFlags::SYNCHRONOUS),
        "atime" => (false, MountFlags::NOATIME),
        "bind" => (true, MountFlags::BIND),
        "dev" => (false, MountFlags::NODEV),
        "diratime" => (false, MountFlags::NODIRATIME),
        "dirsync" => (true, MountFlags::DIRSYNC),
        "exec" => (false, MountFlags::NOEXEC),
        "lazytime" => (true, MountFlags::LAZYTIME),
        "mand" => (true, MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
        "noatime" => (true, MountFlags::NOATIME),
        "nodev" => (true, MountFlags::NODEV),
        "nodiratime" => (true, MountFlags::NODIRATIME),
        "noexec" => (true, MountFlags::NOEXEC),
        "nolazytime" => (false, MountFlags::LAZYTIME),
        "nomand" => (false, MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
        "norelatime" => (false, MountFlags::RELATIME),
        "nostrictatime" => (false, MountFlags::STRICTATIME),
        "nosuid" => (true, MountFlags::NOSUID),
        "nosymfollow" => (true, MountFlags::NOSYMFOLLOW),
        "rbind" => (true, MountFlags::BIND | MountFlags::REC),
        "relatime" => (true, MountFlags::RELATIME),
        "ro" => (true, MountFlags::RDONLY),
        "rw" => (false, MountFlags::RDONLY),
        "strictatime" => (true, MountFlags::STRICTATIME),
        "suid" => (false, MountFlags::NOSUID),
        "sync" => (true, MountFlags::SYNCHRONOUS),
        _ => return None,
    })
}

/// Returns the propagation that an option asks for.
fn propagation(option: &str) -> Option<MountPropagationFlags> {
    let recursive = MountPropagationFlags::REC;
    Some(match option {
        "private" => MountPropagationFlags::PRIVATE,
        "rprivate" => MountPropagationFlags::PRIVATE | recursive,
        "shared" => MountPropagationFlags::SHARED,
        "rshared" => MountPropagationFlags::SHARED | recursive,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "rslave" => MountPropagationFlags::DOWNSTREAM | recursive,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        "runbindable" => MountPropagationFlags::UNBINDABLE | recursive,
        _ => return None,
    })
}

/// Returns the folders of a `lowerdir` option, topmost first; `None` if it has data-only layers (`::`).
pub(super) fn lower_dirs(value: &str) -> Option<Vec<String>> {
    let mut dirs = vec![String::new()];
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        let last = dirs.last_mut()?;
        match char {
            ':' => dirs.push(String::new()),
            '\\' => last.extend(chars.next()),
            _ => last.push(char),
        }
    }
    match dirs.iter().any(String::is_empty) {
        true => None,
        false => Some(dirs),
    }
}

/// Returns `mounts` such that nothing can be written: an overlay's upper folder becomes its topmost lower one.
pub fn read_only(mounts: &[Mount]) -> Vec<Mount> {
    mounts.iter().map(read_only_mount).collect()
}

fn read_only_mount(mount: &Mount) -> Mount {
    let mut mount = mount.clone();
    let mapped = mount
        .options
        .iter()
        .any(|option| option.starts_with("uidmap="));
    if mount.fstype == "overlay" && mapped {
        // Lower folders have their owners mapped; the upper one, which has the right owners already, must stay it.
        mount.options.push("ro".to_string());
    } else if mount.fstype == "overlay" {
        let upper = mount
            .options
            .iter()
            .find_map(|option| option.strip_prefix("upperdir="))
            .map(str::to_string);
        mount
            .options
            .retain(|option| !option.starts_with("upperdir=") && !option.starts_with("workdir="));
        if let Some(upper) = upper {
            for option in &mut mount.options {
                if let Some(lower) = option.strip_prefix("lowerdir=") {
                    *option = format!("lowerdir={upper}:{lower}");
                }
            }
        }
    } else {
        mount.options.retain(|option| option != "rw");
        if !mount.options.iter().any(|option| option == "ro") {
            mount.options.push("ro".to_string());
        }
    }
    mount
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Options {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        Options::parse(&options)
    }

    #[test]
    fn the_last_flag_wins_and_the_rest_is_data() {
        let parsed = parse(&["ro", "rbind", "nosuid", "rw", "mode=755", "userxattr"]);
        assert_eq!(
            parsed.flags,
            MountFlags::BIND | MountFlags::REC | MountFlags::NOSUID
        );
        assert_eq!(parsed.data, ["mode=755", "userxattr"]);
        assert!(!parsed.remount);
        assert_eq!(parse(&["defaults", "remount"]).data, [""; 0]);
    }

    #[test]
    fn lower_folders_are_split_at_colons_that_are_not_escaped() {
        assert_eq!(lower_dirs("/a:/b").unwrap(), ["/a", "/b"]);
        assert_eq!(lower_dirs(r"/a\:b:/c\\d").unwrap(), ["/a:b", r"/c\d"]);
        assert_eq!(lower_dirs("/a::/b"), None);
    }

    #[test]
    fn a_read_only_overlay_keeps_the_upper_folder_on_top() {
        let options = ["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b"];
        let overlay = Mount {
            fstype: "overlay".to_string(),
            options: options.map(str::to_string).to_vec(),
            ..Mount::default()
        };
        let options = &read_only(&[overlay])[0].options;
        assert_eq!(options, &["index=off", "lowerdir=/u:/a:/b"]);
    }

    #[test]
    fn a_read_only_bind_says_so_once() {
        let bind = Mount {
            fstype: "bind".to_string(),
            options: vec!["rw".to_string(), "rbind".to_string()],
            ..Mount::default()
        };
        assert_eq!(read_only(&[bind])[0].options, ["rbind", "ro"]);
    }
}
