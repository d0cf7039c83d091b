//! Running a program to its end, with a limit of time.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take if the test does not say otherwise.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What a program left when it ended.
#[derive(Clone)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// The exit code, or 128 and the signal; nothing if it was ended by the limit of time.
    pub code: Option<i32>,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Finished {
    /// Returns the standard output of a program that must succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self}");
        self.stdout
    }

    /// Returns standard output and error of a program that must fail.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!(self.code.is_some_and(|code| code != 0), "{self}");
        self.stdout + &self.stderr
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "$ {} -> {:?}", self.command, self.code)?;
        write!(
            f,
            "--- stdout\n{}--- stderr\n{}---",
            self.stdout, self.stderr
        )
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The function `eventually` of a shell: it repeats a quiet command until that succeeds, for 30 seconds at most.
pub const EVENTUALLY: &str = r#"
eventually() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { echo "still not so: $*"; "$@"; return 1; }
        sleep 0.1
    done
}
"#;

/// Runs a program with nothing to read, in a process group of its own, for at most [`LIMIT`].
pub fn run(command: &mut Command) -> Finished {
    run_with(command, b"", LIMIT)
}

/// Runs a program that reads `input`, for at most `limit`; at the limit its whole process group is killed.
pub fn run_with(command: &mut Command, input: &[u8], limit: Duration) -> Finished {
    // Files, not pipes: a grandchild that keeps a pipe open would make us wait for it.
    let mut files: Vec<File> = (0..3)
        .map(|_| tempfile::tempfile().expect("make a temporary file"))
        .collect();
    files[0].write_all(input).expect("write the input");
    files[0].seek(SeekFrom::Start(0)).expect("rewind the input");
    let stdio = |file: &File| Stdio::from(file.try_clone().expect("duplicate a descriptor"));
    let started = command
        .stdin(stdio(&files[0]))
        .stdout(stdio(&files[1]))
        .stderr(stdio(&files[2]))
        .process_group(0)
        .spawn();
    let mut child = started.unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    let code = wait(&mut child, limit);
    let text = |file: &mut File| {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.read_to_end(&mut bytes))
            .expect("read the output");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Finished {
        command: shown(command),
        code,
        stdout: text(&mut files[1]),
        stderr: text(&mut files[2]),
    }
}

/// Waits for a child at most `limit`, then kills its process group; returns its exit code as a shell would.
pub fn wait(child: &mut Child, limit: Duration) -> Option<i32> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("wait for a child of ours") {
            return status
                .code()
                .or_else(|| status.signal().map(|signal| 128 + signal));
        }
        if Instant::now() > deadline {
            let group = rustix::process::Pid::from_child(child);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Returns the pid of a process's parent; of a container's first process that is the shim.
pub fn parent(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent
        .and_then(|pid| pid.trim().parse().ok())
        .expect("it has a parent")
}
