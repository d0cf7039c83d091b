//! The command line client `corten`: containerd's API for a person at a terminal.
#![forbid(unsafe_code)]

pub mod attach;
pub mod blob;
pub mod cli;
pub mod client;
pub mod commands;
pub mod fifo;
pub mod format;
pub mod image;
pub mod platform;
pub mod progress;
pub mod spec;
pub mod stream;
pub mod table;
pub mod terminal;
pub mod trace;
pub mod transfer;
pub mod unpack;
