//! StopContainer: first the signal that the container asks for, then, after a while, the one that cannot be ignored.

use std::sync::Arc;
use std::time::Duration;

use api_protos::runtime::v1::Signal;

use crate::cri::store::Container;
use crate::cri::{Cri, launch};
use crate::error::{Context as _, Error, Kind, Result, invalid};

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
    let patience = Duration::from_secs(timeout.max(0) as u64);
    end(cri, &container, patience)
        .await
        .context(|| format!("failed to stop container {:?}", container.id))
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

/// Returns the number of a signal, which may be written with or without `SIG`, or as a number.
fn number(name: &str) -> Result<u32> {
    if let Ok(number) = name.parse::<u32>()
        && (1..=64).contains(&number)
    {
        return Ok(number);
    }
    let upper = name.to_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    // The C library keeps two of the real-time signals for itself.
    let real_time = |base: u32, rest: &str, sign: &str| -> Option<u32> {
        let rest = rest.replace("PLUS", "+").replace("MINUS", "-");
        match rest.strip_prefix(sign) {
            _ if rest.is_empty() => Some(base),
            Some(offset) => {
                let offset = offset.parse::<u32>().ok().filter(|offset| *offset <= 15)?;
                Some(if sign == "+" {
                    base + offset
                } else {
                    base - offset
                })
            }
            None => None,
        }
    };
    let found = match short {
        short if short.starts_with("RTMIN") => real_time(34, &short[5..], "+"),
        short if short.starts_with("RTMAX") => real_time(64, &short[5..], "-"),
        short => SIGNALS
            .iter()
            .find(|(known, _)| *known == short)
            .map(|(_, number)| *number),
    };
    found.ok_or_else(|| invalid(format!("unknown signal {name:?}")))
}

const SIGNALS: [(&str, u32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, wanted) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("SIGRTMINPLUS3", Some(37)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGRTMAXMINUS1", Some(63)),
            ("SIGRTMIN+99", None),
            ("65", None),
            ("SIGNO", None),
            ("", None),
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
