//! What the labels of a container ask for, and what is to be done about its task. Pure.

use crate::error::{Result, invalid};
use crate::labels::Labels;

/// Prefix of the labels by which clients ask for restarts.
pub const PREFIX: &str = "containerd.io/restart.";
/// What the task shall be: `running` or `stopped`.
pub const STATUS: &str = "containerd.io/restart.status";
/// How often it has been restarted.
pub const COUNT: &str = "containerd.io/restart.count";
/// Where its output goes.
pub const LOG_URI: &str = "containerd.io/restart.loguri";
/// When it is restarted: `always`, `on-failure[:most]`, `unless-stopped` or `no`.
const POLICY: &str = "containerd.io/restart.policy";
/// Whether a user has stopped it.
const STOPPED: &str = "containerd.io/restart.explicitly-stopped";

/// The names of the policies, as Introspection lists them.
pub const POLICIES: [&str; 4] = ["no", "always", "on-failure", "unless-stopped"];

/// What is found of a container's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is no task: it was deleted, or nobody has made it yet.
    Missing,
    /// It is made and not started.
    Created,
    /// It runs, or is paused and would run.
    Running,
    /// Its first process has ended with this status.
    Stopped(u32),
    /// Its shim does not say.
    Unknown,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// A new task in place of what is there, for the time that is counted.
    Start {
        count: u64,
    },
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    No,
    Always,
    /// At most so often, if not 0.
    OnFailure(u64),
    UnlessStopped,
}

impl Policy {
    fn parse(text: &str) -> Result<Self> {
        let (name, most) = match text.split_once(':') {
            Some((name, most)) => (name, Some(most)),
            None => (text, None),
        };
        let policy = match name {
            "" | "always" => Self::Always,
            "no" => Self::No,
            "unless-stopped" => Self::UnlessStopped,
            "on-failure" => {
                let most = most.unwrap_or("0").parse();
                let most = most.map_err(|_| invalid(format!("restart policy {text:?}")))?;
                return Ok(Self::OnFailure(most));
            }
            _ => return Err(invalid(format!("restart policy {text:?} not supported"))),
        };
        match most {
            None => Ok(policy),
            Some(_) => Err(invalid(format!("restart policy {text:?} takes no number"))),
        }
    }
}

/// Returns what is to be done about a container with these labels whose task is `found`.
///
/// A task that nobody can tell of is left alone: its shim may be slow, and the container well.
pub fn step(labels: &Labels, found: Found) -> Result<Step> {
    let label = |key: &str| labels.get(key).map_or("", String::as_str);
    match (label(STATUS), found) {
        ("running", Found::Missing | Found::Created | Found::Stopped(_)) => {}
        ("stopped", Found::Created | Found::Running) => return Ok(Step::Stop),
        _ => return Ok(Step::Nothing),
    }
    let count = match label(COUNT) {
        "" => 0,
        text => text
            .parse()
            .map_err(|_| invalid(format!("label {COUNT}={text:?} is no number")))?,
    };
    let wanted = match Policy::parse(label(POLICY))? {
        Policy::No => false,
        Policy::Always => true,
        Policy::UnlessStopped => !is_true(label(STOPPED)),
        Policy::OnFailure(most) => match found {
            // A start that was cut short is no failure, and none of the container's restarts.
            Found::Created => return Ok(Step::Start { count }),
            Found::Stopped(status) => status != 0 && (most == 0 || count < most),
            _ => false,
        },
    };
    Ok(match wanted {
        true => Step::Start { count: count + 1 },
        false => Step::Nothing,
    })
}

/// Returns whether a text is one of those that Go takes for true.
fn is_true(text: &str) -> bool {
    ["1", "t", "T", "true", "TRUE", "True"].contains(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let owned = pairs
            .iter()
            .map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned()));
        owned.collect()
    }

    #[test]
    fn policies_decide_what_is_restarted() {
        let start = |count| Step::Start { count };
        let nothing = Step::Nothing;
        for (policy, found, count, wanted) in [
            ("", Found::Stopped(0), "", start(1)),
            ("always", Found::Stopped(0), "4", start(5)),
            ("always", Found::Missing, "", start(1)),
            ("always", Found::Created, "", start(1)),
            ("always", Found::Running, "", nothing),
            ("always", Found::Unknown, "", nothing),
            ("no", Found::Stopped(1), "", nothing),
            ("on-failure", Found::Stopped(0), "", nothing),
            ("on-failure", Found::Stopped(7), "100", start(101)),
            ("on-failure", Found::Missing, "", nothing),
            ("on-failure:2", Found::Created, "2", start(2)),
            ("on-failure:2", Found::Stopped(7), "1", start(2)),
            ("on-failure:2", Found::Stopped(7), "2", nothing),
            ("unless-stopped", Found::Stopped(1), "", start(1)),
        ] {
            let labels = labels(&[("status", "running"), ("policy", policy), ("count", count)]);
            let step = step(&labels, found).unwrap();
            assert_eq!(step, wanted, "{policy} {found:?} {count}");
        }
    }

    #[test]
    fn what_a_user_has_stopped_stays_so() {
        for (stopped, wanted) in [
            ("true", Step::Nothing),
            ("1", Step::Nothing),
            ("false", Step::Start { count: 1 }),
            ("yes", Step::Start { count: 1 }),
        ] {
            let labels = labels(&[
                ("status", "running"),
                ("policy", "unless-stopped"),
                ("explicitly-stopped", stopped),
            ]);
            assert_eq!(step(&labels, Found::Stopped(1)).unwrap(), wanted);
        }
    }

    #[test]
    fn a_task_is_stopped_only_where_that_is_asked_for() {
        let stopped = labels(&[("status", "stopped")]);
        for (found, wanted) in [
            (Found::Running, Step::Stop),
            (Found::Created, Step::Stop),
            (Found::Stopped(0), Step::Nothing),
            (Found::Missing, Step::Nothing),
            (Found::Unknown, Step::Nothing),
        ] {
            assert_eq!(step(&stopped, found).unwrap(), wanted, "{found:?}");
        }
        for status in ["", "paused", "Running"] {
            let labels = labels(&[("status", status)]);
            assert_eq!(step(&labels, Found::Stopped(1)).unwrap(), Step::Nothing);
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for (policy, count) in [
            ("sometimes", ""),
            ("always:3", ""),
            ("on-failure:x", ""),
            ("on-failure:-1", ""),
            ("always", "many"),
        ] {
            let labels = labels(&[("status", "running"), ("policy", policy), ("count", count)]);
            assert!(step(&labels, Found::Stopped(1)).is_err(), "{policy}");
        }
    }
}
