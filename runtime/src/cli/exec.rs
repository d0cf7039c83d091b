//! `exec`: runs a further process in a container.

use std::path::PathBuf;

use runtime::oci_spec::runtime::{Capabilities, LinuxCapabilities, Process, User};
use runtime::{ExecOptions, Io, spec};
use sys::mutant::{self, Mutant};
use sys::{Error, Kind, Result};

use super::{Global, foreground};

/// Flags of `exec`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the container
    id: String,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// File with the process as JSON
    #[arg(short, long)]
    process: Option<PathBuf>,
    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,
    /// User and group as numbers: UID[:GID]
    #[arg(short, long)]
    user: Option<String>,
    /// Working folder
    #[arg(long)]
    cwd: Option<PathBuf>,
    /// Environment variable to set
    #[arg(short, long)]
    env: Vec<String>,
    /// Do not wait for the process
    #[arg(short, long)]
    detach: bool,
    /// File that gets the process's number
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Socket that gets the master of the process's terminal
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// Capability to add
    #[arg(short, long)]
    cap: Vec<String>,
    /// Forbid the process to gain privileges
    #[arg(long)]
    no_new_privs: bool,
    /// Further group
    #[arg(short = 'g', long)]
    additional_gids: Vec<u32>,
    /// Number of descriptors after stderr that the process inherits
    #[arg(long, default_value_t = 0)]
    preserve_fds: u32,
    /// Allow the container to be paused; the process runs once it is resumed
    #[arg(long)]
    ignore_paused: bool,
    /// Control group below the container's: PATH, or CONTROLLER[,CONTROLLER...]:PATH
    #[arg(long)]
    cgroup: Vec<String>,
    /// Socket that gets a descriptor of the process
    #[arg(long)]
    pidfd_socket: Option<PathBuf>,
    /// SELinux label of the process
    #[arg(long)]
    process_label: Option<String>,
    /// AppArmor profile of the process
    #[arg(long)]
    apparmor: Option<String>,
}

/// Runs a process.
pub(super) fn run(global: &Global, args: &Args) -> Result<u8> {
    let container = global.load(&args.id)?;
    let process = match &args.process {
        Some(path) => spec::load_process(path)?,
        None => args.process(container.spec().process().as_ref())?,
    };
    let io = match process.terminal() {
        Some(true) => Io::Console,
        _ => Io::Inherit,
    };
    foreground::check(&io, args.detach, args.console_socket.is_some())?;
    let options = ExecOptions {
        io,
        pid_file: args.pid_file.clone(),
        preserve_fds: args.preserve_fds,
        cgroups: groups_below(&args.cgroup)?,
        ignore_paused: args.ignore_paused,
        ..ExecOptions::new(process)
    };
    global.warn(Some(&options.process));
    let mut process = container.exec(&options)?;
    foreground::send_pidfd(args.pidfd_socket.as_deref(), &process)?;
    let socket = args.console_socket.as_deref();
    let foreground = foreground::Foreground::prepare(&mut process, socket, args.detach)?;
    if args.detach {
        return Ok(0);
    }
    Ok(foreground.wait(&process)?.code() as u8)
}

impl Args {
    /// Takes the container's first process, and changes what flags say.
    fn process(&self, first: Option<&Process>) -> Result<Process> {
        if self.command.is_empty() {
            return Err(invalid("process args cannot be empty"));
        }
        let mut process = first.cloned().unwrap_or_default();
        process.set_args(Some(self.command.clone()));
        process.set_terminal(Some(self.tty));
        process.set_console_size(None);
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        if let Some(label) = &self.process_label {
            process.set_selinux_label(Some(label.clone()));
        }
        if let Some(profile) = &self.apparmor {
            process.set_apparmor_profile(Some(profile.clone()));
        }
        if self.no_new_privs {
            process.set_no_new_privileges(Some(true));
        }
        let mut env = process.env().clone().unwrap_or_default();
        env.extend(self.env.iter().cloned());
        process.set_env(Some(env));
        self.set_user(&mut process)?;
        self.add_capabilities(&mut process)?;
        Ok(process)
    }

