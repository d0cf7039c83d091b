//! containerd.services.transfer.v1: images between registries, archives and the image store.

use std::sync::Arc;

use api_protos::any;
use api_protos::containerd::services::transfer::v1::TransferRequest;
use api_protos::containerd::services::transfer::v1::transfer_server::{
    Transfer as Api, TransferServer,
};
use api_protos::containerd::types;
use api_protos::containerd::types::transfer as wire;
use prost_types::Any;
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

use super::{open, ordered};
use crate::context::Context;
use crate::error::{Error, Kind, Result, invalid, status};
use crate::images::export;
use crate::images::platform::Platform;
use crate::registry::hosts::Patience;
use crate::registry::{Credentials, Options, Secret};
use crate::streaming::{Stream, Streams};
use crate::transfer::bytes;
use crate::transfer::export::Outgoing;
use crate::transfer::import::Incoming;
use crate::transfer::progress::Progress;
use crate::transfer::remote::Remote;
use crate::transfer::store::{ImageStore, Reference, Unpack};
use crate::transfer::{Side, Transfer};

/// The service.
#[derive(Clone)]
pub struct Service {
    transfer: Transfer,
    streams: Streams,
}

/// Returns the service as a server.
pub fn server(transfer: Transfer, streams: Streams) -> TransferServer<Service> {
    TransferServer::new(Service { transfer, streams })
}

#[tonic::async_trait]
impl Api for Service {
    async fn transfer(&self, request: Request<TransferRequest>) -> Result<Response<()>, Status> {
        let (context, request) = open(request)?;
        let done = self.serve(context, request).await;
        done.map(Response::new).map_err(status)
    }
}

impl Service {
    async fn serve(&self, context: Context, request: TransferRequest) -> Result<()> {
        let id = request.options.unwrap_or_default().progress_stream;
        let (progress, forwarder) = match id.as_str() {
            "" => (Progress::default(), None),
            id => {
                let stream = self.streams.take(&context, id)?;
                let (progress, forwarder) = Progress::over(stream);
                (progress, Some(forwarder))
            }
        };
        let source = self.side(&context, request.source)?;
        let destination = self.side(&context, request.destination)?;
        let transfer = &self.transfer;
        let done = transfer
            .transfer(context, source, destination, progress.clone())
            .await;
        if let Some(forwarder) = forwarder {
            forwarder.finish(progress).await;
        }
        done
    }

    /// Returns the side that a message of the wire describes.
    fn side(&self, context: &Context, side: Option<Any>) -> Result<Side> {
        let side = side.unwrap_or_default();
        if let Some(registry) = any::unpack::<wire::OciRegistry>(&side) {
            return self
                .registry(context, decoded(registry)?)
                .map(Side::Registry);
        }
        if let Some(store) = any::unpack::<wire::ImageStore>(&side) {
            return Ok(Side::Store(decode_store(decoded(store)?)));
        }
        if let Some(archive) = any::unpack::<wire::ImageImportStream>(&side) {
            let archive = decoded(archive)?;
            return Ok(Side::Import(Incoming {
                bytes: bytes::reader(self.streams.take(context, &archive.stream)?),
                compress: archive.force_compress,
            }));
        }
        if let Some(archive) = any::unpack::<wire::ImageExportStream>(&side) {
            let archive = decoded(archive)?;
            let stream = self.streams.take(context, &archive.stream)?;
            let (output, sending) = bytes::writer(stream);
            return Ok(Side::Export(Outgoing {
                output,
                sending,
                options: export::Options {
                    platforms: archive.platforms.into_iter().map(decode_platform).collect(),
                    all_platforms: archive.all_platforms,
                    skip_docker_manifest: archive.skip_compatibility_manifest,
                    skip_foreign: archive.skip_non_distributable,
                },
            }));
        }
        let message = format!("transfer of {:?}", side.type_url);
        Err(Error::new(Kind::Unimplemented, message))
    }

    fn registry(&self, context: &Context, registry: wire::OciRegistry) -> Result<Remote> {
        let resolver = registry.resolver.unwrap_or_default();
        let config = self.transfer.config();
        let given = |text: String| (!text.is_empty()).then_some(text);
        let credentials = match resolver.auth_stream.as_str() {
            "" => None,
            id => {
                let stream = self.streams.take(context, id)?;
                Some(credentials(stream, registry.reference.clone()))
            }
        };
        let host_dir = given(resolver.host_dir).map(Into::into);
        let options = Options {
            host_dir: host_dir.or_else(|| config.host_dir.clone()),
            default_scheme: given(resolver.default_scheme),
            headers: resolver.headers.into_iter().collect(),
            credentials,
            patience: Patience {
                stall: config.stall,
                ..Patience::default()
            },
        };
        Ok(Remote {
            reference: registry.reference,
            options,
        })
    }
}

fn decoded<T>(message: Result<T, prost::DecodeError>) -> Result<T> {
    message.map_err(|error| invalid(format!("decode: {error}")))
}

/// Returns what asks the client at the other end of `stream` for credentials, one host at a time.
fn credentials(stream: Stream, reference: String) -> Credentials {
    let stream = Arc::new(Mutex::new(stream));
    Arc::new(move |host| {
        let (stream, reference) = (stream.clone(), reference.clone());
        Box::pin(async move {
            let mut stream = stream.lock().await;
            let question = wire::AuthRequest {
                host,
                reference,
                ..Default::default()
            };
            stream.send(any::pack(&question)).await?;
            let answer = stream.receive().await?;
            let answer = answer.as_ref().and_then(any::unpack::<wire::AuthResponse>);
            let Some(answer) = answer else {
                let message = "the client answers no question for credentials";
                return Err(Error::new(Kind::Unauthenticated, message));
            };
            Ok(decode_secret(decoded(answer)?))
        })
    })
}

fn decode_secret(answer: wire::AuthResponse) -> Option<Secret> {
    let mut secret = Secret::default();
    match answer.auth_type() {
        wire::AuthType::None => return None,
        wire::AuthType::Credentials => {
            secret.username = answer.username;
            secret.secret = answer.secret;
        }
        wire::AuthType::Refresh => secret.secret = answer.secret,
        wire::AuthType::Header => secret.header = answer.secret,
    }
    Some(secret)
}

fn decode_store(store: wire::ImageStore) -> ImageStore {
    let reference = |reference: wire::ImageReference| Reference {
        name: reference.name,
        is_prefix: reference.is_prefix,
        allow_overwrite: reference.allow_overwrite,
        add_digest: reference.add_digest,
        skip_named_digest: reference.skip_named_digest,
    };
    let unpack = |unpack: wire::UnpackConfiguration| Unpack {
        platform: unpack.platform.map_or_else(Platform::host, decode_platform),
        snapshotter: unpack.snapshotter,
    };
    ImageStore {
        name: store.name,
        labels: ordered(store.labels),
        platforms: store.platforms.into_iter().map(decode_platform).collect(),
        all_metadata: store.all_metadata,
        limit: store.manifest_limit as usize,
        references: store.extra_references.into_iter().map(reference).collect(),
        unpacks: store.unpacks.into_iter().map(unpack).collect(),
    }
}

fn decode_platform(platform: types::Platform) -> Platform {
    Platform {
        os: platform.os,
        architecture: platform.architecture,
        variant: platform.variant,
        os_version: platform.os_version,
        os_features: platform.os_features,
    }
    .normalized()
}
