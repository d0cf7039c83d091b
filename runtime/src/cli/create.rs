//! `create`: makes a container that waits to be started.

use std::path::PathBuf;

use runtime::{Container, CreateOptions, Io, spec};
use sys::{Context, Result};

use super::{Global, foreground};

/// What `create` and `run` have in common.
#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// Name of the container
    pub id: String,
    /// Folder with config.json and the root file system
    #[arg(short, long, default_value = ".")]
    pub bundle: PathBuf,
    /// Socket that gets the master of the container's terminal
    #[arg(long)]
    pub console_socket: Option<PathBuf>,
    /// File that gets the number of the first process
    #[arg(long)]
    pub pid_file: Option<PathBuf>,
    /// Socket that gets a descriptor of the first process
    #[arg(long)]
    pub pidfd_socket: Option<PathBuf>,
    /// Move the root file system over "/" instead of pivoting
    #[arg(long)]
    pub no_pivot: bool,
    /// Stay in the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Number of descriptors after stderr that the container inherits
    #[arg(long, default_value_t = 0)]
    pub preserve_fds: u32,
}

/// Flags of `create`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
}

/// Creates a container.
pub(super) fn run(global: &Global, args: &Args) -> Result<u8> {
    let common = &args.common;
    let options = common.options(global)?;
    let (container, mut process) = Container::create(&options)?;
    let console = process.console.take();
    let sent = foreground::send_pidfd(common.pidfd_socket.as_deref(), &process).and_then(|()| {
        let socket = common.console_socket.as_deref();
        console.map_or(Ok(()), |master| foreground::send_console(socket, master))
    });
    if let Err(error) = sent {
        container.delete(true)?;
        return Err(error);
    }
    Ok(0)
}

impl Common {
    /// Returns the library's options.
    pub fn options(&self, global: &Global) -> Result<CreateOptions> {
        let bundle = std::path::absolute(&self.bundle)
            .context(|| format!("resolve bundle {:?}", self.bundle))?;
        let spec = spec::load(&bundle)?;
        let process = spec.process().as_ref();
        global.warn(process);
        let terminal = process.is_some_and(|process| process.terminal() == Some(true));
        let listen_fds = listen_fds();
        Ok(CreateOptions {
            io: if terminal { Io::Console } else { Io::Inherit },
            pid_file: self.pid_file.clone(),
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            systemd_cgroup: global.systemd_cgroup,
            rootless: global.rootless.0,
            preserve_fds: self.preserve_fds + listen_fds,
            listen_fds,
            ..CreateOptions::new(&global.root, &self.id, bundle)
        })
    }
}

/// Returns how many sockets systemd or the like has passed to this process.
fn listen_fds() -> u32 {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    match number("LISTEN_PID") {
        Some(pid) if pid == std::process::id() => number("LISTEN_FDS").unwrap_or(0),
        _ => 0,
    }
}
