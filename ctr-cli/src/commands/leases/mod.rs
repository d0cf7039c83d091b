//! `corten leases`

use std::time::{Duration, SystemTime};

use anyhow::Result;
use api_protos::containerd::services::leases::v1::{CreateRequest, DeleteRequest, ListRequest};
use clap::Subcommand;
use serde_json::json;

use super::output::{List, print_line};
use crate::cli::Session;
use crate::client::{Client, Doing as _};
use crate::fifo::random;
use crate::format::{labels, labels_json, parse_duration, parse_labels, time};

/// What can be done with leases.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List leases
    #[command(visible_alias = "ls")]
    List {
        /// Names alone
        #[arg(short, long)]
        quiet: bool,
        /// Filters in containerd's grammar
        filters: Vec<String>,
    },
    /// Create a lease and print its name
    #[command(visible_alias = "c")]
    Create {
        /// Its name [default: made up]
        #[arg(long)]
        id: Option<String>,
        /// How long it lasts
        #[arg(short = 'x', long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
        expires: Duration,
        /// Labels, as KEY=VALUE
        labels: Vec<String>,
    },
    /// Delete leases
    #[command(visible_aliases = ["rm", "del", "remove"])]
    Delete {
        /// Wait until what nothing else keeps is collected
        #[arg(long)]
        sync: bool,
        /// Their names
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

/// Runs a command on leases.
pub async fn run(session: &Session, command: Command) -> Result<()> {
    let mut service = session.client.leases();
    match command {
        Command::List { quiet, filters } => {
            let answer = service
                .list(ListRequest { filters })
                .await
                .doing(|| "list leases".into())?;
            let mut list = List::new(&["ID", "CREATED AT", "LABELS"]);
            for lease in answer.into_inner().leases {
                let created = time(lease.created_at.as_ref());
                let value = json!({"id": lease.id, "created_at": created, "labels": labels_json(&lease.labels)});
                list.add(vec![lease.id, created, labels(&lease.labels)], value);
            }
            list.print(session, quiet)
        }
        Command::Create {
            id,
            expires,
            labels,
        } => {
            let id = id.map_or_else(|| random().map(|random| format!("corten-{random}")), Ok)?;
            print_line(&create(&session.client, id, expires, &labels).await?)
        }
        Command::Delete { sync, ids } => {
            let last = ids.len() - 1;
            for (number, id) in ids.into_iter().enumerate() {
                let request = DeleteRequest {
                    id: id.clone(),
                    sync: sync && number == last,
                };
                service
                    .delete(request)
                    .await
                    .doing(|| format!("delete lease {id}"))?;
            }
            Ok(())
        }
    }
}

/// Creates a lease that lasts for `expires` and returns its name.
pub async fn create(
    client: &Client,
    id: String,
    expires: Duration,
    labels: &[String],
) -> Result<String> {
    let mut labels = parse_labels(labels);
    let until = prost_types::Timestamp::from(SystemTime::now() + expires);
    labels.insert("containerd.io/gc.expire".into(), time(Some(&until)));
    let request = CreateRequest {
        id: id.clone(),
        labels,
    };
    let answer = client
        .leases()
        .create(request)
        .await
        .doing(|| format!("create lease {id}"))?;
    Ok(answer.into_inner().lease.map_or(id, |lease| lease.id))
}

/// Returns the client with a lease of its own for a task of many calls, to be given to [`release`] at the end.
pub async fn lease(client: &Client) -> Result<(Client, String)> {
    let day = Duration::from_secs(24 * 3600);
    let id = create(client, format!("corten-{}", random()?), day, &[]).await?;
    Ok((client.with_lease(&id)?, id))
}

/// Gives a lease back; one that cannot be given back expires.
pub async fn release(client: &Client, id: String) {
    let _ = client
        .leases()
        .delete(DeleteRequest { id, sync: false })
        .await;
}
