//! One request to one host: authorized, redirected, and tried again after passing faults.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use reqwest::{RequestBuilder, Response, Url};

use super::hosts::{self, Host, Patience, chain};
use crate::error::{Error, Kind, Result};

const MAX_REDIRECTS: usize = 10;
/// The longest answer that is read only to be told in an error.
const MAX_MESSAGE: usize = 8 << 10;

/// A request that can be sent more than once.
pub struct Ask<'a> {
    pub method: Method,
    /// Below the host's base, with a slash at the start, or a whole address at the same host.
    pub path: &'a str,
    pub scope: &'a str,
    /// The registry's own name, which mirrors are told.
    pub registry: &'a str,
    pub headers: HeaderMap,
    /// It is short, since it is sent anew with each try.
    pub body: Option<Bytes>,
}

impl Host {
    /// Sends a request; an answer of any status but those that pass by themselves comes back.
    pub async fn ask(&self, ask: &Ask<'_>) -> Result<Response> {
        let mut failed = 0;
        loop {
            let result = self.ask_once(ask).await;
            let wait = match &result {
                Ok(response) if passing(response.status()) => retry_after(response),
                Err(error) if error.kind() == Kind::Unavailable => None,
                _ => return result,
            };
            failed += 1;
            if failed >= self.patience.tries {
                return result;
            }
            let backoff = self.patience.backoff * 2u32.pow(failed.min(6) - 1);
            tokio::time::sleep(wait.unwrap_or(backoff)).await;
        }
    }

    async fn ask_once(&self, ask: &Ask<'_>) -> Result<Response> {
        let mut url = self.url(ask)?;
        for _ in 0..3 {
            let authorization = self.authorizer.header(ask.scope).await?;
            let mut headers = self.headers.clone();
            headers.extend(ask.headers.clone());
            if let Some(value) = &authorization {
                headers.insert(AUTHORIZATION, value.clone());
            }
            let mut request = self.client.request(ask.method.clone(), url.clone());
            if let Some(body) = &ask.body {
                request = request.body(body.clone());
            }
            let response = self.send(request.headers(headers)).await;
            let response = match response {
                Err(_) if self.fallback && url.scheme() == "http" => {
                    let _ = url.set_scheme("https");
                    continue;
                }
                other => other?,
            };
            if self.fallback && url.scheme() == "http" && wants_tls(&response) {
                let _ = url.set_scheme("https");
                continue;
            }
            if response.status() == StatusCode::UNAUTHORIZED {
                let authorizer = &self.authorizer;
                let again = authorizer.challenged(response.headers(), authorization.as_ref());
                if again.await? {
                    continue;
                }
                return Ok(response);
            }
            return self.redirect(ask, response).await;
        }
        let message = format!("{} {url}: authorization failed", ask.method);
        Err(Error::new(Kind::Unauthenticated, message))
    }

    /// Follows redirects. Another host than this one gets no credentials and none of the headers meant for this one.
    async fn redirect(&self, ask: &Ask<'_>, mut response: Response) -> Result<Response> {
        if !matches!(ask.method, Method::GET | Method::HEAD) {
            return Ok(response);
        }
        for _ in 0..MAX_REDIRECTS {
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let Some(location) = response.headers().get(LOCATION) else {
                return Ok(response);
            };
            let from = response.url().clone();
            let to = location.to_str().ok().and_then(|to| from.join(to).ok());
            let to = to.filter(|to| matches!(to.scheme(), "http" | "https"));
            let to = to.ok_or_else(|| {
                Error::new(Kind::Unknown, format!("{from} redirects to {location:?}"))
            })?;
            let mut headers = ask.headers.clone();
            if to.origin() == self.url(ask)?.origin() {
                headers.extend(self.headers.clone());
                if let Some(value) = self.authorizer.header(ask.scope).await? {
                    headers.insert(AUTHORIZATION, value);
                }
            }
            let request = self.client.request(ask.method.clone(), to);
            response = self.send(request.headers(headers)).await?;
        }
        let message = format!("{}: too many redirects", response.url());
        Err(Error::new(Kind::Unknown, message))
    }

