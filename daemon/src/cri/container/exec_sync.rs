//! ExecSync: another process in a container, whose output is the answer.

use std::sync::Arc;
use std::time::Duration;

use api_protos::runtime::v1::{ExecSyncRequest, ExecSyncResponse};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::exec::Process;
use crate::cri::Cri;
use crate::cri::io::Wanted;
use crate::error::{Error, Kind, Result};

/// How much of either stream is kept; what comes after it is thrown away.
const LONGEST: usize = 16 << 20;
/// How much is read at a time.
const CHUNK: usize = 32 << 10;

/// Runs a process to its end. It does not outlive the call: not if it takes too long, nor if the client goes away.
pub async fn exec_sync(cri: &Arc<Cri>, request: ExecSyncRequest) -> Result<ExecSyncResponse> {
    let (_alive, gone) = oneshot::channel();
    let work = run(cri.clone(), request, gone);
    tokio::spawn(work).await.unwrap_or_else(|error| {
        let message = format!("a task ended early: {error}");
        Err(Error::new(Kind::Internal, message))
    })
}

async fn run(
    cri: Arc<Cri>,
    request: ExecSyncRequest,
    gone: oneshot::Receiver<()>,
) -> Result<ExecSyncResponse> {
    let container = cri.store.container(&request.container_id)?;
    let wanted = Wanted {
        stdin: false,
        stdout: true,
        stderr: true,
    };
    let limit = match request.timeout {
        seconds if seconds > 0 => Some(Duration::from_secs(seconds as u64)),
        _ => None,
    };
    let mut process = Process::start(&cri, &container, &request.cmd, false, wanted).await?;
    let result = collect(&cri, &mut process, limit, gone).await;
    process.delete().await;
    result
}

async fn collect(
    cri: &Cri,
    process: &mut Process,
    limit: Option<Duration>,
    gone: oneshot::Receiver<()>,
) -> Result<ExecSyncResponse> {
    let mut outputs = [read(process.fifos.stdout()?), read(process.fifos.stderr()?)];
    let timeout = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        code = process.wait() => code,
        () = timeout => Err(Error::new(
            Kind::DeadlineExceeded,
            format!("timeout {}s exceeded", limit.unwrap_or_default().as_secs()),
        )),
        _ = gone => Err(Error::new(Kind::Canceled, "the client has gone")),
    };
    let code = match ended {
        Ok(code) => code,
        Err(error) => {
            process.kill().await;
            outputs.iter().for_each(JoinHandle::abort);
            return Err(error);
        }
    };
    let drain = match cri.config.drain_exec_sync {
        Duration::ZERO => None,
        drain => Some(drain),
    };
    let [stdout, stderr] = &mut outputs;
    let drained = async { tokio::join!(stdout, stderr) };
    let (stdout, stderr) = match drain {
        None => drained.await,
        Some(limit) => match tokio::time::timeout(limit, drained).await {
            Ok(outputs) => outputs,
            Err(_) => {
                outputs.iter().for_each(JoinHandle::abort);
                let message = format!("failed to drain exec process io within {limit:?}");
                return Err(Error::new(Kind::DeadlineExceeded, message));
            }
        },
    };
    Ok(ExecSyncResponse {
        stdout: stdout.unwrap_or_default(),
        stderr: stderr.unwrap_or_default(),
        exit_code: code,
    })
}

/// Reads a stream to its end, and keeps as much of it as may be.
fn read(pipe: Option<pipe::Receiver>) -> JoinHandle<Vec<u8>> {
    tokio::spawn(async move {
        let mut kept = Vec::new();
        let Some(mut pipe) = pipe else { return kept };
        let mut buffer = vec![0; CHUNK];
        while let Ok(read) = pipe.read(&mut buffer).await {
            if read == 0 {
                break;
            }
            let room = LONGEST - kept.len();
            kept.extend_from_slice(&buffer[..read.min(room)]);
        }
        kept
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::cri::io::Fifos;

    #[tokio::test]
    async fn output_is_kept_up_to_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Wanted {
            stdin: false,
            stdout: true,
            stderr: false,
        };
        let mut fifos = Fifos::create(&dir.path().join("io"), wanted).unwrap();
        let [_, path, _] = fifos.paths();
        let writer = tokio::task::spawn_blocking(move || {
            let mut out = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            out.write_all(&vec![b'a'; LONGEST + 5000]).unwrap();
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let kept = read(fifos.stdout().unwrap());
        writer.await.unwrap();
        assert_eq!(kept.await.unwrap().len(), LONGEST);
    }
}
