//! Fetching what a descriptor stands for: resumed where it broke off, and never longer than it should be.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::Response;
use tokio::sync::mpsc;

use super::Registry;
use super::hosts::{Host, Patience, chain};
use super::request::{self, Ask, refusal};
use super::resolver::{Refusals, accept};
use crate::error::{Error, Kind, Result, not_found};
use crate::media;
use crate::metadata::Descriptor;

/// Where the bytes go. That nobody takes them any more ends the fetch without an error of its own.
pub type Sink = mpsc::Sender<Bytes>;

/// A blob on its way.
struct Fetch<'a> {
    descriptor: &'a Descriptor,
    size: u64,
    offset: u64,
    sink: &'a Sink,
}

/// How a connection ended.
enum Ended {
    Whole,
    /// Broken off; what has come is good, and it may go on from there.
    Broken(Error),
    Failed(Error),
}

impl Registry {
    /// Sends the bytes that `descriptor` stands for from `offset` on to `sink`.
    ///
    /// Addresses that the descriptor itself has are asked first; they get no credentials, whatever they answer.
    pub async fn fetch(
        &self,
        descriptor: &Descriptor,
        urls: &[String],
        offset: u64,
        sink: &Sink,
    ) -> Result<()> {
        let mut fetch = Fetch {
            descriptor,
            size: u64::try_from(descriptor.size).unwrap_or(0),
            offset,
            sink,
        };
        let mut refusals = Refusals::default();
        for url in urls {
            match self.fetch_elsewhere(url, &mut fetch).await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::info!(url, "fetch {}: {error:#}", descriptor.digest),
            }
        }
        for host in self.hosts.iter().filter(|host| host.capabilities.pull) {
            match self.fetch_from(host, &mut fetch).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::info!(host = host.name, "fetch {}: {error:#}", descriptor.digest);
                    refusals.add(error);
                }
            }
        }
        Err(refusals.told_of(&self.reference).context(format!(
            "fetch {} {}",
            descriptor.media_type, descriptor.digest
        )))
    }

    /// Fetches from one host, again and again while there is progress.
    async fn fetch_from(&self, host: &Host, fetch: &mut Fetch<'_>) -> Result<()> {
        let mut failed = 0;
        loop {
            let before = fetch.offset;
            let response = self.request(host, fetch).await?;
            let error = match fetch.take(response, &host.name, &host.patience).await {
                Ended::Whole => return Ok(()),
                Ended::Failed(error) => return Err(error),
                Ended::Broken(error) => error,
            };
            failed = if fetch.offset > before { 1 } else { failed + 1 };
            if failed >= host.patience.tries {
                return Err(error);
            }
            tracing::debug!(host = host.name, offset = fetch.offset, "resume: {error:#}");
            tokio::time::sleep(host.patience.backoff * 2u32.pow(failed.min(6) - 1)).await;
        }
    }

    /// Fetches from an address that is not the registry's.
    async fn fetch_elsewhere(&self, url: &str, fetch: &mut Fetch<'_>) -> Result<()> {
        let mut headers = HeaderMap::new();
        if fetch.offset > 0 {
            range(&mut headers, fetch.offset);
        }
        let patience = self.patience();
        let response = request::elsewhere(url, headers, patience).await?;
        if !response.status().is_success() {
            return Err(refusal(response, &fetch.descriptor.digest).await);
        }
        match fetch.take(response, url, patience).await {
            Ended::Whole => Ok(()),
            Ended::Failed(error) | Ended::Broken(error) => Err(error),
        }
    }

    async fn request(&self, host: &Host, fetch: &Fetch<'_>) -> Result<Response> {
        let Descriptor {
            media_type, digest, ..
        } = fetch.descriptor;
        let repository = &self.reference.repository;
        let scope = self.pull_scope();
        let kinds: &[&str] = match media::is_manifest(media_type) || media::is_index(media_type) {
            true => &["manifests", "blobs"],
            false => &["blobs"],
        };
        let mut missing = None;
        for kind in kinds {
            let mut headers = accept(&[media_type]);
            if fetch.offset > 0 {
                range(&mut headers, fetch.offset);
            }
            let path = format!("/{repository}/{kind}/{digest}");
            let ask = Ask {
                method: Method::GET,
                path: &path,
                scope: &scope,
                registry: &self.reference.host,
                headers,
                body: None,
            };
            let response = host.ask(&ask).await?;
            match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(response),
                StatusCode::NOT_FOUND => missing = Some(refusal(response, digest).await),
                _ => return Err(refusal(response, digest).await),
            }
        }
        Err(missing.unwrap_or_else(|| not_found("content", digest)))
    }
}

