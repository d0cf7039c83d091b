//! The user of a process: numbers as they are, names by the image's own `/etc/passwd` and `/etc/group`.
//!
//! Both files belong to whoever made the image: they are opened inside its root, must be regular files, and are read
//! up to a limit. Numbers out of range are refused, for a number that wraps around could be root's.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::fs::{FileType, OFlags, fstat};
use serde_json::{Value, json};
use sys::path::Root;

/// The most that is read of a list of users or groups.
const LIST_MAX: u64 = 1 << 20;
/// The largest number of a user or group, as other runtimes have it.
const ID_MAX: i64 = i32::MAX as i64;

/// Who a process is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The primary group's number.
    pub gid: u32,
    /// All groups, the primary one too.
    pub groups: Vec<u32>,
}

impl User {
    /// Puts the user into a configuration's process.
    pub fn apply(&self, process: &mut Value) {
        process["user"] = json!({"uid": self.uid, "gid": self.gid, "additionalGids": self.groups});
    }
}

/// Who was asked for: `USER[:GROUP]`, each a name or a number.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    user: Id,
    group: Option<Id>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Id {
    Number(u32),
    Name(String),
}

/// Resolves `text` (empty is root) with the lists in `root`, if there is a root to look in.
pub fn resolve(text: &str, root: Option<&Root>) -> Result<User> {
    let list = |path: &str| root.map_or_else(|| Ok(String::new()), |root| read_list(root, path));
    let text = if text.is_empty() { "0" } else { text };
    let wanted = parse(text)?;
    if let (
        Wanted {
            user: Id::Number(uid),
            group: Some(Id::Number(gid)),
        },
        None,
    ) = (&wanted, root)
    {
        return Ok(User {
            uid: *uid,
            gid: *gid,
            groups: vec![*gid],
        });
    }
    lookup(&wanted, &list("etc/passwd")?, &list("etc/group")?)
}

fn parse(text: &str) -> Result<Wanted> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let parsed = || -> Result<Wanted> {
        Ok(Wanted {
            user: parse_id(user)?,
            group: group.map(parse_id).transpose()?,
        })
    };
    parsed().with_context(|| format!("user {text:?}"))
}

fn parse_id(text: &str) -> Result<Id> {
    // Whatever looks like a number is one: a name such as "+0" or a number too large must not become a lookup.
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if text.is_empty() || text.contains(':') {
        bail!("neither a name nor a number");
    }
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Id::Name(text.to_owned()));
    }
    match text.parse::<i64>() {
        Ok(number) if (0..=ID_MAX).contains(&number) && !text.starts_with(['+', '-']) => {
            Ok(Id::Number(number as u32))
        }
        _ => bail!("{text} is not a number between 0 and {ID_MAX}"),
    }
}

fn read_list(root: &Root, path: &str) -> Result<String> {
    let read = || -> Result<String> {
        // A symlink stays inside the root. A FIFO must not make us wait; the type is checked on the open file.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = match root.open(Path::new(path), flags) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
            Err(errno) => return Err(errno.into()),
        };
        if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::RegularFile {
            bail!("it is not a regular file");
        }
        let mut bytes = Vec::new();
        File::from(fd).take(LIST_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LIST_MAX {
            bail!("it is larger than {LIST_MAX} bytes");
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().with_context(|| format!("read /{path} of the image"))
}

fn lookup(wanted: &Wanted, passwd: &str, group: &str) -> Result<User> {
    let entries = || {
        passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .filter(|fields| fields.len() >= 4)
    };
    let found = entries().find(|fields| match &wanted.user {
        Id::Number(uid) => fields[2].parse() == Ok(*uid),
        Id::Name(name) => fields[0] == name,
    });
    let number = |text: &str| match parse_id(text) {
        Ok(Id::Number(number)) => Ok(number),
        _ => Err(anyhow!(
            "{text:?} in the image's list is not a number of a user or group"
        )),
    };
    let (uid, primary, name) = match (&wanted.user, found) {
        (Id::Number(uid), None) => (*uid, 0, None),
        (Id::Number(uid), Some(fields)) => (*uid, number(fields[3])?, Some(fields[0].to_owned())),
        (Id::Name(_), Some(fields)) => (
            number(fields[2])?,
            number(fields[3])?,
            Some(fields[0].to_owned()),
        ),
        (Id::Name(name), None) => bail!("no user {name:?} in the image's /etc/passwd"),
    };
    let rows = || {
        group
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .filter(|fields| fields.len() >= 3)
    };
    let gid = match &wanted.group {
        None => primary,
        Some(Id::Number(gid)) => *gid,
        Some(Id::Name(name)) => {
            let row = rows().find(|fields| fields[0] == name);
            number(row.ok_or_else(|| anyhow!("no group {name:?} in the image's /etc/group"))?[2])?
        }
    };
    let mut groups = vec![gid];
    // With an explicit group the user's other groups are not taken on.
    if let (Some(name), None) = (name, &wanted.group) {
        let members = rows().filter(|fields| {
            fields
                .get(3)
                .is_some_and(|list| list.split(',').any(|member| member == name))
        });
        for fields in members {
            let gid = number(fields[2])?;
            if !groups.contains(&gid) {
                groups.push(gid);
            }
        }
    }
    Ok(User { uid, gid, groups })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1001::/:/bin/sh\nbig:x:4294967296:0::/:\n";
    const GROUP: &str = "root:x:0:\nuser:x:1001:\nextra:x:2000:other,user\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        for (text, uid, gid, groups) in [
            ("0", 0, 0, vec![0]),
            ("user", 1000, 1001, vec![1001, 2000]),
            ("1000", 1000, 1001, vec![1001, 2000]),
            ("user:extra", 1000, 2000, vec![2000]),
            ("user:7", 1000, 7, vec![7]),
            ("5", 5, 0, vec![0]),
            ("5:6", 5, 6, vec![6]),
        ] {
            let user = lookup(&parse(text).unwrap(), PASSWD, GROUP).unwrap();
            assert_eq!(user, User { uid, gid, groups }, "{text}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused_and_never_looked_up() {
        for text in [
            "2147483648",
            "4294967296",
            "-1",
            "+0",
            "99999999999999999999999",
            "1:2147483648",
            "",
            ":",
            "1:",
            "1:2:3",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        for text in ["nobody", "user:none", "big"] {
            assert!(
                lookup(&parse(text).unwrap(), PASSWD, GROUP).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn a_list_that_is_a_link_a_fifo_or_too_large_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let etc = folder.path().join("etc");
        fs::create_dir(&etc).unwrap();
        let root = || Root::new(File::open(folder.path()).unwrap().into());
        let passwd = etc.join("passwd");
        assert_eq!(
            resolve("", Some(&root())).unwrap(),
            User {
                groups: vec![0],
                ..User::default()
            }
        );
        fs::write(&passwd, PASSWD).unwrap();
        assert_eq!(resolve("user", Some(&root())).unwrap().uid, 1000);
        fs::remove_file(&passwd).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &passwd).unwrap();
        assert!(resolve("user", Some(&root())).is_err());
        fs::remove_file(&passwd).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &passwd,
            FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        assert!(resolve("user", Some(&root())).is_err());
        fs::remove_file(&passwd).unwrap();
        File::create(&passwd).unwrap().set_len(10 << 30).unwrap();
        assert!(resolve("user", Some(&root())).is_err());
    }
}