    fn set_user(&self, process: &mut Process) -> Result<()> {
        let mut user: User = process.user().clone();
        if let Some(text) = &self.user {
            let (uid, gid) = match text.split_once(':') {
                Some((uid, gid)) => (uid, Some(gid)),
                None => (text.as_str(), None),
            };
            user.set_uid(number(uid, "uid")?);
            if let Some(gid) = gid {
                user.set_gid(number(gid, "gid")?);
            }
        }
        if !self.additional_gids.is_empty() {
            let mut gids = user.additional_gids().clone().unwrap_or_default();
            gids.extend(&self.additional_gids);
            user.set_additional_gids(Some(gids));
        }
        process.set_user(user);
        Ok(())
    }

    fn add_capabilities(&self, process: &mut Process) -> Result<()> {
        if self.cap.is_empty() {
            return Ok(());
        }
        let mut added = Capabilities::new();
        for name in &self.cap {
            let quoted = serde_json::Value::String(name.to_uppercase());
            let parsed = serde_json::from_value(quoted);
            added.insert(parsed.map_err(|_| invalid(&format!("unknown capability {name:?}")))?);
        }
        let mut all = process
            .capabilities()
            .clone()
            .unwrap_or_else(no_capabilities);
        let with = |set: &Option<Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.extend(added.iter().copied());
            Some(set)
        };
        all.set_bounding(with(all.bounding()));
        all.set_effective(with(all.effective()));
        all.set_permitted(with(all.permitted()));
        // One that is not inheritable, which flags cannot make it, could not be ambient.
        if all.inheritable().is_some() {
            all.set_ambient(with(all.ambient()));
        }
        process.set_capabilities(Some(all));
        Ok(())
    }
}

/// Splits control groups at the colon after the names of controllers.
fn groups_below(all: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let mut groups: Vec<(String, PathBuf)> = Vec::new();
    for text in all {
        let Some((controllers, path)) = text.split_once(':') else {
            if all.len() > 1 {
                let message = "(missing <controller>: prefix)";
                return Err(invalid(&format!(
                    "invalid --cgroup argument: {text} {message}"
                )));
            }
            return Ok(vec![(String::new(), text.into())]);
        };
        for controller in controllers.split(',') {
            if controller.is_empty() {
                let message = "(empty <controller> prefix)";
                return Err(invalid(&format!(
                    "invalid --cgroup argument: {text} {message}"
                )));
            }
            if groups.iter().any(|(other, _)| other == controller) {
                let message = "specified multiple times";
                return Err(invalid(&format!(
                    "invalid --cgroup argument(s): controller {controller} {message}"
                )));
            }
            groups.push((controller.to_string(), path.into()));
        }
    }
    Ok(groups)
}

fn no_capabilities() -> LinuxCapabilities {
    let mut none = LinuxCapabilities::default();
    none.set_bounding(None)
        .set_effective(None)
        .set_permitted(None);
    none.set_inheritable(None).set_ambient(None);
    none
}

/// Parses a user's or group's number; only digits will do, so that nothing is taken for another user.
fn number(text: &str, what: &str) -> Result<u32> {
    if mutant::is(Mutant::LenientUser) {
        return Ok(text.parse().unwrap_or_default());
    }
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text
        .parse::<u32>()
        .ok()
        .filter(|number| digits && *number <= i32::MAX as u32);
    number.ok_or_else(|| invalid(&format!("parsing {text:?} as int for {what} failed")))
}

fn invalid(message: &str) -> Error {
    Error::new(Kind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_for_all_controllers_or_for_each() {
        let groups = |all: &[&str]| {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            groups_below(&all).map_err(|error| error.to_string())
        };
        assert_eq!(groups(&["a/b"]), Ok(vec![(String::new(), "a/b".into())]));
        let pair = |name: &str, path: &str| (name.to_string(), PathBuf::from(path));
        assert_eq!(
            groups(&["cpu,pids:a", "memory:b"]),
            Ok(vec![
                pair("cpu", "a"),
                pair("pids", "a"),
                pair("memory", "b")
            ])
        );
        for wrong in [&["a", "b"][..], &[":a"], &["cpu:a", "cpu:b"]] {
            assert!(groups(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn odd_users_are_refused() {
        assert_eq!(number("1000", "uid").unwrap(), 1000);
        for text in [
            "",
            "+0",
            "-1",
            " 1",
            "0x1",
            "root",
            "2147483648",
            "4294967296",
            "1a",
        ] {
            assert!(number(text, "uid").is_err(), "{text:?}");
        }
    }
}
