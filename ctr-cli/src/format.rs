//! Numbers, times and labels as people read them.

use std::collections::HashMap;
use std::time::Duration;

use prost_types::{FieldMask, Timestamp};
use serde_json::{Map, Value};

/// Returns a size with a binary unit.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Returns a time span to a tenth of a second.
pub fn seconds(span: Duration) -> String {
    let all = span.as_secs();
    match all {
        0..60 => format!("{:.1} s", span.as_secs_f64()),
        60..3600 => format!("{}m{:02}s", all / 60, all % 60),
        _ => format!("{}h{:02}m", all / 3600, all % 3600 / 60),
    }
}

/// Returns a point in time as RFC 3339 in UTC, to the second; empty if there is none.
pub fn time(time: Option<&Timestamp>) -> String {
    let Some(time) = time else {
        return String::new();
    };
    let (days, rest) = (
        time.seconds.div_euclid(86_400),
        time.seconds.rem_euclid(86_400),
    );
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest % 3600 / 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Returns the date of a day counted from 1970-01-01, in the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Years begin in March here, so that the day a leap year adds is the last one.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let first = (153 * month + 2) / 5;
    let calendar = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(calendar <= 2);
    (year, calendar, day - first + 1)
}

/// Returns labels as `key=value`, sorted, with commas.
pub fn labels(labels: &HashMap<String, String>) -> String {
    let mut pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.sort();
    pairs.join(",")
}

/// Returns labels as a JSON object.
pub fn labels_json(labels: &HashMap<String, String>) -> Value {
    let pairs = labels
        .iter()
        .map(|(key, value)| (key.clone(), Value::from(value.as_str())));
    Value::Object(pairs.collect::<Map<_, _>>())
}

/// Reads arguments `key=value`; a key alone has an empty value.
pub fn parse_labels(arguments: &[String]) -> HashMap<String, String> {
    let pairs = arguments
        .iter()
        .map(|argument| argument.split_once('=').unwrap_or((argument, "")));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Returns the field mask by which an object's labels of these names are changed, and no others.
pub fn labels_mask(labels: &HashMap<String, String>) -> FieldMask {
    let mut paths: Vec<String> = labels.keys().map(|key| format!("labels.{key}")).collect();
    paths.sort();
    FieldMask { paths }
}

/// Reads a time span such as `90s`, `1.5m` or `250ms`; a number alone is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let end = text
        .find(|char: char| char != '.' && !char.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit:?} is none of ms, s, m, h")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "not a number with a unit".to_owned())?;
    Duration::try_from_secs_f64(number * scale).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal_and_never_four_digits() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn times_are_dates_of_the_gregorian_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(time(Some(&Timestamp { seconds, nanos: 0 })), text);
        }
        assert_eq!(time(None), "");
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        assert!(parse_duration("7 days").is_err());
        assert!(parse_duration("s").is_err());
    }
}
