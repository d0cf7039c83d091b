//! `containerd-shim-corten-v2`: the parent of containers, which outlives the daemon that asked for them.
//!
//! ```text
//!  daemon ─┬─exec──▶ start ──fork──▶ server ──clone3──▶ container's first process
//!          │                          │  │  └──clone3──▶ further processes
//!          ├─ttrpc: Task v2 or v3────▶│  │
//!          │◀─ttrpc: Events.Forward───┘  └─▶ FIFOs, log files, logger programs
//!          └─exec──▶ delete           (when a server is gone)
//!
//!  service ──▶ task::Driver ──▶ runtime (the library, in this process; or another program's command line)
//!                 ▲   └──────▶ events (publisher)
//!              reaper
//! ```
//!
//! The server has one thread, and must never have more: the runtime's new processes are copies of it that allocate
//! before they execute anything, which is sound only if no other thread can hold a lock at that moment. For the same
//! reason nothing here waits: what takes long is awaited.
//!
//! Both `io.containerd.corten.v2` and `io.containerd.runc.v2` are served; which OCI runtime makes the container is told
//! in [`options`].
#![forbid(unsafe_code)]

mod args;
mod bootstrap;
mod cleanup;
mod clock;
mod events;
mod info;
mod io;
mod log;
mod oom;
mod options;
mod reaper;
mod runtime;
mod server;
mod service;
mod stats;
mod task;

use std::process::ExitCode;

use args::{Action, Args};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The daemon shows what a shim that failed has printed.
            eprintln!("containerd-shim-corten-v2: {}", ::runtime::render(&error));
            ExitCode::FAILURE
        }
    }
}

fn run() -> sys::Result<()> {
    let args = Args::parse(std::env::args().skip(1))?;
    match args.action {
        Action::Start => {
            // The server is a fork of this process, and the first processes of containers are forks of the server.
            ::runtime::seal()?;
            bootstrap::start(&args)
        }
        Action::Delete => cleanup::delete(&args),
        Action::Version => {
            println!("containerd-shim-corten-v2:");
            println!("  Version:  {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Action::Info => info::print(),
        Action::None => Err(sys::Error::new(
            sys::Kind::InvalidArgument,
            "a daemon runs this program: start, delete, -info, -v",
        )),
    }
}
