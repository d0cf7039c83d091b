//! The command line: runc's commands and flags, one file for each command.

mod checkpoint;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod foreground;
mod kill;
mod list;
mod log;
mod pause;
mod ps;
mod restore;
mod run;
mod spec;
mod start;
mod state;
mod update;

use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::error::ContextKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use runtime::Container;
use runtime::oci_spec::runtime::Process;
use sys::{Context, Error, Result};

use log::{Format, Log};

/// The program's own name.
const NAME: &str = "corten-runtime";

/// The commands that make processes in a container.
const SEALED: [&str; 3] = ["create", "exec", "run"];

/// What help looks like after the name.
const HELP: &str = " - {about}\n\nUSAGE:\n   {usage}\n\n{all-args}\n";

/// The exit code for a command that there is not.
const NO_SUCH_COMMAND: u8 = 3;

/// Open Container Initiative runtime
///
/// It runs containers from bundles.
#[derive(Debug, Parser)]
#[command(
    name = NAME,
    disable_version_flag = true,
    arg_required_else_help = true
)]
struct Args {
    #[command(flatten)]
    global: Global,
    /// Print the version
    #[arg(short = 'v', long)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Flags that precede the command.
#[derive(Debug, clap::Args)]
struct Global {
    /// Folder for the state of containers; should be on a tmpfs
    #[arg(long, default_value_os_t = default_root())]
    root: PathBuf,
    /// File that gets errors and, with --debug, steps
    #[arg(long)]
    log: Option<PathBuf>,
    /// How the log is written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    log_format: Format,
    /// Log steps too
    #[arg(long)]
    debug: bool,
    /// Have systemd make control groups; cgroupsPath is then slice:prefix:name
    #[arg(long)]
    systemd_cgroup: bool,
    /// Do without control groups that may not be made: true, false, or auto, by who calls
    #[arg(long, default_value = "auto")]
    rootless: Rootless,
    /// Accepted for compatibility
    #[arg(long, hide = true)]
    criu: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a running container to disk
    Checkpoint(checkpoint::Args),
    /// Create a container
    Create(create::Args),
    /// Delete a container
    Delete(delete::Args),
    /// Print events and resource use of a container
    Events(events::Args),
    /// Run a further process in a container
    Exec(exec::Args),
    /// Print what this runtime can do
    Features,
    /// Send a signal to a container
    Kill(kill::Args),
    /// List containers
    List(list::Args),
    /// Freeze all processes of a container
    Pause(pause::Args),
    /// List the processes of a container
    Ps(ps::Args),
    /// Run a container that was written to disk
    Restore(restore::Args),
    /// Thaw all processes of a container
    Resume(pause::Args),
    /// Create and start a container, and wait for it
    Run(run::Args),
    /// Write a configuration to start from
    Spec(spec::Args),
    /// Start a created container
    Start(start::Args),
    /// Print the state of a container
    State(state::Args),
    /// Change limits of a container
    Update(update::Args),
}

/// Returns the command line, with help in the form of runc's, which scripts look into.
fn command() -> clap::Command {
    // runc's callers may have it by that name.
    let program = std::env::args_os().next().map(PathBuf::from);
    let name = program.as_deref().and_then(Path::file_name);
    let name = name.map_or(NAME.into(), |name| name.to_string_lossy().into_owned());
    Args::command()
        .help_template(format!("NAME:\n   {name}{HELP}"))
        .mut_subcommands(|command| {
            let template = format!("NAME:\n   {name} {}{HELP}", command.get_name());
            command.help_template(template)
        })
}

/// Runs the command that the arguments name.
pub(crate) fn main() -> ExitCode {
    // Before anything else, which would be done once more by the sealed program. A word that is no command costs no more
    // than an exec.
    let seals = |arg: OsString| SEALED.iter().any(|name| arg == *name);
    let sealed = match std::env::args_os().skip(1).any(seals) {
        true => runtime::seal(),
        false => Ok(()),
    };
    let parsed = command()
        .try_get_matches()
        .and_then(|matches| Args::from_arg_matches(&matches));
    let args = match parsed {
        Ok(args) => args,
        Err(error) => {
            if let Some(name) = error.get(ContextKind::InvalidSubcommand) {
                eprintln!("No help topic for '{name}'");
                return ExitCode::from(NO_SUCH_COMMAND);
            }
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 1 } else { 0 });
        }
    };
    if args.version {
        let version = env!("CARGO_PKG_VERSION");
        println!(
            "corten-runtime version {version}\nspec: {}",
            runtime::SPEC_VERSION
        );
        return ExitCode::SUCCESS;
    }
    let log = Log::new(&args.global);
    if let Err(error) = args.global.prepare_root() {
        log.error(&runtime::render(&error));
        return ExitCode::FAILURE;
    }
    let Some(command) = args.command else {
        return ExitCode::FAILURE;
    };
    let failure = command.failure();
    match sealed.and_then(|()| command.run(&args.global)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log.error(&command.describe(&error));
            ExitCode::from(failure)
        }
    }
}

