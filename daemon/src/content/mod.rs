//! Content: blobs named by the digest of their bytes, shared by all namespaces and visible in those that have them.
//!
//! ```text
//! <root>/blobs/<algorithm>/<hex>   whole blobs; a name appears here only when its bytes are on disk
//! <root>/ingest/<number>           blobs being written; kept over restarts, so that a client can resume
//! ```
//!
//! Which namespace sees which blob, with what labels, is metadata (tables `Blobs` and `Ingests`).

pub mod digest;

pub use digest::{Digest, Hasher};
