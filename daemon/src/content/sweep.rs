//! Deleting the files that no metadata names any more.

use std::collections::HashSet;
use std::sync::PoisonError;

use super::Content;
use crate::error::Result;
use crate::metadata::{Ingest, Read, Table, db};

impl Content {
    /// Deletes blobs and ingests that no namespace knows and returns how many blobs there were.
    pub fn sweep(&self) -> Result<usize> {
        let inner = &self.inner;
        // An ingest's file is made after its record, and goes before it or with it, so what was here before the
        // records were read and is in none of them is nobody's.
        let files = inner.blobs.ingests()?;
        let guard = inner.sweep.write().unwrap_or_else(PoisonError::into_inner);
        let (blobs, ingests) = self.known()?;
        let mut removed = 0;
        for digest in inner.blobs.digests()? {
            if !blobs.contains(digest.as_str()) {
                inner.blobs.trash(&digest)?;
                tracing::debug!(%digest, "removed content");
                removed += 1;
            }
        }
        drop(guard);
        for file in files.iter().filter(|file| !ingests.contains(*file)) {
            inner.blobs.remove_ingest(file)?;
        }
        inner.blobs.empty_trash()?;
        Ok(removed)
    }

    /// Returns the digests and the ingest files that metadata names.
    fn known(&self) -> Result<(HashSet<String>, HashSet<String>)> {
        let (mut blobs, mut ingests) = (HashSet::new(), HashSet::new());
        self.inner.store.read(|view| {
            view.visit(Table::Blobs, None, "", &mut |_, digest, _| {
                blobs.insert(digest.to_owned());
                Ok(())
            })?;
            view.visit(Table::Ingests, None, "", &mut |_, _, bytes| {
                let ingest: Ingest = db::decode(bytes)?;
                blobs.insert(ingest.shared);
                ingests.insert(ingest.file);
                Ok(())
            })
        })?;
        Ok((blobs, ingests))
    }
}
