//! Containers: one file for each call.

pub mod attach;
pub mod create;
pub mod exec;
pub mod exec_sync;
pub mod image_mounts;
pub mod list;
pub mod remove;
pub mod reopen_log;
pub mod start;
pub mod stats;
pub mod status;
pub mod stop;
pub mod update;
