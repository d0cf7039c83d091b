//! The registry client: names resolved to descriptors, blobs fetched and pushed.
//!
//! ```text
//! Registry  resolve ── HEAD, then GET, of a manifest at each host that may resolve
//!    │      fetch ──── GET of a manifest or blob at each host that may pull, resumed after faults
//!    │      push ───── POST and PUT at the one host that may push
//!    └ hosts ── hosts.toml or defaults: scheme, path, capabilities, TLS, headers
//!        └ auth ── basic, or bearer tokens by GET or OAuth2 POST
//! ```

pub mod auth;
pub mod fetch;
pub mod hosts;
pub mod push;
pub mod reference;
mod request;
pub mod resolver;

pub use auth::{Credentials, Secret};
pub use hosts::Options;
pub use reference::Reference;
pub use resolver::Registry;
