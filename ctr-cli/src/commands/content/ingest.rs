//! `corten content ingest`

use std::io::Read;

use anyhow::{Context as _, Result, anyhow};
use api_protos::containerd::services::content::v1::{WriteAction, WriteContentRequest};
use clap::Args;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::cli::Session;
use crate::client::Doing as _;
use crate::commands::output::print_line;

/// How many bytes one message carries at most.
const CHUNK: usize = 1 << 20;

/// Write standard input into a new blob and print its digest
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corten content ingest layer <layer.tar.gz
  corten content ingest --expected-digest sha256:… layer <layer.tar.gz

A blob that nothing refers to is collected. Keep it by a lease or by a label containerd.io/gc.root.")]
pub struct Options {
    /// Fail if this is not its size
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    expected_size: i64,
    /// Fail if this is not its digest
    #[arg(long, value_name = "DIGEST", default_value = "")]
    expected_digest: String,
    /// Label it, as KEY=VALUE; may be given several times
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// A name for the write while it is not done
    reference: String,
}

/// Writes.
pub async fn run(session: &Session, options: Options) -> Result<()> {
    let what = || format!("write content {}", options.reference);
    let (sender, requests) = mpsc::channel(1);
    let mut service = session.client.content();
    let call = service.write(ReceiverStream::new(requests));
    // The daemon answers when it has seen the first message, so call and messages go side by side.
    let first = WriteContentRequest {
        action: WriteAction::Stat.into(),
        r#ref: options.reference.clone(),
        total: options.expected_size,
        expected: options.expected_digest.clone(),
        ..Default::default()
    };
    sender.send(first).await.with_context(what)?;
    let mut answers = call.await.doing(what)?.into_inner();
    answers.message().await.doing(what)?;
    let mut offset = 0;
    let mut buffer = vec![0; CHUNK];
    let digest = loop {
        let count = read_full(&mut buffer).with_context(|| "read standard input")?;
        let done = count < CHUNK;
        let action = if done {
            WriteAction::Commit
        } else {
            WriteAction::Write
        };
        let request = WriteContentRequest {
            action: action.into(),
            r#ref: options.reference.clone(),
            total: options.expected_size,
            expected: options.expected_digest.clone(),
            offset,
            data: buffer[..count].to_vec().into(),
            labels: crate::format::parse_labels(&options.label),
        };
        // What is wrong is told by the answer if the daemon reads no further.
        let sent = sender.send(request).await;
        let answer = answers.message().await.doing(what)?;
        sent.with_context(what)?;
        offset += count as i64;
        if done {
            break answer.map(|answer| answer.digest);
        }
    };
    print_line(&digest.ok_or_else(|| anyhow!("{}: the daemon ended the write", what()))?)
}

/// Fills the buffer unless the input ends; returns how much there is.
fn read_full(buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut stdin = std::io::stdin().lock();
    let mut count = 0;
    while count < buffer.len() {
        match stdin.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}
