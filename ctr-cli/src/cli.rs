//! The command line: global options, commands and their aliases.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::client::Client;
use crate::commands::{
    containers, content, doctor, events, images, info, leases, namespaces, oci, plugins, run,
    snapshots, tasks, trace, version,
};
use crate::fifo;
use crate::format::parse_duration;

/// The heading of the options that every command has.
const GLOBAL: &str = "Global options";

/// A client for cortend and containerd
///
/// Pulls images, runs containers from them and shows what the daemon keeps.
#[derive(Debug, Parser)]
#[command(
    name = "corten",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    after_long_help = "Examples:
  corten images pull docker.io/library/debian:12
  corten run --rm -t docker.io/library/debian:12 try bash
  corten tasks list

What a command prints on failure is one line on standard error; its exit code is then 1, or 2 for a wrong command line. \
The exit code of `run` and `tasks exec` is the one of the process in the container.

On a terminal, the columns of a table are cut so that it fits; in a pipe or a file, and with --json, all is whole."
)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct Globals {
    /// The daemon's socket [default: CORTEN_ADDRESS, CONTAINERD_ADDRESS or /run/corten/cortend.sock]
    #[arg(short, long, value_name = "SOCKET", help_heading = GLOBAL)]
    address: Option<String>,
    /// The namespace to act in [default: CONTAINERD_NAMESPACE or default]
    #[arg(short, long, global = true, value_name = "NAME", help_heading = GLOBAL)]
    namespace: Option<String>,
    /// Folder for the FIFOs of containers' streams
    #[arg(long, global = true, value_name = "FOLDER", default_value_os_t = fifo::default_folder(), help_heading = GLOBAL)]
    fifo_dir: PathBuf,
    /// How long a call may take, as 30s or 5m [default: no limit]
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_duration, help_heading = GLOBAL)]
    timeout: Option<Duration>,
    /// How long connecting may take, as 30s or 5m [default: no limit]
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_duration, help_heading = GLOBAL)]
    connect_timeout: Option<Duration>,
    /// Print lists as JSON
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Asking(Asking),
    #[command(flatten)]
    Alone(Alone),
}

/// Commands that ask the daemon.
#[derive(Debug, Subcommand)]
enum Asking {
    /// Show the versions of client and daemon
    Version,
    /// Pull, push, import, export, list, tag and remove images
    #[command(subcommand, visible_aliases = ["image", "i"])]
    Images(images::Command),
    Run(Box<run::Options>),
    /// Show where the time of a start goes
    #[command(subcommand)]
    Trace(trace::Command),
    /// Work with the processes of containers
    #[command(subcommand, visible_aliases = ["task", "t"])]
    Tasks(tasks::Command),
    /// Work with containers, running or not
    #[command(subcommand, visible_aliases = ["container", "c"])]
    Containers(containers::Command),
    /// Work with the file systems of images and containers
    #[command(visible_alias = "snapshot")]
    Snapshots(snapshots::Command),
    /// Work with the blobs that images are made of
    #[command(subcommand)]
    Content(content::Command),
    /// Work with namespaces, which keep users of one daemon apart
    #[command(subcommand, visible_aliases = ["namespace", "ns"])]
    Namespaces(namespaces::Command),
    /// Work with leases, which keep things from being collected
    #[command(subcommand, visible_alias = "lease")]
    Leases(leases::Command),
    /// Show the parts of the daemon
    #[command(subcommand, visible_alias = "plugin")]
    Plugins(plugins::Command),
    Events(events::Options),
    /// Show what the daemon says of itself, as JSON
    Info,
    /// Show which deprecated features clients have used
    #[command(subcommand, visible_alias = "deprecation")]
    Deprecations(info::Deprecations),
}

/// Commands that need no daemon.
#[derive(Debug, Subcommand)]
enum Alone {
    Doctor(doctor::Options),
    /// Show configurations of the OCI runtime specification
    #[command(subcommand)]
    Oci(oci::Command),
    /// Print a script that completes command lines in a shell
    #[command(after_long_help = "Examples:
  corten completion bash >/etc/bash_completion.d/corten
  corten completion zsh >/usr/local/share/zsh/site-functions/_corten
  corten completion fish >/etc/fish/completions/corten.fish")]
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages, one for each command
    #[command(after_long_help = "Example:
  corten man /usr/local/share/man/man1")]
    Man {
        /// The folder they are written to
        folder: PathBuf,
    },
}

