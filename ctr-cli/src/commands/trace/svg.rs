//! Spans as a drawing.

use std::fmt::Write;
use std::time::Duration;

use super::{end, millis, rows};
use crate::trace::Span;

const ROW: usize = 22;
const NAMES: f64 = 260.0;
const BARS: f64 = 640.0;
const MARGIN: f64 = 90.0;
/// How many lines with times there are.
const TICKS: u32 = 5;

/// Returns the calls as an SVG: names to the left, bars in time, how long each took beside its bar.
pub fn draw(calls: &[Span]) -> String {
    let end = end(calls).max(Duration::from_micros(1));
    let x = |at: Duration| NAMES + at.as_secs_f64() / end.as_secs_f64() * BARS;
    let height = (rows(calls).count() + 2) * ROW;
    let width = NAMES + BARS + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for tick in 0..=TICKS {
        let at = end * tick / TICKS;
        let (x, label) = (x(at), millis(at));
        writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{ROW}\" x2=\"{x:.1}\" y2=\"{height}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"15\" text-anchor=\"middle\" fill=\"#666\">{label:.1} ms</text>"
        )
        .expect("a text takes all");
    }
    for (row, (depth, span)) in rows(calls).enumerate() {
        let (top, fill) = (
            (row + 1) * ROW,
            if depth == 0 { "#2b7a78" } else { "#8fc1b5" },
        );
        let (left, right) = (x(span.began), x(span.began + span.took));
        let (bar, after, text) = (
            (right - left).max(1.0),
            right.max(left + 1.0) + 4.0,
            top + 15,
        );
        let (indent, name) = (10 + depth * 16, escape(&span.name));
        writeln!(
            svg,
            "<text x=\"{indent}\" y=\"{text}\">{name}</text>\
             <rect x=\"{left:.1}\" y=\"{}\" width=\"{bar:.1}\" height=\"{}\" fill=\"{fill}\"/>\
             <text x=\"{after:.1}\" y=\"{text}\" fill=\"#666\">{:.2}</text>",
            top + 3,
            ROW - 6,
            millis(span.took)
        )
        .expect("a text takes all");
    }
    svg.push_str("</svg>\n");
    svg
}

/// Returns a text as it may stand in a document.
fn escape(text: &str) -> String {
    text.chars()
        .filter(|char| !char.is_control())
        .map(|char| match char {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            char => char.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::span;
    use super::*;

    #[test]
    fn bars_are_drawn_where_their_spans_are() {
        let inside = vec![span("a <b> & c", 50, 50, Vec::new())];
        let svg = draw(&[span("Tasks/Create", 0, 100, inside)]);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(
            svg.contains("<rect x=\"260.0\" y=\"25\" width=\"640.0\""),
            "{svg}"
        );
        assert!(
            svg.contains("<rect x=\"580.0\" y=\"47\" width=\"320.0\""),
            "{svg}"
        );
        assert!(svg.contains("a &lt;b&gt; &amp; c"), "{svg}");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}
