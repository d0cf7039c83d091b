//! Black-box tests with real clients and real peers, in one binary.
#![forbid(unsafe_code)]

mod badinput;
mod checkpoint;
mod checkpoint_image;
mod corten;
mod cri;
mod ctr;
mod demo;
mod docker;
mod docs;
mod images;
mod lifecycle;
mod metrics;
mod monitor;
mod nerdctl;
mod parity;
mod podman;
mod proxies;
mod restart;
mod rootless;
mod runtime;
mod runtime_edges;
mod security;
mod settings;
mod systemd;
mod takeover;
mod tidy;
mod torture;
