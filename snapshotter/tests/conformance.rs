//! Both snapshotters pass the conformance suite; the plain copying one is what overlay is compared with.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::path::Path;

use snapshotter::conformance::cases;
use snapshotter::native::Native;
use snapshotter::overlay::{Options, Overlay};
use snapshotter::{Snapshotter, conformance};
use sys::mount::{Mount, private_namespace, unmount_all};

type Open = fn(&Path) -> Box<dyn Snapshotter>;

/// Runs each case with a snapshotter on a tmpfs of its own.
fn run(open: Open) {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: mounting needs root");
        return;
    }
    private_namespace().unwrap();
    let mut failed = Vec::new();
    for (name, case) in cases() {
        if std::panic::catch_unwind(|| on_tmpfs(open, *case)).is_err() {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}

fn on_tmpfs(open: Open, case: fn(&dyn Snapshotter)) {
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            unmount_all(self.0).unwrap();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let tmpfs = Mount {
        fstype: "tmpfs".to_string(),
        source: "tmpfs".to_string(),
        ..Mount::default()
    };
    tmpfs.mount(dir.path()).unwrap();
    let _unmount = Unmount(dir.path());
    let snapshotter = open(&dir.path().join("root"));
    case(snapshotter.as_ref());
}

#[test]
fn overlay_conforms() {
    run(|root| Box::new(Overlay::open(root, Options::default()).unwrap()));
}

#[test]
fn native_conforms() {
    run(|root| Box::new(Native::open(root).unwrap()));
}

#[test]
fn the_names_of_the_cases_are_unique() {
    let mut names: Vec<&str> = conformance::cases().map(|(name, _)| *name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}
