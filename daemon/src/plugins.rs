//! The plugin table: which parts the daemon is made of, as Introspection reports them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::error::{Error, Result, precondition};
use crate::filter::{self, Fields};

/// A part of the daemon under the type and id that containerd knows it by.
#[derive(Clone, Debug, Default)]
pub struct Plugin {
    pub kind: String,
    pub id: String,
    /// The types that it is built upon.
    pub requires: Vec<String>,
    /// Whether it works on this machine's platform only.
    pub native: bool,
    pub exports: BTreeMap<String, String>,
    pub capabilities: Vec<String>,
    /// Why it could not be started: code and message.
    pub init_error: Option<(i32, String)>,
}

impl Plugin {
    /// Returns a plugin that works.
    pub fn new(kind: &str, id: &str) -> Self {
        Self {
            kind: kind.into(),
            id: id.into(),
            ..Self::default()
        }
    }

    /// Adds the types of what it is built upon.
    pub fn requires(mut self, kinds: &[&str]) -> Self {
        self.requires = kinds.iter().map(|kind| (*kind).into()).collect();
        self
    }

    /// Says that it works on this machine's platform.
    pub fn native(mut self) -> Self {
        self.native = true;
        self
    }

    /// Adds something that it lets others know, such as its `root`.
    pub fn export(mut self, key: &str, value: impl Into<String>) -> Self {
        self.exports.insert(key.into(), value.into());
        self
    }

    /// Adds names of what it can do.
    pub fn capabilities(mut self, names: &[&str]) -> Self {
        self.capabilities
            .extend(names.iter().map(|name| (*name).to_owned()));
        self
    }

    /// Says that it could not be started.
    pub fn failed(mut self, error: &Error) -> Self {
        let code = api_protos::status::code(error.kind());
        self.init_error = Some((code, format!("{error:#}")));
        self
    }
}

impl Fields for Plugin {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path.first()?.as_str() {
            "type" => filter::text(&self.kind),
            "id" => filter::text(&self.id),
            "capabilities" if !self.capabilities.is_empty() => {
                Some(Cow::Owned(self.capabilities.join(",")))
            }
            _ => None,
        }
    }
}

/// The table, in the order in which the parts were built.
#[derive(Clone, Debug, Default)]
pub struct Plugins {
    plugins: Vec<Plugin>,
}

impl Plugins {
    /// Adds a part.
    pub fn record(&mut self, plugin: Plugin) {
        self.plugins.push(plugin);
    }

    /// Fails unless all parts are there that `uris` name.
    pub fn require(&self, uris: &[String]) -> Result<()> {
        for uri in uris {
            let of_uri = |plugin: &&Plugin| format!("{}.{}", plugin.kind, plugin.id) == *uri;
            let Some(plugin) = self.iter().find(of_uri) else {
                return Err(precondition(format!("required plugin {uri} not included")));
            };
            if let Some((_, message)) = &plugin.init_error {
                let message = format!("load required plugin {uri}: {message}");
                return Err(precondition(message));
            }
        }
        Ok(())
    }

    /// Returns all parts.
    pub fn iter(&self) -> impl Iterator<Item = &Plugin> {
        self.plugins.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn what_is_required_must_be_there_and_work() {
        let mut plugins = Plugins::default();
        plugins.record(Plugin::new("io.containerd.event.v1", "exchange"));
        let failed = Error::new(Kind::Unavailable, "no network");
        plugins.record(Plugin::new("io.containerd.grpc.v1", "cri").failed(&failed));
        let require = |uri: &str| plugins.require(&[uri.to_owned()]);
        require("io.containerd.event.v1.exchange").unwrap();
        let error = require("io.containerd.grpc.v1.cri").unwrap_err();
        assert_eq!(
            error.to_string(),
            "load required plugin io.containerd.grpc.v1.cri: no network"
        );
        let error = require("io.containerd.event.v1.other").unwrap_err();
        assert!(error.to_string().ends_with("not included"), "{error}");
    }
}
