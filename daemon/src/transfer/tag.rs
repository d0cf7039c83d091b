//! Tagging: from the image store to itself, under other names.

use super::Session;
use super::store::ImageStore;
use crate::error::Result;
use crate::images::walk::Descriptor;

impl Session {
    pub(super) async fn tag(self, from: ImageStore, to: ImageStore) -> Result<()> {
        self.blocking(move |session| {
            let (images, context) = (&session.parts.images, &session.context);
            let image = from.get(images, context)?;
            let target: Descriptor = image.target.unwrap_or_default().into();
            to.keep(images, context, &target).map(drop)
        })
        .await
    }
}
