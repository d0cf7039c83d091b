//! Pushing: what a repository has already is left, what another repository of the host has is mounted, the rest is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures_util::stream;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Body, Response, Url};
use tokio::sync::mpsc;

use super::Registry;
use super::hosts::{Host, chain};
use super::request::{Ask, refusal};
use super::resolver::accept;
use crate::content::Digest;
use crate::error::{Error, Kind, Result, not_found};
use crate::metadata::Descriptor;

/// How a blob came to be in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Existed,
    Mounted,
    Sent,
}

/// Yields the bytes of a blob from their start, as often as it is asked to.
pub type Bytestream<'a> = &'a (dyn Fn() -> mpsc::Receiver<Result<Bytes>> + Send + Sync);

impl Registry {
    /// Pushes a blob; `elsewhere` are repositories of the same registry that may have it.
    pub async fn push_blob(
        &self,
        descriptor: &Descriptor,
        elsewhere: &[String],
        bytes: Bytestream<'_>,
    ) -> Result<Pushed> {
        let host = self.push_host()?;
        let digest = &descriptor.digest;
        let path = format!("/{}/blobs/{digest}", self.reference.repository);
        let head = self.ask(Method::HEAD, &path, accept(&[&descriptor.media_type]));
        let head = host.ask(&head).await?;
        match head.status() {
            StatusCode::OK => return Ok(Pushed::Existed),
            StatusCode::NOT_FOUND => {}
            _ => return Err(refusal(head, digest).await),
        }
        for from in elsewhere {
            if let Some(pushed) = self.mount(host, digest, from).await {
                return Ok(pushed);
            }
        }
        let mut failed = 0;
        loop {
            let error = match self.upload(host, descriptor, bytes).await {
                Ok(()) => return Ok(Pushed::Sent),
                Err(error) => error,
            };
            failed += 1;
            if error.kind() != Kind::Unavailable || failed >= host.patience.tries {
                return Err(error.context(format!("push {} {digest}", descriptor.media_type)));
            }
            tokio::time::sleep(host.patience.backoff * 2u32.pow(failed.min(6) - 1)).await;
        }
    }

    /// Pushes a manifest or index, under the reference's tag if it is `tagged`.
    pub async fn push_manifest(
        &self,
        descriptor: &Descriptor,
        tagged: bool,
        bytes: Vec<u8>,
    ) -> Result<Pushed> {
        let host = self.push_host()?;
        let object = match &self.reference.tag {
            Some(tag) if tagged => tag,
            _ => &descriptor.digest,
        };
        let path = format!("/{}/manifests/{object}", self.reference.repository);
        let head = self.ask(Method::HEAD, &path, accept(&[&descriptor.media_type]));
        let head = host.ask(&head).await?;
        match head.status() {
            StatusCode::OK if names(&head, object, &descriptor.digest) => {
                return Ok(Pushed::Existed);
            }
            StatusCode::OK | StatusCode::NOT_FOUND => {}
            _ => return Err(refusal(head, &descriptor.digest).await),
        }
        let mut headers = HeaderMap::new();
        let media_type = HeaderValue::try_from(&descriptor.media_type);
        let media_type = media_type
            .map_err(|_| Error::new(Kind::InvalidArgument, "a media type that fits no header"))?;
        headers.insert(CONTENT_TYPE, media_type);
        let mut put = self.ask(Method::PUT, &path, headers);
        put.body = Some(bytes.into());
        let answer = host.ask(&put).await?;
        match answer.status() {
            StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(Pushed::Sent),
            _ => Err(refusal(answer, &descriptor.digest).await),
        }
    }

    fn push_host(&self) -> Result<&Host> {
        let mut hosts = self.hosts.iter().filter(|host| host.capabilities.push);
        hosts
            .next()
            .ok_or_else(|| not_found("host to push to for", &self.reference.to_string()))
    }

    fn ask<'a>(&'a self, method: Method, path: &'a str, headers: HeaderMap) -> Ask<'a> {
        Ask {
            method,
            path,
            scope: self.push_scope.as_str(),
            registry: &self.reference.host,
            headers,
            body: None,
        }
    }

