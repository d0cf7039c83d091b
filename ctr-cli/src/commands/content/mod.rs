//! `corten content`

mod ingest;

use std::io::Write;

use anyhow::Result;
use api_protos::containerd::services::content::v1::{
    DeleteContentRequest, Info, ListContentRequest, ListStatusesRequest, ReadContentRequest,
    UpdateRequest,
};
use clap::Subcommand;
use serde_json::json;

use super::output::{List, print_line};
use crate::cli::Session;
use crate::client::Doing as _;
use crate::format::{bytes, labels, labels_json, labels_mask, parse_labels, time};

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
    /// List writes that have begun and are not done
    Active {
        /// Names alone
        #[arg(short, long)]
        quiet: bool,
        /// Filters in containerd's grammar, as ref~=layer
        filters: Vec<String>,
    },
    Ingest(ingest::Options),
    /// Set labels of a blob and print all of them; a label without a value is removed
    Label {
        /// Its digest
        digest: String,
        /// Labels, as KEY=VALUE or KEY=
        #[arg(required = true)]
        labels: Vec<String>,
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
        Command::Active { quiet, filters } => {
            let answer = service.list_statuses(ListStatusesRequest { filters }).await;
            let mut list = List::new(&["REF", "SIZE", "TOTAL", "STARTED AT"]);
            for status in answer.doing(|| "list writes".into())?.into_inner().statuses {
                let started = time(status.started_at.as_ref());
                let value = json!({
                    "ref": status.r#ref, "offset": status.offset, "total": status.total, "started_at": started,
                    "expected": status.expected,
                });
                let size = |count: i64| bytes(u64::try_from(count).unwrap_or(0));
                // What is to be written in all need not be known.
                let total = (status.total > 0).then(|| size(status.total));
                let cells = vec![
                    status.r#ref,
                    size(status.offset),
                    total.unwrap_or_default(),
                    started,
                ];
                list.add(cells, value);
            }
            list.print(session, quiet)
        }
        Command::Ingest(options) => ingest::run(session, options).await,
        Command::Label {
            digest,
            labels: arguments,
        } => {
            let info = Info {
                digest: digest.clone(),
                labels: parse_labels(&arguments),
                ..Default::default()
            };
            let request = UpdateRequest {
                update_mask: Some(labels_mask(&info.labels)),
                info: Some(info),
            };
            let answer = service.update(request).await;
            let answer = answer.doing(|| format!("label content {digest}"))?;
            print_line(&labels(
                &answer.into_inner().info.unwrap_or_default().labels,
            ))
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
