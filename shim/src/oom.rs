//! Telling when the kernel kills processes of a container for want of memory.

use std::os::fd::AsFd;

use ::runtime::cgroup::OomWatch;
use sys::{Context, Result};
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use crate::io::asynchronous;
use crate::log;
use crate::runtime::Runtime;
use crate::task::Announcer;

/// Announces each time from now on; a container without a memory controller is not watched.
pub fn watch(runtime: &Runtime, announce: Announcer) -> Option<AbortHandle> {
    match open(runtime) {
        Ok((fd, watch)) => Some(tokio::spawn(follow(fd, watch, announce)).abort_handle()),
        Err(error) => {
            log::debug(format_args!("watch for lack of memory: {error:#}"));
            None
        }
    }
}

fn open(runtime: &Runtime) -> Result<(AsyncFd<std::os::fd::OwnedFd>, OomWatch)> {
    let watch = runtime.oom_watch()?;
    let fd = watch.as_fd().try_clone_to_owned();
    let fd = fd.context(|| "duplicate descriptor")?;
    Ok((asynchronous(fd)?, watch))
}

async fn follow(fd: AsyncFd<std::os::fd::OwnedFd>, mut watch: OomWatch, announce: Announcer) {
    loop {
        let Ok(mut ready) = fd.readable().await else {
            return;
        };
        match watch.take() {
            Ok(true) => announce.out_of_memory(),
            Ok(false) => ready.clear_ready(),
            Err(error) => return log::debug(format_args!("hear of lack of memory: {error:#}")),
        }
    }
}
