//! Streams beside a call: progress and credentials as messages, archives as bytes under flow control.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use api_protos::any;
use api_protos::containerd::services::streaming::v1::StreamInit;
use api_protos::containerd::types::transfer::{
    AuthRequest, AuthResponse, AuthType, Data, WindowUpdate,
};
use prost_types::Any;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::client::{Client, Doing as _};
use crate::fifo::random;

/// How many bytes one message carries at most.
const CHUNK: usize = 32 << 10;
/// How many bytes the other side may send before it hears from us.
const WINDOW: i64 = 2 * CHUNK as i64;

/// A tar archive ends with two blocks of zeros.
const TAR_END: usize = 1024;
/// How long a stream may pause after the call that fed it is over.
const PAUSE: Duration = Duration::from_millis(300);

/// An open stream, known to the daemon by its name.
#[derive(Debug)]
pub struct Stream {
    /// The name that a call's request gives.
    pub id: String,
    sender: mpsc::Sender<Any>,
    receiver: Streaming<Any>,
}

impl Stream {
    /// Opens a stream whose name begins with `prefix`, and waits until the daemon knows it.
    pub async fn open(client: &Client, prefix: &str) -> Result<Stream> {
        let id = format!("{prefix}-{}", random()?);
        let (sender, requests) = mpsc::channel(4);
        sender
            .send(any::pack(&StreamInit { id: id.clone() }))
            .await
            .context("open a stream")?;
        let answer = client
            .streaming()
            .stream(ReceiverStream::new(requests))
            .await;
        let mut receiver = answer.doing(|| "open a stream".into())?.into_inner();
        receiver.message().await.doing(|| "open a stream".into())?;
        Ok(Stream {
            id,
            sender,
            receiver,
        })
    }

    /// Returns the next message; nothing when the daemon has closed the stream.
    pub async fn next(&mut self) -> Result<Option<Any>> {
        match self.receiver.message().await {
            Err(status) if status.code() == Code::Cancelled => Ok(None),
            result => result.doing(|| "read a stream".into()),
        }
    }

    /// Sends what `reader` holds; `moved` hears how many bytes have gone out.
    pub async fn send(mut self, mut reader: impl Read, mut moved: impl FnMut(u64)) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        let (mut window, mut total) = (0i64, 0u64);
        loop {
            while window <= 0 {
                let Some(message) = self.next().await? else {
                    bail!("the daemon stopped reading after {total} bytes");
                };
                if let Some(update) = any::unpack::<WindowUpdate>(&message) {
                    window += i64::from(update?.update);
                }
            }
            let length = buffer.len().min(usize::try_from(window).unwrap_or(CHUNK));
            let count = reader
                .read(&mut buffer[..length])
                .context("read the archive")?;
            if count == 0 {
                break;
            }
            let data = Data {
                data: buffer[..count].to_vec(),
            };
            if self.sender.send(any::pack(&data)).await.is_err() {
                bail!("the daemon stopped reading after {total} bytes");
            }
            window -= count as i64;
            total += count as u64;
            moved(total);
        }
        // Our side ends here; the daemon's updates are heard until it ends its own.
        drop(self.sender);
        while let Ok(Some(_)) = self.receiver.message().await {}
        Ok(())
    }

    /// Writes the archive that the daemon sends; `over` tells that the call is over, `moved` hears the bytes come in.
    ///
    /// containerd leaves the stream open after the last byte. What was sent before the call's answer is on its way,
    /// so a pause after the end mark of a tar archive is the end.
    pub async fn receive(
        mut self,
        mut writer: impl Write,
        mut over: oneshot::Receiver<()>,
        mut moved: impl FnMut(u64),
    ) -> Result<u64> {
        let (mut window, mut total, mut zeros) = (0i64, 0u64, 0usize);
        let (mut finished, mut pauses) = (false, 0);
        loop {
            if window < WINDOW {
                // A daemon that has sent everything no longer listens: what it sent still counts.
                let update = any::pack(&WindowUpdate {
                    update: WINDOW as i32,
                });
                if finished {
                    let _ = self.sender.try_send(update);
                } else {
                    let _ = self.sender.send(update).await;
                }
                window += WINDOW;
            }
            let message = if finished {
                match tokio::time::timeout(PAUSE, self.next()).await {
                    Ok(message) => message?,
                    Err(_) if zeros >= TAR_END => None,
                    Err(_) if pauses < 30 => {
                        pauses += 1;
                        continue;
                    }
                    Err(_) => bail!("the archive ends in the middle, after {total} bytes"),
                }
            } else {
                tokio::select! {
                    message = self.next() => message?,
                    _ = &mut over => {
                        finished = true;
                        continue;
                    }
                }
            };
            let Some(message) = message else {
                if zeros < TAR_END {
                    bail!("the archive ends in the middle, after {total} bytes");
                }
                writer.flush().context("write the archive")?;
                return Ok(total);
            };
            if let Some(data) = any::unpack::<Data>(&message) {
                let data = data?.data;
                writer.write_all(&data).context("write the archive")?;
                window -= data.len() as i64;
                total += data.len() as u64;
                zeros = match data.iter().rposition(|byte| *byte != 0) {
                    Some(last) => data.len() - last - 1,
                    None => zeros + data.len(),
                };
                moved(total);
            }
        }
    }

    /// Answers each question for credentials with `user` and `password`.
    pub async fn answer(mut self, user: String, password: String) -> Result<()> {
        while let Some(message) = self.next().await? {
            if !any::is::<AuthRequest>(&message) {
                continue;
            }
            let answer = AuthResponse {
                auth_type: AuthType::Credentials as i32,
                secret: password.clone(),
                username: user.clone(),
                expire_at: None,
            };
            if self.sender.send(any::pack(&answer)).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}
