//! What travels beside a request: metadata and the time that its sender waits.

use std::time::Duration;

use crate::message::{KeyValue, Request};

/// A call's metadata and timeout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    metadata: Vec<(String, String)>,
    timeout: Option<Duration>,
}

impl Context {
    /// Returns a context without metadata or timeout.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the context with one more entry of metadata.
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// Returns the context with a timeout: the caller gives up after it, and tells the server of it.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Returns the first value that `key` has; keys compare without case.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(key))
            .map(|(_, value)| value.as_str())
    }

    /// Returns how long the caller waits.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    pub(crate) fn from_request(request: &mut Request) -> Self {
        let nanos = u64::try_from(request.timeout_nano).ok();
        Self {
            metadata: std::mem::take(&mut request.metadata)
                .into_iter()
                .map(|entry| (entry.key, entry.value))
                .collect(),
            timeout: nanos.filter(|n| *n > 0).map(Duration::from_nanos),
        }
    }

    pub(crate) fn wire_metadata(&self) -> Vec<KeyValue> {
        self.metadata
            .iter()
            .map(|(key, value)| KeyValue {
                key: key.clone(),
                value: value.clone(),
            })
            .collect()
    }

    pub(crate) fn wire_timeout(&self) -> i64 {
        self.timeout.map_or(0, |timeout| {
            i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX)
        })
    }
}
