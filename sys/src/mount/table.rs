//! The mount table of the calling thread's mount namespace.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::{Context, Result};

/// One mount of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The mount's number.
    pub id: u32,
    /// The number of the mount it is mounted on.
    pub parent: u32,
    /// Which folder of its file system is mounted.
    pub root: PathBuf,
    /// Where it is mounted.
    pub target: PathBuf,
    /// The options of this mount, such as `ro,nosuid`.
    pub options: String,
    /// The file system's type.
    pub fstype: String,
    /// What was mounted.
    pub source: String,
    /// The options of the file system.
    pub super_options: String,
}

/// Returns all mounts, in the order in which the kernel lists them.
pub fn entries() -> Result<Vec<Entry>> {
    let path = "/proc/thread-self/mountinfo";
    let table = fs::read(path).context(|| format!("read {path:?}"))?;
    Ok(table
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .collect())
}

/// Parses a line of mountinfo; its fields are in proc_pid_mountinfo(5).
fn parse(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut field = || fields.next().map(unescape);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let path = |bytes: Vec<u8>| PathBuf::from(OsString::from_vec(bytes));
    let id = text(field()?).parse().ok()?;
    let parent = text(field()?).parse().ok()?;
    field()?;
    let root = path(field()?);
    let target = path(field()?);
    let options = text(field()?);
    // Optional fields end with a lone dash.
    while field()? != b"-" {}
    Some(Entry {
        id,
        parent,
        root,
        target,
        options,
        fstype: text(field()?),
        source: text(field()?),
        super_options: text(field()?),
    })
}

/// Undoes the kernel's `\ooo` for blanks and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = match first {
            b'\\' => after.get(..3).and_then(|digits| {
                let digits = std::str::from_utf8(digits).ok()?;
                u8::from_str_radix(digits, 8).ok()
            }),
            _ => None,
        };
        match octal {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_blanks_is_parsed() {
        let line = br"36 35 98:0 /a /mnt\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue";
        let entry = parse(line).unwrap();
        assert_eq!((entry.id, entry.parent), (36, 35));
        assert_eq!(entry.target, PathBuf::from("/mnt 2"));
        assert_eq!(entry.fstype, "ext3");
        assert_eq!(entry.super_options, "rw,errors=continue");
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn the_table_of_this_thread_has_a_root() {
        let entries = entries().unwrap();
        assert!(entries.iter().any(|entry| entry.target == Path::new("/")));
    }
}
