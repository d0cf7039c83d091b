//! containerd.services.content.v1: blobs, read and written in streams.

use api_protos::containerd::services::content::v1::content_server::{
    Content as Api, ContentServer,
};
use api_protos::containerd::services::content::v1::*;
use bytes::Bytes;
use futures_util::stream;
use tonic::{Request, Response, Status as Failed, Streaming};

use super::{Stream, open, ordered, paths, run, run_stream, unordered};
use crate::blocking::blocking;
use crate::content::{Content, Digest, Info as Blob, Reader, Status as Progress};
use crate::error::{Error, Kind, Result, status};

mod write;

/// How many bytes a message of a read has at most.
const READ_CHUNK: u64 = 1 << 20;
/// How many blobs a message of a list has at most.
const LIST_CHUNK: usize = 100;

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    content: Content,
}

/// Returns the service as a server.
pub fn server(content: Content) -> ContentServer<Service> {
    ContentServer::new(Service { content })
}

fn encode(blob: Blob) -> Info {
    Info {
        digest: blob.digest,
        size: blob.size,
        created_at: blob.created_at,
        updated_at: blob.updated_at,
        labels: unordered(blob.labels),
    }
}

fn encode_progress(progress: Progress) -> Status {
    Status {
        started_at: progress.started_at,
        updated_at: progress.updated_at,
        r#ref: progress.reference,
        offset: progress.offset,
        total: progress.total,
        expected: progress.expected,
    }
}

/// What of a blob has still to be sent.
struct Section {
    reader: Reader,
    /// How far the answer has come, from where the client began.
    sent: u64,
    from: u64,
    size: u64,
}

impl Section {
    /// Returns the section that a request asks for; a size of 0 and one past the end mean all that is left.
    fn new(reader: Reader, request: &ReadContentRequest) -> Result<Self> {
        let (all, from) = (reader.size(), request.offset.max(0) as u64);
        if from > all {
            return Err(Error::new(
                Kind::OutOfRange,
                format!("read past object length {all} bytes"),
            ));
        }
        let left = all - from;
        let size = match u64::try_from(request.size) {
            Ok(size) if size > 0 && size <= left => size,
            _ => left,
        };
        let sent = 0;
        Ok(Self {
            reader,
            sent,
            from,
            size,
        })
    }

    fn next(mut self) -> Result<Option<(ReadContentResponse, Self)>> {
        let left = self.size - self.sent;
        if left == 0 {
            return Ok(None);
        }
        let mut data = vec![0; left.min(READ_CHUNK) as usize];
        let read = self.reader.read_at(&mut data, self.from + self.sent)?;
        if read < data.len() {
            return Err(Error::new(Kind::DataLoss, "content is cut short"));
        }
        let message = ReadContentResponse {
            offset: self.sent as i64,
            data: Bytes::from(data),
        };
        self.sent += read as u64;
        Ok(Some((message, self)))
    }
}

#[tonic::async_trait]
impl Api for Service {
    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Failed> {
        let (content, (context, request)) = (self.content.clone(), open(request)?);
        run(move || {
            let info = content.info(&context, &Digest::parse(&request.digest)?)?;
            Ok(InfoResponse {
                info: Some(encode(info)),
            })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<UpdateRequest>,
    ) -> Result<Response<UpdateResponse>, Failed> {
        let (content, (context, request)) = (self.content.clone(), open(request)?);
        run(move || {
            let info = request.info.unwrap_or_default();
            let digest = Digest::parse(&info.digest)?;
            let (labels, paths) = (ordered(info.labels), paths(request.update_mask));
            let info = content.update(&context, &digest, labels, paths)?;
            Ok(UpdateResponse {
                info: Some(encode(info)),
            })
        })
        .await
    }

    type ListStream = Stream<ListContentResponse>;

    async fn list(
        &self,
        request: Request<ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Failed> {
        let (content, (context, request)) = (self.content.clone(), open(request)?);
        run_stream(move || {
            let blobs = content.list(&context, &request.filters)?;
            let messages = blobs.chunks(LIST_CHUNK).map(|blobs| ListContentResponse {
                info: blobs.iter().cloned().map(encode).collect(),
            });
            Ok(messages.collect())
        })
        .await
    }

    async fn delete(&self, request: Request<DeleteContentRequest>) -> Result<Response<()>, Failed> {
        let (content, (context, request)) = (self.content.clone(), open(request)?);
        run(move || content.delete(&context, &Digest::parse(&request.digest)?)).await
    }

    type ReadStream = Stream<ReadContentResponse>;

    async fn read(
        &self,
        request: Request<ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Failed> {
        let (content, (context, request)) = (self.content.clone(), open(request)?);
        let section = blocking(move || {
            let reader = content.reader(&context, &Digest::parse(&request.digest)?)?;
            Section::new(reader, &request)
        });
        let section = section.await.map_err(status)?;
        let messages = stream::try_unfold(section, |section| async {
            blocking(move || section.next()).await.map_err(status)
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Failed> {
        let (content, (context, request)) = (self.content.clone(), open(request)?);
        run(move || {
            let progress = content.status(&context, &request.r#ref)?;
            Ok(StatusResponse {
                status: Some(encode_progress(progress)),
            })
        })
        .await
    }

    async fn list_statuses(
        &self,
        request: Request<ListStatusesRequest>,
    ) -> Result<Response<ListStatusesResponse>, Failed> {
        let (content, (context, request)) = (self.content.clone(), open(request)?);
        run(move || {
            let progress = content.statuses(&context, &request.filters)?.into_iter();
            Ok(ListStatusesResponse {
                statuses: progress.map(encode_progress).collect(),
            })
        })
        .await
    }

    type WriteStream = Stream<WriteContentResponse>;

    async fn write(
        &self,
        request: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Failed> {
        let (context, requests) = open(request)?;
        let session = write::Session::new(self.content.clone(), context, requests);
        Ok(Response::new(Box::pin(session.answers())))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<()>, Failed> {
        let (content, (context, request)) = (self.content.clone(), open(request)?);
        run(move || content.abort(&context, &request.r#ref)).await
    }
}
