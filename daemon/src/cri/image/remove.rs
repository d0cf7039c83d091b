//! RemoveImage.

use api_protos::runtime::v1::RemoveImageRequest;

use crate::blocking::blocking;
use crate::cri::Cri;
use crate::cri::store::ignore_missing;
use crate::error::{Kind, Result};

/// Removes an image by all its names; that it is not there is no error.
pub async fn remove(cri: &Cri, request: RemoveImageRequest) -> Result<()> {
    let wanted = request.image.unwrap_or_default().image;
    let found = match cri.library.find(&wanted).await {
        Ok(found) => found,
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let (images, context) = (cri.library.images.clone(), cri.store.context.clone());
    blocking(move || {
        let mut names = found.names.iter();
        names.try_for_each(|name| ignore_missing(images.delete(&context, name, None)))
    })
    .await?;
    // The caller frees disk space: it is free when the answer comes.
    cri.parts.collector.collect().await
}
