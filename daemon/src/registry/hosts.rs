//! Which hosts serve a registry's name, and how they are spoken to: `hosts.toml`, or the defaults without one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::auth::{Authorizer, Credentials};
use crate::error::{Context, Error, Result, invalid};

/// How registries are to be reached.
#[derive(Clone, Default)]
pub struct Options {
    /// The folder with a folder of settings for each registry.
    pub host_dir: Option<PathBuf>,
    /// `http` or `https` where nothing else says so.
    pub default_scheme: Option<String>,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
    /// Who is asked for user name and password.
    pub credentials: Option<Credentials>,
    pub patience: Patience,
}

/// How long a registry is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the head of an answer.
    pub answer: Duration,
    /// For `floor` bytes of a blob.
    pub stall: Duration,
    pub floor: u64,
    /// How often something is tried again without any progress.
    pub tries: u32,
    /// Before the second try; it doubles with each.
    pub backoff: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(30),
            stall: Duration::from_secs(15),
            floor: 16 << 10,
            tries: 5,
            backoff: Duration::from_millis(200),
        }
    }
}

/// What a host may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    pub pull: bool,
    pub resolve: bool,
    pub push: bool,
}

/// A host that serves a registry's name.
#[derive(Clone)]
pub struct Host {
    /// `https://host:port/v2`, without a slash at the end.
    pub base: String,
    /// Host and port, as in the name.
    pub name: String,
    pub capabilities: Capabilities,
    pub headers: HeaderMap,
    pub client: reqwest::Client,
    pub authorizer: Authorizer,
    /// Whether it stands in for the registry, and so is told whose name it is asked about.
    pub mirror: bool,
    /// Whether the host may turn out to speak TLS after all.
    pub fallback: bool,
    pub patience: Patience,
}

#[derive(Debug, Default, Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: toml::Table,
    #[serde(flatten)]
    own: Settings,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Settings {
    #[serde(default)]
    capabilities: Vec<String>,
    ca: Option<OneOrMany>,
    client: Option<toml::Value>,
    skip_verify: Option<bool>,
    #[serde(default)]
    header: BTreeMap<String, OneOrMany>,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn iter(&self) -> impl Iterator<Item = &String> {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
        .iter()
    }
}

const EVERYTHING: Capabilities = Capabilities {
    pull: true,
    resolve: true,
    push: true,
};

/// Returns the hosts that serve the registry `name`, in the order in which they are asked.
pub fn configure(options: &Options, name: &str) -> Result<Vec<Host>> {
    let folder = options
        .host_dir
        .as_deref()
        .and_then(|root| folder_of(root, name));
    let text = match &folder {
        Some(folder) => match std::fs::read_to_string(folder.join("hosts.toml")) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).context(|| format!("read hosts.toml in {folder:?}")),
        },
        None => String::new(),
    };
    let folder = folder.unwrap_or_default();
    let file: File = toml::from_str(&text)
        .map_err(|error| invalid(format!("hosts.toml in {folder:?}: {error}")))?;
    let mut hosts = Vec::new();
    for (url, settings) in in_order(&text, &file.host) {
        let settings: Settings = settings
            .clone()
            .try_into()
            .map_err(|error| invalid(format!("hosts.toml in {folder:?}: {url:?}: {error}")))?;
        hosts.push(host(options, name, Some(url), &settings, &folder)?);
    }
    let mut own = file.own;
    if text.is_empty() {
        own.ca = certificates(&folder);
    }
    hosts.push(host(options, name, file.server.as_deref(), &own, &folder)?);
    Ok(hosts)
}

/// Returns the folder with the settings of a registry; `_default` has those of all that have none.
fn folder_of(root: &Path, name: &str) -> Option<PathBuf> {
    let mut names = Vec::new();
    if let Some((host, port)) = name.rsplit_once(':') {
        names.push(format!("{host}_{port}_"));
        names.push(name.to_owned());
        names.push(host.to_owned());
    } else {
        names.push(name.to_owned());
    }
    names.push("_default".to_owned());
    names
        .into_iter()
        .map(|name| root.join(name))
        .find(|folder| folder.is_dir())
}

/// Returns the `.crt` files of a folder that has no `hosts.toml`: Docker's way of naming CAs.
fn certificates(folder: &Path) -> Option<OneOrMany> {
    let entries = std::fs::read_dir(folder).ok()?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let paths = paths.filter(|path| path.extension().is_some_and(|ext| ext == "crt"));
    let mut paths: Vec<String> = paths.map(|path| path.display().to_string()).collect();
    paths.sort();
    (!paths.is_empty()).then_some(OneOrMany::Many(paths))
}

/// Returns the hosts in the order of the file, which the parser does not keep.
fn in_order<'a>(text: &str, hosts: &'a toml::Table) -> Vec<(&'a str, &'a toml::Value)> {
    let place = |url: &str| {
        let quoted = [format!("\"{url}\""), format!("'{url}'")];
        let tables = text.match_indices("[host.");
        tables.map(|(at, _)| at).find(|at| {
            quoted
                .iter()
                .any(|name| text[at + 6..].starts_with(name.as_str()))
        })
    };
    let mut hosts: Vec<_> = hosts
        .iter()
        .map(|(url, value)| (url.as_str(), value))
        .collect();
    hosts.sort_by_key(|(url, _)| place(url).unwrap_or(usize::MAX));
    hosts
}

