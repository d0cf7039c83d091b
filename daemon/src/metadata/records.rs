//! The records of the store. Their field numbers are the schema: a number is never used for anything else.

use std::collections::BTreeMap;

use prost::Message;
use prost_types::{Any, Timestamp};

use crate::labels::Labels;

/// A namespace.
#[derive(Clone, PartialEq, Message)]
pub struct Namespace {
    #[prost(btree_map = "string, string", tag = "1")]
    pub labels: Labels,
}

/// What an image's name points at.
#[derive(Clone, PartialEq, Message)]
pub struct Descriptor {
    #[prost(string, tag = "1")]
    pub media_type: String,
    #[prost(string, tag = "2")]
    pub digest: String,
    #[prost(int64, tag = "3")]
    pub size: i64,
    #[prost(btree_map = "string, string", tag = "4")]
    pub annotations: Labels,
}

/// An image; its name is the key, and filled in when it is read.
#[derive(Clone, PartialEq, Message)]
pub struct Image {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: Labels,
    #[prost(message, optional, tag = "3")]
    pub target: Option<Descriptor>,
    #[prost(message, optional, tag = "4")]
    pub created_at: Option<Timestamp>,
    #[prost(message, optional, tag = "5")]
    pub updated_at: Option<Timestamp>,
}

/// A container: what a task is made from.
#[derive(Clone, PartialEq, Message)]
pub struct Container {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: Labels,
    #[prost(string, tag = "3")]
    pub image: String,
    #[prost(string, tag = "4")]
    pub runtime: String,
    #[prost(message, optional, tag = "5")]
    pub runtime_options: Option<Any>,
    #[prost(message, optional, tag = "6")]
    pub spec: Option<Any>,
    #[prost(string, tag = "7")]
    pub snapshotter: String,
    #[prost(string, tag = "8")]
    pub snapshot_key: String,
    #[prost(message, optional, tag = "9")]
    pub created_at: Option<Timestamp>,
    #[prost(message, optional, tag = "10")]
    pub updated_at: Option<Timestamp>,
    #[prost(btree_map = "string, message", tag = "11")]
    pub extensions: BTreeMap<String, Any>,
    #[prost(string, tag = "12")]
    pub sandbox: String,
}

/// A blob of the content store as one namespace sees it.
#[derive(Clone, PartialEq, Message)]
pub struct Blob {
    #[prost(int64, tag = "1")]
    pub size: i64,
    #[prost(message, optional, tag = "2")]
    pub created_at: Option<Timestamp>,
    #[prost(message, optional, tag = "3")]
    pub updated_at: Option<Timestamp>,
    #[prost(btree_map = "string, string", tag = "4")]
    pub labels: Labels,
}

/// A blob that is being written.
#[derive(Clone, PartialEq, Message)]
pub struct Ingest {
    /// The name of the file below `ingest/`.
    #[prost(string, tag = "1")]
    pub file: String,
    /// The digest of a blob of another namespace that this ingest stands for, without data of its own.
    #[prost(string, tag = "2")]
    pub shared: String,
    #[prost(int64, tag = "3")]
    pub total: i64,
    #[prost(message, optional, tag = "4")]
    pub started_at: Option<Timestamp>,
    /// When an ingest that no lease holds may be collected.
    #[prost(message, optional, tag = "5")]
    pub expire_at: Option<Timestamp>,
}

/// A snapshot as one namespace sees it.
#[derive(Clone, PartialEq, Message)]
pub struct Snapshot {
    /// The snapshotter's name for it: `namespace/number/key`.
    #[prost(string, tag = "1")]
    pub backend: String,
    #[prost(string, tag = "2")]
    pub parent: String,
    #[prost(message, optional, tag = "3")]
    pub created_at: Option<Timestamp>,
    #[prost(message, optional, tag = "4")]
    pub updated_at: Option<Timestamp>,
    #[prost(btree_map = "string, string", tag = "5")]
    pub labels: Labels,
    /// The snapshotter's name for what it is becoming, while it is being committed.
    #[prost(string, tag = "6")]
    pub committing: String,
}

/// A lease: it keeps objects from garbage collection.
#[derive(Clone, PartialEq, Message)]
pub struct Lease {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, optional, tag = "2")]
    pub created_at: Option<Timestamp>,
    #[prost(btree_map = "string, string", tag = "3")]
    pub labels: Labels,
}

/// A sandbox: what containers share, such as a pod.
#[derive(Clone, PartialEq, Message)]
pub struct Sandbox {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: Labels,
    #[prost(string, tag = "3")]
    pub runtime: String,
    #[prost(message, optional, tag = "4")]
    pub runtime_options: Option<Any>,
    #[prost(message, optional, tag = "5")]
    pub spec: Option<Any>,
    #[prost(message, optional, tag = "6")]
    pub created_at: Option<Timestamp>,
    #[prost(message, optional, tag = "7")]
    pub updated_at: Option<Timestamp>,
    #[prost(btree_map = "string, message", tag = "8")]
    pub extensions: BTreeMap<String, Any>,
    /// The controller that runs it, such as `shim`.
    #[prost(string, tag = "9")]
    pub sandboxer: String,
}
