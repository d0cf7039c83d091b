//! The states of a container, and what may happen in each: pure.
//!
//! ```text
//!            start          started          exited
//!  Created ────────▶ Starting ─────▶ Running ──────▶ Exited
//!     │                 │ failed                        ▲
//!     │                 └───────────────────────────────┤
//!     └── lost ─▶ (stays)          Running ── lost ─────┘
//! ```
//!
//! `lost` is what a daemon that starts anew finds when the task is gone.

use std::fmt;

use api_protos::runtime::v1::ContainerState;

/// The exit code of a process whose end nobody saw.
pub const UNSEEN: i32 = 255;

/// A container's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Created,
    Starting,
    Running {
        pid: u32,
        started_at: i64,
        /// Whether memory ran out.
        oom: bool,
    },
    Exited {
        /// Zero if it never ran.
        started_at: i64,
        end: End,
    },
}

/// How a container ended; times are nanoseconds after the epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    pub finished_at: i64,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
}

/// What happens to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Start,
    Started {
        pid: u32,
        at: i64,
    },
    Failed {
        at: i64,
        exit_code: i32,
        message: String,
    },
    OutOfMemory,
    Exited {
        at: i64,
        exit_code: i32,
    },
    Lost {
        at: i64,
    },
}

/// Why something may not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "container is in {} state", self.0)
    }
}

impl State {
    /// Returns the state after `event`.
    pub fn apply(self, event: Event) -> Result<Self, Refused> {
        let name = self.name();
        Ok(match (self, event) {
            (Self::Created, Event::Start) => Self::Starting,
            (_, Event::Start) => return Err(Refused(name)),
            (Self::Starting, Event::Started { pid, at }) => Self::Running {
                pid,
                started_at: at,
                oom: false,
            },
            (
                Self::Starting,
                Event::Failed {
                    at,
                    exit_code,
                    message,
                },
            ) => Self::ended(0, at, exit_code, "StartError", message),
            (
                Self::Running {
                    pid, started_at, ..
                },
                Event::OutOfMemory,
            ) => Self::Running {
                pid,
                started_at,
                oom: true,
            },
            // The news of it may come after that of the end.
            (
                Self::Exited {
                    started_at,
                    mut end,
                },
                Event::OutOfMemory,
            ) => {
                end.reason = "OOMKilled".into();
                Self::Exited { started_at, end }
            }
            (
                Self::Running {
                    started_at, oom, ..
                },
                Event::Exited { at, exit_code },
            ) => {
                let reason = match (oom, exit_code) {
                    (true, _) => "OOMKilled",
                    (false, 0) => "Completed",
                    (false, _) => "Error",
                };
                Self::ended(started_at, at, exit_code, reason, String::new())
            }
            (Self::Running { started_at, .. }, Event::Lost { at }) => {
                Self::ended(started_at, at, UNSEEN, "Unknown", String::new())
            }
            (Self::Starting, Event::Lost { at }) => {
                let message = "the daemon ended while the container was being started".into();
                Self::ended(0, at, UNSEEN, "StartError", message)
            }
            (state @ (Self::Created | Self::Exited { .. }), Event::Lost { .. }) => state,
            (state @ Self::Exited { .. }, Event::Exited { .. }) => state,
            (_, _) => return Err(Refused(name)),
        })
    }

    fn ended(started_at: i64, at: i64, exit_code: i32, reason: &str, message: String) -> Self {
        Self::Exited {
            started_at,
            end: End {
                finished_at: at,
                exit_code,
                reason: reason.into(),
                message,
            },
        }
    }

    /// Returns the state as CRI has it.
    pub fn cri(&self) -> ContainerState {
        match self {
            Self::Created | Self::Starting => ContainerState::ContainerCreated,
            Self::Running { .. } => ContainerState::ContainerRunning,
            Self::Exited { .. } => ContainerState::ContainerExited,
        }
    }

    /// Returns the state's name, as errors quote it.
    pub fn name(&self) -> &'static str {
        self.cri().as_str_name()
    }

    /// Returns the id of the first process while it runs.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Running { pid, .. } => Some(*pid),
            _ => None,
        }
    }

    /// Returns how it ended.
    pub fn end(&self) -> Option<&End> {
        match self {
            Self::Exited { end, .. } => Some(end),
            _ => None,
        }
    }

    /// Returns when it was started, or 0.
    pub fn started_at(&self) -> i64 {
        match self {
            Self::Running { started_at, .. } | Self::Exited { started_at, .. } => *started_at,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(events: &[Event]) -> Result<State, Refused> {
        let mut state = State::Created;
        for event in events {
            state = state.apply(event.clone())?;
        }
        Ok(state)
    }

    const STARTED: Event = Event::Started { pid: 7, at: 10 };
    const EXITED: Event = Event::Exited {
        at: 20,
        exit_code: 3,
    };

    #[test]
    fn a_container_lives_once() {
        let ended = run(&[Event::Start, STARTED, EXITED]).unwrap();
        assert_eq!(ended.started_at(), 10);
        let end = ended.end().unwrap();
        assert_eq!((end.exit_code, end.reason.as_str()), (3, "Error"));
        for again in [&[Event::Start, Event::Start][..], &[STARTED]] {
            assert!(run(again).is_err(), "{again:?}");
        }
        let refused = ended.clone().apply(Event::Start).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "container is in CONTAINER_EXITED state"
        );
        assert_eq!(ended.clone().apply(EXITED), Ok(ended));
    }

    #[test]
    fn memory_that_ran_out_is_the_reason_whenever_it_is_told() {
        for events in [
            [Event::Start, STARTED, Event::OutOfMemory, EXITED],
            [Event::Start, STARTED, EXITED, Event::OutOfMemory],
        ] {
            let ended = run(&events).unwrap();
            assert_eq!(ended.end().unwrap().reason, "OOMKilled");
        }
    }

    #[test]
    fn what_is_lost_has_ended_unless_it_never_ran() {
        let lost = Event::Lost { at: 30 };
        assert_eq!(run(std::slice::from_ref(&lost)), Ok(State::Created));
        for (events, reason) in [
            (vec![Event::Start, lost.clone()], "StartError"),
            (vec![Event::Start, STARTED, lost.clone()], "Unknown"),
            (vec![Event::Start, STARTED, EXITED, lost], "Error"),
        ] {
            let ended = run(&events).unwrap();
            assert_eq!(ended.end().unwrap().reason, reason);
        }
    }

    #[test]
    fn a_start_that_fails_is_an_end() {
        let failed = Event::Failed {
            at: 5,
            exit_code: 128,
            message: "no such file".into(),
        };
        let ended = run(&[Event::Start, failed]).unwrap();
        assert_eq!(ended.started_at(), 0);
        assert_eq!(ended.end().unwrap().exit_code, 128);
        assert_eq!(ended.cri(), ContainerState::ContainerExited);
    }
}
