//! What concerns a group and all groups below it: their processes, and their removal.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use sys::{Context, Result};

use super::dir::Dir;
use super::{Cgroup, UNIFIED, Version};

/// How often and how long a group is waited for whose last processes are just exiting: a second in all.
const REMOVE_TRIES: u32 = 11;
const REMOVE_PAUSE: Duration = Duration::from_millis(1);

/// Returns the processes of the group at `path` and of those below it; a group that is gone has none.
pub(super) fn pids(path: &Path) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for group in groups(path)? {
        collect(&group, &mut found)?;
    }
    Ok(found)
}

/// Sends a signal to all processes of a group and those below it.
pub(super) fn kill_all(cgroup: &Cgroup, signal: i32) -> Result<()> {
    if !cgroup.is_made() {
        // Nobody knows which they are; those of a pid namespace end with the first one.
        return Ok(());
    }
    let dir = cgroup.processes()?;
    if signal == libc_sigkill() && cgroup.version() == Version::V2 {
        // One write kills all, and what they fork meanwhile (Linux 5.14).
        let group = match Dir::open(cgroup.folder(UNIFIED)?) {
            // systemd removes the group of a scope as soon as its last process is gone.
            Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(()),
            group => group?,
        };
        match group.try_write("cgroup.kill", "1") {
            Err(Errno::NODEV) => return Ok(()),
            Err(Errno::NOENT) => {}
            other => return other.context(|| format!("kill all in {dir:?}")),
        }
    }
    if pids(dir)?.is_empty() {
        return Ok(());
    }
    // Frozen processes do not fork; they get the signal when they are thawed. A group that can not be frozen is
    // still signalled.
    let was_frozen = cgroup.is_frozen().unwrap_or(false);
    let frozen = was_frozen || cgroup.freeze().is_ok();
    let signalled =
        pids(dir).and_then(|pids| pids.into_iter().try_for_each(|pid| send(pid, signal)));
    if was_frozen && signal != libc_sigkill() {
        return signalled;
    }
    let thawed = match frozen {
        true => cgroup.thaw(),
        false => Ok(()),
    };
    signalled.and(thawed)
}

/// Removes the group at `path` and those below it.
pub(super) fn remove(path: &Path) -> Result<()> {
    match rustix::fs::rmdir(path) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(_) => {}
    }
    // Deepest first; the reason why one fails is in the last attempt.
    for group in groups(path)?.iter().rev() {
        remove_one(group)?;
    }
    Ok(())
}

fn remove_one(path: &Path) -> Result<()> {
    let mut pause = REMOVE_PAUSE;
    for attempt in 1.. {
        match rustix::fs::rmdir(path) {
            Ok(()) | Err(Errno::NOENT) => break,
            Err(Errno::BUSY) if attempt < REMOVE_TRIES => {
                std::thread::sleep(pause);
                pause *= 2;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context(|| format!("remove control group {path:?}")),
        }
    }
    Ok(())
}

/// Returns the group at `path` and those below it, each after the one it is in; none if it is gone.
fn groups(path: &Path) -> Result<Vec<PathBuf>> {
    let mut groups = vec![path.to_owned()];
    let mut next = 0;
    while next < groups.len() {
        match std::fs::read_dir(&groups[next]) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry.context(|| format!("list {path:?}"))?;
                    if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                        groups.push(entry.path());
                    }
                }
                next += 1;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                groups.remove(next);
            }
            Err(error) => return Err(error).context(|| format!("list {path:?}")),
        }
    }
    Ok(groups)
}

fn collect(group: &Path, found: &mut Vec<i32>) -> Result<()> {
    let read = Dir::open(group).map(|dir| match dir.try_read("cgroup.procs") {
        // In a threaded group only threads can be listed.
        Err(Errno::OPNOTSUPP) => dir.try_read("cgroup.threads"),
        other => other,
    });
    let text = match read {
        Ok(Ok(text)) => text,
        Ok(Err(Errno::NOENT | Errno::NODEV)) => return Ok(()),
        Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(()),
        Ok(Err(errno)) => return Err(errno).context(|| format!("list processes of {group:?}")),
        Err(error) => return Err(error),
    };
    // A process of another PID namespace is listed as 0, which must never be signalled.
    found.extend(
        text.lines()
            .filter_map(|line| line.parse::<i32>().ok())
            .filter(|pid| *pid > 0),
    );
    Ok(())
}

fn send(pid: i32, signal: i32) -> Result<()> {
    let Some(pid) = Pid::from_raw(pid) else {
        return Ok(());
    };
    let sent = match Signal::from_named_raw(signal) {
        Some(signal) => rustix::process::kill_process(pid, signal),
        None => Err(Errno::INVAL),
    };
    match sent {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno).context(|| format!("send signal {signal} to process {pid:?}")),
    }
}

fn libc_sigkill() -> i32 {
    Signal::KILL.as_raw()
}
