//! Snapshotters: layers of file systems, each upon a parent. Overlay, and plain copying.
#![forbid(unsafe_code)]

mod snapshotter;
mod types;

pub use snapshotter::{CommitOptions, Snapshotter};
pub use types::{Info, Kind, Labels, Usage};
