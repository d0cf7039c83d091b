//! Client and server against each other over a real socket.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use corten_ttrpc::frame::MAX_MESSAGE;
use corten_ttrpc::{Client, Context, Error, RawStream, Reply, Server, Service, Status};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

/// Answers `Echo`, fails `Fail`, never answers `Hang`, and upper-cases the stream `Shout`.
#[derive(Default)]
struct Echo {
    hanging: Arc<AtomicUsize>,
}

struct Hanging(Arc<AtomicUsize>);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service for Echo {
    fn name(&self) -> &str {
        "test.Echo"
    }

    fn call(&self, context: Context, method: &str, payload: Bytes) -> Option<Reply<Vec<u8>>> {
        match method {
            "Echo" => Some(Box::pin(async move {
                let mut answer = payload.to_vec();
                if let Some(value) = context.metadata("suffix") {
                    answer.extend_from_slice(value.as_bytes());
                }
                Ok(answer)
            })),
            "Fail" => Some(Box::pin(async { Err(Status::new(5, "gone: not found")) })),
            "Long" => Some(Box::pin(async { Ok(vec![0; MAX_MESSAGE + 1]) })),
            "Hang" => {
                self.hanging.fetch_add(1, Ordering::SeqCst);
                let hanging = Hanging(self.hanging.clone());
                Some(Box::pin(async move {
                    std::future::pending::<()>().await;
                    drop(hanging);
                    Ok(Vec::new())
                }))
            }
            "Slow" => Some(Box::pin(async {
                tokio::time::sleep(Duration::from_millis(200)).await;
                Ok(b"done".to_vec())
            })),
            _ => None,
        }
    }

    fn is_stream(&self, method: &str) -> bool {
        method == "Shout"
    }

    fn stream(&self, _: Context, _: &str, mut stream: RawStream) -> Option<Reply<()>> {
        Some(Box::pin(async move {
            while let Ok(Some(message)) = stream.recv().await {
                if &message[..] == b"fail" {
                    return Err(Status::new(2, "told to fail"));
                }
                stream
                    .send(message.to_ascii_uppercase())
                    .map_err(|error| Status::new(13, error.to_string()))?;
            }
            Ok(())
        }))
    }
}

/// A server on a socket of its own, until it is dropped.
struct Fixture {
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
    hanging: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    served: Option<tokio::task::JoinHandle<()>>,
}

fn fixture(configure: impl FnOnce(Server) -> Server) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let echo = Echo::default();
    let hanging = echo.hanging.clone();
    let server = configure(Server::new([Box::new(echo) as Box<dyn Service>]));
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(async move {
        server
            .serve(&listener, async {
                let _ = stopped.await;
            })
            .await
            .unwrap();
    });
    Fixture {
        _dir: dir,
        path,
        hanging,
        stop: Some(stop),
        served: Some(served),
    }
}

async fn call(client: &Client, method: &str) -> corten_ttrpc::Result<Bytes> {
    let context = Context::new().with_timeout(Duration::from_secs(10));
    client
        .call(&context, "test.Echo", method, b"hi".to_vec())
        .await
}

fn code(result: corten_ttrpc::Result<Bytes>) -> i32 {
    match result {
        Err(Error::Status(status)) => status.code,
        other => panic!("not a status: {other:?}"),
    }
}

#[tokio::test]
async fn a_call_is_answered_with_its_metadata_seen() {
    let server = fixture(|server| server);
    let client = Client::connect(&server.path).await.unwrap();
    let context = Context::new().with_metadata("suffix", "!");
    let answer = client.call(&context, "test.Echo", "Echo", b"hi".to_vec());
    assert_eq!(answer.await.unwrap(), "hi!");
}

#[tokio::test]
async fn a_status_comes_back_as_it_was_sent() {
    let server = fixture(|server| server);
    let client = Client::connect(&server.path).await.unwrap();
    let expected = Err(Error::Status(Status::new(5, "gone: not found")));
    assert_eq!(call(&client, "Fail").await, expected);
}

#[tokio::test]
async fn unknown_services_and_methods_are_unimplemented() {
    let server = fixture(|server| server);
    let client = Client::connect(&server.path).await.unwrap();
    assert_eq!(code(call(&client, "Nothing").await), 12);
    let context = Context::new();
    let answer = client.call(&context, "no.Service", "Echo", Vec::new());
    assert_eq!(code(answer.await), 12);
}

#[tokio::test]
async fn a_hanging_call_does_not_hold_up_the_next() {
    let server = fixture(|server| server);
    let client = Client::connect(&server.path).await.unwrap();
    let hanging = tokio::spawn({
        let client = client.clone();
        async move { call(&client, "Hang").await }
    });
    assert_eq!(call(&client, "Echo").await.unwrap(), "hi");
    hanging.abort();
}

