//! Tests of paths in a root: the two resolvers give the same answers.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::fs::CWD;

use super::*;

fn open_dir(path: &Path) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).unwrap()
}

/// Returns a folder `root` with links in and out, beside a folder `outside`.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    fs::write(root.join("a/b/file"), "inside").unwrap();
    fs::write(root.join("file"), "top").unwrap();
    let links = [
        ("out_absolute", "/outside"),
        ("out_relative", "../../outside"),
        ("a/up", "../../../.."),
        ("a/to_c", "/a/b/c"),
        ("a/b/back", "../../file"),
        ("loop", "loop"),
        ("chain", "a/to_c/../back"),
        ("dangling", "a/missing"),
    ];
    for (name, target) in links {
        symlink(target, root.join(name)).unwrap();
    }
    dir
}

fn identity(opened: Result<OwnedFd, Errno>) -> Result<(u64, u64), Errno> {
    let stat = rustix::fs::fstat(opened?)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[test]
fn the_walk_finds_what_the_kernel_finds() {
    let dir = tree();
    let root = dir.path().join("root");
    let kernel = Root::with_resolver(open_dir(&root), Resolver::Kernel);
    let walk = Root::with_resolver(open_dir(&root), Resolver::Walk);
    let paths = [
        "/",
        "",
        ".",
        "..",
        "../..",
        "a",
        "/a/",
        "a/b/c",
        "a/../a/b",
        "a/b/file",
        "a/b/file/",
        "a/b/file/x",
        "out_absolute",
        "out_relative",
        "a/up",
        "a/up/a",
        "a/to_c",
        "a/to_c/..",
        "a/b/back",
        "loop",
        "loop/x",
        "chain",
        "dangling",
        "dangling/x",
        "missing",
        "a/missing/b",
        "a//b///c",
        "../outside",
        "/../../outside",
        "file/..",
        "a/to_c/",
    ];
    for path in paths {
        for flags in [
            OFlags::PATH,
            OFlags::RDONLY,
            OFlags::PATH | OFlags::NOFOLLOW,
        ] {
            let expected = identity(kernel.open(Path::new(path), flags));
            // The empty path is the root for the walk, which callers with "/" rely on; the kernel refuses it.
            if path.is_empty() {
                continue;
            }
            let found = identity(walk.open(Path::new(path), flags));
            assert_eq!(found, expected, "{path:?} with {flags:?}");
        }
    }
}

#[test]
fn magic_links_are_followed_by_neither() {
    for resolver in [Resolver::Kernel, Resolver::Walk] {
        let proc = Root::with_resolver(open_dir(Path::new("/proc")), resolver);
        for link in [
            "self/root",
            "self/exe",
            "thread-self/exe",
            "self/fd/0",
            "self/ns/mnt",
            "self/cwd/etc",
        ] {
            let error = proc.open(Path::new(link), OFlags::PATH).unwrap_err();
            assert_eq!(error, Errno::LOOP, "{link} by {resolver:?}");
        }
        assert!(proc.open(Path::new("self/status"), OFlags::PATH).is_ok());
    }
}

#[test]
fn missing_folders_and_files_are_created_inside_only() {
    for resolver in [Resolver::Kernel, Resolver::Walk] {
        let dir = tree();
        let path = dir.path().join("root");
        let root = Root::with_resolver(open_dir(&path), resolver);
        root.create_dir_all(Path::new("/new/deep/er"), 0o755)
            .unwrap();
        assert!(path.join("new/deep/er").is_dir());
        root.create_dir_all(Path::new("/a/up/made"), 0o755).unwrap();
        assert!(path.join("made").is_dir());
        root.create_file(Path::new("/etc/conf/hosts"), 0o644)
            .unwrap();
        assert!(path.join("etc/conf/hosts").is_file());
        root.create_file(Path::new("/a/b/file"), 0o644).unwrap();
        assert_eq!(fs::read(path.join("a/b/file")).unwrap(), b"inside");
        // The link's target is missing inside the root, where it is made, whatever is there outside.
        let outside = fs::read_link(path.join("out_absolute")).unwrap();
        root.create_dir_all(Path::new("/out_absolute/x"), 0o755)
            .unwrap();
        let inside = path.join(outside.strip_prefix("/").unwrap());
        assert!(inside.join("x").is_dir());
        assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
    }
}
