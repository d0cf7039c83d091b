//! Content: blobs named by the digest of their bytes, shared by all namespaces and visible in those that have them.
//!
//! ```text
//! <root>/blobs/<algorithm>/<hex>   whole blobs; a name appears here only when its bytes are on disk
//! <root>/ingest/<number>           blobs being written; kept over restarts, so that a client can resume
//! <root>/trash/<number>            collected blobs on their way out
//! ```
//!
//! Which namespace sees which blob, with what labels, is metadata (tables `Blobs` and `Ingests`). A commit fsyncs the
//! data, renames it into place, fsyncs the directory, and then writes the metadata: whatever the last step
//! acknowledges is whole, and whatever dies on the way is collected.

pub mod blobs;
mod claims;
pub mod ingest;
mod sweep;

pub use crate::digest::{Digest, Hasher};
pub use blobs::Reader;
pub use ingest::{Status, Writer, WriterOptions};

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use api_protos::containerd::events::ContentDelete;
use prost_types::Timestamp;

use crate::context::Context;
use crate::error::{Error, Kind, Result, invalid};
use crate::events::Exchange;
use crate::filter::{self, Fields, Filter};
use crate::labels::{self, Labels};
use crate::metadata::{Blob, Read, Store, Table, leases};
use crate::time::now;
use blobs::Blobs;
use claims::Claims;

/// The content store; clones share it.
#[derive(Clone, Debug)]
pub struct Content {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    events: Arc<Exchange>,
    blobs: Blobs,
    /// Whether a blob that one namespace has is had by all that know its digest.
    shared: bool,
    /// References with an open writer, by namespace, and since when.
    writers: Mutex<HashMap<(String, String), Instant>>,
    /// Blobs that somebody relies on and that metadata does not name yet; the collector leaves them alone.
    claims: Claims,
}

/// A blob as a namespace sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    pub digest: String,
    pub size: i64,
    pub created_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
    pub labels: Labels,
}

