//! How long shims may take, where the configuration has a say in it: its section `timeouts`, with containerd's keys.

use std::time::Duration;

/// What the time zero, which containerd takes for no limit, stands for.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For the state of a process.
    pub state: Duration,
    /// For what a task uses.
    pub stats: Duration,
    /// For the first answer to a daemon that was started.
    pub load: Duration,
    /// For cleaning up after a task.
    pub cleanup: Duration,
    /// For ending.
    pub shutdown: Duration,
}

type Limit = fn(&mut Limits) -> &mut Duration;

const KEYS: [(&str, Limit); 5] = [
    ("io.containerd.timeout.task.state", |limits| {
        &mut limits.state
    }),
    ("io.containerd.timeout.metrics.shimstats", |limits| {
        &mut limits.stats
    }),
    ("io.containerd.timeout.shim.load", |limits| &mut limits.load),
    ("io.containerd.timeout.shim.cleanup", |limits| {
        &mut limits.cleanup
    }),
    ("io.containerd.timeout.shim.shutdown", |limits| {
        &mut limits.shutdown
    }),
];

impl Default for Limits {
    fn default() -> Self {
        Self {
            state: Duration::from_secs(2),
            stats: Duration::from_secs(2),
            load: Duration::from_secs(5),
            cleanup: Duration::from_secs(10),
            shutdown: Duration::from_secs(3),
        }
    }
}

impl Limits {
    /// Sets the limit that `key` names, and returns whether there is one.
    pub fn set(&mut self, key: &str, limit: Duration) -> bool {
        let found = KEYS.iter().find(|(name, _)| *name == key);
        if let Some((_, field)) = found {
            *field(self) = match limit {
                Duration::ZERO => YEAR,
                limit => limit,
            };
        }
        found.is_some()
    }

    /// Returns all limits with their keys.
    pub fn iter(mut self) -> impl Iterator<Item = (&'static str, Duration)> {
        KEYS.into_iter()
            .map(move |(name, field)| (name, *field(&mut self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_limit() {
        let mut limits = Limits::default();
        for (key, _) in limits.iter() {
            assert!(limits.set(key, Duration::from_millis(7)), "{key}");
        }
        assert!(limits.iter().all(|(_, limit)| limit.as_millis() == 7));
        assert!(limits.set("io.containerd.timeout.task.state", Duration::ZERO));
        assert_eq!(limits.state, YEAR);
        assert!(!limits.set("io.containerd.timeout.bolt.open", YEAR));
    }
}
