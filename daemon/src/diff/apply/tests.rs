use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tar::{EntryType, Header};

use super::*;

/// An archive that is made entry by entry, with names that no well-meaning tool would write.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn entry(mut self, kind: EntryType, name: &str, link: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1000);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.entry(EntryType::Regular, name, "", 0o644, data.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", 0o755, b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, 0o777, b"")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, 0o644, b"")
    }

    fn apply(&self, root: &Path, whiteouts: Whiteouts) -> Result<Applied> {
        apply(tree(root, None, whiteouts), self.0.as_slice())
    }
}

fn open(path: &Path) -> std::os::fd::OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).unwrap()
}

fn tree(root: &Path, lower: Option<&Path>, whiteouts: Whiteouts) -> Tree {
    Tree::new(open(root), lower.map(open), whiteouts)
}

/// Returns what is in a folder: path, and what it is.
fn list(root: &Path) -> BTreeMap<String, String> {
    fn visit(root: &Path, dir: &Path, all: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let kind = meta.file_type();
            let what = match () {
                () if kind.is_dir() => format!("dir {:o}", meta.mode() & 0o7777),
                () if kind.is_symlink() => {
                    format!("-> {}", fs::read_link(&path).unwrap().display())
                }
                () if kind.is_file() => fs::read_to_string(&path).unwrap(),
                () if kind.is_char_device() => format!("char {}", meta.rdev()),
                () => "other".to_owned(),
            };
            all.insert(name, what);
            if kind.is_dir() {
                visit(root, &path, all);
            }
        }
    }
    let mut all = BTreeMap::new();
    visit(root, root, &mut all);
    all
}

fn complete(root: &Path, done: Tree, below: &Path) -> Result<bool> {
    tree::complete(
        open(root).as_fd(),
        &done.into_implied(),
        open(below).as_fd(),
    )
}

fn root_only() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    eprintln!("SKIP: needs root");
    false
}

#[test]
fn no_entry_leaves_the_root() {
    if !root_only() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let host = outside.path().join("host");
    let target = host.to_str().unwrap();
    let corpus = [
        Archive::default().file("../host/canary", "bad"),
        Archive::default().file("../../../../../../../../../../tmp/../host/canary", "bad"),
        Archive::default().file(&format!("{target}/canary"), "bad"),
        Archive::default()
            .symlink("out", target)
            .file("out/canary", "bad"),
        Archive::default()
            .symlink("out", "../host")
            .file("out/canary", "bad"),
        Archive::default()
            .symlink("out", "/proc/self/root")
            .file(&format!("out{target}/canary"), "bad"),
        Archive::default()
            .symlink("out", "../host")
            .file("out/.wh.canary", ""),
        Archive::default()
            .symlink("out", "../host")
            .file("out/.wh..wh..opq", ""),
        Archive::default()
            .symlink("out", target)
            .link("mine", "out/canary")
            .file("mine", "bad"),
        Archive::default()
            .link("mine", "../host/canary")
            .file("mine", "bad"),
        Archive::default()
            .link("mine", &format!("{target}/canary"))
            .file("mine", "bad"),
        Archive::default()
            .symlink("canary", &format!("{target}/canary"))
            .file("canary", "bad"),
        Archive::default()
            .symlink("a", "../host")
            .dir("a")
            .file("a/canary", "bad"),
        Archive::default().symlink("a", "../host").entry(
            EntryType::Directory,
            "a/",
            "",
            0o000,
            b"",
        ),
        Archive::default()
            .symlink("a", "b")
            .symlink("b", "../host")
            .file("a/canary", "bad"),
        Archive::default().file(".wh...", ""),
        Archive::default().file("x/.wh...", ""),
        Archive::default().file(".wh..", ""),
        Archive::default().dir("x").file("x/.wh.../host", ""),
        Archive::default()
            .symlink("d", target)
            .entry(EntryType::Char, "d/null", "", 0o666, b""),
        Archive::default()
            .symlink("d", target)
            .entry(EntryType::Fifo, "d/fifo", "", 0o666, b""),
        Archive::default()
            .symlink("d", &format!("{target}/canary"))
            .link("e", "d")
            .entry(EntryType::Regular, "e", "", 0o777, b"bad"),
        Archive::default().dir("..").dir(".").dir("/").entry(
            EntryType::Directory,
            "../..",
            "",
            0o700,
            b"",
        ),
    ];
    for whiteouts in [Whiteouts::Remove, Whiteouts::Overlay] {
        for (number, archive) in corpus.iter().enumerate() {
            let root = outside.path().join(format!("root-{whiteouts:?}-{number}"));
            fs::create_dir_all(&root).unwrap();
            fs::create_dir_all(&host).unwrap();
            fs::write(host.join("canary"), "good").unwrap();
            let before = (list(&host), fs::metadata(&host).unwrap().permissions());
            let _ = archive.apply(&root, whiteouts);
            let after = (list(&host), fs::metadata(&host).unwrap().permissions());
            assert_eq!(before, after, "{number} {whiteouts:?}");
            assert_eq!(
                fs::metadata(host.join("canary")).unwrap().nlink(),
                1,
                "{number}"
            );
        }
    }
}

