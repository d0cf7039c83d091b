//! A page of metrics in Prometheus's text format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use crate::histogram::Histogram;

/// The media type of a page.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Families of metrics, by name.
#[derive(Debug, Default)]
pub struct Page {
    families: BTreeMap<String, Family>,
}

#[derive(Debug)]
struct Family {
    kind: &'static str,
    help: String,
    samples: String,
}

/// Names and values of labels.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    /// Adds a value that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, labels: Labels<'_>, value: impl Display) {
        let family = self.family(name, "gauge", help);
        family.sample(name, labels, value);
    }

    /// Adds a value that only goes up.
    pub fn counter(&mut self, name: &str, help: &str, labels: Labels<'_>, value: impl Display) {
        let family = self.family(name, "counter", help);
        family.sample(name, labels, value);
    }

    /// Adds durations in seconds.
    pub fn histogram(&mut self, name: &str, help: &str, labels: Labels<'_>, values: &Histogram) {
        let family = self.family(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut add = |end: &str, count: u64| {
            let labels = [labels, &[("le", end)]].concat();
            family.sample(&bucket, &labels, count);
        };
        for (end, count) in values.ranges() {
            add(&end.to_string(), count);
        }
        add("+Inf", values.count());
        family.sample(&format!("{name}_sum"), labels, values.seconds());
        family.sample(&format!("{name}_count"), labels, values.count());
    }

    /// Returns the text.
    pub fn finish(self) -> String {
        let mut text = String::new();
        for (name, family) in self.families {
            let Family {
                kind,
                help,
                samples,
            } = family;
            text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
        }
        text
    }

    fn family(&mut self, name: &str, kind: &'static str, help: &str) -> &mut Family {
        let new = || Family {
            kind,
            help: help.replace('\\', "\\\\").replace('\n', "\\n"),
            samples: String::new(),
        };
        self.families.entry(name.to_owned()).or_insert_with(new)
    }
}

impl Family {
    fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("{key}=\"{}\"", escaped(value)))
            .collect();
        // Writing to a string cannot fail.
        let _ = match labels.as_slice() {
            [] => writeln!(self.samples, "{name} {value}"),
            labels => writeln!(self.samples, "{name}{{{}}} {value}", labels.join(",")),
        };
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn families_are_whole_and_values_escaped() {
        let mut page = Page::default();
        page.gauge("b", "second", &[("id", "a\"\\\n")], 1);
        page.counter("a_total", "first", &[], 0.5);
        page.gauge("b", "second", &[("id", "c"), ("d", "e")], u64::MAX);
        assert_eq!(
            page.finish(),
            "# HELP a_total first\n# TYPE a_total counter\na_total 0.5\n\
             # HELP b second\n# TYPE b gauge\nb{id=\"a\\\"\\\\\\n\"} 1\nb{id=\"c\",d=\"e\"} 18446744073709551615\n"
        );
    }

    #[test]
    fn a_histogram_ends_with_all_there_were() {
        let histogram = Histogram::default();
        histogram.add(Duration::from_millis(7));
        let mut page = Page::default();
        page.histogram("t_seconds", "time", &[("m", "x")], &histogram);
        let text = page.finish();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2], "t_seconds_bucket{m=\"x\",le=\"0.005\"} 0");
        assert_eq!(lines[3], "t_seconds_bucket{m=\"x\",le=\"0.01\"} 1");
        assert_eq!(lines[13], "t_seconds_bucket{m=\"x\",le=\"+Inf\"} 1");
        assert_eq!(lines[14], "t_seconds_sum{m=\"x\"} 0.007");
        assert_eq!(lines[15], "t_seconds_count{m=\"x\"} 1");
    }
}
