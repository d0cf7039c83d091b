//! ListImages and StreamImages.

use api_protos::runtime::v1::{Image, ImageFilter};

use crate::cri::Cri;
use crate::error::{Kind, Result};

/// Returns the images that the filter asks for; one that is not there is none.
pub async fn list(cri: &Cri, filter: Option<ImageFilter>) -> Result<Vec<Image>> {
    let wanted = filter.and_then(|filter| filter.image).unwrap_or_default();
    if wanted.image.is_empty() {
        let images = cri.library.list().await?;
        return Ok(images.iter().map(super::Found::cri).collect());
    }
    match cri.library.find(&wanted.image).await {
        Ok(found) => Ok(vec![found.cri()]),
        Err(error) if error.kind() == Kind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
