//! Spans as lines of text: when each began, how long it took, a bar where it is, its name.

use std::fmt::Write;
use std::time::Duration;

use super::{end, millis, rows};
use crate::table::printable;
use crate::trace::Span;

/// The columns of the bars.
const WIDTH: usize = 40;

/// Returns the calls as text, and a last line that sums them up.
pub fn draw(calls: &[Span]) -> String {
    let end = end(calls);
    let mut text = format!(
        "{:>9}  {:>9}  {:WIDTH$}  WHAT\n",
        "AT (ms)", "TOOK (ms)", ""
    );
    for (depth, span) in rows(calls) {
        let (began, took) = (millis(span.began), millis(span.took));
        let (before, bar) = place(span, end);
        let mark = if depth == 0 { "█" } else { "─" };
        let bar = format!("{}{}", " ".repeat(before), mark.repeat(bar));
        let name = printable(&span.name);
        let indent = depth * 2;
        writeln!(
            text,
            "{began:>9.2}  {took:>9.2}  {bar:WIDTH$}  {:indent$}{name}",
            ""
        )
        .expect("a text takes all");
    }
    let answered: Duration = calls.iter().map(|call| call.took).sum();
    let (all, answered) = (millis(end), millis(answered));
    writeln!(
        text,
        "{all:.2} ms until the command ran: {} calls, {answered:.2} ms in them",
        calls.len()
    )
    .expect("a text takes all");
    text
}

/// Returns how many columns are before the bar of a span, and how many are its own: one at least.
fn place(span: &Span, end: Duration) -> (usize, usize) {
    let column = |at: Duration| {
        let part = at.as_secs_f64() / end.as_secs_f64().max(f64::MIN_POSITIVE);
        (part * WIDTH as f64).round() as usize
    };
    let before = column(span.began).min(WIDTH - 1);
    let after = column(span.began + span.took).clamp(before + 1, WIDTH);
    (before, after - before)
}

#[cfg(test)]
mod tests {
    use super::super::tests::span;
    use super::*;

    #[test]
    fn bars_are_where_their_spans_are() {
        let inside = vec![span("commit", 20, 10, Vec::new())];
        let calls = [
            span("Images/Get", 0, 10, Vec::new()),
            span("Tasks/Create", 10, 30, inside),
        ];
        let text = draw(&calls);
        let lines: Vec<&str> = text.lines().collect();
        let (first, second) = ("█".repeat(10), "█".repeat(30));
        assert_eq!(
            lines[1],
            format!("     0.00      10.00  {first:40}  Images/Get")
        );
        let bar = format!("{}{second}", " ".repeat(10));
        assert_eq!(
            lines[2],
            format!("    10.00      30.00  {bar}  Tasks/Create")
        );
        let bar = format!("{}{}", " ".repeat(20), "─".repeat(10));
        assert_eq!(
            lines[3],
            format!("    20.00      10.00  {bar:40}    commit")
        );
        assert_eq!(
            lines[4],
            "40.00 ms until the command ran: 2 calls, 40.00 ms in them"
        );
    }

    #[test]
    fn every_span_has_a_bar_that_fits() {
        for (began, took) in [(0, 0), (1000, 0), (999, 1), (0, 1000)] {
            let (before, bar) = place(&span("x", began, took, Vec::new()), Duration::from_secs(1));
            assert!(bar >= 1 && before + bar <= WIDTH, "{began} {took}");
        }
        assert_eq!(draw(&[]).lines().count(), 2);
    }
}
