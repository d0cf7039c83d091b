//! The daemon: containerd's gRPC services.
#![forbid(unsafe_code)]

pub mod app;
pub mod authority;
pub mod blocking;
pub mod cgroup;
pub mod config;
pub mod content;
pub mod context;
pub mod cri;
pub mod diff;
pub mod digest;
pub mod error;
pub mod events;
pub mod filter;
pub mod gc;
pub mod head;
pub mod histogram;
pub mod images;
pub mod labels;
pub mod listen;
pub mod media;
pub mod metadata;
pub mod metrics;
pub mod notify;
pub mod plugin;
pub mod plugins;
pub mod registry;
pub mod restart;
pub mod sandbox;
pub mod services;
pub mod snapshots;
pub mod streaming;
pub mod takeover;
pub mod tasks;
pub mod time;
pub mod transfer;
