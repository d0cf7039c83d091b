//! Layers: archives applied to file systems, and file systems compared to make archives.

pub mod apply;
pub mod entries;
pub mod tree;
