//! `corten tasks exec`

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use api_protos::containerd::services::tasks::v1::{
    DeleteProcessRequest, ExecProcessRequest, StartRequest,
};
use clap::Args;
use serde_json::json;

use super::start::exit_code;
use crate::attach::{self, Signals, Streams, Target};
use crate::cli::Session;
use crate::client::Doing as _;
use crate::commands::containers;
use crate::fifo::{Fifos, random};
use crate::spec::{self, process, user};

/// Run another command in a running container
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corten tasks exec web ls /
  corten tasks exec -t web bash")]
pub struct Options {
    /// Name of the new process [default: made up]
    #[arg(long, value_name = "NAME")]
    exec_id: Option<String>,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Let it read the terminal
    #[arg(short, long)]
    interactive: bool,
    /// Leave it running and return
    #[arg(short, long)]
    detach: bool,
    /// Working folder
    #[arg(long, value_name = "FOLDER")]
    cwd: Option<String>,
    /// User, as NAME, UID, or either with :GROUP [default: the container's]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Set a variable, as NAME=VALUE; may be given several times
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Write the pid to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// The container
    id: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs a command and returns its exit code, unless it runs on without us.
pub async fn run(session: &Session, options: Options) -> Result<u8> {
    let what = || format!("exec {} in {}", options.command[0], options.id);
    let exec = options
        .exec_id
        .clone()
        .map_or_else(|| random().map(|random| format!("exec-{random}")), Ok)?;
    let input =
        options.tty || options.interactive || !options.detach && attach::wants_input(false, false);
    let fifos = Fifos::make(&session.fifo_dir, input, options.tty).with_context(what)?;
    let result = exec_with(session, &options, exec, &fifos)
        .await
        .with_context(what);
    if result.is_err() || !options.detach {
        fifos.remove();
    }
    result
}

async fn exec_with(
    session: &Session,
    options: &Options,
    exec: String,
    fifos: &Fifos,
) -> Result<u8> {
    let client = &session.client;
    let container = containers::get(client, &options.id).await?;
    let mut configuration = spec::unpack(container.spec.as_ref())?;
    process::set_env(&mut configuration, options.env.clone());
    if let Some(user) = &options.user {
        let root = containers::root(client, &container, &configuration).await?;
        user::resolve(user, root.as_ref())?.apply(&mut configuration["process"]);
    }
    let process = &mut configuration["process"];
    process["args"] = json!(options.command);
    process["terminal"] = json!(options.tty);
    if let Some(cwd) = &options.cwd {
        process["cwd"] = json!(cwd);
    }
    let mut signals = if options.detach {
        None
    } else {
        Some(Signals::take()?)
    };
    let streams = Streams::open(fifos, options.tty)?;
    let request = ExecProcessRequest {
        container_id: options.id.clone(),
        stdin: fifos.stdin.clone(),
        stdout: fifos.stdout.clone(),
        stderr: fifos.stderr.clone(),
        terminal: options.tty,
        spec: Some(spec::pack_process(process)),
        exec_id: exec.clone(),
    };
    client
        .tasks()
        .exec(request)
        .await
        .doing(|| "create the process".into())?;
    let target = Target {
        container: options.id.clone(),
        exec,
    };
    let result = start(session, options, &target, streams, signals.as_mut()).await;
    if result.is_err() || !options.detach {
        let request = DeleteProcessRequest {
            container_id: target.container,
            exec_id: target.exec,
        };
        let deleted = client
            .tasks()
            .delete_process(request)
            .await
            .map(drop)
            .doing(|| "delete the process".into());
        if result.is_ok() {
            deleted?;
        }
    }
    result
}

async fn start(
    session: &Session,
    options: &Options,
    target: &Target,
    streams: Streams,
    signals: Option<&mut Signals>,
) -> Result<u8> {
    let client = &session.client;
    let request = StartRequest {
        container_id: target.container.clone(),
        exec_id: target.exec.clone(),
    };
    let pid = client
        .tasks()
        .start(request)
        .await
        .doing(|| "start the process".into())?
        .into_inner()
        .pid;
    if let Some(file) = &options.pid_file {
        std::fs::write(file, pid.to_string())
            .with_context(|| format!("write {}", file.display()))?;
    }
    match signals {
        None => Ok(0),
        Some(signals) => Ok(exit_code(
            attach::foreground(client, target, streams, signals).await?,
        )),
    }
}
