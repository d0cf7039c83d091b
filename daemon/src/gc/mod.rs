//! Garbage collection: what no root reaches is deleted.

use std::time::Duration;

pub mod time;

/// When to collect.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The largest share of time that collecting may take.
    pub pause_threshold: f64,
    /// How many deletions make a collection due; 0 for any number.
    pub deletion_threshold: u64,
    /// How many changes of any kind make a collection due after the next deletion.
    pub mutation_threshold: u64,
    /// How long a collection that is due waits for more to come.
    pub schedule_delay: Duration,
    /// When the first collection is, after the start.
    pub startup_delay: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pause_threshold: 0.02,
            deletion_threshold: 0,
            mutation_threshold: 100,
            schedule_delay: Duration::ZERO,
            startup_delay: Duration::from_millis(100),
        }
    }
}
