//! `corten tasks kill`

use anyhow::Result;
use api_protos::containerd::services::tasks::v1::KillRequest;
use clap::Args;

use crate::cli::Session;
use crate::client::Doing as _;
use crate::commands::containers;

/// Send a signal to a container
#[derive(Debug, Args)]
pub struct Options {
    /// The signal, by name or number [default: the image's stop signal, or TERM]
    #[arg(short, long, value_name = "SIGNAL", value_parser = signal)]
    signal: Option<u32>,
    /// Send it to every process of the container
    #[arg(short, long)]
    all: bool,
    /// Send it to a process that was added to the container
    #[arg(long, value_name = "NAME", default_value = "")]
    exec_id: String,
    /// The container
    id: String,
}

/// Kills.
pub async fn run(session: &Session, options: Options) -> Result<()> {
    let number = match options.signal {
        Some(number) => number,
        None => {
            let container = containers::get(&session.client, &options.id).await?;
            let label = container
                .labels
                .get("io.containerd.image.config.stop-signal");
            label
                .and_then(|name| sys::signals::number(name))
                .unwrap_or(15)
        }
    };
    let request = KillRequest {
        container_id: options.id.clone(),
        exec_id: options.exec_id,
        signal: number,
        all: options.all,
    };
    session
        .client
        .tasks()
        .kill(request)
        .await
        .map(drop)
        .doing(|| format!("kill task {}", options.id))
}

fn signal(text: &str) -> Result<u32, String> {
    sys::signals::number(text).ok_or_else(|| format!("no signal {text:?}"))
}
