//! ImageStatus.

use std::collections::HashMap;

use api_protos::runtime::v1::{ImageStatusRequest, ImageStatusResponse};
use serde_json::{Value, json};

use crate::cri::Cri;
use crate::error::{Kind, Result};

/// Returns what is known of an image; that it is not there is an empty answer.
pub async fn status(cri: &Cri, request: ImageStatusRequest) -> Result<ImageStatusResponse> {
    let wanted = request.image.unwrap_or_default().image;
    let found = match cri.library.find(&wanted).await {
        Ok(found) => found,
        Err(error) if error.kind() == Kind::NotFound => return Ok(ImageStatusResponse::default()),
        Err(error) => return Err(error),
    };
    let mut info = HashMap::new();
    if request.verbose {
        let spec: Value = serde_json::from_str(&found.details.raw).unwrap_or_default();
        let text = json!({"chainID": found.details.chain, "imageSpec": spec}).to_string();
        info.insert("info".to_owned(), text);
    }
    Ok(ImageStatusResponse {
        image: Some(found.cri()),
        info,
    })
}
