//! The time, as the wire and the log have it.

use std::time::{SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

/// Returns the current time.
pub fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp {
        seconds: since.as_secs() as i64,
        nanos: since.subsec_nanos() as i32,
    }
}
