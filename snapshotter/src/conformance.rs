//! What every snapshotter must do, as cases that any implementation can be held against.
//!
//! Each case gets a fresh, empty snapshotter and panics at what is wrong. Mounts are made in the calling thread's mount
//! namespace: call from a thread with a private one.
#![allow(clippy::unwrap_used, reason = "a case fails by a panic")]

mod content;
mod records;

use std::fs;
use std::path::Path;

use sys::mount::{Mount, TempMount};

use crate::{CommitOptions, Kind, Labels, Snapshotter};

/// A case: what holds, and the check of it.
pub type Case = (&'static str, fn(&dyn Snapshotter));

/// Returns all cases.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    records::CASES.iter().chain(content::CASES)
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let owned = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
    pairs.iter().map(owned).collect()
}

/// Mounts `mounts` for as long as `work` takes.
fn mounted<T>(mounts: &[Mount], work: impl FnOnce(&Path) -> T) -> T {
    let mount = TempMount::new(mounts).unwrap();
    let result = work(mount.path());
    mount.close().unwrap();
    result
}

/// Commits a layer `name` upon `parent` with what `fill` writes.
fn layer(snapshotter: &dyn Snapshotter, name: &str, parent: &str, fill: impl FnOnce(&Path)) {
    let key = format!("making {name}");
    let mounts = snapshotter.prepare(&key, parent, &Labels::new()).unwrap();
    mounted(&mounts, fill);
    snapshotter
        .commit(name, &key, &CommitOptions::default())
        .unwrap();
}

fn empty_layer(snapshotter: &dyn Snapshotter, name: &str, parent: &str) {
    layer(snapshotter, name, parent, |_| {});
}

#[track_caller]
fn refused<T>(result: sys::Result<T>, kind: sys::Kind) {
    match result {
        Ok(_) => panic!("expected {kind:?}, but it succeeded"),
        Err(error) => assert_eq!(error.kind(), kind, "{error:#}"),
    }
}

fn names(snapshotter: &dyn Snapshotter) -> Vec<(String, Kind)> {
    let mut names = Vec::new();
    let mut visit = |info: crate::Info| {
        names.push((info.name, info.kind));
        Ok(())
    };
    snapshotter.walk(&mut visit).unwrap();
    names
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}