    /// Tries to have a blob mounted from another repository; nothing comes back if that is not to be.
    async fn mount(&self, host: &Host, digest: &str, from: &str) -> Option<Pushed> {
        let path = format!(
            "/{}/blobs/uploads/?mount={digest}&from={from}",
            self.reference.repository
        );
        let scope = format!("{} repository:{from}:pull", self.push_scope);
        let mut ask = self.ask(Method::POST, &path, empty());
        ask.scope = &scope;
        match host.ask(&ask).await {
            Ok(answer) if answer.status() == StatusCode::CREATED => Some(Pushed::Mounted),
            // An upload that was begun instead is left to the registry to forget.
            Ok(answer) => {
                tracing::debug!(digest, from, status = %answer.status(), "not mounted");
                None
            }
            Err(error) => {
                tracing::debug!(digest, from, "not mounted: {error:#}");
                None
            }
        }
    }

    async fn upload(
        &self,
        host: &Host,
        descriptor: &Descriptor,
        bytes: Bytestream<'_>,
    ) -> Result<()> {
        let path = format!("/{}/blobs/uploads/", self.reference.repository);
        let answer = host.ask(&self.ask(Method::POST, &path, empty())).await?;
        match answer.status() {
            StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {}
            StatusCode::CREATED => return Ok(()),
            _ => return Err(refusal(answer, &descriptor.digest).await),
        }
        let mut url = location(&answer)?;
        url.query_pairs_mut()
            .append_pair("digest", &descriptor.digest);
        let mut headers = HeaderMap::new();
        // Another host than the one that was asked gets no credentials.
        if url.origin() == answer.url().origin() {
            headers.extend(host.headers.clone());
            if let Some(value) = host.authorizer.header(&self.push_scope).await? {
                headers.insert(AUTHORIZATION, value);
            }
        }
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        headers.insert(CONTENT_LENGTH, HeaderValue::from(descriptor.size));
        let sent = Arc::new(AtomicU64::new(0));
        let request = host.client.put(url).headers(headers);
        let request = request.body(counted(bytes(), sent.clone()));
        let answer = patient(host, request, &sent).await?;
        match answer.status() {
            StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(()),
            _ => Err(refusal(answer, &descriptor.digest).await),
        }
    }
}

/// Returns whether the answer to a request for `object` says that it is what `digest` stands for.
fn names(answer: &Response, object: &str, digest: &str) -> bool {
    let told = answer.headers().get("docker-content-digest");
    let told = told.and_then(|told| told.to_str().ok());
    let told = told.and_then(|told| Digest::parse(told).ok());
    object == digest || told.is_some_and(|told| told.as_str() == digest)
}

fn location(answer: &Response) -> Result<Url> {
    let location = answer.headers().get(LOCATION);
    let location = location.and_then(|location| location.to_str().ok());
    let url = location.and_then(|location| answer.url().join(location).ok());
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| {
        let message = format!("{} names no place for the upload", answer.url());
        Error::new(Kind::Unknown, message)
    })
}

fn counted(received: mpsc::Receiver<Result<Bytes>>, sent: Arc<AtomicU64>) -> Body {
    Body::wrap_stream(stream::unfold(received, move |mut received| {
        let sent = sent.clone();
        async move {
            let bytes = received.recv().await?;
            if let Ok(bytes) = &bytes {
                sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            Some((bytes, received))
        }
    }))
}

/// Sends a request with a long body, as long as bytes of it leave or the answer is not long overdue.
async fn patient(
    host: &Host,
    request: reqwest::RequestBuilder,
    sent: &AtomicU64,
) -> Result<Response> {
    let patience = &host.patience;
    let mut answer = std::pin::pin!(request.send());
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        let wait = patience.stall.min(patience.answer);
        if let Ok(answer) = tokio::time::timeout(wait, &mut answer).await {
            return answer.map_err(|error| Error::new(Kind::Unavailable, chain(&error)));
        }
        let now = sent.load(Ordering::Relaxed);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        // After the last byte the registry may hash all of them before it answers.
        if since.elapsed() >= patience.answer * 4 {
            let message = format!("{} takes no more of the blob", host.name);
            return Err(Error::new(Kind::Unavailable, message));
        }
    }
}

/// Returns the headers of a request whose body is empty, which some registries want to be told.
fn empty() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers
}