impl Content {
    /// Opens or creates the store in the directory `root`.
    pub fn open(
        root: &Path,
        shared: bool,
        store: Arc<Store>,
        events: Arc<Exchange>,
    ) -> Result<Self> {
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                events,
                blobs: Blobs::open(root)?,
                shared,
                writers: Mutex::default(),
                claims: Claims::default(),
            }),
        })
    }

    /// Returns what is known of a blob.
    pub fn info(&self, context: &Context, digest: &Digest) -> Result<Info> {
        let digest = digest.as_str();
        self.inner
            .store
            .read(|view| view.get(Table::Blobs, context.namespace(), digest))?
            .map(|blob| Info::new(digest, blob))
            .ok_or_else(|| missing(digest))
    }

    /// Sets labels of a blob: those that `paths` name, or, without paths, all.
    pub fn update(
        &self,
        context: &Context,
        digest: &Digest,
        mut labels: Labels,
        paths: Vec<String>,
    ) -> Result<Info> {
        let (namespace, digest) = (context.namespace().to_owned(), digest.to_string());
        self.inner.store.write(move |tx| {
            let mut blob: Blob = tx
                .get(Table::Blobs, &namespace, &digest)?
                .ok_or_else(|| missing(&digest))?;
            for path in &paths {
                if !labels::apply_mask(&mut blob.labels, &labels, path) {
                    return Err(invalid(format!(
                        "cannot update {path:?} field on content info {digest:?}"
                    )));
                }
            }
            if paths.is_empty() {
                labels::drop_empty(&mut labels);
                blob.labels = labels;
            }
            labels::validate("info", &blob.labels)?;
            blob.updated_at = Some(now());
            tx.put(Table::Blobs, &namespace, &digest, &blob)?;
            Ok(Info::new(&digest, blob))
        })
    }

    /// Returns the blobs that one of `filters` asks for.
    pub fn list<S: AsRef<str>>(&self, context: &Context, filters: &[S]) -> Result<Vec<Info>> {
        let filter = Filter::parse(filters)?;
        let blobs = self
            .inner
            .store
            .read(|view| view.list::<Blob>(Table::Blobs, context.namespace(), ""))?;
        Ok(blobs
            .into_iter()
            .map(|(digest, blob)| Info::new(&digest, blob))
            .filter(|info| filter.matches(info))
            .collect())
    }

    /// Takes a blob from a namespace; its bytes are collected when no namespace has it any more.
    pub fn delete(&self, context: &Context, digest: &Digest) -> Result<()> {
        let (owner, key) = (context.clone(), digest.to_string());
        self.inner.store.write(move |tx| {
            let namespace = owner.namespace();
            if tx.bytes(Table::Blobs, namespace, &key)?.is_none() {
                return Err(missing(&key));
            }
            tx.remove(Table::Blobs, namespace, &key);
            leases::detach(tx, &owner, leases::CONTENT, &key);
            Ok(())
        })?;
        let event = ContentDelete {
            digest: digest.to_string(),
        };
        self.inner
            .events
            .publish(context.namespace(), "/content/delete", &event)
    }

    /// Opens a blob for reading.
    pub fn reader(&self, context: &Context, digest: &Digest) -> Result<Reader> {
        self.info(context, digest)?;
        self.inner.blobs.open_blob(digest)
    }

    /// Returns the bytes of a blob that may not be longer than `limit`, such as a manifest.
    pub fn read_all(&self, context: &Context, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let reader = self.reader(context, digest)?;
        if reader.size() > limit {
            return Err(invalid(format!(
                "content {digest} has {} bytes, {limit} are allowed",
                reader.size()
            )));
        }
        let mut bytes = vec![0; reader.size() as usize];
        let read = reader.read_at(&mut bytes, 0)?;
        if read < bytes.len() {
            return Err(Error::new(
                Kind::DataLoss,
                format!("content {digest} is cut short"),
            ));
        }
        Ok(bytes)
    }

    /// Stores `bytes` as a blob and returns its digest; that it is there already is no error.
    pub fn put(
        &self,
        context: &Context,
        reference: &str,
        bytes: &[u8],
        expected: Option<&Digest>,
        labels: Labels,
    ) -> Result<Digest> {
        let options = WriterOptions {
            reference: reference.to_owned(),
            total: bytes.len() as i64,
            expected: expected.cloned(),
        };
        let exists = |error: &Error| error.kind() == Kind::AlreadyExists;
        let digest = expected.cloned().unwrap_or_else(|| Digest::of(bytes));
        let mut writer = match self.writer(context, options) {
            Err(error) if exists(&error) => return Ok(digest),
            other => other?,
        };
        writer.truncate(0)?;
        writer.write(bytes)?;
        match writer.commit(bytes.len() as i64, expected, labels) {
            Err(error) if exists(&error) => Ok(digest),
            other => other,
        }
    }

    /// Takes the bytes of a blob from the file `from`, which nobody writes to, by a link if the file system has that.
    ///
    /// Without a record of any namespace the next collection removes them.
    pub fn take(&self, digest: &Digest, from: &Path) -> Result<()> {
        self.inner.blobs.take(digest, from)
    }

    /// Returns the directory that holds the blobs.
    pub fn root(&self) -> &Path {
        self.inner.blobs.root()
    }
}

fn missing(digest: &str) -> Error {
    Error::new(Kind::NotFound, format!("content digest {digest}"))
}

impl Info {
    fn new(digest: &str, blob: Blob) -> Self {
        Self {
            digest: digest.to_owned(),
            size: blob.size,
            created_at: blob.created_at,
            updated_at: blob.updated_at,
            labels: blob.labels,
        }
    }
}

impl Fields for Info {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path.first()?.as_str() {
            "digest" => filter::text(&self.digest),
            "size" => Some(Cow::Owned(self.size.to_string())),
            "labels" => filter::label(&self.labels, &path[1..]),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
