use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::super::entries::{Entries, Type};
use super::*;

fn root_only() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    eprintln!("SKIP: needs root");
    false
}

fn bind(path: &Path, mode: &str) -> Mount {
    Mount {
        fstype: "bind".into(),
        source: path.display().to_string(),
        options: vec!["rbind".into(), mode.into()],
        ..Mount::default()
    }
}

/// Two folders that are looked at, or the folders of an overlay.
struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["base", "second", "upper", "work"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns an overlay upon two layers, and the view of those.
    fn overlay(&self) -> (Mount, Mount) {
        let lower = format!(
            "lowerdir={}:{}",
            self.path("second").display(),
            self.path("base").display()
        );
        let view = Mount {
            fstype: "overlay".into(),
            source: "overlay".into(),
            options: vec![lower],
            ..Mount::default()
        };
        let mut active = view.clone();
        active.options.extend([
            format!("upperdir={}", self.path("upper").display()),
            format!("workdir={}", self.path("work").display()),
        ]);
        (view, active)
    }
}

fn archive(left: &[Mount], right: &[Mount], fast: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert!(layer(left, right, fast, None, &mut bytes).unwrap());
    bytes
}

/// Returns the entries of an archive: name, type, mode, link and data.
fn list(bytes: &[u8]) -> Vec<String> {
    let mut entries = Entries::new(bytes);
    let mut listed = Vec::new();
    while let Some(entry) = entries.next_entry().unwrap() {
        let mut data = Vec::new();
        let take = |bytes: &[u8]| {
            data.extend_from_slice(bytes);
            Ok(())
        };
        entries.read(&entry, take).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let what = match entry.kind {
            Type::Regular => text(&data),
            Type::Directory => format!("{:o}", entry.mode),
            Type::Symlink | Type::Hardlink => format!("-> {}", text(&entry.link)),
            Type::Character | Type::Block | Type::Fifo => format!("{:?}", entry.device),
        };
        listed.push(format!("{} {:?} {what}", text(&entry.path), entry.kind));
    }
    listed
}

#[test]
fn changes_become_entries_and_deletions_whiteouts() {
    let f = Fixture::new();
    let (old, new) = (f.path("base"), f.path("second"));
    for side in [&old, &new] {
        fs::create_dir_all(side.join("same/deep")).unwrap();
        fs::write(side.join("same/deep/file"), "x").unwrap();
        fs::write(side.join("changed"), "one").unwrap();
        symlink("target", side.join("link")).unwrap();
    }
    let time = fs::metadata(old.join("same/deep/file"))
        .unwrap()
        .modified()
        .unwrap();
    for path in ["same/deep/file", "changed"] {
        let file = fs::File::options().write(true).open(new.join(path));
        file.unwrap().set_modified(time).unwrap();
    }
    fs::write(old.join("gone"), "").unwrap();
    fs::create_dir(old.join("folder-to-file")).unwrap();
    fs::write(old.join("folder-to-file/inner"), "").unwrap();
    fs::write(new.join("folder-to-file"), "now a file").unwrap();
    fs::write(new.join("changed"), "another").unwrap();
    fs::write(new.join("same/deep/new"), "new").unwrap();
    fs::hard_link(new.join("same/deep/new"), new.join("z")).unwrap();
    fs::remove_file(new.join("link")).unwrap();
    symlink("other", new.join("link")).unwrap();
    fs::set_permissions(new.join("same"), fs::Permissions::from_mode(0o711)).unwrap();
    let bytes = archive(&[bind(&old, "ro")], &[bind(&new, "ro")], true);
    assert_eq!(
        list(&bytes),
        [
            "changed Regular another",
            "folder-to-file Regular now a file",
            ".wh.gone Regular ",
            "link Symlink -> other",
            "same/ Directory 711",
            "same/deep/ Directory 755",
            "same/deep/new Regular new",
            "z Hardlink -> same/deep/new",
        ]
    );
    let again = archive(&[bind(&old, "ro")], &[bind(&new, "ro")], true);
    assert_eq!(bytes, again);
}

