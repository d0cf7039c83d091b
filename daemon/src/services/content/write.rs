//! The write stream: each request is answered in turn, by one writer that lives as long as the stream.

use api_protos::containerd::services::content::v1::{
    WriteAction, WriteContentRequest, WriteContentResponse,
};
use futures_util::stream;
use tonic::{Status, Streaming};

use super::ordered;
use crate::blocking::blocking;
use crate::content::{Content, Digest, Writer, WriterOptions};
use crate::context::Context;
use crate::error::{Error, Kind, Result, invalid, status};

/// A write stream.
pub struct Session {
    requests: Streaming<WriteContentRequest>,
    progress: Progress,
}

/// How far the stream has come.
struct Progress {
    content: Content,
    context: Context,
    reference: String,
    total: i64,
    expected: Option<Digest>,
    state: State,
}

enum State {
    /// Before the first request.
    Unopened,
    Open(Box<Writer>),
    /// After a commit.
    Done,
}

impl Session {
    /// Returns a session whose first request opens the writer.
    pub fn new(
        content: Content,
        context: Context,
        requests: Streaming<WriteContentRequest>,
    ) -> Self {
        Self {
            requests,
            progress: Progress {
                content,
                context,
                reference: String::new(),
                total: 0,
                expected: None,
                state: State::Unopened,
            },
        }
    }

    /// Returns the answers. When the client is gone the writer is closed, and what was written stays for another.
    pub fn answers(
        self,
    ) -> impl futures_util::Stream<Item = Result<WriteContentResponse, Status>> + Send {
        stream::try_unfold(self, |mut session| async {
            if let State::Done = session.progress.state {
                return Ok(None);
            }
            let Some(request) = session.requests.message().await? else {
                return Ok(None);
            };
            let mut progress = session.progress;
            let (answer, progress) = blocking(move || {
                let answer = progress.handle(request)?;
                Ok((answer, progress))
            })
            .await
            .map_err(status)?;
            session.progress = progress;
            Ok(Some((answer, session)))
        })
    }
}

impl Progress {
    fn handle(&mut self, request: WriteContentRequest) -> Result<WriteContentResponse> {
        let first = matches!(self.state, State::Unopened);
        if !request.expected.is_empty() {
            self.expect(&request.expected, first)?;
        }
        if request.total > 0 {
            self.total = request.total;
        }
        if first {
            self.open(&request)?;
        }
        let State::Open(mut writer) = std::mem::replace(&mut self.state, State::Done) else {
            return Err(Error::new(Kind::Internal, "write after commit"));
        };
        let action = request.action();
        let before = writer.status();
        let mut answer = WriteContentResponse {
            action: action.into(),
            offset: before.offset,
            ..Default::default()
        };
        match action {
            WriteAction::Stat => {
                answer.digest = writer.digest().to_string();
                answer.started_at = before.started_at;
                answer.updated_at = before.updated_at;
                answer.total = self.total;
            }
            WriteAction::Write | WriteAction::Commit => {
                append(&mut writer, &request)?;
                answer.offset = writer.status().offset;
                if action == WriteAction::Commit {
                    let labels = ordered(request.labels);
                    let digest = writer.commit(self.total, self.expected.as_ref(), labels)?;
                    answer.digest = digest.to_string();
                    return Ok(answer);
                }
                answer.digest = writer.digest().to_string();
            }
        }
        self.state = State::Open(writer);
        Ok(answer)
    }

    /// Notes the digest that the blob is to have; if the namespace has that blob by now, there is nothing to write.
    fn expect(&mut self, expected: &str, first: bool) -> Result<()> {
        let digest = Digest::parse(expected)?;
        if !first && self.content.info(&self.context, &digest).is_ok() {
            self.state = State::Done;
            self.content.abort(&self.context, &self.reference)?;
            return Err(Error::new(
                Kind::AlreadyExists,
                format!("blob with expected digest {expected} exists"),
            ));
        }
        self.expected = Some(digest);
        Ok(())
    }

    fn open(&mut self, request: &WriteContentRequest) -> Result<()> {
        if request.r#ref.is_empty() {
            return Err(invalid("first message must have a reference"));
        }
        self.reference.clone_from(&request.r#ref);
        let options = WriterOptions {
            reference: self.reference.clone(),
            total: self.total,
            expected: self.expected.clone(),
        };
        let writer = self.content.writer(&self.context, options)?;
        self.state = State::Open(Box::new(writer));
        Ok(())
    }
}

/// Writes what a request carries; one with offset 0 begins anew.
fn append(writer: &mut Writer, request: &WriteContentRequest) -> Result<()> {
    let offset = writer.status().offset;
    if request.offset > 0 && request.offset != offset {
        return Err(Error::new(
            Kind::OutOfRange,
            format!(
                "write @{} must occur at current offset {offset}",
                request.offset
            ),
        ));
    }
    if request.offset == 0 && offset > 0 {
        writer.truncate(0)?;
    }
    writer.write(&request.data)
}