impl Fetch<'_> {
    /// Passes on what a response brings.
    async fn take(&mut self, mut response: Response, name: &str, patience: &Patience) -> Ended {
        let mut skip = match self.check(&response) {
            Ok(skip) => skip,
            Err(error) => return Ended::Failed(error),
        };
        let mut pace = Pace::new(patience.stall, patience.floor);
        loop {
            let Ok(chunk) = tokio::time::timeout_at(pace.deadline(), response.chunk()).await else {
                let seconds = patience.stall.as_secs();
                return Ended::Broken(Error::new(
                    Kind::Unavailable,
                    format!(
                        "{} stalled: less than {} bytes in {seconds} s",
                        name, patience.floor
                    ),
                ));
            };
            let mut bytes = match chunk {
                Ok(Some(bytes)) => bytes,
                Ok(None) if self.size > 0 && self.offset < self.size => {
                    let message = format!("cut short: {} of {} bytes", self.offset, self.size);
                    return Ended::Broken(Error::new(Kind::DataLoss, message));
                }
                Ok(None) => return Ended::Whole,
                Err(error) => {
                    return Ended::Broken(Error::new(Kind::Unavailable, chain(&error)));
                }
            };
            pace.passed(bytes.len() as u64);
            let skipped = skip.min(bytes.len() as u64);
            skip -= skipped;
            let bytes = bytes.split_off(skipped as usize);
            if bytes.is_empty() {
                continue;
            }
            let offset = self.offset + bytes.len() as u64;
            if self.size > 0 && offset > self.size {
                return Ended::Failed(self.wrong_size(&format!("{offset} or more")));
            }
            self.offset = offset;
            let before = Instant::now();
            if self.sink.send(bytes).await.is_err() {
                return Ended::Failed(Error::new(Kind::Canceled, "nobody takes the bytes"));
            }
            pace.end += before.elapsed();
            pace.restart();
        }
    }

    /// Checks what the head of an answer says and returns how many of its bytes are there already.
    fn check(&self, response: &Response) -> Result<u64> {
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        if partial {
            let range = response.headers().get(CONTENT_RANGE);
            let start = range.and_then(|range| {
                let range = range.to_str().ok()?.strip_prefix("bytes ")?;
                range.split_once('-')?.0.parse::<u64>().ok()
            });
            if start != Some(self.offset) {
                let message = format!("asked from byte {}, got {start:?}", self.offset);
                return Err(Error::new(Kind::Unknown, message));
            }
        }
        let before = if partial { self.offset } else { 0 };
        if let Some(length) = response.content_length()
            && self.size > 0
            && before + length != self.size
        {
            return Err(self.wrong_size(&(before + length).to_string()));
        }
        Ok(self.offset - before)
    }

    fn wrong_size(&self, found: &str) -> Error {
        let message = format!("the registry sends {found} bytes, expected {}", self.size);
        Error::new(Kind::FailedPrecondition, message)
    }
}

fn range(headers: &mut HeaderMap, offset: u64) {
    if let Ok(value) = HeaderValue::try_from(format!("bytes={offset}-")) {
        headers.insert(RANGE, value);
    }
}

/// A floor under the speed: so many bytes must pass in each window. The time that bytes wait to be taken is not counted.
struct Pace {
    window: Duration,
    floor: u64,
    end: Instant,
    passed: u64,
}

impl Pace {
    fn new(window: Duration, floor: u64) -> Self {
        Self {
            window,
            floor,
            end: Instant::now() + window,
            passed: 0,
        }
    }

    fn deadline(&self) -> tokio::time::Instant {
        self.end.into()
    }

    fn passed(&mut self, bytes: u64) {
        self.passed += bytes;
    }

    /// Begins a new window if this one has had its bytes.
    fn restart(&mut self) {
        if self.passed >= self.floor {
            self.passed = 0;
            self.end = Instant::now() + self.window;
        }
    }
}
