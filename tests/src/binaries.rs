//! Our own programs, built from the tree that is tested.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Returns the folder of our programs, after cargo has brought them up to date once for this run.
///
/// `cargo test` alone does not build the programs of other packages, so a stale one would be tested without this.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let program = std::env::current_exe().expect("a program has a path");
        let mut folder = program.parent().expect("a program is in a folder");
        // A test is in target/<profile>/deps, the bench beside our programs.
        if folder.ends_with("deps") {
            folder = folder.parent().expect("deps is in the profile's folder");
        }
        if std::env::var_os("CORTEN_TESTS_NO_BUILD").is_none() {
            let mut build =
                Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            build.args(["build", "--quiet", "--workspace", "--bins"]);
            build.current_dir(
                Path::new(env!("CARGO_MANIFEST_DIR"))
                    .parent()
                    .expect("tests is in the workspace"),
            );
            if folder.ends_with("release") {
                build.arg("--release");
            }
            assert!(
                build.status().expect("run cargo").success(),
                "our programs do not build"
            );
        }
        folder.to_owned()
    })
}

/// Returns the path of one of our programs, or nothing when the tree has no such program.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = folder().join(name);
    path.is_file().then_some(path)
}