/// What a command works with.
#[derive(Debug)]
pub struct Session {
    /// The daemon.
    pub client: Client,
    /// Where FIFOs are made.
    pub fifo_dir: PathBuf,
    /// Whether lists are printed as JSON.
    pub json: bool,
}

impl Cli {
    /// Runs the command and returns the program's exit code.
    pub async fn run(self) -> Result<u8> {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let globals = self.globals;
        let address = globals
            .address
            .or_else(|| env("CORTEN_ADDRESS"))
            .or_else(|| env("CONTAINERD_ADDRESS"));
        let address = address.unwrap_or_else(|| "/run/corten/cortend.sock".into());
        let command = match self.command {
            Command::Asking(command) => command,
            Command::Alone(Alone::Doctor(options)) => {
                return doctor::run(&options, &address, globals.json).await;
            }
            Command::Alone(Alone::Oci(command)) => return oci::run(command).map(|()| 0),
            Command::Alone(Alone::Completion { shell }) => return completion(shell).map(|()| 0),
            Command::Alone(Alone::Man { folder }) => return man(&folder).map(|()| 0),
        };
        let namespace = globals
            .namespace
            .or_else(|| env("CONTAINERD_NAMESPACE"))
            .unwrap_or_else(|| "default".into());
        let client = Client::connect(
            &address,
            &namespace,
            globals.connect_timeout,
            globals.timeout,
        )
        .await?;
        let session = Session {
            client,
            fifo_dir: globals.fifo_dir,
            json: globals.json,
        };
        let done = match command {
            Asking::Run(options) => return run::run(&session, *options).await,
            Asking::Trace(command) => return trace::run(&session, command).await,
            Asking::Tasks(command) => return tasks::run(&session, command).await,
            Asking::Version => version::run(&session).await,
            Asking::Images(command) => images::run(&session, command).await,
            Asking::Containers(command) => containers::run(&session, command).await,
            Asking::Snapshots(command) => snapshots::run(&session, command).await,
            Asking::Content(command) => content::run(&session, command).await,
            Asking::Namespaces(command) => namespaces::run(&session, command).await,
            Asking::Leases(command) => leases::run(&session, command).await,
            Asking::Plugins(command) => plugins::run(&session, command).await,
            Asking::Events(options) => events::run(&session, options).await,
            Asking::Info => info::run(&session).await,
            Asking::Deprecations(command) => info::deprecations(&session, command).await,
        };
        done.map(|()| 0)
    }
}

fn completion(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "corten", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}

fn man(folder: &Path) -> Result<()> {
    let mut corten = Cli::command();
    // This gives the commands their whole names.
    corten.build();
    pages(corten, folder).with_context(|| format!("write manual pages to {}", folder.display()))
}

/// Writes the manual page of a command, and of each below it.
fn pages(command: clap::Command, folder: &Path) -> io::Result<()> {
    for below in command.get_subcommands() {
        pages(below.clone(), folder)?;
    }
    let page = Man::new(command).source(concat!("corten ", env!("CARGO_PKG_VERSION")));
    page.generate_to(folder).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ctrs_short_names_work() {
        for line in [
            "corten i ls -q",
            "corten t ls",
            "corten c rm a b",
            "corten ns c x",
            "corten snapshot rm k",
            "corten run --rm i c sh -c x",
            "corten run --rm -c f c",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn what_would_have_no_effect_is_refused() {
        for line in [
            "corten run i",
            "corten run -c f i c",
            "corten run -c f --env A=b c",
            "corten run -c f --cpus 1 c",
            "corten run -c f -t c",
            "corten run --rm -d i c",
            "corten run --null-io --log-uri file:///x i c",
            "corten run --privileged-without-host-devices i c",
            "corten images prune",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
