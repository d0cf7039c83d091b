//! `corten content ingest`

use std::io::Read;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::blob::Writer;
use crate::cli::Session;
use crate::commands::output::print_line;
use crate::format::parse_labels;

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
    let (size, digest) = (options.expected_size, &options.expected_digest);
    let mut writer = Writer::open(&session.client, &options.reference, size, digest).await?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = read_full(&mut buffer).with_context(|| "read standard input")?;
        let written = writer.write(buffer[..count].to_vec()).await;
        written.with_context(what)?;
        if count < CHUNK {
            break;
        }
    }
    let committed = writer.commit(parse_labels(&options.label)).await;
    print_line(&committed.with_context(what)?)
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
