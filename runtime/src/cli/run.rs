//! `run`: creates a container, starts it, and by default waits for it and deletes it.

use std::path::PathBuf;

use runtime::Container;
use sys::Result;

use super::{Global, create, foreground};

/// Flags of `run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: create::Common,
    /// Do not wait for the container
    #[arg(short, long)]
    detach: bool,
    /// Do not delete the container once it has exited
    #[arg(long)]
    keep: bool,
    /// Accepted for compatibility
    #[arg(long, hide = true)]
    no_subreaper: bool,
    /// Accepted for compatibility
    #[arg(long, hide = true)]
    criu: Option<PathBuf>,
}

/// Runs a container.
pub(super) fn run(global: &Global, args: &Args) -> Result<u8> {
    let common = &args.common;
    let mut options = common.options(global)?;
    foreground::check(&options.io, args.detach, common.console_socket.is_some())?;
    if args.detach {
        // A detached container goes on when its caller's terminal is closed.
        options.pid_file.clone_from(&common.pid_file);
    }
    let (container, mut process) = Container::create(&options)?;
    let socket = common.console_socket.as_deref();
    let started = foreground::send_pidfd(common.pidfd_socket.as_deref(), &process)
        .and_then(|()| foreground::Foreground::prepare(&mut process, socket, args.detach))
        .and_then(|foreground| container.start().map(|()| foreground));
    foreground::see_through(container, &process, started, args.detach, args.keep)
}
