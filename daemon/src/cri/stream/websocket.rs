//! Channels over WebSocket: every message begins with the number of its channel, as a byte or, in base64, as a digit.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::serve::{sizes, while_alive};
use super::tls::Socket;
use super::{Channels, Request};
use crate::error::Result;
use crate::head::{self, Head};

/// The protocols, the best first; those with `base64` are text.
const PROTOCOLS: [&str; 5] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
/// From version 5 on: closes the channel whose number follows.
const CLOSE: u8 = 255;
/// The longest message of a client.
const LONGEST: usize = 1 << 20;
/// How many chunks of a channel wait to be taken.
const BEHIND: usize = 16;
/// How long a client may take to answer that all is said, before the connection is closed all the same.
const GOODBYE: Duration = Duration::from_secs(1);

/// Ready when everything has been sent.
pub type Done = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Goes on with WebSocket, and returns the client's streams, where its status goes, and the end of it all.
pub async fn accept(
    mut stream: Socket,
    head: &Head,
    read: Vec<u8>,
    request: &Request,
) -> Result<Option<(Channels, mpsc::Sender<Bytes>, Done)>> {
    let asked = head.values("sec-websocket-protocol");
    let chosen = PROTOCOLS.into_iter().find(|known| asked.contains(known));
    let key = head
        .values("sec-websocket-key")
        .first()
        .map(|key| (*key).to_owned());
    let (Some(key), true) = (key, chosen.is_some() || asked.is_empty()) else {
        let message = format!("unable to upgrade: unsupported protocols: {asked:?}");
        head::refuse(&mut stream, "403 Forbidden", &message).await?;
        return Ok(None);
    };
    let accept = derive_accept_key(key.as_bytes());
    let mut headers = vec![
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Accept", accept.as_str()),
    ];
    if let Some(protocol) = chosen {
        headers.push(("Sec-WebSocket-Protocol", protocol));
    }
    head::switch(&mut stream, &headers).await?;
    let mut config = WebSocketConfig::default();
    config.max_message_size = Some(LONGEST);
    config.max_frame_size = Some(LONGEST);
    let socket =
        WebSocketStream::from_partially_read(stream, read, Role::Server, Some(config)).await;
    Ok(Some(channels(socket, request, chosen.unwrap_or_default())))
}

fn channels(
    socket: WebSocketStream<Socket>,
    request: &Request,
    protocol: &'static str,
) -> (Channels, mpsc::Sender<Bytes>, Done) {
    let (tty, [stdin, stdout, stderr]) = match request {
        Request::Exec { tty, streams, .. } | Request::Attach { tty, streams, .. } => {
            (*tty, *streams)
        }
        Request::PortForward { .. } => (false, [false; 3]),
    };
    let text = protocol.contains("base64");
    let (mut sink, mut source) = socket.split();
    let (to_client, mut from_us) = mpsc::channel::<(u8, Bytes)>(BEHIND);
    let writer = tokio::spawn(async move {
        while let Some((channel, bytes)) = from_us.recv().await {
            if sink.send(encode(channel, &bytes, text)).await.is_err() {
                return;
            }
        }
        // Clients take an end without a reason for a failure.
        let end = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        let _ = sink.send(Message::Close(Some(end))).await;
        let _ = sink.close().await;
    });
    // An empty message tells the client that it is connected.
    let first = match (stdout, stderr) {
        (true, _) => STDOUT,
        (false, true) => STDERR,
        (false, false) => STATUS,
    };
    let _ = to_client.try_send((first, Bytes::new()));

    let (mut to_stdin, from_stdin) = some_channel(stdin);
    let (mut to_resize, from_resize) = some_channel(tty);
    let (life, alive) = watch::channel(());
    let reader = tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            let Some((channel, bytes)) = decode(message, text) else {
                continue;
            };
            match channel {
                STDIN => pass(&to_stdin, bytes).await,
                RESIZE => pass(&to_resize, bytes).await,
                CLOSE => match bytes.first() {
                    Some(&STDIN) => to_stdin = None,
                    Some(&RESIZE) => to_resize = None,
                    _ => {}
                },
                _ => {}
            }
        }
        drop(life);
    });
    let mut carriers = Vec::new();
    let mut carry = |channel: u8, wanted: bool| {
        let (sender, receiver) = some_channel(wanted);
        if let Some(mut receiver) = receiver {
            let to_client = to_client.clone();
            carriers.push(tokio::spawn(async move {
                while let Some(bytes) = receiver.recv().await {
                    if to_client.send((channel, bytes)).await.is_err() {
                        return;
                    }
                }
            }));
        }
        sender
    };
    let (out, err) = (carry(STDOUT, stdout), carry(STDERR, stderr));
    let (status, mut told) = mpsc::channel::<Bytes>(1);
    let done = async move {
        // All output is out before the status is.
        for carrier in carriers {
            let _ = carrier.await;
        }
        if let Some(text) = told.recv().await {
            let _ = to_client.send((STATUS, text)).await;
        }
        drop(to_client);
        let _ = writer.await;
        // The reader keeps the connection open as long as it waits for the client.
        let hang_up = reader.abort_handle();
        if tokio::time::timeout(GOODBYE, reader).await.is_err() {
            hang_up.abort();
        }
    };
    let channels = Channels {
        stdin: from_stdin,
        stdout: out,
        stderr: err,
        resize: from_resize.map(sizes),
        gone: while_alive(alive),
    };
    (channels, status, Box::pin(done))
}

