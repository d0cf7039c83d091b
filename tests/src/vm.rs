//! Tests that need another kernel: control groups of version 2 alone, or systemd as the first process.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::{binaries, command};

/// How long a test may take in the machine, its start included.
const LIMIT: Duration = Duration::from_secs(420);

/// Tells whether this process runs in the machine.
pub fn is_inside() -> bool {
    std::env::var_os("CORTEN_VM").is_some()
}

/// Runs the calling test's `body` in the machine of `tests/vm`, which is started with these options.
///
/// The test's process starts itself anew in there, with the name of this test alone, so that a failure is told here.
#[track_caller]
pub fn inside(options: &[&str], body: impl FnOnce()) {
    if is_inside() {
        return body();
    }
    let thread = std::thread::current();
    let name = thread.name().expect("a test has a name");
    again(options, &["--exact", name]);
}

/// Runs tests of this process in the machine: those that `filter` names, as on the command line of a test binary.
#[track_caller]
pub fn again(options: &[&str], filter: &[&str]) {
    let program = std::env::current_exe().expect("a test has a path");
    tests_of(&program, options, filter);
}

/// Runs tests of another test program in the machine.
#[track_caller]
pub fn tests_of(program: &Path, options: &[&str], filter: &[&str]) {
    // Nothing can be built in there.
    binaries::folder();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("vm");
    let mut machine = Command::new("bash");
    machine.arg(script).args(options);
    machine.args(["--limit", &LIMIT.as_secs().to_string(), "--"]);
    machine.args(["env", "CORTEN_TESTS_NO_BUILD=1"]);
    machine
        .arg(program)
        .args(filter)
        .args(["--nocapture", "--test-threads", "1"]);
    // The first run brings the machine's kernel.
    let finished = command::run_with(&mut machine, b"", LIMIT * 2);
    assert_eq!(finished.code, Some(0), "{finished}");
    let ran = finished
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("test result: ok. "));
    let passed = ran.filter_map(|line| line.split(' ').next()?.parse::<u32>().ok());
    assert!(passed.sum::<u32>() > 0, "no test ran: {finished}");
    for why in finished
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("SKIP: "))
    {
        println!("in the machine: {why}");
    }
}
