//! Deleting the files that no metadata names any more.

use std::collections::HashSet;

use super::{Content, Digest};
use crate::error::Result;
use crate::metadata::{Ingest, Read, Table, db};
use sys::failpoint;

impl Content {
    /// Deletes blobs and ingests that no namespace knows and returns how many blobs there were.
    ///
    /// One blob at a time is locked, for as long as it takes to see that it is still unknown and to rename it.
    pub fn sweep(&self) -> Result<usize> {
        let inner = &self.inner;
        // An ingest's file is made after its record, and goes before it or with it, so what was here before the
        // records were read and is in none of them is nobody's.
        let files = inner.blobs.ingests()?;
        let mut strays = inner.blobs.digests()?;
        let (blobs, ingests) = self.known()?;
        strays.retain(|digest| !blobs.contains(digest.as_str()));
        let mut removed = 0;
        for digest in strays {
            let trash = || -> Result<bool> {
                let unknown = !self.is_known(&digest)?;
                if unknown {
                    failpoint!("content.sweep");
                    inner.blobs.trash(&digest)?;
                    failpoint!("content.trashed");
                }
                Ok(unknown)
            };
            if inner.claims.unless_claimed(&digest, trash).transpose()? == Some(true) {
                tracing::debug!(%digest, "removed content");
                removed += 1;
            }
        }
        for file in files.iter().filter(|file| !ingests.contains(*file)) {
            inner.blobs.remove_ingest(file)?;
        }
        inner.blobs.empty_trash()?;
        Ok(removed)
    }

    /// Returns whether metadata names a blob.
    fn is_known(&self, digest: &Digest) -> Result<bool> {
        self.inner.store.read(|view| {
            let mut namespaces = Vec::new();
            view.visit(Table::Namespaces, None, "", &mut |name, _, _| {
                namespaces.push(name.to_owned());
                Ok(())
            })?;
            for namespace in namespaces {
                let found = view.bytes(Table::Blobs, &namespace, digest.as_str())?;
                if found.is_some() {
                    return Ok(true);
                }
            }
            let mut known = false;
            view.visit(Table::Ingests, None, "", &mut |_, _, bytes| {
                let ingest: Ingest = db::decode(bytes)?;
                known |= ingest.shared == digest.as_str();
                Ok(())
            })?;
            Ok(known)
        })
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
