//! `corten namespaces`

mod cgroups;

use std::path::Path;

use anyhow::Result;
use api_protos::containerd::services::namespaces::v1::{
    CreateNamespaceRequest, DeleteNamespaceRequest, ListNamespacesRequest, Namespace,
    UpdateNamespaceRequest,
};
use clap::Subcommand;
use prost_types::FieldMask;
use serde_json::json;

use super::output::List;
use crate::cli::Session;
use crate::client::Doing as _;
use crate::format::{labels, labels_json, parse_labels};

/// What can be done with namespaces.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List namespaces
    #[command(visible_alias = "ls")]
    List {
        /// Names alone
        #[arg(short, long)]
        quiet: bool,
    },
    /// Create a namespace
    #[command(visible_alias = "c")]
    Create {
        /// Its name
        name: String,
        /// Labels, as KEY=VALUE
        labels: Vec<String>,
    },
    /// Remove namespaces that are empty
    #[command(visible_aliases = ["rm", "delete"])]
    Remove {
        /// Also the control groups that containers of the namespace were in, on this machine
        #[arg(short, long)]
        cgroup: bool,
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Set labels of a namespace; a label without a value is removed
    Label {
        /// Its name
        name: String,
        /// Labels, as KEY=VALUE or KEY=
        #[arg(required = true)]
        labels: Vec<String>,
    },
}

/// Runs a command on namespaces.
pub async fn run(session: &Session, command: Command) -> Result<()> {
    let mut service = session.client.namespaces();
    match command {
        Command::List { quiet } => {
            let answer = service
                .list(ListNamespacesRequest::default())
                .await
                .doing(|| "list namespaces".into())?;
            let mut list = List::new(&["NAME", "LABELS"]);
            for namespace in answer.into_inner().namespaces {
                let value =
                    json!({"name": namespace.name, "labels": labels_json(&namespace.labels)});
                list.add(vec![namespace.name, labels(&namespace.labels)], value);
            }
            list.print(session, quiet)
        }
        Command::Create { name, labels } => {
            let namespace = Namespace {
                name: name.clone(),
                labels: parse_labels(&labels),
            };
            let request = CreateNamespaceRequest {
                namespace: Some(namespace),
            };
            service
                .create(request)
                .await
                .map(drop)
                .doing(|| format!("create namespace {name}"))
        }
        Command::Remove { cgroup, names } => {
            for name in names {
                let request = DeleteNamespaceRequest { name: name.clone() };
                service
                    .delete(request)
                    .await
                    .doing(|| format!("remove namespace {name}"))?;
                if cgroup {
                    cgroups::remove(Path::new(cgroups::ROOT), &name)?;
                }
            }
            Ok(())
        }
        Command::Label { name, labels } => {
            let labels = parse_labels(&labels);
            let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
            let namespace = Namespace {
                name: name.clone(),
                labels,
            };
            let request = UpdateNamespaceRequest {
                namespace: Some(namespace),
                update_mask: Some(FieldMask { paths }),
            };
            service
                .update(request)
                .await
                .map(drop)
                .doing(|| format!("label namespace {name}"))
        }
    }
}
