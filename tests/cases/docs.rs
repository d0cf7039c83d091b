//! What the documents name must exist: files they link to, commands they tell to run, examples that are said to compile.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests is in the workspace")
}

/// Returns the files below `folder` whose names end with `suffix`.
fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("list a folder of the tree") {
        let path = entry.expect("list a folder of the tree").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, suffix));
        } else if path.is_file() && name.ends_with(suffix) {
            found.push(path);
        }
    }
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("read a file of the tree")
}

/// Fails with every complaint at once.
#[track_caller]
fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_link_leads_somewhere() {
    let mut complaints = Vec::new();
    for document in files(root(), ".md") {
        let folder = document.parent().expect("a file is in a folder");
        for link in read(&document).split("](").skip(1) {
            let target = link.split([')', '#', ' ']).next().unwrap_or_default();
            let elsewhere = target.is_empty() || target.contains("://");
            if !elsewhere && !folder.join(target).exists() {
                complaints.push(format!("{}: {target}", document.display()));
            }
        }
    }
    none(complaints);
}

#[test]
fn every_make_command_of_the_documents_has_a_rule() {
    let makefile = read(&root().join("Makefile"));
    let known = |name: &str| {
        makefile
            .lines()
            .any(|line| line.split(':').next() == Some(name))
    };
    let mut complaints = Vec::new();
    for document in files(root(), ".md") {
        // Every other part is a block of commands or a drawing.
        let text = read(&document);
        let blocks = text.split("```").skip(1).step_by(2);
        for line in blocks.flat_map(str::lines) {
            let name = line.strip_prefix("make ").unwrap_or_default();
            let name = name.split(' ').next().unwrap_or_default();
            if !name.is_empty() && !known(name) {
                complaints.push(format!("{}: make {name}", document.display()));
            }
        }
    }
    none(complaints);
}

#[test]
fn every_rule_of_the_makefile_calls_what_exists() {
    let mut complaints = Vec::new();
    for line in read(&root().join("Makefile")).lines() {
        let mut words = line.trim_start_matches(['\t', '@']).split(' ');
        let script = match (words.next(), words.next()) {
            (Some("bash"), Some(script)) => root().join(script),
            _ => continue,
        };
        if !script.is_file() {
            complaints.push(script.display().to_string());
        }
    }
    none(complaints);
}

/// A crate that has turned doc tests off must have nothing for them to find.
#[test]
fn every_example_in_a_comment_is_compiled() {
    let mut complaints = Vec::new();
    for manifest in files(root(), "Cargo.toml") {
        let folder = manifest.parent().expect("a file is in a folder");
        if !read(&manifest).contains("doctest = false") {
            continue;
        }
        for source in files(folder, ".rs") {
            let text = read(&source);
            let fences = text.lines().filter_map(|line| {
                let comment = line.trim_start().strip_prefix("//")?;
                comment
                    .trim_start_matches(['/', '!', ' '])
                    .strip_prefix("```")
            });
            // Every other fence opens a block.
            for language in fences.step_by(2).filter(|language| *language != "text") {
                complaints.push(format!("{}: ```{language}", source.display()));
            }
        }
    }
    none(complaints);
}
