use api_protos::containerd::services::version::v1::VersionResponse;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::transport::Server;

use super::*;
use crate::services::version;

/// Serves the version service on one end of a socket pair and returns the other end.
fn serve(named: bool) -> UnixStream {
    let (client, server) = UnixStream::pair().unwrap();
    let router = Server::builder().add_service(version::server());
    let serve = async move {
        if named {
            let one = tokio_stream::iter([Ok::<_, io::Error>(Named::new(server))]);
            router.serve_with_incoming(one).await
        } else {
            let one = tokio_stream::iter([Ok::<_, io::Error>(server)]);
            router.serve_with_incoming(one).await
        }
    };
    tokio::spawn(serve);
    client
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0x40, name.len() as u8];
    field.extend(name.bytes());
    field.push(value.len() as u8);
    field.extend(value.bytes());
    field
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Asks for the version with `authority` in a hand-made request and returns the message, or the stream's error code.
async fn ask(mut client: UnixStream, authority: Option<&str>) -> Result<VersionResponse, u32> {
    let mut headers = vec![0x83, 0x86];
    headers.extend(literal(
        ":path",
        "/containerd.services.version.v1.Version/Version",
    ));
    if let Some(authority) = authority {
        headers.extend(literal(":authority", authority));
    }
    headers.extend(literal("content-type", "application/grpc"));
    headers.extend(literal("te", "trailers"));
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    request.extend(frame(4, 0, 0, &[]));
    request.extend(frame(1, 4, 1, &headers));
    request.extend(frame(0, 1, 1, &[0, 0, 0, 0, 0]));
    client.write_all(&request).await.unwrap();
    loop {
        let mut header = [0; 9];
        client.read_exact(&mut header).await.unwrap();
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let mut payload = vec![0; length];
        client.read_exact(&mut payload).await.unwrap();
        match header[3] {
            0 => return Ok(VersionResponse::decode(&payload[5..]).unwrap()),
            3 => return Err(u32::from_be_bytes(payload.try_into().unwrap())),
            _ => {}
        }
    }
}

#[tokio::test]
async fn every_authority_that_clients_send_is_served() {
    let authorities = [
        Some("/run/containerd/containerd.sock"),
        Some("%2Frun%2Fcontainerd%2Fcontainerd.sock"),
        Some("unix:///run/containerd/containerd.sock"),
        Some("unix:/run/containerd/containerd.sock"),
        Some("passthrough:///unix:///run/c.sock"),
        Some(""),
        Some("localhost"),
        Some("dummy"),
        None,
    ];
    for authority in authorities {
        let answer = tokio::time::timeout(
            std::time::Duration::from_secs(5),
            ask(serve(true), authority),
        );
        let answer = answer
            .await
            .unwrap_or_else(|_| panic!("{authority:?}: no answer"));
        assert_eq!(answer.unwrap().version, version::VERSION, "{authority:?}");
    }
}

/// When this fails, the server has learnt to accept such requests and this module can go.
#[tokio::test]
async fn the_server_itself_refuses_a_path() {
    let path = Some("/run/containerd/containerd.sock");
    assert_eq!(ask(serve(false), path).await.unwrap_err(), 1);
}
