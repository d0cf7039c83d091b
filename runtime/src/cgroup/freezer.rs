//! Stops and resumes all processes of a group.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use sys::{Context, Error, Kind, Result};

use super::Version;
use super::dir::Dir;

/// A v1 freezer may miss processes that are being made, so it is asked again and again; now and then it is thawed in
/// between. The numbers are those that runc found to work.
const V1_TRIES: u32 = 1000;
const V1_THAW_EVERY: u32 = 50;
const V1_YIELD_EVERY: u32 = 25;

/// How long a v2 group may take to freeze: a process in uninterruptible sleep holds it up.
const V2_TIMEOUT: Duration = Duration::from_secs(10);

/// Freezes the group; after an error it is thawed.
pub(super) fn freeze(version: Version, dir: &Dir) -> Result<()> {
    let frozen = match version {
        Version::V1 => freeze_v1(dir),
        Version::V2 => freeze_v2(dir),
    };
    if frozen.is_err() {
        // A group that is left half frozen stops its processes for ever; the first error says why.
        let _ = thaw(version, dir);
    }
    frozen.context(|| format!("freeze {:?}", dir.path()))
}

/// Thaws the group.
pub(super) fn thaw(version: Version, dir: &Dir) -> Result<()> {
    match version {
        Version::V1 => dir.write("freezer.state", "THAWED"),
        Version::V2 => dir.write("cgroup.freeze", "0"),
    }
}

/// Reports whether the group itself is frozen, not one above it.
pub(super) fn is_frozen(version: Version, dir: &Dir) -> Result<bool> {
    let read = match version {
        Version::V1 => dir.try_read("freezer.self_freezing"),
        Version::V2 => dir.try_read("cgroup.freeze"),
    };
    match read {
        Ok(state) => Ok(state.trim() == "1"),
        // The kernel has no freezer, or the group is just being removed.
        Err(Errno::NOENT | Errno::NODEV) => Ok(false),
        Err(errno) => Err(errno).context(|| format!("read freezer state of {:?}", dir.path())),
    }
}

fn freeze_v1(dir: &Dir) -> Result<()> {
    for attempt in 1..=V1_TRIES {
        if attempt % V1_THAW_EVERY == 0 {
            dir.write("freezer.state", "THAWED")?;
            std::thread::sleep(Duration::from_millis(10));
        }
        dir.write("freezer.state", "FROZEN")?;
        if attempt % V1_YIELD_EVERY == 0 {
            std::thread::sleep(Duration::from_micros(10));
        }
        if dir.read("freezer.state")?.trim() == "FROZEN" {
            return Ok(());
        }
    }
    Err(Error::new(
        Kind::DeadlineExceeded,
        "the processes did not freeze",
    ))
}

fn freeze_v2(dir: &Dir) -> Result<()> {
    let events = dir
        .file("cgroup.events", OFlags::RDONLY)
        .context(|| "open cgroup.events")?;
    dir.write("cgroup.freeze", "1")?;
    let deadline = std::time::Instant::now() + V2_TIMEOUT;
    loop {
        let mut text = [0; 256];
        let count = rustix::io::pread(&events, &mut text, 0).context(|| "read cgroup.events")?;
        let text = std::str::from_utf8(&text[..count]).unwrap_or_default();
        if text.lines().any(|line| line == "frozen 1") {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return Err(Error::new(
                Kind::DeadlineExceeded,
                "the processes did not freeze",
            ));
        }
        wait_for_change(&events, left)?;
    }
}

/// The kernel raises an exceptional condition on the file when it changes after the last read.
fn wait_for_change(events: &std::os::fd::OwnedFd, timeout: Duration) -> Result<()> {
    let timeout = Timespec {
        tv_sec: timeout.as_secs() as i64,
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    let mut fds = [PollFd::new(events, PollFlags::PRI)];
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno).context(|| "wait for cgroup.events"),
    }
}
