//! `corten tasks attach`

use anyhow::{Context as _, Result};
use api_protos::containerd::services::tasks::v1::GetRequest;
use clap::Args;

use super::start::exit_code;
use crate::attach::{self, Signals, Streams, Target};
use crate::cli::Session;
use crate::client::Doing as _;
use crate::fifo::Fifos;

/// Connect this terminal's streams to a task that was started with -d
#[derive(Debug, Args)]
pub struct Options {
    /// The container
    id: String,
}

/// Attaches, and returns the exit code of the process.
pub async fn run(session: &Session, options: Options) -> Result<u8> {
    let what = || format!("attach to {}", options.id);
    let request = GetRequest {
        container_id: options.id.clone(),
        exec_id: String::new(),
    };
    let answer = session
        .client
        .tasks()
        .get(request)
        .await
        .doing(what)?
        .into_inner();
    let process = answer.process.unwrap_or_default();
    let fifos = Fifos {
        stdin: process.stdin,
        stdout: process.stdout,
        stderr: process.stderr,
    };
    let mut signals = Signals::take().with_context(what)?;
    let streams = Streams::open(&fifos, process.terminal).with_context(what)?;
    let target = Target {
        container: options.id.clone(),
        exec: String::new(),
    };
    let code = attach::foreground(&session.client, &target, streams, &mut signals)
        .await
        .with_context(what)?;
    Ok(exit_code(code))
}
