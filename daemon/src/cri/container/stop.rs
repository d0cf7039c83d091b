//! StopContainer: first the signal that the container asks for, then, after a while, the one that cannot be ignored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use api_protos::runtime::v1::Signal;

use crate::cri::store::Container;
use crate::cri::{Cri, launch};
use crate::error::{Context as _, Error, Kind, Result, invalid};
use crate::metrics::operations::Operation;

const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;
/// How long a process that was killed may take to end.
const KILLED: Duration = Duration::from_secs(30);

/// Stops a container, within `timeout` seconds gently; that it is not there is no error.
pub async fn stop(cri: &Arc<Cri>, id: &str, timeout: i64) -> Result<()> {
    let container = match cri.store.container(id) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        container => container?,
    };
    let begun = Instant::now();
    let patience = Duration::from_secs(timeout.max(0) as u64);
    end(cri, &container, patience)
        .await
        .context(|| format!("failed to stop container {:?}", container.id))?;
    cri.done(Operation::StopContainer, &container.record.pod, begun);
    Ok(())
}

/// Stops a container at once.
pub async fn now(cri: &Arc<Cri>, container: &Container) -> Result<()> {
    end(cri, container, Duration::ZERO).await
}

async fn end(cri: &Arc<Cri>, container: &Container, patience: Duration) -> Result<()> {
    // One that is being started can be stopped only after that.
    let turn = container.turn.lock().await;
    if container.state().pid().is_none() {
        return Ok(());
    }
    drop(turn);
    let task = match cri.parts.tasks.get(&cri.store.context, &container.id).await {
        Err(error) if error.kind() == Kind::NotFound => {
            let ended = tokio::time::timeout(KILLED, container.ended()).await;
            return ended.map(drop).map_err(|_| late(&container.id));
        }
        task => task?,
    };
    if !patience.is_zero() {
        let sent = task.kill("", signal(container)?, false).await;
        crate::cri::store::ignore_missing(sent)?;
        if tokio::time::timeout(patience, container.ended())
            .await
            .is_ok()
        {
            return Ok(());
        }
    }
    crate::cri::store::ignore_missing(task.kill("", SIGKILL, true).await)?;
    match tokio::time::timeout(KILLED, container.ended()).await {
        Ok(_) => Ok(()),
        Err(_) => launch::end_task(cri, &container.id).await,
    }
}

fn late(id: &str) -> Error {
    let message = format!("container {id:?} does not end though it was killed");
    Error::new(Kind::DeadlineExceeded, message)
}

/// Returns the signal that a container is stopped with.
fn signal(container: &Container) -> Result<u32> {
    let config = container.config();
    match config.stop_signal() {
        Signal::RuntimeDefault => match container.record.stop_signal.as_str() {
            "" => Ok(SIGTERM),
            name => number(name),
        },
        asked => number(asked.as_str_name().trim_start_matches("SIGNAL_")),
    }
}

/// Returns the number of a signal; CRI's names spell out the signs in those of real-time signals.
fn number(name: &str) -> Result<u32> {
    let signed = name.replace("PLUS", "+").replace("MINUS", "-");
    sys::signals::number(&signed).ok_or_else(|| invalid(format!("unknown signal {name:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_are_spelt_out_or_not() {
        for (name, wanted) in [
            ("SIGRTMIN+3", Some(37)),
            ("SIGRTMINPLUS3", Some(37)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGRTMAXMINUS1", Some(63)),
            ("SIGTERM", Some(15)),
            ("SIGRTMIN+99", None),
            ("SIGNO", None),
        ] {
            assert_eq!(number(name).ok(), wanted, "{name}");
        }
    }

    #[test]
    fn every_signal_of_cri_has_a_number() {
        for asked in 1..=65 {
            let asked = Signal::try_from(asked).unwrap();
            let name = asked.as_str_name().trim_start_matches("SIGNAL_");
            assert!(number(name).is_ok(), "{name}");
        }
    }
}
