//! Clients that take ctr's global options: upstream's `ctr` and our `corten`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command::{self, Finished};
use crate::daemon::Daemon;

/// A client of one daemon in one namespace.
#[derive(Debug, Clone)]
pub struct Ctr {
    program: PathBuf,
    address: PathBuf,
    folder: PathBuf,
    namespace: String,
}

impl Ctr {
    /// Returns a client that runs `program` against this daemon in its namespace.
    pub fn new(program: PathBuf, daemon: &Daemon) -> Ctr {
        Ctr {
            program,
            address: daemon.address(),
            folder: daemon.folder().to_owned(),
            namespace: daemon.namespace.clone(),
        }
    }

    /// Returns the same client in another namespace.
    pub fn in_namespace(&self, namespace: &str) -> Ctr {
        Ctr {
            namespace: namespace.to_owned(),
            ..self.clone()
        }
    }

    /// Returns the command of this client with these arguments, not yet run.
    pub fn command<S: AsRef<str>>(&self, args: &[S]) -> Command {
        let mut args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        // A client that is killed leaves its FIFOs; ctr takes their folder after the command, and corten anywhere.
        let command = match args.as_slice() {
            ["run", ..] => 1,
            ["tasks" | "task" | "t", "start" | "exec", ..] => 2,
            _ => 0,
        };
        let fifos = format!("--fifo-dir={}", self.folder.join("fifo").display());
        if command > 0 {
            args.insert(command, &fifos);
        }
        let mut command = Command::new(&self.program);
        command
            .arg("--address")
            .arg(&self.address)
            .arg("--namespace")
            .arg(&self.namespace)
            .args(args)
            .env("TMPDIR", &self.folder);
        command
    }

    /// Runs the client to its end.
    pub fn run<S: AsRef<str>>(&self, args: &[S]) -> Finished {
        command::run(&mut self.command(args))
    }

    /// Runs the client with something to read and a limit of time.
    pub fn run_with<S: AsRef<str>>(&self, args: &[S], input: &[u8], limit: Duration) -> Finished {
        command::run_with(&mut self.command(args), input, limit)
    }

    /// Runs the client, which must succeed, and returns its standard output.
    #[track_caller]
    pub fn ok<S: AsRef<str>>(&self, args: &[S]) -> String {
        self.run(args).ok()
    }

    /// Returns the containerd namespace that this client asks for.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the folder where this client may leave files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}
