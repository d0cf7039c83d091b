//! Writing a blob into the daemon's content store, piece by piece.

use anyhow::{Context as _, Result};
use api_protos::containerd::services::content::v1::{
    WriteAction, WriteContentRequest, WriteContentResponse,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::client::{Client, error};

/// A blob that is being written.
#[derive(Debug)]
pub struct Writer {
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    /// What each request has.
    request: WriteContentRequest,
    hasher: Sha256,
}

impl Writer {
    /// Begins to write under `reference`; an expected size of 0 and an empty digest are unknown.
    pub async fn open(client: &Client, reference: &str, size: i64, digest: &str) -> Result<Writer> {
        let request = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.to_owned(),
            total: size,
            expected: digest.to_owned(),
            ..Default::default()
        };
        let (requests, receiver) = mpsc::channel(1);
        // The daemon answers when it has seen the first message, so call and messages go side by side.
        requests.send(request.clone()).await?;
        let what = || format!("write content {reference}");
        let mut service = client.content();
        let call = service.write(ReceiverStream::new(receiver)).await;
        let answers = call.map_err(|status| error(&status)).with_context(what)?;
        let mut writer = Writer {
            requests,
            answers: answers.into_inner(),
            request,
            hasher: Sha256::new(),
        };
        writer
            .answer()
            .await
            .map_err(|status| error(&status))
            .with_context(what)?;
        Ok(writer)
    }

    /// Adds bytes.
    pub async fn write(&mut self, data: Vec<u8>) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let sent = self.send(WriteAction::Write, data).await;
        sent.map(drop).map_err(|status| error(&status))
    }

    /// Makes what was written a blob and returns its digest; one that is there already is as good.
    pub async fn commit(
        mut self,
        labels: std::collections::HashMap<String, String>,
    ) -> Result<String> {
        self.request.labels = labels;
        let committed = self.send(WriteAction::Commit, Vec::new()).await;
        let hash = self.hasher.finalize();
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        match committed {
            Err(status) if status.code() == Code::AlreadyExists => Ok(format!("sha256:{hex}")),
            Err(status) => Err(error(&status)),
            Ok(answer) => Ok(answer.digest),
        }
    }

    async fn send(
        &mut self,
        action: WriteAction,
        data: Vec<u8>,
    ) -> Result<WriteContentResponse, Status> {
        self.hasher.update(&data);
        let length = data.len() as i64;
        let request = WriteContentRequest {
            action: action.into(),
            data: data.into(),
            ..self.request.clone()
        };
        // What is wrong is told by the answer if the daemon reads no further.
        let sent = self.requests.send(request).await;
        let answer = self.answer().await?;
        sent.map_err(|_| Status::aborted("the daemon ended the write"))?;
        self.request.offset += length;
        Ok(answer)
    }

    async fn answer(&mut self) -> Result<WriteContentResponse, Status> {
        let answer = self.answers.message().await?;
        answer.ok_or_else(|| Status::aborted("the daemon ended the write"))
    }
}