    /// Sends a request as it is and waits for the head of the answer.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response> {
        match tokio::time::timeout(self.patience.answer, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Error::new(Kind::Unavailable, chain(&error))),
            Err(_) => {
                let seconds = self.patience.answer.as_secs();
                let message = format!("{} did not answer in {seconds} s", self.name);
                Err(Error::new(Kind::Unavailable, message))
            }
        }
    }

    /// Returns the address that a request is for.
    pub fn url(&self, ask: &Ask<'_>) -> Result<Url> {
        let text = match ask.path.starts_with('/') {
            true => format!("{}{}", self.base, ask.path),
            false => ask.path.to_owned(),
        };
        let mut url = Url::parse(&text)
            .map_err(|error| Error::new(Kind::InvalidArgument, format!("{text:?}: {error}")))?;
        if self.mirror {
            url.query_pairs_mut().append_pair("ns", ask.registry);
        }
        Ok(url)
    }
}

/// Asks an address that has nothing to do with a registry: no credentials, and none of the headers that registries get.
pub async fn elsewhere(url: &str, headers: HeaderMap, patience: &Patience) -> Result<Response> {
    let client = hosts::plain_client()?;
    let web = |url: Url| matches!(url.scheme(), "http" | "https").then_some(url);
    let mut next = Url::parse(url).ok().and_then(web);
    for _ in 0..MAX_REDIRECTS {
        let Some(url) = next else {
            break;
        };
        let request = client.get(url.clone()).headers(headers.clone()).send();
        let answer = tokio::time::timeout(patience.answer, request).await;
        let response = match answer {
            Ok(answer) => answer.map_err(|error| Error::new(Kind::Unavailable, chain(&error)))?,
            Err(_) => {
                let message = format!("{url} did not answer");
                return Err(Error::new(Kind::Unavailable, message));
            }
        };
        let location = response.headers().get(LOCATION);
        let location = location.filter(|_| response.status().is_redirection());
        let Some(location) = location else {
            return Ok(response);
        };
        let to = location.to_str().ok();
        next = to.and_then(|to| response.url().join(to).ok()).and_then(web);
    }
    Err(Error::new(Kind::Unknown, format!("{url:?} leads nowhere")))
}

/// Returns whether the same request may be answered otherwise a moment later.
fn passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    let seconds: u64 = seconds.parse().ok()?;
    Some(Duration::from_secs(seconds.min(30)))
}

/// Go's TLS servers answer plain HTTP with this status; any other server that does is asked once more for nothing.
fn wants_tls(response: &Response) -> bool {
    response.status() == StatusCode::BAD_REQUEST
}

/// Returns the error that an answer stands for, with what the registry says of it.
pub async fn refusal(mut response: Response, what: &str) -> Error {
    let status = response.status();
    let kind = match status {
        StatusCode::UNAUTHORIZED => Kind::Unauthenticated,
        StatusCode::FORBIDDEN => Kind::PermissionDenied,
        StatusCode::NOT_FOUND => Kind::NotFound,
        StatusCode::TOO_MANY_REQUESTS => Kind::ResourceExhausted,
        status if status.is_server_error() => Kind::Unavailable,
        _ => Kind::Unknown,
    };
    let url = response.url().clone();
    let mut body = Vec::new();
    while body.len() < MAX_MESSAGE {
        let chunk = tokio::time::timeout(Duration::from_secs(2), response.chunk()).await;
        match chunk {
            Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
            _ => break,
        }
    }
    let said = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let said = said.and_then(|body| {
        let first = body.get("errors")?.get(0)?;
        let text = first
            .get("message")?
            .as_str()
            .filter(|text| !text.is_empty());
        let text = text.or_else(|| first.get("code")?.as_str())?;
        Some(format!(": {}", text.chars().take(200).collect::<String>()))
    });
    let said = said.unwrap_or_default();
    Error::new(
        kind,
        format!("{what}: unexpected status from {url}: {status}{said}"),
    )
}
