//! Snapshotters: layers of file systems, each upon a parent. Overlay, and plain copying.
#![forbid(unsafe_code)]

pub mod conformance;
mod copy;
mod mapping;
pub mod native;
pub mod overlay;
mod snapshotter;
mod store;
mod types;
pub mod usage;

pub use snapshotter::{CommitOptions, Snapshotter};
pub use types::{Foreign, Info, Kind, Labels, Usage};
