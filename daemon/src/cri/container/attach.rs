//! Attach: the streams of a container's first process over a connection.

use std::sync::Arc;

use api_protos::runtime::v1::AttachRequest;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::exec::{resize, running};
use crate::cri::Cri;
use crate::cri::log::Stream;
use crate::cri::store::Container;
use crate::cri::stream::{Channels, Request, check};
use crate::error::{Error, Kind, Result};
use crate::tasks::Task;

/// Returns where a client may connect to the container's streams.
pub fn url(cri: &Cri, request: AttachRequest) -> Result<String> {
    let container = cri.store.container(&request.container_id)?;
    running(&container)?;
    check(request.tty, [request.stdin, request.stdout, request.stderr])?;
    cri.streams.url(Request::Attach {
        container: container.id.clone(),
        tty: request.tty,
        streams: [request.stdin, request.stdout, request.stderr],
    })
}

/// Connects `channels` to a container until it ends or the client goes.
pub async fn serve(cri: &Arc<Cri>, id: &str, mut channels: Channels) -> Result<()> {
    let container = cri.store.container(id)?;
    running(&container)?;
    let task = cri
        .parts
        .tasks
        .get(&cri.store.context, &container.id)
        .await?;
    let sizes = channels.resize.take();
    let resize = tokio::spawn(resize(task.clone(), String::new(), sizes));
    let mut output = container.io.attach();
    let fed = feed(&container, &task, channels.stdin.take());
    let attached = async {
        while let Some((stream, bytes)) = output.recv().await {
            let sink = match stream {
                Stream::Stdout => &channels.stdout,
                Stream::Stderr => &channels.stderr,
            };
            if let Some(sink) = sink
                && sink.send(bytes).await.is_err()
            {
                return;
            }
        }
    };
    let result = tokio::select! {
        () = attached => Ok(()),
        () = channels.gone.closed() => Err(Error::new(Kind::Canceled, "the client has gone")),
        () = fed => Ok(()),
    };
    resize.abort();
    result
}

/// Hands what the client sends to the container, and returns if a client that has sent all is to hear no more.
///
/// Standard input that is meant for one client is closed after it, and the client hears what the container says to that. One
/// that stays open would have the client wait for the container's end, which may never come.
async fn feed(container: &Container, task: &Task, input: Option<mpsc::Receiver<Bytes>>) {
    let config = container.config();
    let Some(mut input) = input.filter(|_| config.stdin) else {
        return std::future::pending().await;
    };
    while let Some(bytes) = input.recv().await {
        if container.io.write(&bytes).await.is_err() {
            return std::future::pending().await;
        }
    }
    if config.stdin_once && !config.tty {
        container.io.close_stdin().await;
        let _ = task.close_stdin("").await;
        std::future::pending().await
    }
}
