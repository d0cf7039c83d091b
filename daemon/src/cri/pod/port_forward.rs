//! PortForward: a connection from outside to a port in a pod.

use api_protos::runtime::v1::PortForwardRequest;
use tokio::net::TcpStream;

use crate::cri::Cri;
use crate::cri::stream::Request;
use crate::error::{Context, Error, Kind, Result, invalid};

/// Returns where a client may connect to the pod's ports.
pub fn url(cri: &Cri, request: PortForwardRequest) -> Result<String> {
    let pod = cri.store.pod(&request.pod_sandbox_id)?;
    ready(cri, &pod.id)?;
    cri.streams.url(Request::PortForward {
        pod: pod.id.clone(),
    })
}

fn ready(cri: &Cri, id: &str) -> Result<String> {
    let record = cri.store.pod(id)?.record();
    match record.ready {
        true => Ok(record.netns),
        false => {
            let message = format!("sandbox container {id:?} is not running");
            Err(Error::new(Kind::FailedPrecondition, message))
        }
    }
}

/// Connects to a port in a pod.
pub async fn connect(cri: &Cri, id: &str, port: u16) -> Result<TcpStream> {
    let netns = ready(cri, id)?;
    if port == 0 {
        return Err(invalid("port 0"));
    }
    let connected = tokio::task::spawn_blocking(move || inside(&netns, port)).await;
    let connected = connected.unwrap_or_else(|error| {
        Err(Error::new(
            Kind::Internal,
            format!("a thread ended early: {error}"),
        ))
    })?;
    TcpStream::from_std(connected).context(|| "watch a connection")
}

/// Connects from within a network namespace, which a thread enters that does nothing else.
fn inside(netns: &str, port: u16) -> Result<std::net::TcpStream> {
    let netns = netns.to_owned();
    let work = move || -> Result<std::net::TcpStream> {
        if !netns.is_empty() {
            crate::cri::netns::enter(std::path::Path::new(&netns))?;
        }
        let tries = ["127.0.0.1", "::1"].map(|host| std::net::TcpStream::connect((host, port)));
        let mut failed = None;
        for connected in tries {
            match connected {
                Ok(stream) => {
                    stream
                        .set_nonblocking(true)
                        .context(|| "set non-blocking")?;
                    return Ok(stream);
                }
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        let failed = failed.unwrap_or_else(|| std::io::ErrorKind::NotFound.into());
        Err(failed).context(|| format!("failed to connect to localhost:{port} inside the pod"))
    };
    let joined = std::thread::spawn(work).join();
    joined.unwrap_or_else(|_| Err(Error::new(Kind::Internal, "a thread ended early")))
}
