//! The commands, one module for each noun and one file for each verb that is more than a call.

pub mod containers;
pub mod content;
pub mod doctor;
pub mod events;
pub mod images;
pub mod info;
pub mod leases;
pub mod namespaces;
pub mod oci;
pub mod output;
pub mod plugins;
pub mod run;
pub mod snapshots;
pub mod tasks;
pub mod trace;
pub mod version;