#[test]
fn a_swapper_of_folders_and_symlinks_leads_nothing_astray() {
    if !root_only() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let (root, host) = (outside.path().join("root"), outside.path().join("host"));
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir(&host).unwrap();
    std::os::unix::fs::symlink(&host, root.join("link")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let dir = open(&root);
            while !stop.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                let _ = rustix::fs::renameat_with(&dir, "a", &dir, "link", exchange);
            }
        });
        for round in 0..300 {
            let archive = Archive::default()
                .file("a/one", "x")
                .file("a/b/two", "x")
                .dir("a/b")
                .file("a/.wh.one", "")
                .link("a/three", "a/b/two")
                .symlink("a/four", "x");
            let _ = archive.apply(&root, [Whiteouts::Remove, Whiteouts::Overlay][round % 2]);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(list(&host).is_empty(), "{:?}", list(&host));
}

#[test]
fn legal_layers_go_through_symlinks_and_make_what_is_missing() {
    let root = tempfile::tempdir().unwrap();
    Archive::default()
        .symlink("bin", "/usr/bin")
        .file("bin/x", "1")
        .dir("lib")
        .symlink("up", "lib/../..")
        .file("up/etc/passwd", "2")
        .file("lib/f", "old")
        .file("lib/f", "3")
        .dir("lib/g")
        .file("lib/g/h", "")
        .file("lib/g", "4")
        .apply(root.path(), Whiteouts::Remove)
        .unwrap();
    let found = list(root.path());
    let expected = [
        ("bin", "-> /usr/bin"),
        ("etc", "dir 755"),
        ("etc/passwd", "2"),
        ("lib", "dir 755"),
        ("lib/f", "3"),
        ("lib/g", "4"),
        ("up", "-> lib/../.."),
        ("usr", "dir 755"),
        ("usr/bin", "dir 755"),
        ("usr/bin/x", "1"),
    ];
    let found: Vec<_> = found
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn metadata_is_the_archives() {
    if !root_only() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    Archive::default()
        .entry(EntryType::Directory, "d/", "", 0o2777, b"")
        .entry(EntryType::Regular, "d/s", "", 0o4711, b"s")
        .link("d/t", "d/s")
        .entry(EntryType::Char, "d/null", "", 0o666, b"")
        .apply(root.path(), Whiteouts::Remove)
        .unwrap();
    let stat = |name: &str| fs::symlink_metadata(root.path().join(name)).unwrap();
    assert_eq!(stat("d").mode() & 0o7777, 0o2777);
    assert_eq!(stat("d").mtime(), 1000);
    assert_eq!(stat("d/null").rdev(), makedev(1, 3));
    assert_eq!(stat("d/null").permissions().mode() & 0o7777, 0o666);
    assert_eq!(
        (stat("d/s").ino(), stat("d/s").gid()),
        (stat("d/t").ino(), 0)
    );
    assert_eq!(
        stat("d/t").mode() & 0o7777,
        0o644,
        "the last entry of an inode wins"
    );
}

#[test]
fn whiteouts_delete_or_become_overlays_own() {
    if !root_only() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let path = root.path();
    fs::create_dir_all(path.join("o/old/deep")).unwrap();
    fs::create_dir_all(path.join("gone/x")).unwrap();
    fs::write(path.join("file"), "").unwrap();
    let archive = Archive::default()
        .file("o/new", "n")
        .file("o/old/kept", "k")
        .file("o/.wh..wh..opq", "")
        .file(".wh.gone", "")
        .file(".wh.file", "")
        .file(".wh.never", "")
        .dir("file")
        .file("file/f", "f");
    archive.apply(path, Whiteouts::Remove).unwrap();
    let names: Vec<String> = list(path).into_keys().collect();
    assert_eq!(
        names,
        ["file", "file/f", "o", "o/new", "o/old", "o/old/kept"]
    );

    let upper = tempfile::tempdir().unwrap();
    archive.apply(upper.path(), Whiteouts::Overlay).unwrap();
    let found = list(upper.path());
    assert_eq!(found["gone"], "char 0");
    assert_eq!(found["never"], "char 0");
    let opaque = |name: &str| {
        tree::xattr(
            &upper.path().join(name),
            OsStr::new("trusted.overlay.opaque"),
        )
        .unwrap()
    };
    assert_eq!(opaque("o").as_deref(), Some(&b"y"[..]));
    assert_eq!(opaque("file").as_deref(), Some(&b"y"[..]));
    assert_eq!(found["o/old/kept"], "k");
}

#[test]
fn what_a_layer_leaves_out_comes_from_below() {
    if !root_only() {
        return;
    }
    let (upper, lower) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let below = lower.path();
    fs::create_dir_all(below.join("usr/bin")).unwrap();
    fs::set_permissions(below.join("usr/bin"), fs::Permissions::from_mode(0o711)).unwrap();
    std::os::unix::fs::symlink("usr/bin", below.join("bin")).unwrap();
    fs::write(below.join("usr/tool"), "tool").unwrap();
    let archive = Archive::default()
        .file("bin/x", "x")
        .link("usr/alias", "usr/tool");

    let known = tree(upper.path(), Some(below), Whiteouts::Overlay);
    assert!(matches!(
        apply(known, archive.0.as_slice()).unwrap(),
        Applied::Whole(_)
    ));
    let found = list(upper.path());
    assert_eq!(found["usr/bin"], "dir 711");
    assert_eq!(found["usr/bin/x"], "x");
    assert_eq!(found["usr/alias"], "tool");
    assert!(!found.contains_key("bin"));

    let other = tempfile::tempdir().unwrap();
    let unknown = archive.apply(other.path(), Whiteouts::Overlay).unwrap();
    assert!(matches!(unknown, Applied::NeedsLower));

    let plain = Archive::default().file("usr/bin/x", "x");
    let Applied::Whole(done) = plain.apply(other.path(), Whiteouts::Overlay).unwrap() else {
        panic!("nothing below is needed");
    };
    fs::remove_dir_all(other.path().join("bin")).unwrap();
    assert!(complete(other.path(), done, below).unwrap());
    assert_eq!(list(other.path())["usr/bin"], "dir 711");

    let third = tempfile::tempdir().unwrap();
    let Applied::Whole(done) = Archive::default()
        .file("bin/x", "x")
        .apply(third.path(), Whiteouts::Overlay)
        .unwrap()
    else {
        panic!("nothing below is needed");
    };
    assert!(!complete(third.path(), done, below).unwrap());
}
