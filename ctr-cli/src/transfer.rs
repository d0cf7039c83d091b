//! Transfers between registries, archives and the image store, with their progress shown while they run.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use api_protos::any;
use api_protos::containerd::services::transfer::v1::{TransferOptions, TransferRequest};
use api_protos::containerd::types::transfer::{OciRegistry, Progress, RegistryResolver};
use clap::Args;
use prost_types::Any;

use crate::client::{Client, Doing as _};
use crate::progress::Display;
use crate::stream::Stream;

/// How to reach a registry.
#[derive(Debug, Clone, Default, Args)]
pub struct RegistryOptions {
    /// Speak HTTP without TLS
    #[arg(long)]
    pub plain_http: bool,
    /// Do not verify the registry's certificate
    #[arg(short = 'k', long)]
    pub skip_verify: bool,
    /// User name and password, as USER:PASSWORD; the password alone is asked of CORTEN_PASSWORD
    #[arg(short, long, value_name = "USER[:PASSWORD]")]
    pub user: Option<String>,
    /// Folder with a HOST/hosts.toml for each registry
    #[arg(long, value_name = "FOLDER")]
    pub hosts_dir: Option<PathBuf>,
}

impl RegistryOptions {
    /// Returns the registry's end of a transfer; questions for credentials are answered as long as the program runs.
    pub async fn registry(&self, client: &Client, reference: &str) -> Result<OciRegistry> {
        let mut resolver = RegistryResolver::default();
        if self.plain_http {
            resolver.default_scheme = "http".into();
        }
        if let Some(folder) = self.hosts_folder(reference)? {
            resolver.host_dir = folder;
        }
        if let Some(user) = &self.user {
            let (user, password) = match user.split_once(':') {
                Some((user, password)) => (user.to_owned(), password.to_owned()),
                None => {
                    let password = std::env::var("CORTEN_PASSWORD")
                        .context("no password in --user or CORTEN_PASSWORD")?;
                    (user.clone(), password)
                }
            };
            let stream = Stream::open(client, "creds").await?;
            resolver.auth_stream = stream.id.clone();
            tokio::spawn(stream.answer(user, password));
        }
        Ok(OciRegistry {
            reference: reference.to_owned(),
            resolver: Some(resolver),
        })
    }

    /// Returns the folder of `hosts.toml` files for the daemon to read; the request has no other way to say `skip_verify`.
    fn hosts_folder(&self, reference: &str) -> Result<Option<String>> {
        if let Some(folder) = &self.hosts_dir {
            let folder = folder
                .canonicalize()
                .with_context(|| format!("find {}", folder.display()))?;
            return Ok(Some(folder.display().to_string()));
        }
        if !self.skip_verify {
            return Ok(None);
        }
        let host = reference.split('/').next().unwrap_or_default();
        let scheme = if self.plain_http { "http" } else { "https" };
        let folder = std::env::temp_dir().join(format!("corten-hosts-{}", crate::fifo::random()?));
        let text = format!(
            "server = \"{scheme}://{host}\"\n\n[host.\"{scheme}://{host}\"]\n  capabilities = [\"pull\", \"resolve\", \"push\"]\n  skip_verify = true\n"
        );
        std::fs::create_dir_all(folder.join(host))
            .and_then(|()| std::fs::write(folder.join(host).join("hosts.toml"), text))
            .with_context(|| format!("write {}", folder.display()))?;
        Ok(Some(folder.display().to_string()))
    }

    /// Removes what [`RegistryOptions::registry`] wrote for the daemon to read.
    pub fn clean(&self, registry: &OciRegistry) {
        let folder = registry
            .resolver
            .as_ref()
            .map(|resolver| resolver.host_dir.as_str());
        if let (true, None, Some(folder)) = (self.skip_verify, &self.hosts_dir, folder) {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// Moves `source` to `destination` while `display` shows the progress.
pub async fn transfer(
    client: &Client,
    source: Any,
    destination: Any,
    display: &mut Display,
) -> Result<()> {
    let mut progress = Stream::open(client, "progress").await?;
    let request = TransferRequest {
        source: Some(source),
        destination: Some(destination),
        options: Some(TransferOptions {
            progress_stream: progress.id.clone(),
        }),
    };
    let mut service = client.transfer();
    let mut call = std::pin::pin!(service.transfer(request));
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut open = true;
    let result = loop {
        tokio::select! {
            result = &mut call => break result,
            message = progress.next(), if open => match message {
                Ok(Some(message)) => show(display, &message),
                _ => open = false,
            },
            _ = tick.tick() => display.tick(),
        }
    };
    // What was sent before the call ended may still be on its way, on a stream that nobody closes.
    while open {
        match tokio::time::timeout(Duration::from_millis(20), progress.next()).await {
            Ok(Ok(Some(message))) => show(display, &message),
            _ => open = false,
        }
    }
    match result {
        Ok(_) => {
            display.finish();
            Ok(())
        }
        failed => {
            display.abandon();
            failed
                .map(drop)
                .doing(|| "transfer".into())
                .map_err(|error| anyhow::anyhow!("{}", error.root_cause()))
        }
    }
}

fn show(display: &mut Display, message: &Any) {
    if let Some(Ok(progress)) = any::unpack::<Progress>(message) {
        display.update(&progress);
    }
}