#[tokio::test]
async fn many_calls_at_once_each_get_their_own_answer() {
    let server = fixture(|server| server);
    let client = Client::connect(&server.path).await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..500 {
        let client = client.clone();
        calls.spawn(async move {
            let sent = format!("{number}").into_bytes();
            let context = Context::new();
            let answer = client.call(&context, "test.Echo", "Echo", sent.clone());
            assert_eq!(answer.await.unwrap(), sent);
        });
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_timeout_ends_the_call_at_both_ends() {
    let server = fixture(|server| server);
    let client = Client::connect(&server.path).await.unwrap();
    let context = Context::new().with_timeout(Duration::from_millis(100));
    let answer = client.call(&context, "test.Echo", "Hang", Vec::new()).await;
    // Whichever end is first: both give up.
    match answer {
        Err(Error::TimedOut) => {}
        Err(Error::Status(status)) => assert_eq!(status.code, 4),
        other => panic!("{other:?}"),
    }
    tokio::time::timeout(Duration::from_secs(5), async {
        while server.hanging.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the handler is dropped");
    assert_eq!(call(&client, "Echo").await.unwrap(), "hi");
}

#[tokio::test]
async fn losing_the_connection_fails_every_pending_call_and_drops_their_handlers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let client = Client::connect(&path).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { call(&client, "Hang").await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(socket);
    for pending in calls {
        assert_eq!(pending.await.unwrap(), Err(Error::Closed));
    }
    client.closed().await;
    assert!(client.is_closed());
    assert_eq!(call(&client, "Echo").await, Err(Error::Closed));
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_no_handler() {
    let server = fixture(|server| server);
    let client = Client::connect(&server.path).await.unwrap();
    let pending = tokio::spawn(async move { call(&client, "Hang").await });
    let until = |count: usize| {
        let hanging = server.hanging.clone();
        async move {
            while hanging.load(Ordering::SeqCst) != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let wait = Duration::from_secs(5);
    tokio::time::timeout(wait, until(1)).await.unwrap();
    pending.abort();
    tokio::time::timeout(wait, until(0)).await.unwrap();
}

#[tokio::test]
async fn messages_over_the_limit_fail_and_the_connection_lives() {
    let server = fixture(|server| server);
    let client = Client::connect(&server.path).await.unwrap();
    let long = vec![0; MAX_MESSAGE + 1];
    let answer = client
        .call(&Context::new(), "test.Echo", "Echo", long)
        .await;
    assert!(matches!(answer, Err(Error::TooLong(_))), "{answer:?}");
    assert_eq!(code(call(&client, "Long").await), 8);
    assert_eq!(call(&client, "Echo").await.unwrap(), "hi");
}

#[tokio::test]
async fn shutdown_waits_for_calls_under_way_but_not_for_ever() {
    let mut server = fixture(|server| server.with_grace(Duration::from_secs(1)));
    let client = Client::connect(&server.path).await.unwrap();
    let slow = tokio::spawn({
        let client = client.clone();
        async move { call(&client, "Slow").await }
    });
    let hang = tokio::spawn({
        let client = client.clone();
        async move { call(&client, "Hang").await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.stop.take().unwrap().send(()).unwrap();
    assert_eq!(slow.await.unwrap().unwrap(), "done");
    let served = server.served.take().unwrap();
    tokio::time::timeout(Duration::from_secs(5), served)
        .await
        .expect("the grace is bounded")
        .unwrap();
    assert_eq!(hang.await.unwrap(), Err(Error::Closed));
}

#[tokio::test]
async fn peers_of_another_user_are_turned_away() {
    let other = fixture(|server| server.with_peer_uid(4_000_000));
    let client = Client::connect(&other.path).await.unwrap();
    assert_eq!(call(&client, "Echo").await, Err(Error::Closed));
}

#[tokio::test]
async fn a_stream_carries_messages_both_ways_and_ends() {
    let server = fixture(|server| server);
    let client = Client::connect(&server.path).await.unwrap();
    let mut stream = client
        .stream(&Context::new(), "test.Echo", "Shout")
        .unwrap();
    for word in ["one", "two", ""] {
        stream.send(word.into()).unwrap();
        let answer = stream.recv().await.unwrap().unwrap();
        assert_eq!(answer, word.to_uppercase());
    }
    stream.close_send().unwrap();
    assert_eq!(stream.recv().await.unwrap(), None);
    assert_eq!(stream.recv().await.unwrap(), None);
}

#[tokio::test]
async fn a_stream_that_fails_says_why() {
    let server = fixture(|server| server);
    let client = Client::connect(&server.path).await.unwrap();
    let mut stream = client
        .stream(&Context::new(), "test.Echo", "Shout")
        .unwrap();
    stream.send(b"fail".to_vec()).unwrap();
    let failed = stream.recv().await.unwrap_err();
    assert_eq!(failed, Error::Status(Status::new(2, "told to fail")));
}

#[tokio::test]
async fn a_connection_handed_over_is_served() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = Server::new([Box::new(Echo::default()) as Box<dyn Service>]);
    let serving = tokio::spawn(async move { server.serve_connection(theirs).await });
    let client = Client::new(ours);
    assert_eq!(call(&client, "Echo").await.unwrap(), "hi");
    drop(client);
    serving.await.unwrap();
}