type Pair = (Option<mpsc::Sender<Bytes>>, Option<mpsc::Receiver<Bytes>>);

fn some_channel(wanted: bool) -> Pair {
    match wanted {
        true => {
            let (sender, receiver) = mpsc::channel(BEHIND);
            (Some(sender), Some(receiver))
        }
        false => (None, None),
    }
}

async fn pass(channel: &Option<mpsc::Sender<Bytes>>, bytes: Bytes) {
    if let Some(channel) = channel.as_ref().filter(|_| !bytes.is_empty()) {
        let _ = channel.send(bytes).await;
    }
}

fn encode(channel: u8, bytes: &[u8], text: bool) -> Message {
    match text {
        true => Message::Text(format!("{channel}{}", STANDARD.encode(bytes)).into()),
        false => Message::Binary([&[channel], bytes].concat().into()),
    }
}

/// Returns the channel of a message and what is in it; nothing if it is no message of a channel.
fn decode(message: Message, text: bool) -> Option<(u8, Bytes)> {
    let bytes: Bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
        _ => return None,
    };
    let (channel, rest) = bytes.split_first()?;
    match text {
        true => {
            let channel = channel.checked_sub(b'0')?;
            Some((channel, STANDARD.decode(rest).ok()?.into()))
        }
        false => Some((*channel, bytes.slice(1..))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_answers_nothing_is_hung_up_on() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let stream: Socket = Box::new(stream);
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        let request = Request::PortForward { pod: String::new() };
        let (_channels, status, done) = channels(socket, &request, PROTOCOLS[1]);
        status.send("end".into()).await.unwrap();
        drop(status);
        tokio::spawn(done);
        let mut said = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut client, &mut said);
        tokio::time::timeout(GOODBYE * 20, read)
            .await
            .expect("the connection ends")
            .unwrap();
        // The first, empty message, then the status, then the goodbye with its code.
        assert_eq!(
            said, b"\x82\x01\x03\x82\x04\x03end\x88\x02\x03\xe8",
            "{said:?}"
        );
    }

    #[test]
    fn messages_begin_with_their_channel() {
        for text in [false, true] {
            let message = encode(STDERR, b"hello", text);
            assert_eq!(message.is_text(), text);
            let (channel, bytes) = decode(message, text).unwrap();
            assert_eq!((channel, bytes.as_ref()), (STDERR, &b"hello"[..]));
        }
        assert_eq!(decode(Message::Binary(Bytes::new()), false), None);
        assert_eq!(decode(Message::Text("1***".into()), true), None);
    }
}
