//! What every request carries beside its message: the namespace it works in and the lease that keeps its results.

use tonic::metadata::MetadataMap;

use crate::error::{Context as _, Result, precondition};
use crate::labels;

/// The gRPC header with the namespace.
pub const NAMESPACE_HEADER: &str = "containerd-namespace";
/// The gRPC header with the lease.
pub const LEASE_HEADER: &str = "containerd-lease";

/// The namespace of a request and, when the client holds one, the lease that new objects are added to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    namespace: String,
    lease: Option<String>,
}

impl Context {
    /// Returns a context in `namespace` without a lease; the name must be a valid identifier.
    pub fn new(namespace: impl Into<String>) -> Result<Self> {
        let namespace = namespace.into();
        if namespace.is_empty() {
            return Err(precondition("namespace is required"));
        }
        labels::validate_identifier(&namespace).context(|| "namespace validation")?;
        Ok(Self {
            namespace,
            lease: None,
        })
    }

    /// Returns the context that a request's headers tell.
    pub fn from_headers(headers: &MetadataMap) -> Result<Self> {
        let mut context = Self::new(first(headers, NAMESPACE_HEADER).unwrap_or_default())?;
        context.lease = first(headers, LEASE_HEADER);
        Ok(context)
    }

    /// Returns the same context with `lease` in place of the one it has.
    pub fn with_lease(mut self, lease: impl Into<String>) -> Self {
        self.lease = Some(lease.into());
        self
    }

    /// Returns the namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the lease, if there is one.
    pub fn lease(&self) -> Option<&str> {
        self.lease.as_deref()
    }
}

/// Returns the first value of a header: Go clients put the innermost value first.
fn first(headers: &MetadataMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn the_first_value_of_a_header_wins() {
        let mut headers = MetadataMap::new();
        headers.append(NAMESPACE_HEADER, "inner".parse().unwrap());
        headers.append(NAMESPACE_HEADER, "outer".parse().unwrap());
        headers.append(LEASE_HEADER, "l1".parse().unwrap());
        let context = Context::from_headers(&headers).unwrap();
        assert_eq!(context.namespace(), "inner");
        assert_eq!(context.lease(), Some("l1"));
    }

    #[test]
    fn a_namespace_is_required() {
        let error = Context::from_headers(&MetadataMap::new()).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert_eq!(error.to_string(), "namespace is required");
        let error = Context::new("a/b").unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
    }
}
