//! Who runs a process: users and groups by name and number, as the image's own files know them.

use crate::error::{Result, invalid};

/// The largest number that is a user or group.
const MAX_ID: i64 = i32::MAX as i64;

/// Who runs a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// All groups, the main one first.
    pub groups: Vec<u32>,
}

/// The image's files, as far as they are there.
#[derive(Clone, Debug, Default)]
pub struct Files {
    pub passwd: String,
    pub group: String,
}

/// Returns whom CRI asks for: a user by name or number, with or without a group; empty if it leaves that to the image.
pub fn requested(name: &str, user: Option<i64>, group: Option<i64>) -> Result<String> {
    let user = match (name, user) {
        ("", None) if group.is_none() => return Ok(String::new()),
        ("", None) => return Err(invalid("user group is specified without user")),
        // The number is surer than the name.
        (_, Some(number)) => number.to_string(),
        (name, None) => name.to_owned(),
    };
    Ok(match group {
        Some(group) => format!("{user}:{group}"),
        None => user,
    })
}

/// Returns who `wanted` is: `user`, `uid`, `user:group` and so on; nobody asked for is root.
///
/// With `merge` the groups are those of the image too; `more` are in any case.
pub fn resolve(wanted: &str, files: &Files, merge: bool, more: &[i64]) -> Result<User> {
    let (user, group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let entries: Vec<Entry> = files.passwd.lines().filter_map(Entry::parse).collect();
    let (uid, entry) = match user {
        "" => (0, entries.iter().find(|entry| entry.uid == 0)),
        user => match number(user)? {
            Some(uid) => (uid, entries.iter().find(|entry| entry.uid == uid)),
            None => {
                let entry = entries.iter().find(|entry| entry.name == user);
                let entry = entry.ok_or_else(|| invalid(format!("no users found: {user:?}")))?;
                (entry.uid, Some(entry))
            }
        },
    };
    let gid = match group {
        None | Some("") => entry.map_or(0, |entry| entry.gid),
        Some(group) => match number(group)? {
            Some(gid) => gid,
            None => groups(&files.group)
                .find(|(name, ..)| *name == group)
                .map(|(_, gid, _)| gid)
                .ok_or_else(|| invalid(format!("no groups found: {group:?}")))?,
        },
    };
    let mut all = vec![gid];
    if let Some(entry) = entry.filter(|_| merge) {
        let member = |members: &str| members.split(',').any(|member| member == entry.name);
        all.extend(
            groups(&files.group)
                .filter(|(.., members)| member(members))
                .map(|(_, gid, _)| gid),
        );
    }
    for gid in more {
        all.push(checked(*gid)?);
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|gid| seen.insert(*gid));
    Ok(User {
        uid,
        gid,
        groups: all,
    })
}

/// A line of `/etc/passwd`.
#[derive(Debug)]
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let _password = fields.next()?;
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Self { name, uid, gid })
    }
}

/// Returns name, number and members of the lines of `/etc/group`.
fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let _password = fields.next()?;
        let gid = fields.next()?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

/// Returns the number that `text` is, or nothing if it is a name. What looks like a number but is none is refused: it
/// must not become the name of somebody, or by overflow root.
fn number(text: &str) -> Result<Option<u32>> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let plain = digits.len() == text.len();
    let number = text.parse::<i64>().ok().filter(|_| plain);
    let number = number.ok_or_else(|| {
        invalid(format!(
            "uids and gids must be in range 0-{MAX_ID}: {text:?}"
        ))
    })?;
    checked(number).map(Some)
}

fn checked(number: i64) -> Result<u32> {
    match (0..=MAX_ID).contains(&number) {
        true => Ok(number as u32),
        false => Err(invalid(format!(
            "uids and gids must be in range 0-{MAX_ID}: {number}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        Files {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/:/bin/sh\nbroken\n".into(),
            group: "root:x:0:\nweb:x:34:\nlogs:x:50:web,other\nwheel:x:10:root\n".into(),
        }
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        for (wanted, uid, gid, groups) in [
            ("", 0, 0, &[0, 10][..]),
            ("web", 33, 34, &[34, 50]),
            ("33", 33, 34, &[34, 50]),
            ("web:logs", 33, 50, &[50]),
            ("33:7", 33, 7, &[7, 50]),
            ("1000", 1000, 0, &[0]),
            ("1000:1000", 1000, 1000, &[1000]),
        ] {
            let user = resolve(wanted, &files(), true, &[]).unwrap();
            assert_eq!((user.uid, user.gid), (uid, gid), "{wanted}");
            assert_eq!(user.groups, groups, "{wanted}");
        }
    }

    #[test]
    fn groups_of_the_image_are_left_out_where_the_pod_says_so() {
        let user = resolve("web", &files(), false, &[7, 34]).unwrap();
        assert_eq!(user.groups, [34, 7]);
    }

    #[test]
    fn numbers_that_are_none_are_nobody() {
        for wanted in [
            "2147483648",
            "4294967296",
            "-1",
            "+0",
            "99999999999999999999",
            "nobody",
            "web:nogroup",
            "0:-1",
        ] {
            assert!(resolve(wanted, &files(), true, &[]).is_err(), "{wanted}");
        }
        assert!(resolve("", &files(), true, &[-1]).is_err());
    }

    #[test]
    fn a_group_alone_is_refused() {
        assert!(requested("", None, Some(5)).is_err());
        assert_eq!(requested("", None, None).unwrap(), "");
        assert_eq!(requested("web", Some(5), Some(6)).unwrap(), "5:6");
        assert_eq!(requested("web", None, None).unwrap(), "web");
    }
}
