//! `restore`: makes a container of an image, and by default waits for it and deletes it.

use std::path::PathBuf;

use runtime::{Container, CreateOptions, Io, RestoreOptions, spec};
use sys::{Context, Result};

use super::{Global, checkpoint, foreground};

/// Flags of `restore`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: checkpoint::Common,
    /// Name of the container
    id: String,
    /// Folder with config.json and the root file system
    #[arg(short, long, default_value = ".")]
    bundle: PathBuf,
    /// Socket that gets the master of the container's terminal
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// Do not wait for the container
    #[arg(short, long)]
    detach: bool,
    /// File that gets the number of the first process
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Accepted for compatibility
    #[arg(long, hide = true)]
    no_subreaper: bool,
    /// Accepted for compatibility: the root is entered by CRIU
    #[arg(long, hide = true)]
    no_pivot: bool,
    /// Profile of a security module, as TYPE:NAME
    #[arg(long)]
    lsm_profile: Option<String>,
    /// Context that mounts get
    #[arg(long)]
    lsm_mount_context: Option<String>,
}

/// Restores a container.
pub(super) fn run(global: &Global, args: &Args) -> Result<u8> {
    let bundle = std::path::absolute(&args.bundle)
        .context(|| format!("resolve bundle {:?}", args.bundle))?;
    let spec = spec::load(&bundle)?;
    let process = spec.process().as_ref();
    let terminal = process.is_some_and(|process| process.terminal() == Some(true));
    let socket = args.console_socket.as_deref();
    let io = if terminal { Io::Console } else { Io::Inherit };
    foreground::check(&io, args.detach, socket.is_some())?;
    let named = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let options = RestoreOptions {
        create: CreateOptions {
            io,
            pid_file: args.pid_file.clone(),
            systemd_cgroup: global.systemd_cgroup,
            rootless: global.rootless.0,
            ..CreateOptions::new(&global.root, &args.id, bundle)
        },
        criu: args.common.options()?,
        lsm_profile: named(&args.lsm_profile),
        lsm_mount_context: named(&args.lsm_mount_context),
    };
    let (container, mut process) = Container::restore(&options)?;
    let prepared = foreground::Foreground::prepare(&mut process, socket, args.detach);
    foreground::see_through(container, &process, prepared, args.detach, false)
}
