//! `make demo`, run to its end and interrupted at moments that nobody chose.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tests::leftovers::Leftovers;
use tests::{Peers, Terminal, binaries};

/// What the demo shows just before each part of it.
const MOMENTS: &[&str] = &[
    "== cortend and a registry",
    "fixture push",
    "corten images pull",
    "corten run --rm",
    "corten run -d",
    "corten tasks exec",
    "corten tasks kill",
];

/// A demo in a folder and a namespace of its own.
struct Demo {
    folder: tempfile::TempDir,
    namespace: String,
    terminal: Terminal,
}

impl Demo {
    /// Starts it on a terminal with the programs of this build, or says why it cannot.
    fn start(name: &str) -> Option<Demo> {
        Peers::or_skip()?;
        for program in ["cortend", "corten", "containerd-shim-corten-v2"] {
            if binaries::find(program).is_none() {
                tests::print_skip(&format!("the tree has no {program}"));
                return None;
            }
        }
        let folder = tempfile::Builder::new()
            .prefix("demo-")
            .tempdir()
            .expect("make a folder");
        let namespace = format!("demo-{}-{name}", std::process::id());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/run");
        let mut command = Command::new("bash");
        command
            .arg(script)
            .env("DEMO_BUILD", "no")
            .env("DEMO_PROFILE", "dev")
            .env("DEMO_LARGE", "no")
            .env("DEMO_NAMESPACE", &namespace)
            .env("TMPDIR", folder.path());
        let terminal = Terminal::start(&command, 100, 40);
        Some(Demo {
            folder,
            namespace,
            terminal,
        })
    }

    /// Fails if a process, mount, cgroup or file of the demo is there after its end.
    #[track_caller]
    fn assert_nothing_left(&self) {
        let left = Leftovers::find(self.folder.path(), &self.namespace);
        assert!(left.is_empty(), "{left:#?}\n{}", self.terminal.seen());
        let files = fs::read_dir(self.folder.path()).expect("list the folder");
        assert_eq!(files.count(), 0, "{}", self.terminal.seen());
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        Leftovers::remove(self.folder.path(), &self.namespace);
    }
}

#[test]
fn the_demo_shows_the_main_job_and_leaves_nothing() {
    let Some(mut demo) = Demo::start("whole") else {
        return;
    };
    let code = demo.terminal.wait_for(Duration::from_secs(120));
    let seen = demo.terminal.seen();
    assert_eq!(code, Some(0), "{seen}");
    for text in [
        "hello from Linux",
        "exit code 7",
        "exit code 42",
        "delete, with the exit code",
        "no process, mount, cgroup, network namespace or file",
    ] {
        // What was written last may be shown after the end.
        demo.terminal.expect(text);
    }
    demo.assert_nothing_left();
}

#[test]
fn the_demo_cleans_up_when_it_is_interrupted() {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut random = clock.expect("after 1970").as_nanos() as u64;
    for (number, moment) in MOMENTS.iter().enumerate() {
        let Some(mut demo) = Demo::start(&format!("int{number}")) else {
            return;
        };
        demo.terminal.expect(moment);
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let delay = Duration::from_millis((random >> 33) % 250);
        sleep(delay);
        demo.terminal.send("\x03");
        let code = demo.terminal.wait_for(Duration::from_secs(60));
        let seen = demo.terminal.seen();
        // A demo whose last steps were quicker than the interrupt has ended well.
        let good = [Some(130), Some(0)].contains(&code);
        assert!(
            good,
            "{code:?}, interrupted {delay:?} after {moment:?}: {seen}"
        );
        demo.assert_nothing_left();
    }
}
