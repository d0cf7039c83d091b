//! Authorization at a host: basic, or a bearer token that a token server gives for a scope.
//!
//! What a host is asked with depends on its own challenge only. Credentials go to the token server that this host
//! names, as the protocol has it, but never to a host that one was merely redirected to.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::hosts::chain;
use crate::error::{Error, Kind, Result};

/// The largest answer of a token server.
const MAX_TOKEN: usize = 1 << 20;

/// What somebody is known by at a host.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret {
    /// Empty if the secret is a refresh token.
    pub username: String,
    pub secret: String,
    /// Sent as it is, in place of all that follows from a challenge.
    pub header: String,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Option<Secret>>> + Send>>;

/// Asks somebody for the secret at a host.
pub type Credentials = Arc<dyn Fn(String) -> Answer + Send + Sync>;

/// What a host asks for and what it has been given.
#[derive(Clone)]
pub struct Authorizer {
    host: String,
    credentials: Option<Credentials>,
    client: reqwest::Client,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    secret: Option<Option<Secret>>,
    challenge: Option<Challenge>,
    tokens: HashMap<String, String>,
}

/// What a host says in answer to a request it does not grant.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: String,
        scope: String,
    },
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Authorizer {
    /// Returns an authorizer that knows nothing yet.
    pub fn new(host: &str, credentials: Option<Credentials>, client: reqwest::Client) -> Self {
        Self {
            host: host.to_owned(),
            credentials,
            client,
            state: Arc::default(),
        }
    }

    /// Returns the header for a request in `scope`, if the host has ever asked for one.
    pub async fn header(&self, scope: &str) -> Result<Option<HeaderValue>> {
        let mut state = self.state.lock().await;
        let Some(challenge) = state.challenge.clone() else {
            return Ok(None);
        };
        let secret = self.secret(&mut state).await?;
        if let Some(secret) = &secret
            && !secret.header.is_empty()
        {
            return sensitive(&secret.header).map(Some);
        }
        match challenge {
            Challenge::Basic => match secret.filter(|secret| !secret.username.is_empty()) {
                Some(secret) => sensitive(&basic(&secret)).map(Some),
                None => Err(denied(&self.host, "no basic auth credentials")),
            },
            Challenge::Bearer {
                realm,
                service,
                scope: asked,
            } => {
                let scope = merge(scope, &asked);
                if let Some(token) = state.tokens.get(&scope) {
                    return sensitive(&format!("Bearer {token}")).map(Some);
                }
                let token = self.token(&realm, &service, &scope, secret).await?;
                let header = sensitive(&format!("Bearer {token}"))?;
                state.tokens.insert(scope, token);
                Ok(Some(header))
            }
        }
    }

    /// Takes in the answer to a request that was not granted and returns whether asking again may help.
    pub async fn challenged(&self, headers: &HeaderMap, had: Option<&HeaderValue>) -> Result<bool> {
        let values = headers.get_all(WWW_AUTHENTICATE).into_iter();
        let values = values.filter_map(|value| value.to_str().ok());
        let mut found = None;
        for value in values {
            match parse(value) {
                Some(bearer @ Challenge::Bearer { .. }) => found = Some(bearer),
                Some(Challenge::Basic) if found.is_none() => found = Some(Challenge::Basic),
                _ => {}
            }
        }
        let Some(found) = found else {
            return Ok(false);
        };
        let mut state = self.state.lock().await;
        let news = state.challenge.as_ref() != Some(&found);
        // A token may have expired; a password that was refused once is refused again.
        let retry = news || (had.is_some() && matches!(found, Challenge::Bearer { .. }));
        if let Some(had) = had.and_then(|value| value.to_str().ok()) {
            state
                .tokens
                .retain(|_, token| had.strip_prefix("Bearer ") != Some(token));
        }
        state.challenge = Some(found);
        Ok(retry || had.is_none())
    }

    async fn secret(&self, state: &mut State) -> Result<Option<Secret>> {
        if let Some(secret) = &state.secret {
            return Ok(secret.clone());
        }
        let secret = match &self.credentials {
            Some(ask) => ask(self.host.clone()).await?,
            None => None,
        };
        let secret = secret.filter(|secret| !secret.secret.is_empty() || !secret.header.is_empty());
        state.secret = Some(secret.clone());
        Ok(secret)
    }

    async fn token(
        &self,
        realm: &str,
        service: &str,
        scope: &str,
        secret: Option<Secret>,
    ) -> Result<String> {
        let mut url = reqwest::Url::parse(realm)
            .map_err(|_| denied(&self.host, &format!("the realm {realm:?} is no address")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(denied(
                &self.host,
                &format!("the realm {realm:?} is no address"),
            ));
        }
        let answer = match &secret {
            Some(secret) => {
                let form = form(service, scope, secret);
                let request = self.client.post(url.clone()).body(form);
                let request = request.header(
                    http::header::CONTENT_TYPE,
                    "application/x-www-form-urlencoded",
                );
                send(request).await?
            }
            None => None,
        };
        let answer = match (answer, secret) {
            (Some(answer), Some(_)) => answer,
            (None, Some(secret)) if secret.username.is_empty() => {
                return Err(denied(
                    &self.host,
                    "the token server refuses the refresh token",
                ));
            }
            // Servers that have no OAuth2 endpoint answer a GET.
            (_, secret) => {
                if !service.is_empty() {
                    url.query_pairs_mut().append_pair("service", service);
                }
                for scope in scope.split(' ').filter(|scope| !scope.is_empty()) {
                    url.query_pairs_mut().append_pair("scope", scope);
                }
                let mut request = self.client.get(url);
                if let Some(secret) = secret {
                    request = request.header(AUTHORIZATION, sensitive(&basic(&secret))?);
                }
                let answer = send(request).await?;
                answer.ok_or_else(|| denied(&self.host, "the token server gives no token"))?
            }
        };
        let token = match answer.access_token.is_empty() {
            true => answer.token,
            false => answer.access_token,
        };
        if token.is_empty() {
            return Err(denied(&self.host, "the token server gives no token"));
        }
        Ok(token)
    }
}

/// Sends a request for a token; nothing comes back if the server refuses it.
async fn send(request: reqwest::RequestBuilder) -> Result<Option<Token>> {
    let failed = |error: reqwest::Error| {
        Error::new(Kind::Unavailable, format!("fetch token: {}", chain(&error)))
    };
    let request = request.timeout(std::time::Duration::from_secs(30));
    let mut response = request.send().await.map_err(failed)?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::TOO_MANY_REQUESTS => {
            return Err(Error::new(
                Kind::ResourceExhausted,
                "fetch token: too many requests",
            ));
        }
        status if status.is_server_error() => {
            return Err(Error::new(
                Kind::Unavailable,
                format!("fetch token: {status}"),
            ));
        }
        _ => return Ok(None),
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_TOKEN {
            return Err(Error::new(Kind::ResourceExhausted, "the token is too long"));
        }
    }
    let token = serde_json::from_slice(&body);
    token
        .map(Some)
        .map_err(|error| Error::new(Kind::Unknown, format!("decode token: {error}")))
}

