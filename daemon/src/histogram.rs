//! How long things took, in the ranges that Prometheus's clients use when nobody says otherwise.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper ends of the ranges, in milliseconds.
const ENDS: [u64; 11] = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];

/// Durations, counted by range.
#[derive(Debug, Default)]
pub struct Histogram {
    ranges: [AtomicU64; ENDS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Histogram {
    /// Counts a duration.
    pub fn add(&self, duration: Duration) {
        let range = ENDS
            .iter()
            .position(|end| duration <= Duration::from_millis(*end));
        if let Some(range) = range {
            self.ranges[range].fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many were no longer than each end, which is in seconds.
    pub fn ranges(&self) -> impl Iterator<Item = (f64, u64)> {
        let counts = self.ranges.iter().scan(0, |sum, count| {
            *sum += count.load(Ordering::Relaxed);
            Some(*sum)
        });
        ENDS.iter().map(|end| *end as f64 / 1000.0).zip(counts)
    }

    /// Returns how many there were.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns the seconds of all together.
    pub fn seconds(&self) -> f64 {
        self.micros.load(Ordering::Relaxed) as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_all_that_is_shorter() {
        let histogram = Histogram::default();
        for millis in [5, 6, 400, 60_000] {
            histogram.add(Duration::from_millis(millis));
        }
        let counts: Vec<u64> = histogram.ranges().map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3]);
        assert_eq!((histogram.count(), histogram.seconds()), (4, 60.411));
    }
}
