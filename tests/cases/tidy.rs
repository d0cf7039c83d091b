//! The repository's own rules, those of STYLE.md that a program can check.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The most lines of a source file before its tests; what is longer does two things.
const LONGEST: usize = 600;

/// Files that may be longer, each with the reason.
const LONGER: &[(&str, &str)] = &[];

/// The parts of `daemon/src` from the top down: each may use those below it, never a neighbour in its row.
const LAYERS: &[&[&str]] = &[
    &["takeover"],
    &["app"],
    &["services", "cri"],
    &["transfer", "sandbox", "restart", "metrics", "nri"],
    &["images", "tasks"],
    &["registry", "gc", "diff"],
    &["content", "snapshots"],
    &["metadata"],
    &["events", "streaming"],
    &["context", "filter", "blocking"],
    &["labels", "digest", "head"],
    &["error", "media", "time", "histogram", "trace"],
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests is in the workspace")
}

/// Returns the Rust files of the tree and their texts, by path from the root.
pub fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("list a folder of the tree") {
            let path = entry.expect("list a folder of the tree").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(&path).expect("read a file of the tree");
                let path = path.strip_prefix(root()).expect("below the root");
                found.push((path.display().to_string(), text));
            }
        }
    }
    found.sort();
    found
}

/// Fails with every complaint at once.
#[track_caller]
fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_file_says_first_what_it_is() {
    let silent = sources().into_iter().filter(|(path, text)| {
        // The tests of a module are named by their folder.
        !text.starts_with("//!") && !path.ends_with("/tests.rs")
    });
    none(silent.map(|(path, _)| path).collect());
}

#[test]
fn no_file_is_longer_than_one_can_keep_in_mind() {
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        let tests = path.starts_with("tests/") || path.contains("/tests");
        let lines = text
            .lines()
            .take_while(|line| !line.starts_with("#[cfg(test)]"))
            .count();
        let excused = LONGER.iter().any(|(longer, _)| *longer == path);
        if lines > LONGEST && !tests && !excused {
            complaints.push(format!("{path}: {lines} lines before its tests"));
        }
    }
    none(complaints);
}

#[test]
fn nothing_is_named_for_being_shared() {
    let banned = ["util", "utils", "helper", "helpers", "common", "misc"];
    let mut complaints = Vec::new();
    for (path, _) in sources() {
        let mut names = path.trim_end_matches(".rs").split('/');
        if names.any(|name| banned.contains(&name)) {
            complaints.push(path);
        }
    }
    none(complaints);
}

#[test]
fn only_sys_talks_to_the_kernel_unsafely() {
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        let crate_root = ["src/lib.rs", "src/main.rs"]
            .iter()
            .any(|end| path.ends_with(end));
        if crate_root && !path.starts_with("sys/") && !text.contains("#![forbid(unsafe_code)]") {
            complaints.push(format!("{path}: does not forbid unsafe code"));
        }
    }
    none(complaints);
}

#[test]
fn the_parts_of_the_daemon_use_only_what_is_below_them() {
    let row = |part: &str| LAYERS.iter().position(|row| row.contains(&part));
    let mut complaints = BTreeSet::new();
    for (path, text) in sources() {
        let Some(inside) = path.strip_prefix("daemon/src/") else {
            continue;
        };
        let part = inside.split('/').next().unwrap_or(inside);
        let part = part.trim_end_matches(".rs");
        let Some(own) = row(part) else { continue };
        // What a module's tests use is no matter.
        if inside.ends_with("tests.rs") || inside.contains("/tests/") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for used in code.split("crate::").skip(1) {
            let name: String = used
                .chars()
                .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
                .collect();
            let below = match row(&name) {
                Some(other) => other > own || name == part,
                None => true,
            };
            if !below {
                complaints.insert(format!("{part} uses {name} ({path})"));
            }
        }
    }
    none(complaints.into_iter().collect());
}
