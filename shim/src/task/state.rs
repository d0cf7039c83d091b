//! The states of a process, and what may be done in each: pure, without a process behind it.
//!
//! ```text
//!            start             pause
//!  Created ─────────▶ Running ───────▶ Paused
//!     │                │   ▲             │ │
//!     │                │   └───resume────┘ │
//!     │                ▼                   │
//!     ├──exit──────▶ Stopped ◀────exit─────┘
//!     │                │
//!     └──delete────────┴──delete──▶ Deleted
//! ```
//!
//! Only a container's first process is ever paused. The words of a refusal are those of containerd's shim, because
//! clients show them and some look into them.

use std::fmt;

use sys::{Error, Kind};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct End {
    /// The exit code, 128 and the signal's number for a process that a signal ended.
    pub status: u32,
    /// When that was seen.
    pub at: prost_types::Timestamp,
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    /// It is known, but does not run its program yet.
    Created,
    /// It runs.
    Running,
    /// It is frozen.
    Paused,
    /// It has ended.
    Stopped(End),
    /// Nothing is left of it.
    Deleted,
}

/// What is done to a process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    Start,
    Pause,
    Resume,
    /// Adding a further process to the container.
    Exec,
    /// Changing the container's limits.
    Update,
    Checkpoint,
    Signal,
    Delete,
    /// The process has ended by itself or by a signal.
    Exit(End),
}

/// Says that something cannot be done in a state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refused {
    action: Action,
    state: State,
}

impl State {
    /// Returns the state that follows, or why there is none.
    pub fn apply(self, action: Action) -> Result<Self, Refused> {
        use Action as A;
        use State as S;
        Ok(match (self, action) {
            (S::Created, A::Start) | (S::Paused, A::Resume) => S::Running,
            (S::Running, A::Pause) => S::Paused,
            (S::Created | S::Running, A::Exec | A::Update | A::Signal) => self,
            (S::Paused, A::Update | A::Signal | A::Checkpoint) => self,
            (S::Running, A::Checkpoint) => self,
            (S::Created | S::Running | S::Paused, A::Exit(end)) => S::Stopped(end),
            (S::Created | S::Stopped(_), A::Delete) => S::Deleted,
            _ => {
                return Err(Refused {
                    action,
                    state: self,
                });
            }
        })
    }

    /// Returns how the process ended, if it has.
    pub fn end(self) -> Option<End> {
        match self {
            Self::Stopped(end) => Some(end),
            _ => None,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Created => "created",
            State::Running => "running",
            State::Paused => "paused",
            State::Stopped(_) => "stopped",
            State::Deleted => "deleted",
        };
        match (self.action, self.state) {
            (Action::Signal, _) => f.write_str("process already finished"),
            (Action::Exit(_), _) => write!(f, "a {state} process cannot exit"),
            (Action::Start, _) => write!(f, "cannot start a {state} process"),
            (Action::Delete, _) => write!(f, "cannot delete a {state} process"),
            (Action::Exec, _) => write!(f, "cannot exec in a {state} state"),
            (Action::Pause, State::Created) => f.write_str("cannot pause task in created state"),
            (Action::Resume, State::Created) => f.write_str("cannot resume task in created state"),
            (Action::Checkpoint, State::Created) => {
                f.write_str("cannot checkpoint a task in created state")
            }
            (Action::Resume, State::Running) => f.write_str("cannot resume a running process"),
            (Action::Pause, State::Running) => f.write_str("cannot pause a running process"),
            (Action::Pause, _) => write!(f, "cannot pause a {state} container"),
            (Action::Resume, _) => write!(f, "cannot resume a {state} container"),
            (Action::Update, _) => write!(f, "cannot update a {state} container"),
            (Action::Checkpoint, _) => write!(f, "cannot checkpoint a {state} container"),
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        // All but a signal to who cannot get it are of no class, as in containerd.
        let kind = match refused.action {
            Action::Signal => Kind::NotFound,
            _ => Kind::Unknown,
        };
        Error::new(kind, refused.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const END: End = End {
        status: 3,
        at: prost_types::Timestamp {
            seconds: 1,
            nanos: 0,
        },
    };

    #[test]
    fn refusals_have_the_words_that_clients_know() {
        let cases = [
            (
                State::Running,
                Action::Delete,
                "cannot delete a running process",
            ),
            (State::Paused, Action::Exec, "cannot exec in a paused state"),
            (
                State::Stopped(END),
                Action::Exec,
                "cannot exec in a stopped state",
            ),
            (
                State::Created,
                Action::Pause,
                "cannot pause task in created state",
            ),
            (
                State::Stopped(END),
                Action::Pause,
                "cannot pause a stopped container",
            ),
            (
                State::Running,
                Action::Resume,
                "cannot resume a running process",
            ),
            (
                State::Running,
                Action::Start,
                "cannot start a running process",
            ),
            (
                State::Stopped(END),
                Action::Signal,
                "process already finished",
            ),
            (
                State::Stopped(END),
                Action::Update,
                "cannot update a stopped container",
            ),
        ];
        for (state, action, words) in cases {
            assert_eq!(state.apply(action).unwrap_err().to_string(), words);
        }
        let error = Error::from(State::Stopped(END).apply(Action::Signal).unwrap_err());
        assert_eq!(error.kind(), Kind::NotFound);
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let action = prop_oneof![
            Just(Action::Start),
            Just(Action::Pause),
            Just(Action::Resume),
            Just(Action::Exec),
            Just(Action::Update),
            Just(Action::Checkpoint),
            Just(Action::Signal),
            Just(Action::Delete),
            Just(Action::Exit(END)),
        ];
        proptest::collection::vec(action, 0..24)
    }

    proptest! {
        #[test]
        fn a_life_goes_one_way(actions in actions()) {
            let rank = |state: State| match state {
                State::Created => 0,
                State::Running | State::Paused => 1,
                State::Stopped(_) => 2,
                State::Deleted => 3,
            };
            let mut state = State::Created;
            for action in actions {
                if let Ok(next) = state.apply(action) {
                    prop_assert!(rank(next) >= rank(state));
                    if let Action::Exit(end) = action {
                        prop_assert_eq!(next.end(), Some(end));
                    }
                    state = next;
                }
                if state == State::Deleted {
                    prop_assert!(state.apply(action).is_err());
                }
            }
        }
    }
}