fn form(service: &str, scope: &str, secret: &Secret) -> String {
    let mut fields = vec![
        ("service", service),
        ("client_id", "corten"),
        ("scope", scope),
    ];
    if secret.username.is_empty() {
        fields.extend([
            ("grant_type", "refresh_token"),
            ("refresh_token", secret.secret.as_str()),
        ]);
    } else {
        fields.extend([
            ("grant_type", "password"),
            ("username", secret.username.as_str()),
            ("password", secret.secret.as_str()),
        ]);
    }
    let mut url = reqwest::Url::parse("http://form").expect("the address is constant");
    url.query_pairs_mut().extend_pairs(fields);
    url.query().unwrap_or_default().to_owned()
}

fn basic(secret: &Secret) -> String {
    let both = format!("{}:{}", secret.username, secret.secret);
    format!("Basic {}", STANDARD.encode(both))
}

fn sensitive(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| Error::new(Kind::InvalidArgument, "credentials that fit no header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn denied(host: &str, why: &str) -> Error {
    Error::new(Kind::Unauthenticated, format!("authorize at {host}: {why}"))
}

/// Returns all scopes of two lists, each once, in order.
fn merge(one: &str, other: &str) -> String {
    let mut scopes: Vec<&str> = one.split(' ').chain(other.split(' ')).collect();
    scopes.retain(|scope| !scope.is_empty());
    scopes.sort_unstable();
    scopes.dedup();
    // `a:pull` says nothing that `a:pull,push` does not.
    let all = scopes.clone();
    scopes.retain(|scope| {
        let longer = format!("{scope},");
        !all.iter().any(|other| other.starts_with(&longer))
    });
    scopes.join(" ")
}

/// Parses `Scheme key="value", key=value`.
fn parse(value: &str) -> Option<Challenge> {
    let (scheme, mut rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut fields: HashMap<String, String> = HashMap::new();
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']).to_ascii_lowercase();
        let (text, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        fields.insert(key, text.trim().to_owned());
        rest = after;
    }
    let mut take = |key: &str| fields.remove(key).unwrap_or_default();
    let (realm, service, scope) = (take("realm"), take("service"), take("scope"));
    (!realm.is_empty()).then_some(Challenge::Bearer {
        realm,
        service,
        scope,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_parsed_with_and_without_quotes() {
        let bearer = |realm: &str, service: &str, scope: &str| {
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.into(),
                scope: scope.into(),
            })
        };
        for (text, expected) in [
            (r#"Basic realm="x""#, Some(Challenge::Basic)),
            (
                r#"Bearer realm="https://a/t",service="s",scope="repository:a:pull,push""#,
                bearer("https://a/t", "s", "repository:a:pull,push"),
            ),
            (
                "bearer realm=https://a/t, service=s",
                bearer("https://a/t", "s", ""),
            ),
            ("Bearer service=s", None),
            ("Bearer realm=\"open", None),
            ("Negotiate", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_scope_that_another_covers_is_not_asked_for() {
        assert_eq!(
            merge("repository:a:pull", "repository:a:pull,push"),
            "repository:a:pull,push"
        );
        assert_eq!(merge("b:pull a:pull", "a:pull"), "a:pull b:pull");
    }

    #[test]
    fn secrets_are_not_printed() {
        let secret = Secret {
            username: "me".into(),
            secret: "hidden".into(),
            header: "hidden".into(),
        };
        assert!(!format!("{secret:?}").contains("hidden"));
    }
}