impl Command {
    fn run(&self, global: &Global) -> Result<u8> {
        match self {
            Self::Checkpoint(args) => checkpoint::run(global, args),
            Self::Create(args) => create::run(global, args),
            Self::Delete(args) => delete::run(global, args),
            Self::Events(args) => events::run(global, args),
            Self::Exec(args) => exec::run(global, args),
            Self::Features => features::run(),
            Self::Kill(args) => kill::run(global, args),
            Self::List(args) => list::run(global, args),
            Self::Pause(args) => pause::pause(global, args),
            Self::Ps(args) => ps::run(global, args),
            Self::Restore(args) => restore::run(global, args),
            Self::Resume(args) => pause::resume(global, args),
            Self::Run(args) => run::run(global, args),
            Self::Spec(args) => spec::run(args),
            Self::Start(args) => start::run(global, args),
            Self::State(args) => state::run(global, args),
            Self::Update(args) => update::run(global, args),
        }
    }

    /// Returns the exit code of a failure: 255 where the code could else be the process's own.
    fn failure(&self) -> u8 {
        match self {
            Self::Exec(_) => 255,
            _ => 1,
        }
    }

    /// Returns an error as runc words it.
    fn describe(&self, error: &Error) -> String {
        let text = runtime::render(error);
        match self {
            Self::Create(_) => format!("runc create failed: {text}"),
            Self::Run(_) => format!("runc run failed: {text}"),
            _ => text,
        }
    }
}

/// Whether the caller may lack the right to make control groups; None for who calls to decide.
#[derive(Clone, Copy, Debug)]
struct Rootless(Option<bool>);

impl FromStr for Rootless {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "" | "auto" => Ok(Self(None)),
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Self(Some(true))),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Self(Some(false))),
            _ => Err("it is none of true, false and auto".to_string()),
        }
    }
}

/// Returns the folder for the state of containers where none is named.
fn default_root() -> PathBuf {
    own_root().unwrap_or_else(|| Path::new("/run").join(NAME))
}

/// Returns the folder in which who is not the host's root has the state of containers.
fn own_root() -> Option<PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty())?;
    runtime::is_rootless().then(|| Path::new(&own).join(NAME))
}

impl Global {
    /// Makes the folder of who is not the host's root, with the mark of what is to stay there (XDG base directories).
    fn prepare_root(&self) -> Result<()> {
        if own_root().as_ref() != Some(&self.root) {
            return Ok(());
        }
        let mode = Permissions::from_mode(0o1700);
        std::fs::create_dir_all(&self.root)
            .and_then(|()| std::fs::set_permissions(&self.root, mode))
            .context(|| format!("make {:?} below $XDG_RUNTIME_DIR", self.root))
    }

    /// Tells of what of a process will not be as it says.
    fn warn(&self, process: Option<&Process>) {
        for warning in process.into_iter().flat_map(runtime::spec::warnings) {
            Log::new(self).warning(&warning);
        }
    }

    /// Loads the container of this name.
    fn load(&self, id: &str) -> Result<Container> {
        Container::load(&self.root, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_has_the_form_of_runcs() {
        let help = command().render_help().to_string();
        assert!(help.starts_with("NAME:\n   "), "{help}");
        assert!(
            help.contains(" - Open Container Initiative runtime\n"),
            "{help}"
        );
        let error = command()
            .try_get_matches_from(["runc", "exec", "-h"])
            .unwrap_err();
        assert!(
            error.to_string().contains(" exec - Run a further"),
            "{error}"
        );
    }
}
