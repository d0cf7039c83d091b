//! containerd.services.images.v1: names for descriptors.

use api_protos::containerd::services::images::v1::images_server::{Images as Api, ImagesServer};
use api_protos::containerd::services::images::v1::*;
use api_protos::containerd::types::Descriptor;
use tonic::{Request, Response, Status};

use super::{open, ordered, paths, run, unordered};
use crate::error::status;
use crate::gc::Collector;
use crate::metadata::{Descriptor as Target, Image as Record, Images};

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    images: Images,
    collector: Collector,
}

/// Returns the service as a server.
pub fn server(images: Images, collector: Collector) -> ImagesServer<Service> {
    ImagesServer::new(Service { images, collector })
}

fn encode(record: Record) -> Image {
    let target = |target: Target| Descriptor {
        media_type: target.media_type,
        digest: target.digest,
        size: target.size,
        annotations: unordered(target.annotations),
    };
    Image {
        name: record.name,
        labels: unordered(record.labels),
        target: record.target.map(target),
        created_at: record.created_at,
        updated_at: record.updated_at,
    }
}

fn decode(image: Image) -> Record {
    let target = |target: Descriptor| Target {
        media_type: target.media_type,
        digest: target.digest,
        size: target.size,
        annotations: ordered(target.annotations),
    };
    Record {
        name: image.name,
        labels: ordered(image.labels),
        target: image.target.map(target),
        created_at: image.created_at,
        updated_at: image.updated_at,
    }
}

#[tonic::async_trait]
impl Api for Service {
    async fn get(
        &self,
        request: Request<GetImageRequest>,
    ) -> Result<Response<GetImageResponse>, Status> {
        let (images, (context, request)) = (self.images.clone(), open(request)?);
        run(move || {
            let image = Some(encode(images.get(&context, &request.name)?));
            Ok(GetImageResponse { image })
        })
        .await
    }

    async fn list(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let (images, (context, request)) = (self.images.clone(), open(request)?);
        run(move || {
            let records = images.list(&context, &request.filters)?;
            Ok(ListImagesResponse {
                images: records.into_iter().map(encode).collect(),
            })
        })
        .await
    }

    async fn create(
        &self,
        request: Request<CreateImageRequest>,
    ) -> Result<Response<CreateImageResponse>, Status> {
        let (images, (context, request)) = (self.images.clone(), open(request)?);
        run(move || {
            let record = decode(request.image.unwrap_or_default());
            let created = images.create(&context, record, request.source_date_epoch)?;
            Ok(CreateImageResponse {
                image: Some(encode(created)),
            })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<UpdateImageRequest>,
    ) -> Result<Response<UpdateImageResponse>, Status> {
        let (images, (context, request)) = (self.images.clone(), open(request)?);
        run(move || {
            let record = decode(request.image.unwrap_or_default());
            let paths = paths(request.update_mask);
            let updated = images.update(&context, record, paths, request.source_date_epoch)?;
            Ok(UpdateImageResponse {
                image: Some(encode(updated)),
            })
        })
        .await
    }

    async fn delete(&self, request: Request<DeleteImageRequest>) -> Result<Response<()>, Status> {
        let (images, (context, request)) = (self.images.clone(), open(request)?);
        let answer = run(move || {
            let target = request.target.map(|target| target.digest);
            images.delete(&context, &request.name, target.as_deref())
        })
        .await?;
        if request.sync {
            self.collector.collect().await.map_err(status)?;
        }
        Ok(answer)
    }
}
