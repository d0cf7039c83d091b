//! What one container makes the kernel do: strace on daemon and shims during one `ctr run --rm`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Duration;

use ::tests::{Daemon, command, eventually};
use rustix::process::{Pid, Signal, kill_process};

use crate::Bench;
use crate::engine::{IMAGE, Pair, id, upstream};
use crate::report::Row;

/// Rows of [`measure`].
pub const NAMES: &[&str] = &[
    "count-execs",
    "count-fsyncs",
    "count-mounts",
    "count-processes",
    "count-threads",
];
const TRACE: &str =
    "execve,execveat,fsync,fdatasync,syncfs,sync,msync,mount,move_mount,clone,clone3,fork,vfork";

/// Counts programs executed, syncs, mounts, processes and threads made by the daemon and all its descendants.
pub fn measure(bench: &Bench) -> Vec<Row> {
    let pair = Pair::start(bench);
    let [ours, peer] = pair.both().map(count);
    NAMES
        .iter()
        .map(|&name| Row::new(name, "", get(&ours, name), get(&peer, name)))
        .map(|row| row.peer("containerd", &upstream(bench)))
        .collect()
}

fn get(counts: &BTreeMap<&'static str, f64>, name: &str) -> f64 {
    counts.get(name).copied().unwrap_or(0.0)
}

fn count(daemon: &Daemon) -> BTreeMap<&'static str, f64> {
    let run = || {
        daemon.ctr().ok(&["run", "--rm", IMAGE, &id(), "/bin/true"]);
        daemon.assert_nothing_left();
    };
    // The first run does what only a first one does.
    run();
    // Not in the daemon's folder: what names that folder would count as left by the daemon.
    let folder = tempfile::tempdir().expect("make a folder");
    let trace = folder.path().join("trace");
    let attached = folder.path().join("attached");
    let mut strace = Command::new("strace")
        .args([
            "-f",
            "-e",
            &format!("trace={TRACE}"),
            "-e",
            "signal=none",
            "-o",
        ])
        .arg(&trace)
        .args(["-p", &daemon.pid().to_string()])
        .stdin(Stdio::null())
        .stderr(File::create(&attached).expect("make a file"))
        .spawn()
        .expect("start strace");
    eventually("strace is attached", Duration::from_secs(20), || {
        let text = fs::read_to_string(&attached).unwrap_or_default();
        text.contains(" attached").then_some(())
    });
    run();
    let _ = kill_process(Pid::from_child(&strace), Signal::INT);
    command::wait(&mut strace, Duration::from_secs(20));
    let mut counts = BTreeMap::new();
    for name in successes(&fs::read_to_string(&trace).expect("read the trace")) {
        *counts.entry(name).or_insert(0.0) += 1.0;
    }
    counts
}

/// Returns what each call of a trace that succeeded counts for.
fn successes(trace: &str) -> Vec<&'static str> {
    let mut unfinished = BTreeMap::new();
    let mut found = Vec::new();
    for line in trace.lines() {
        let Some((pid, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        if let Some(begun) = call.strip_suffix("<unfinished ...>") {
            unfinished.insert(pid, begun);
            continue;
        }
        let Some((shown, result)) = call.rsplit_once(" = ") else {
            continue;
        };
        // `<... clone3 resumed>, ...` is the rest of what was shown when the call began.
        let begun = match shown.starts_with("<... ") {
            true => unfinished.remove(pid).unwrap_or_default(),
            false => shown,
        };
        if !result.starts_with('-') && !result.starts_with('?') {
            found.extend(classify(begun));
        }
    }
    found
}

fn classify(call: &str) -> Option<&'static str> {
    let changes = ["MS_REMOUNT", "MS_PRIVATE", "MS_SLAVE", "MS_SHARED"];
    match call.split('(').next()? {
        "execve" | "execveat" => Some("count-execs"),
        "fsync" | "fdatasync" | "syncfs" | "sync" | "msync" => Some("count-fsyncs"),
        // Calls that change a mount make none.
        "mount" if changes.iter().any(|flag| call.contains(flag)) => None,
        "mount" | "move_mount" => Some("count-mounts"),
        "clone" | "clone3" if call.contains("CLONE_THREAD") => Some("count-threads"),
        "clone" | "clone3" | "fork" | "vfork" => Some("count-processes"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_where_they_return_by_what_they_began_with() {
        let trace = "\
10 clone3({flags=CLONE_VM|CLONE_THREAD, stack_size=9}, 88 <unfinished ...>
11 fsync(3)                          = 0
10 <... clone3 resumed> => {parent_tid=[12]}, 88) = 12
12 execve(\"/bin/true\", [\"true\"], 0x7ffd /* 3 vars */) = 0
12 execve(\"/bin/none\", [\"none\"], 0x7ffd /* 3 vars */) = -1 ENOENT (No such file or directory)
12 mount(NULL, \"/\", NULL, MS_REC|MS_PRIVATE, NULL) = 0
12 move_mount(5, \"\", 4, \"\", MOVE_MOUNT_F_EMPTY_PATH) = 0
12 clone(child_stack=NULL, flags=SIGCHLD) = 13
13 +++ exited with 0 +++
";
        assert_eq!(
            successes(trace),
            [
                "count-fsyncs",
                "count-threads",
                "count-execs",
                "count-mounts",
                "count-processes"
            ]
        );
    }
}