#[test]
fn against_nothing_all_is_new_and_times_have_a_bound() {
    let f = Fixture::new();
    let new = f.path("second");
    fs::create_dir(new.join("d")).unwrap();
    fs::write(new.join("d/f"), "x").unwrap();
    let mut bytes = Vec::new();
    layer(&[], &[bind(&new, "rw")], true, Some(7), &mut bytes).unwrap();
    assert_eq!(list(&bytes), ["d/ Directory 755", "d/f Regular x"]);
    let mut entries = Entries::new(bytes.as_slice());
    while let Some(entry) = entries.next_entry().unwrap() {
        assert_eq!(entry.modified.tv_sec, 7);
    }
}

#[test]
fn a_new_link_to_an_old_file_brings_the_file_along() {
    let f = Fixture::new();
    let (old, new) = (f.path("base"), f.path("second"));
    fs::write(old.join("a"), "data").unwrap();
    fs::write(new.join("a"), "data").unwrap();
    let time = fs::metadata(old.join("a")).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(new.join("a")).unwrap();
    file.set_modified(time).unwrap();
    fs::hard_link(new.join("a"), new.join("b")).unwrap();
    let bytes = archive(&[bind(&old, "ro")], &[bind(&new, "ro")], true);
    assert_eq!(list(&bytes), ["b Regular data", "a Hardlink -> b"]);
}

/// Changes what an overlay shows, in every way that leaves other marks in the upper folder.
fn change(root: &Path) {
    fs::remove_file(root.join("d/gone")).unwrap();
    fs::write(root.join("d/changed"), "changed").unwrap();
    fs::remove_dir_all(root.join("opaque")).unwrap();
    fs::create_dir(root.join("opaque")).unwrap();
    fs::write(root.join("opaque/new"), "new").unwrap();
    fs::remove_dir_all(root.join("removed")).unwrap();
    fs::remove_dir_all(root.join("to-file")).unwrap();
    fs::write(root.join("to-file"), "file").unwrap();
    fs::remove_file(root.join("to-folder")).unwrap();
    fs::create_dir(root.join("to-folder")).unwrap();
    fs::write(root.join("to-folder/x"), "x").unwrap();
    fs::set_permissions(root.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    // It is copied up, and is then what it was.
    fs::set_permissions(root.join("touched"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(root.join("touched"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(root.join("linked"), "linked").unwrap();
    fs::hard_link(root.join("linked"), root.join("d/linked")).unwrap();
    fs::create_dir_all(root.join("new/deep")).unwrap();
    symlink("/nowhere", root.join("new/deep/link")).unwrap();
    let fifo = root.join("new/fifo");
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    );
    made.unwrap();
}

#[test]
fn the_upper_folder_alone_tells_what_the_whole_overlay_tells() {
    if !root_only() {
        return;
    }
    let f = Fixture::new();
    for (side, folders) in [
        ("base", ["d", "opaque", "removed", "to-file"]),
        ("second", ["d", "opaque", "x", "y"]),
    ] {
        for folder in folders {
            fs::create_dir(f.path(side).join(folder)).unwrap();
            fs::write(f.path(side).join(folder).join(side), side).unwrap();
        }
        for file in ["to-folder", "mode", "touched", "untouched"] {
            fs::write(f.path(side).join(file), side).unwrap();
        }
    }
    fs::write(f.path("base").join("d/gone"), "gone").unwrap();
    fs::write(f.path("base").join("d/changed"), "old").unwrap();
    let (view, active) = f.overlay();
    let mounted = TempMount::new(std::slice::from_ref(&active)).unwrap();
    change(mounted.path());
    mounted.close().unwrap();
    let (left, right) = ([view], [active]);
    let fast = archive(&left, &right, true);
    let slow = archive(&left, &right, false);
    assert_eq!(list(&fast), list(&slow));
    assert_eq!(fast, slow);
    let listed = list(&fast).join("\n");
    for expected in [
        "d/.wh.gone Regular ",
        "opaque/.wh.base Regular ",
        "opaque/.wh.second Regular ",
        ".wh.removed Regular ",
        "to-file Regular file",
        "d/linked Regular linked",
        "linked Hardlink -> d/linked",
    ] {
        assert!(listed.contains(expected), "{expected} is not in\n{listed}");
    }
    for unexpected in ["touched", "untouched"] {
        assert!(!listed.contains(unexpected), "{unexpected} is in\n{listed}");
    }
}
