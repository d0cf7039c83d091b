//! What a client of the soak expects Docker to have: its containers, images and volumes.

use std::collections::{BTreeMap, BTreeSet};

/// A state as `docker inspect` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Paused,
    Restarting,
    Exited(i32),
    /// Half removed: it can only be removed.
    Dead,
}

impl State {
    /// Reads `<status> <exit code>`.
    pub fn parse(text: &str) -> Option<State> {
        let (status, code) = text.split_once(' ')?;
        Some(match status {
            "created" => State::Created,
            "running" => State::Running,
            "paused" => State::Paused,
            "restarting" => State::Restarting,
            "exited" => State::Exited(code.parse().ok()?),
            "dead" | "removing" => State::Dead,
            _ => return None,
        })
    }
}

/// What the first process of a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Runs until it is killed.
    Sleeps,
    /// Ends with this code when it is told to.
    Obeys(i32),
    /// Ends with this code after a while.
    Ends(i32),
}

impl Program {
    /// Returns its text for `sh -c`.
    pub fn script(self) -> String {
        match self {
            Program::Sleeps => "echo begun; exec sleep 100000".to_owned(),
            Program::Obeys(code) => {
                format!("trap 'exit {code}' TERM; echo begun; sleep 100000 & wait")
            }
            Program::Ends(code) => format!("echo begun; sleep 1.5; echo ended; exit {code}"),
        }
    }
}

/// When Docker starts a container again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    No,
    /// Twice at most.
    OnFailure,
    Always,
}

impl Policy {
    /// Returns it as Docker's command line takes it.
    pub fn text(self) -> &'static str {
        match self {
            Policy::No => "no",
            Policy::OnFailure => "on-failure:2",
            Policy::Always => "always",
        }
    }
}

/// A container that must be there.
#[derive(Debug, Clone)]
pub struct Container {
    pub program: Program,
    pub policy: Policy,
    /// The volume at `/v`.
    pub volume: Option<String>,
    /// The state that it is in, if its program does not end by itself.
    pub state: State,
    /// How often its program has begun, as long as that is certain.
    pub starts: Option<usize>,
}

impl Container {
    /// Says whether Docker may tell this state of it now.
    pub fn may_be(&self, seen: State) -> bool {
        match (self.state, self.program, seen) {
            (State::Running, Program::Ends(code), State::Exited(seen)) => seen == code,
            (State::Running, Program::Ends(_), State::Restarting) => self.policy != Policy::No,
            (expected, _, seen) => expected == seen,
        }
    }

    /// Says whether this is the state that it must be in when there is nothing left to happen.
    pub fn ends_as(&self, seen: State) -> bool {
        match (self.state, self.program) {
            (State::Running, Program::Ends(code)) => seen == State::Exited(code),
            (expected, _) => seen == expected,
        }
    }

    /// Says whether it runs until somebody ends it.
    pub fn runs(&self) -> bool {
        self.state == State::Running && !matches!(self.program, Program::Ends(_))
    }

    /// Says whether its program may be running.
    pub fn may_run(&self) -> bool {
        matches!(self.state, State::Running | State::Paused)
    }

    /// Says whether this is its state after it was stopped, the time that it was given included.
    pub fn is_stopped_as(&self, seen: State, in_time: bool) -> bool {
        match (self.program, seen) {
            (Program::Obeys(code) | Program::Ends(code), State::Exited(seen)) => {
                seen == code || (!in_time && seen == 137)
            }
            (Program::Sleeps, State::Exited(seen)) => seen == 137,
            _ => false,
        }
    }
}

/// Everything that one client has made.
#[derive(Debug, Default)]
pub struct World {
    pub containers: BTreeMap<String, Container>,
    /// Names of images with the text of their `/made`.
    pub images: BTreeMap<String, String>,
    /// Names of volumes with the text of their `/v/text`.
    pub volumes: BTreeMap<String, Option<String>>,
}

impl World {
    /// Returns the names of the containers of which this holds.
    pub fn containers(&self, holds: impl Fn(&Container) -> bool) -> Vec<String> {
        let named = self.containers.iter().filter(|(_, known)| holds(known));
        named.map(|(name, _)| name.clone()).collect()
    }

    /// Says whether a container uses the volume.
    pub fn is_mounted(&self, volume: &str) -> bool {
        self.containers
            .values()
            .any(|known| known.volume.as_deref() == Some(volume))
    }

    /// Returns how Docker contradicts this: its containers with their states, its images, its volumes.
    pub fn differences(&self, seen: &Seen, at_the_end: bool) -> Vec<String> {
        let mut found = Vec::new();
        for (name, known) in &self.containers {
            match seen.containers.get(name) {
                None => found.push(format!("{name} is gone: {known:?}")),
                Some(&state) if at_the_end && !known.ends_as(state) => {
                    found.push(format!("{name} is {state:?} at the end: {known:?}"));
                }
                Some(&state) if !known.may_be(state) => {
                    found.push(format!("{name} is {state:?}: {known:?}"));
                }
                Some(_) => {}
            }
        }
        let more = seen.containers.keys();
        let more = more.filter(|name| !self.containers.contains_key(*name));
        found.extend(more.map(|name| format!("{name} should not be")));
        let images: BTreeSet<String> = self.images.keys().cloned().collect();
        if images != seen.images {
            found.push(format!("images {:?}, not {images:?}", seen.images));
        }
        let volumes: BTreeSet<String> = self.volumes.keys().cloned().collect();
        if volumes != seen.volumes {
            found.push(format!("volumes {:?}, not {volumes:?}", seen.volumes));
        }
        found
    }

    /// Adds what another client has made.
    pub fn absorb(&mut self, other: World) {
        self.containers.extend(other.containers);
        self.images.extend(other.images);
        self.volumes.extend(other.volumes);
    }
}

/// What Docker says that there is.
#[derive(Debug, Default)]
pub struct Seen {
    pub containers: BTreeMap<String, State>,
    pub images: BTreeSet<String>,
    pub volumes: BTreeSet<String>,
}