fn host(
    options: &Options,
    registry: &str,
    url: Option<&str>,
    settings: &Settings,
    folder: &Path,
) -> Result<Host> {
    let mut skip_verify = settings.skip_verify.unwrap_or(false);
    let (base, fallback) = match url {
        Some(url) => {
            let url = if url.contains("://") {
                url.to_owned()
            } else {
                format!("https://{url}")
            };
            (base(&url, settings.override_path)?, false)
        }
        None => {
            let local = is_local(registry);
            let port = registry.rsplit_once(':').map_or("", |(_, port)| port);
            let plain = local && !port.is_empty() && port != "443";
            if local && options.default_scheme.is_none() && settings.ca.is_none() {
                skip_verify = true;
            }
            let host = if registry == "docker.io" {
                "registry-1.docker.io"
            } else {
                registry
            };
            let scheme = match &options.default_scheme {
                Some(scheme) => scheme.as_str(),
                None => "https",
            };
            // On this machine a port may speak either; plain HTTP is what is there mostly.
            let fallback = options.default_scheme.is_none() && plain && settings.ca.is_none();
            let scheme = if fallback { "http" } else { scheme };
            (format!("{scheme}://{host}/v2"), fallback)
        }
    };
    let name = base.split_once("://").map_or("", |(_, rest)| rest);
    let name = name.split('/').next().unwrap_or_default().to_owned();
    let client = client(settings, skip_verify, folder)?;
    let headers = headers(settings, options)?;
    Ok(Host {
        capabilities: capabilities(settings, url.is_some())?,
        authorizer: Authorizer::new(&name, options.credentials.clone(), client.clone()),
        mirror: name != registry && !(registry == "docker.io" && url.is_none()),
        fallback,
        patience: options.patience,
        base,
        name,
        headers,
        client,
    })
}

fn base(url: &str, override_path: bool) -> Result<String> {
    let parsed =
        reqwest::Url::parse(url).map_err(|error| invalid(format!("host {url:?}: {error}")))?;
    if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
        return Err(invalid(format!("host {url:?} is no http or https address")));
    }
    let url = url.trim_end_matches('/');
    Ok(if override_path || url.ends_with("/v2") {
        url.to_owned()
    } else {
        format!("{url}/v2")
    })
}

fn capabilities(settings: &Settings, listed: bool) -> Result<Capabilities> {
    if settings.capabilities.is_empty() || !listed {
        return Ok(EVERYTHING);
    }
    let mut found = Capabilities {
        pull: false,
        resolve: false,
        push: false,
    };
    for name in &settings.capabilities {
        match name.to_ascii_lowercase().as_str() {
            "pull" => found.pull = true,
            "resolve" => found.resolve = true,
            "push" => found.push = true,
            "referrers" => {}
            other => return Err(invalid(format!("unknown capability {other:?}"))),
        }
    }
    Ok(found)
}

fn headers(settings: &Settings, options: &Options) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let own = settings.header.iter();
    let own = own.flat_map(|(key, values)| values.iter().map(move |value| (key, value)));
    let all = options.headers.iter().map(|(key, value)| (key, value));
    for (key, value) in all.chain(own) {
        let name = HeaderName::try_from(key.as_str());
        let name = name.map_err(|_| invalid(format!("header name {key:?}")))?;
        let value = HeaderValue::try_from(value.as_str());
        let value = value.map_err(|_| invalid(format!("value of header {key:?}")))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Returns a client that trusts whom the system trusts.
pub fn plain_client() -> Result<reqwest::Client> {
    client(&Settings::default(), false, Path::new(""))
}

fn client(settings: &Settings, skip_verify: bool, folder: &Path) -> Result<reqwest::Client> {
    // One provider for the process; that it is installed already is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let timeout = settings
        .dial_timeout
        .as_deref()
        .and_then(crate::config::duration::parse);
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("corten/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(timeout.unwrap_or(Duration::from_secs(30)))
        .http1_only()
        .pool_max_idle_per_host(8)
        .tls_danger_accept_invalid_certs(skip_verify);
    let read = |path: &str| {
        let path = folder.join(path);
        std::fs::read(&path).context(|| format!("read {path:?}"))
    };
    let broken = |what: &str, error: reqwest::Error| invalid(format!("{what}: {}", chain(&error)));
    for path in settings.ca.iter().flat_map(OneOrMany::iter) {
        let certificates = reqwest::Certificate::from_pem_bundle(&read(path)?)
            .map_err(|error| broken(&format!("CA {path:?}"), error))?;
        builder = builder.tls_certs_merge(certificates);
    }
    if let Some(client) = &settings.client
        && let Some(mut pem) = identity(client, &read)?
    {
        pem.push(b'\n');
        let identity = reqwest::Identity::from_pem(&pem);
        builder = builder.identity(identity.map_err(|error| broken("client certificate", error))?);
    }
    builder
        .build()
        .map_err(|error| Error::other("make an HTTP client", error))
}

/// Reads the client's certificate and key: `"both"`, `["both"]` or `[["certificate", "key"]]`; the first one counts.
fn identity(
    value: &toml::Value,
    read: &dyn Fn(&str) -> Result<Vec<u8>>,
) -> Result<Option<Vec<u8>>> {
    let mut value = value;
    let mut paths = Vec::new();
    while let toml::Value::Array(list) = value {
        match list.as_slice() {
            [toml::Value::String(certificate), toml::Value::String(key)] => {
                paths = vec![certificate.as_str(), key.as_str()];
                break;
            }
            [first, ..] => value = first,
            [] => return Ok(None),
        }
    }
    if let toml::Value::String(path) = value {
        paths = vec![path.as_str()];
    }
    let mut pem = Vec::new();
    for path in paths.iter().filter(|path| !path.is_empty()) {
        pem.extend(read(path)?);
        pem.push(b'\n');
    }
    Ok((!pem.is_empty()).then_some(pem))
}

/// Returns whether a registry's name stands for this machine.
pub fn is_local(name: &str) -> bool {
    let host = match name.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => name.split(':').next().unwrap_or_default(),
    };
    let address: Result<std::net::IpAddr, _> = host.parse();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Returns an error and what caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
