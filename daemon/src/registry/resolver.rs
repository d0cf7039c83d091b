//! From a reference to the descriptor it stands for.

use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::Response;

use super::Reference;
use super::hosts::{self, Host, Options, Patience};
use super::request::{Ask, refusal};
use crate::content::Digest;
use crate::error::{Context, Error, Kind, Result, not_found};
use crate::media;
use crate::metadata::Descriptor;

/// The longest manifest or index: nobody has written a longer one in good faith.
pub const MAX_MANIFEST: u64 = 4 << 20;

/// What hosts that were asked in vain have said.
#[derive(Default)]
pub(super) struct Refusals(Option<Error>);

impl Refusals {
    /// Adds what another host has said. It counts only if those before had nothing but absence to tell.
    pub(super) fn add(&mut self, error: Error) {
        let before = self.0.as_ref().map(Error::kind);
        if before.is_none_or(|kind| kind == Kind::NotFound) {
            self.0 = Some(error);
        }
    }

    /// Returns the error that counts.
    pub(super) fn told_of(self, reference: &Reference) -> Error {
        let Self(error) = self;
        error.unwrap_or_else(|| not_found("host for", &reference.to_string()))
    }
}

/// The hosts of one repository.
#[derive(Clone)]
pub struct Registry {
    pub reference: Reference,
    pub(super) hosts: Vec<Host>,
    /// The scope that writing to this repository needs.
    pub(super) push_scope: String,
}

impl Registry {
    /// Reads how the registry of `reference` is to be reached.
    pub fn open(reference: Reference, options: &Options) -> Result<Self> {
        let hosts = hosts::configure(options, &reference.host)
            .context(|| format!("configure registry {:?}", reference.host))?;
        let push_scope = format!("repository:{}:pull,push", reference.repository);
        Ok(Self {
            reference,
            hosts,
            push_scope,
        })
    }

    /// Returns how long hosts of this repository are waited for.
    pub(super) fn patience(&self) -> &Patience {
        let own = self.hosts.last().expect("a registry has its own host");
        &own.patience
    }

    /// Returns the descriptor that the reference stands for.
    pub async fn resolve(&self) -> Result<Descriptor> {
        let object = self.reference.object()?;
        let hosts = self.hosts.iter();
        let may = hosts.filter(|host| host.capabilities.resolve || self.reference.digest.is_some());
        let mut refusals = Refusals::default();
        for host in may {
            match self.resolve_at(host, object).await {
                Ok(descriptor) => return Ok(descriptor),
                Err(error) => {
                    tracing::info!(host = host.name, "resolve {}: {error:#}", self.reference);
                    refusals.add(error);
                }
            }
        }
        Err(refusals.told_of(&self.reference).context(format!(
            "failed to resolve reference \"{}\"",
            self.reference
        )))
    }

    async fn resolve_at(&self, host: &Host, object: &str) -> Result<Descriptor> {
        let path = format!("/{}/manifests/{object}", self.reference.repository);
        let scope = self.pull_scope();
        let mut ask = Ask {
            method: Method::HEAD,
            path: &path,
            scope: &scope,
            registry: &self.reference.host,
            headers: accept(media::MANIFESTS),
            body: None,
        };
        let response = host.ask(&ask).await?;
        match response.status() {
            StatusCode::OK => {}
            // There are registries that know no HEAD.
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {}
            _ => return Err(refusal(response, &self.reference.to_string()).await),
        }
        if response.status() == StatusCode::OK
            && let Some(descriptor) = self.described(&response)?
        {
            return Ok(descriptor);
        }
        ask.method = Method::GET;
        let response = host.ask(&ask).await?;
        if response.status() != StatusCode::OK {
            return Err(refusal(response, &self.reference.to_string()).await);
        }
        let media_type = media_type(&response);
        let told = response.headers().get("docker-content-digest").cloned();
        let body = body(response, MAX_MANIFEST).await?;
        let algorithm = self.reference.digest.as_ref().map(Digest::algorithm);
        let digest = match algorithm {
            Some(algorithm) => {
                let mut hasher = crate::content::Hasher::new(algorithm);
                hasher.update(&body);
                hasher.finish()
            }
            None => Digest::of(&body),
        };
        let told = told.as_ref().and_then(|told| told.to_str().ok());
        let told = told.and_then(|told| Digest::parse(told).ok());
        if let Some(told) = told.filter(|told| told.algorithm() == digest.algorithm()) {
            self.same(&told, &digest)?;
        }
        if let Some(asked) = &self.reference.digest {
            self.same(asked, &digest)?;
        }
        Ok(Descriptor {
            media_type,
            digest: digest.to_string(),
            size: body.len() as i64,
            annotations: Default::default(),
        })
    }

    /// Returns the descriptor that the head of an answer tells, if it tells all of it.
    fn described(&self, response: &Response) -> Result<Option<Descriptor>> {
        let headers = response.headers();
        let digest = headers.get("docker-content-digest");
        let digest = digest.and_then(|digest| digest.to_str().ok());
        let digest = match digest {
            Some(digest) => Some(Digest::parse(digest).context(|| "Docker-Content-Digest")?),
            None => self.reference.digest.clone(),
        };
        let size = headers.get(CONTENT_LENGTH);
        let size = size.and_then(|size| size.to_str().ok()?.parse::<u64>().ok());
        let (Some(digest), Some(size)) = (digest, size) else {
            return Ok(None);
        };
        if size == 0 {
            return Ok(None);
        }
        if size > MAX_MANIFEST {
            return Err(too_long(size));
        }
        if let Some(asked) = &self.reference.digest {
            self.same(asked, &digest)?;
        }
        Ok(Some(Descriptor {
            media_type: media_type(response),
            digest: digest.to_string(),
            size: size as i64,
            annotations: Default::default(),
        }))
    }

    fn same(&self, asked: &Digest, given: &Digest) -> Result<()> {
        if asked == given {
            return Ok(());
        }
        let message = format!(
            "\"{}\" has digest {given}, expected {asked}",
            self.reference
        );
        Err(Error::new(Kind::FailedPrecondition, message))
    }

    /// Returns the scope that reading this repository needs.
    pub(super) fn pull_scope(&self) -> String {
        format!("repository:{}:pull", self.reference.repository)
    }
}

/// Returns the headers that ask for one of some media types.
pub(super) fn accept(types: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let types = types.iter().chain(&["*/*"]).copied();
    let text = types.collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(ACCEPT, value);
    }
    headers
}

fn media_type(response: &Response) -> String {
    let value = response.headers().get(CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok());
    let value = value.unwrap_or_default().split(';').next();
    match value.map(str::trim) {
        None | Some("") => "application/octet-stream".to_owned(),
        Some(value) => value.to_owned(),
    }
}

/// Reads a body that may not be longer than `limit`.
pub(super) async fn body(mut response: Response, limit: u64) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let chunk = response.chunk().await.map_err(|error| {
            Error::new(
                Kind::Unavailable,
                format!("read answer: {}", hosts::chain(&error)),
            )
        })?;
        let Some(chunk) = chunk else {
            return Ok(body);
        };
        body.extend_from_slice(&chunk);
        if body.len() as u64 > limit {
            return Err(too_long(body.len() as u64));
        }
    }
}

fn too_long(size: u64) -> Error {
    let message = format!("manifest has {size} bytes or more, {MAX_MANIFEST} are allowed");
    Error::new(Kind::ResourceExhausted, message)
}
