//! `corten content`

use std::io::Write;

use anyhow::Result;
use api_protos::containerd::services::content::v1::{
    DeleteContentRequest, ListContentRequest, ReadContentRequest,
};
use clap::Subcommand;
use serde_json::json;

use super::output::List;
use crate::cli::Session;
use crate::client::Doing as _;
use crate::format::{bytes, labels, labels_json, time};

/// What can be done with blobs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List blobs
    #[command(visible_alias = "ls")]
    List {
        /// Digests alone
        #[arg(short, long)]
        quiet: bool,
        /// Filters in containerd's grammar, as size>1000 or labels.KEY
        filters: Vec<String>,
    },
    /// Write a blob to standard output
    Get {
        /// Its digest
        digest: String,
    },
    /// Delete blobs
    #[command(visible_aliases = ["rm", "del", "remove"])]
    Delete {
        /// Their digests
        #[arg(required = true)]
        digests: Vec<String>,
    },
}

/// Runs a command on blobs.
pub async fn run(session: &Session, command: Command) -> Result<()> {
    let mut service = session.client.content();
    match command {
        Command::List { quiet, filters } => {
            let what = || "list content".to_owned();
            let mut stream = service
                .list(ListContentRequest { filters })
                .await
                .doing(what)?
                .into_inner();
            let mut list = List::new(&["DIGEST", "SIZE", "CREATED AT", "LABELS"]);
            while let Some(part) = stream.message().await.doing(what)? {
                for info in part.info {
                    let created = time(info.created_at.as_ref());
                    let value = json!({"digest": info.digest, "size": info.size, "created_at": created, "labels": labels_json(&info.labels)});
                    let size = bytes(u64::try_from(info.size).unwrap_or(0));
                    list.add(
                        vec![info.digest, size, created, labels(&info.labels)],
                        value,
                    );
                }
            }
            list.print(session, quiet)
        }
        Command::Get { digest } => {
            let what = || format!("read content {digest}");
            let request = ReadContentRequest {
                digest: digest.clone(),
                offset: 0,
                size: 0,
            };
            let mut stream = service.read(request).await.doing(what)?.into_inner();
            let mut stdout = std::io::stdout().lock();
            while let Some(part) = stream.message().await.doing(what)? {
                stdout.write_all(&part.data)?;
            }
            Ok(stdout.flush()?)
        }
        Command::Delete { digests } => {
            for digest in digests {
                let request = DeleteContentRequest {
                    digest: digest.clone(),
                };
                service
                    .delete(request)
                    .await
                    .doing(|| format!("delete content {digest}"))?;
            }
            Ok(())
        }
    }
}
