//! Metadata: every object that clients name, by namespace, in one transactional store.
//!
//! ```text
//! (table, namespace, key)              record
//! ──────────────────────────────────   ─────────────────────────────────────────────
//! Meta                "", "version"    schema version, decimal
//! Meta                "", "sequence"   last number given to a backend name, decimal
//! Namespaces          ns, ""           Namespace: labels
//! Images              ns, name         Image: target, labels
//! Containers          ns, id           Container: image, runtime, spec, snapshot, ...
//! Blobs               ns, digest       Blob: size, labels
//! Ingests             ns, ref          Ingest: backend file, expected digest, expiry
//! Snapshots           ns, sn/key       Snapshot: backend name, parent, labels
//! SnapshotChildren    ns, sn/p␀child   (nothing): the children of parent p
//! Leases              ns, id           Lease: labels
//! LeaseResources      ns, id␀type␀id   (nothing): what the lease holds
//! Sandboxes           ns, id           Sandbox: runtime, spec, sandboxer, ...
//! ```
//!
//! All tables are one redb table with the key `(u8, &str, &str)`. Records are protobuf, so that fields can be added.
//! Reads see a snapshot and never wait. Writes go through one thread, which commits what has queued up together:
//! [`Store::write`] returns when the change is on disk.

pub mod changes;
pub mod containers;
pub mod db;
pub mod images;
pub mod leases;
pub mod namespaces;
pub mod records;
pub mod sandboxes;

pub use containers::Containers;
pub use db::{Read, Store, Table, Tx};
pub use images::Images;
pub use leases::Leases;
pub use namespaces::Namespaces;
pub use records::{
    Blob, Container, Descriptor, Image, Ingest, Lease, Namespace, Sandbox, Snapshot,
};
pub use sandboxes::Sandboxes;
