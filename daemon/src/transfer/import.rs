//! Importing: from an archive to the image store, unpacked at the end.

use std::sync::Arc;

use super::Session;
use super::store::ImageStore;
use crate::diff::pipeline::Feed;
use crate::error::{Error, Kind, Result};
use crate::images::archive;
use crate::images::fetch::Source;
use crate::images::walk::Descriptor;
use crate::metadata::Image;

/// An archive that a client sends.
#[derive(Debug)]
pub struct Incoming {
    pub bytes: Feed,
    /// Whether layers that come uncompressed are to be compressed.
    pub compress: bool,
}

impl Session {
    pub(super) async fn import(self, incoming: Incoming, store: ImageStore) -> Result<()> {
        let progress = self.progress.clone();
        progress.event("Importing");
        let unique = format!("import-{}", crate::time::unique());
        let index = self
            .blocking(move |session| {
                let (content, context) = (&session.parts.content, &session.context);
                let Incoming { bytes, compress } = incoming;
                archive::import(content, context, bytes, unique, compress)
            })
            .await?;
        let walk = self.walk(nowhere(), None, store.clone());
        let track = walk.fetcher.track.clone();
        let work = walk.archive(&index);
        let images = progress
            .follow(&track, "importing", &store.name, work)
            .await?;
        let kept = self
            .blocking(move |session| session.keep_imported(&store, &index, &images))
            .await?;
        for (image, target) in kept {
            progress.about("saved", &image.name, &target);
        }
        progress.event("Completed import");
        Ok(())
    }

    /// Gives the archive's index the store's names, and its images the names that they bring along.
    fn keep_imported(
        &self,
        store: &ImageStore,
        index: &Descriptor,
        images: &[Descriptor],
    ) -> Result<Vec<(Image, Descriptor)>> {
        let (records, context) = (&self.parts.images, &self.context);
        let mut kept = Vec::new();
        let mut add = |named: Result<Vec<Image>>, target: &Descriptor| match named {
            Ok(images) => {
                kept.extend(images.into_iter().map(|image| (image, target.clone())));
                Ok(())
            }
            // One without a name is not kept; others of the archive may have one.
            Err(error) if error.kind() == Kind::NotFound => {
                tracing::info!("no name for {}", target.digest);
                Ok(())
            }
            Err(error) => Err(error),
        };
        add(store.keep(records, context, index), index)?;
        for image in images {
            add(store.keep_imported(records, context, image), image)?;
        }
        Ok(kept)
    }
}

/// Returns the source of what an archive should have had.
fn nowhere() -> Source {
    Arc::new(|descriptor, _, _| {
        Box::pin(async move {
            let message = format!("content digest {}", descriptor.digest);
            Err(Error::new(Kind::NotFound, message))
        })
    })
}
