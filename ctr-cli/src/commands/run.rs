//! `corten run`

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;

use super::containers::{
    self,
    create::{ContainerOptions, create},
};
use super::tasks::start::{self, StartOptions};
use crate::attach::Signals;
use crate::cli::Session;
use crate::spec;

/// Run a command in a new container
///
/// Creates a container of an image and starts it. Without -d, the command has this terminal's streams, signals go to
/// it, and its exit code is the one of `corten run`. With -d nothing is printed and the container runs on.
#[derive(Debug, Args)]
#[command(override_usage = "corten run [OPTIONS] <IMAGE> <ID> [COMMAND]...
       corten run [OPTIONS] --config <FILE> <ID>")]
#[command(after_long_help = "Examples:
  corten run --rm docker.io/library/debian:12 try ls /
  corten run --rm -t docker.io/library/debian:12 try bash
  corten run -d --memory-limit 64m --cpus 0.5 docker.io/library/nginx:1 web
  corten run --rm --mount type=bind,src=/srv,dst=/srv,options=rbind:ro IMAGE files ls /srv

Standard input goes to the command if it is a pipe or a file, or with -i or -t.
A second Ctrl-C kills the container. Before the container has started, Ctrl-C ends the run and leaves nothing of it.")]
pub struct Options {
    /// Leave the container running and return
    #[arg(short, long)]
    detach: bool,
    /// Remove the container when it has ended
    #[arg(long, conflicts_with = "detach")]
    rm: bool,
    /// Let the command read the terminal
    #[arg(short, long)]
    interactive: bool,
    /// Write the pid of the command to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Connect no streams
    #[arg(long, conflicts_with = "log_uri")]
    null_io: bool,
    /// Have the output written to this place, as file:///var/log/web or binary:///usr/bin/logger
    #[arg(long, value_name = "URI")]
    log_uri: Option<String>,
    #[command(flatten)]
    container: ContainerOptions,
}

/// Runs a container and returns its exit code.
pub async fn run(session: &Session, options: Options) -> Result<u8> {
    let source = options.container.source();
    let what = || format!("run {source} as {}", options.container.id());
    let client = &session.client;
    let mut signals = Signals::take().with_context(what)?;
    let created = create(client, &options.container, &mut signals).await;
    let container = created.map_err(|error| {
        // It says what was created already.
        error.context(format!("run {source}"))
    })?;
    let started = async {
        let configuration = spec::unpack(container.spec.as_ref())?;
        let start = StartOptions {
            terminal: spec::has_terminal(&configuration),
            interactive: options.interactive,
            detach: options.detach,
            null_io: options.null_io,
            log_uri: options.log_uri.clone(),
            pid_file: options.pid_file.clone(),
        };
        start::start(session, &container, &start, &mut signals).await
    };
    let result = started.await.with_context(what);
    match (result, options.detach) {
        (Ok(code), true) => Ok(code),
        (Ok(code), false) => {
            if options.rm {
                containers::delete(client, &container, false).await?;
            }
            Ok(code)
        }
        (Err(error), _) => {
            // A container that could not be started is of no use to anyone.
            match containers::delete(client, &container, false).await {
                Ok(()) => Err(error),
                Err(left) => Err(anyhow!("{error:#}; and then: {left:#}")),
            }
        }
    }
}
