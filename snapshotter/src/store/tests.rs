//! Crashes at every step: a child process is killed there, and what it left is opened again.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::*;
use crate::native::Native;
use crate::overlay::{Options, Overlay};
use crate::{Labels, Snapshotter};

const POINT: &str = "SNAPSHOTTER_TEST_CRASH_POINT";
const ROOT: &str = "SNAPSHOTTER_TEST_CRASH_ROOT";
const KIND: &str = "SNAPSHOTTER_TEST_CRASH_KIND";

/// Ends the process as `kill -9` does if it is the child of a test that wants it dead here.
pub(super) fn crash_point(name: &str) {
    if std::env::var(POINT).is_ok_and(|wanted| wanted == name) {
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
        loop {
            std::thread::park();
        }
    }
}

fn open(kind: &str, root: &Path) -> Box<dyn Snapshotter> {
    match kind {
        "overlay" => Box::new(Overlay::open(root, Options::default()).unwrap()),
        _ => Box::new(Native::open(root).unwrap()),
    }
}

/// Does what the crash tests interrupt; a test only in name, as the child must be this same binary.
#[test]
fn the_child_of_the_crash_tests() {
    let (Ok(root), Ok(kind)) = (std::env::var(ROOT), std::env::var(KIND)) else {
        return;
    };
    let snapshotter = open(&kind, Path::new(&root));
    match std::env::var(POINT).unwrap().as_str() {
        "filled" | "placed" | "recorded" => {
            snapshotter
                .prepare("new", "base", &Labels::new())
                .map(drop)
                .unwrap();
        }
        "committed" => snapshotter
            .commit("name", "active", &CommitOptions::default())
            .unwrap(),
        _ => snapshotter.remove("active").unwrap(),
    }
    unreachable!("the crash point was not reached");
}

fn keys(snapshotter: &dyn Snapshotter) -> Vec<String> {
    let mut keys = Vec::new();
    let mut visit = |info: Info| {
        keys.push(info.name);
        Ok(())
    };
    snapshotter.walk(&mut visit).unwrap();
    keys
}

/// The folders below `root/snapshots`.
fn folders(root: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(root.join("snapshots")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn crash(kind: &str, point: &str, expected: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    {
        let snapshotter = open(kind, &root);
        snapshotter.prepare("k", "", &Labels::new()).unwrap();
        let base = CommitOptions::default();
        snapshotter.commit("base", "k", &base).unwrap();
        snapshotter
            .prepare("active", "base", &Labels::new())
            .unwrap();
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::the_child_of_the_crash_tests"])
        .env(POINT, point)
        .env(ROOT, &root)
        .env(KIND, kind)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(9), "{kind} {point}");

    let snapshotter = open(kind, &root);
    assert_eq!(keys(snapshotter.as_ref()), expected, "{kind} {point}");
    let left = folders(&root);
    assert_eq!(left.len(), expected.len(), "{kind} {point}: {left:?}");
    assert!(
        left.iter().all(|name| name.parse::<u64>().is_ok()),
        "{left:?}"
    );
    // All that is there still works, and what was not acknowledged can be done again.
    for key in expected {
        snapshotter.usage(key).unwrap();
    }
    if !expected.contains(&"new") {
        snapshotter.prepare("new", "base", &Labels::new()).unwrap();
    }
    snapshotter.mounts("new").unwrap();
    snapshotter.remove("new").unwrap();
}

#[test]
fn a_crash_at_any_step_leaves_a_whole_tree() {
    for kind in ["overlay", "native"] {
        crash(kind, "filled", &["active", "base"]);
        crash(kind, "placed", &["active", "base"]);
        crash(kind, "recorded", &["active", "base", "new"]);
        crash(kind, "committed", &["base", "name"]);
        crash(kind, "unrecorded", &["base"]);
        crash(kind, "aside", &["base"]);
    }
}

#[test]
fn numbers_are_never_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = open("overlay", dir.path());
    overlay.prepare("a", "", &Labels::new()).unwrap();
    let first = overlay.mounts("a").unwrap();
    overlay.remove("a").unwrap();
    drop(overlay);
    let overlay = open("overlay", dir.path());
    overlay.prepare("a", "", &Labels::new()).unwrap();
    assert_ne!(overlay.mounts("a").unwrap(), first);
}

#[test]
fn a_folder_that_the_disk_lost_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    for kind in ["overlay", "native"] {
        let root = dir.path().join(kind);
        let snapshotter = open(kind, &root);
        snapshotter.prepare("a", "", &Labels::new()).unwrap();
        let mounts = snapshotter.mounts("a").unwrap();
        drop(snapshotter);
        fs::remove_dir_all(root.join("snapshots/1")).unwrap();
        let snapshotter = open(kind, &root);
        assert_eq!(snapshotter.mounts("a").unwrap(), mounts);
        assert!(Path::new(&mounts[0].source).is_dir(), "{kind}");
    }
}

#[test]
fn a_second_user_of_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = open("overlay", dir.path());
    let error = Overlay::open(dir.path(), Options::default()).unwrap_err();
    assert_eq!(error.kind(), sys::Kind::FailedPrecondition, "{error:#}");
    drop(first);
    open("overlay", dir.path());
}

#[test]
fn the_upper_folder_is_a_label_if_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        upperdir_label: true,
        ..Options::default()
    };
    let overlay = Overlay::open(dir.path(), options).unwrap();
    let mounts = overlay.prepare("a", "", &Labels::new()).unwrap();
    let info = overlay.stat("a").unwrap();
    let label = &info.labels["containerd.io/snapshot/overlay.upperdir"];
    assert_eq!(label, &mounts[0].source);
}
