//! From a connection to the streams that its token stands for, and the status that is told at their end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use super::spdy::{Connection, Sender, Stream};
use super::tls::Socket;
use super::{Channels, Request, websocket};
use crate::cri::{Cri, container, pod};
use crate::error::{Context, Error, Kind, Result, invalid};
use crate::head::{self, Head};

/// The protocols of streams over SPDY, the best first.
const PROTOCOLS: [&str; 4] = [
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];
const PORT_FORWARD: &str = "portforward.k8s.io";
/// How long a client may take to open all its streams.
const STREAMS: Duration = Duration::from_secs(30);
/// How many chunks of a stream wait to be taken.
const BEHIND: usize = 16;
/// How much is read at a time.
const CHUNK: usize = 32 << 10;
const NOT_FOUND: &str = "404 Not Found";
const BAD_REQUEST: &str = "400 Bad Request";
const FORBIDDEN: &str = "403 Forbidden";

/// Serves the connections that come to `listener`, for ever.
pub async fn run(cri: Arc<Cri>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (cri, tls) = (cri.clone(), tls.clone());
                tokio::spawn(async move {
                    let limit = cri.config.stream.idle;
                    let served = async {
                        let socket = encrypted(stream, tls).await?;
                        connection(cri, socket).await
                    };
                    let served = tokio::time::timeout(limit, served).await;
                    match served {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::debug!("streaming: {error:#}"),
                        Err(_) => tracing::info!("streaming: a connection was there for too long"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!("accept a connection of the streaming server: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Returns a connection as it goes on, which is encrypted if there is something that does.
async fn encrypted(stream: TcpStream, tls: Option<TlsAcceptor>) -> Result<Socket> {
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else {
        return Ok(Box::new(stream));
    };
    let accepted = tokio::time::timeout(STREAMS, tls.accept(stream)).await;
    let accepted = accepted.map_err(|_| Error::new(Kind::DeadlineExceeded, "no TLS handshake"))?;
    Ok(Box::new(accepted.context(|| "TLS handshake")?))
}

async fn connection(cri: Arc<Cri>, mut stream: Socket) -> Result<()> {
    let (head, read) = Head::read(&mut stream).await?;
    let spdy = head.upgrades_to("spdy/3.1");
    if !spdy && !head.upgrades_to("websocket") {
        return head::refuse(
            &mut stream,
            BAD_REQUEST,
            "unable to upgrade: no upgrade asked for",
        )
        .await;
    }
    let Some(request) = cri.streams.take(&head.path) else {
        return head::refuse(&mut stream, NOT_FOUND, "404 page not found").await;
    };
    match (spdy, request) {
        (true, Request::PortForward { pod }) => port_forward(cri, stream, head, read, pod).await,
        (true, request) => over_spdy(cri, stream, head, read, request).await,
        (false, Request::PortForward { .. }) => {
            let message = "port forwarding goes over SPDY only";
            head::refuse(&mut stream, BAD_REQUEST, message).await
        }
        (false, request) => {
            let accepted = websocket::accept(stream, &head, read, &request).await?;
            let Some((channels, status, done)) = accepted else {
                return Ok(());
            };
            let end = work(&cri, request, channels).await;
            let _ = status.send(end.status().into()).await;
            drop(status);
            done.await;
            Ok(())
        }
    }
}

/// How what a request asked for has ended, in upstream's words.
#[derive(Debug)]
enum End {
    Success,
    /// A command had another exit code than 0.
    Exit {
        code: i32,
        message: String,
    },
    Failure(String),
}

impl End {
    fn of_command(result: Result<i32>, cmd: &[String]) -> End {
        match result {
            Ok(0) => End::Success,
            Ok(code) => End::Exit {
                code,
                message: format!(
                    "command terminated with non-zero exit code: \
                     error executing command [{}], exit code {code}",
                    cmd.join(" ")
                ),
            },
            Err(error) => End::Failure(format!("error executing command in container: {error:#}")),
        }
    }

    /// Returns the status that clients read from version 4 of the protocol on.
    fn status(&self) -> String {
        let status: Value = match self {
            End::Success => json!({"metadata": {}, "status": "Success"}),
            End::Exit { code, message } => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            End::Failure(error) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {error}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": error}]},
                "code": 500,
            }),
        };
        status.to_string()
    }

    /// Returns what older clients read, to whom success is nothing.
    fn text(self) -> Option<String> {
        match self {
            End::Success => None,
            End::Exit { message, .. } => Some(message),
            End::Failure(error) => Some(format!("Internal error occurred: {error}")),
        }
    }
}

/// Does what a request asks for, with the streams of the client.
async fn work(cri: &Arc<Cri>, request: Request, channels: Channels) -> End {
    match request {
        Request::Exec {
            container,
            cmd,
            tty,
            ..
        } => {
            let result = container::exec::serve(cri, &container, &cmd, tty, channels).await;
            End::of_command(result, &cmd)
        }
        Request::Attach { container, .. } => {
            match container::attach::serve(cri, &container, channels).await {
                Ok(()) => End::Success,
                Err(error) => End::Failure(format!("error attaching to container: {error:#}")),
            }
        }
        Request::PortForward { .. } => End::Failure("no such streams".into()),
    }
}

/// Serves exec and attach over SPDY.
async fn over_spdy(
    cri: Arc<Cri>,
    mut stream: Socket,
    head: Head,
    read: Vec<u8>,
    request: Request,
) -> Result<()> {
    let asked = head.values("x-stream-protocol-version");
    let chosen = match asked.is_empty() {
        // The first clients named none.
        true => Some(PROTOCOLS[3]),
        false => PROTOCOLS.into_iter().find(|known| asked.contains(known)),
    };
    let Some(protocol) = chosen else {
        let message = format!("unable to upgrade: unsupported protocols: {asked:?}");
        return head::refuse(&mut stream, FORBIDDEN, &message).await;
    };
    let headers = [
        ("Upgrade", "SPDY/3.1"),
        ("X-Stream-Protocol-Version", protocol),
    ];
    head::switch(&mut stream, &headers).await?;
    let mut connection = Connection::new(stream, read);
    let version = PROTOCOLS
        .iter()
        .rev()
        .position(|known| *known == protocol)
        .unwrap_or(0)
        + 1;
    let mut opened = open_streams(&mut connection, &request, version).await?;
    let status = opened.remove("error");
    let (channels, sinks) = channels(opened, &connection);
    let end = work(&cri, request, channels).await;
    // All output is out before the status is.
    for sink in sinks {
        let _ = sink.await;
    }
    if let Some(status) = status {
        let text = match version {
            4.. => Some(end.status()),
            _ => end.text(),
        };
        if let Some(text) = text {
            let _ = status.output.send(text.into()).await;
        }
        let _ = status.output.finish().await;
    }
    connection.close().await;
    Ok(())
}

/// Waits until the client has opened all the streams that it asked for.
async fn open_streams(
    connection: &mut Connection,
    request: &Request,
    version: usize,
) -> Result<HashMap<String, Stream>> {
    let (tty, [stdin, stdout, stderr]) = match request {
        Request::Exec { tty, streams, .. } | Request::Attach { tty, streams, .. } => {
            (*tty, *streams)
        }
        Request::PortForward { .. } => (false, [false; 3]),
    };
    // From the third version on, the size of a terminal has a stream of its own.
    let wanted = [true, stdin, stdout, stderr, tty && version >= 3];
    let names = ["error", "stdin", "stdout", "stderr", "resize"];
    let count = wanted.into_iter().filter(|wanted| *wanted).count();
    let mut opened = HashMap::new();
    let all = async {
        while opened.len() < count {
            let stream = connection.streams.recv().await;
            let stream = stream.ok_or_else(|| Error::new(Kind::Canceled, "the client has gone"))?;
            let kind = stream
                .headers
                .get("streamtype")
                .cloned()
                .unwrap_or_default();
            if !names.contains(&kind.as_str()) {
                return Err(invalid(format!("unexpected stream type {kind:?}")));
            }
            opened.insert(kind, stream);
        }
        Ok(())
    };
    match tokio::time::timeout(STREAMS, all).await {
        Ok(result) => result?,
        Err(_) => {
            let message = "timed out waiting for client to create streams";
            return Err(Error::new(Kind::DeadlineExceeded, message));
        }
    }
    Ok(opened)
}

/// Returns the streams as whoever works with them wants them, and what carries their output.
fn channels(
    mut opened: HashMap<String, Stream>,
    connection: &Connection,
) -> (Channels, Vec<tokio::task::JoinHandle<()>>) {
    let mut sinks = Vec::new();
    let mut sink = |stream: Option<Stream>| {
        let output = stream?.output;
        let (sender, receiver) = mpsc::channel(BEHIND);
        sinks.push(tokio::spawn(carry(receiver, output)));
        Some(sender)
    };
    let (stdout, stderr) = (sink(opened.remove("stdout")), sink(opened.remove("stderr")));
    let channels = Channels {
        stdin: opened.remove("stdin").map(|stream| stream.input),
        stdout,
        stderr,
        resize: opened.remove("resize").map(|stream| sizes(stream.input)),
        gone: while_alive(connection.alive.clone()),
    };
    (channels, sinks)
}

async fn carry(mut receiver: mpsc::Receiver<Bytes>, output: Sender) {
    while let Some(bytes) = receiver.recv().await {
        if output.send(bytes).await.is_err() {
            return;
        }
    }
    let _ = output.finish().await;
}

/// Returns a channel that has a receiver as long as `alive` has a sender.
pub fn while_alive(mut alive: watch::Receiver<()>) -> watch::Sender<()> {
    let (sender, receiver) = watch::channel(());
    tokio::spawn(async move {
        while alive.changed().await.is_ok() {}
        drop(receiver);
    });
    sender
}

/// Returns the sizes that a stream tells, as JSON objects one after the other.
pub fn sizes(mut input: mpsc::Receiver<Bytes>) -> mpsc::Receiver<(u16, u16)> {
    let (sender, receiver) = mpsc::channel(BEHIND);
    tokio::spawn(async move {
        let mut text = Vec::new();
        while let Some(bytes) = input.recv().await {
            text.extend_from_slice(&bytes);
            let mut values = serde_json::Deserializer::from_slice(&text).into_iter::<Value>();
            let mut found = Vec::new();
            while let Some(Ok(size)) = values.next() {
                let side = |key: &str| size[key].as_u64().and_then(|side| side.try_into().ok());
                found.extend(side("Width").zip(side("Height")));
            }
            let read = values.byte_offset();
            text.drain(..read);
            if text.len() > CHUNK {
                return;
            }
            for size in found {
                if sender.send(size).await.is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

/// Serves the ports of a pod: for each connection to one, the client opens a stream for data and one for errors.
async fn port_forward(
    cri: Arc<Cri>,
    mut stream: Socket,
    head: Head,
    read: Vec<u8>,
    pod: String,
) -> Result<()> {
    let asked = head.values("x-stream-protocol-version");
    if !asked.is_empty() && !asked.contains(&PORT_FORWARD) {
        let message = format!("unable to upgrade: unsupported protocols: {asked:?}");
        return head::refuse(&mut stream, FORBIDDEN, &message).await;
    }
    let headers = [
        ("Upgrade", "SPDY/3.1"),
        ("X-Stream-Protocol-Version", PORT_FORWARD),
    ];
    head::switch(&mut stream, &headers).await?;
    let mut connection = Connection::new(stream, read);
    let mut waiting: HashMap<String, Stream> = HashMap::new();
    let mut forwarded = tokio::task::JoinSet::new();
    while let Some(stream) = connection.streams.recv().await {
        while forwarded.try_join_next().is_some() {}
        let request = stream.headers.get("requestid").cloned().unwrap_or_default();
        let Some(other) = waiting.remove(&request) else {
            waiting.insert(request, stream);
            continue;
        };
        let is_data = |stream: &Stream| {
            stream
                .headers
                .get("streamtype")
                .is_some_and(|kind| kind == "data")
        };
        let (data, error) = match is_data(&stream) {
            true => (stream, other),
            false => (other, stream),
        };
        let (cri, pod) = (cri.clone(), pod.clone());
        forwarded.spawn(async move {
            let port = data.headers.get("port").and_then(|port| port.parse().ok());
            let result = forward(&cri, &pod, port.unwrap_or(0), data).await;
            if let Err(failed) = result {
                let text = format!("error forwarding port: {failed:#}");
                let _ = error.output.send(text.into()).await;
            }
            let _ = error.output.finish().await;
        });
    }
    // The client has gone, and its connections with it.
    forwarded.shutdown().await;
    connection.close().await;
    Ok(())
}

async fn forward(cri: &Cri, id: &str, port: u16, data: Stream) -> Result<()> {
    let connected = pod::port_forward::connect(cri, id, port).await?;
    let (mut from, mut to) = connected.into_split();
    let (mut input, output) = (data.input, data.output);
    let inward = async {
        while let Some(bytes) = input.recv().await {
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let outward = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = from
                .read(&mut buffer)
                .await
                .context(|| "read from the pod")?;
            if read == 0 {
                break;
            }
            output.send(Bytes::copy_from_slice(&buffer[..read])).await?;
        }
        output.finish().await
    };
    // When the pod has no more to say, the connection is over, whatever the client still sends.
    tokio::pin!(inward, outward);
    tokio::select! {
        result = &mut outward => result,
        () = &mut inward => outward.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_tells_the_exit_code() {
        let status = |result| -> Value {
            let end = End::of_command(result, &["sh".into(), "-c".into()]);
            serde_json::from_str(&end.status()).unwrap()
        };
        assert_eq!(status(Ok(0))["status"], "Success");
        let failed = status(Ok(3));
        assert_eq!(failed["details"]["causes"][0]["message"], "3");
        assert_eq!(failed["reason"], "NonZeroExitCode");
        let message = "command terminated with non-zero exit code: error executing command [sh -c], exit code 3";
        assert_eq!(failed["message"], message);
        assert_eq!(End::of_command(Ok(0), &[]).text(), None);
        let status = status(Err(invalid("no")));
        assert_eq!(status["code"], 500);
    }

    #[tokio::test]
    async fn sizes_may_come_in_pieces() {
        let (sender, receiver) = mpsc::channel(8);
        let mut sizes = sizes(receiver);
        for piece in [r#"{"Width":80,"He"#, r#"ight":24}{"Width":1,"Height":2}"#] {
            sender.send(Bytes::from(piece)).await.unwrap();
        }
        assert_eq!(sizes.recv().await, Some((80, 24)));
        assert_eq!(sizes.recv().await, Some((1, 2)));
    }
}
