//! Snapshotters: overlay, and plain copying.
#![forbid(unsafe_code)]
