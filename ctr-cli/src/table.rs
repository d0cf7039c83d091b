//! Tables: columns as wide as their widest cell, the last one ragged.

use std::io::{IsTerminal as _, Result, Write};

use crate::terminal;

/// The blanks between two columns.
const GAP: usize = 2;
/// No column is made narrower than this.
const NARROW: usize = 12;

/// Rows under a header.
#[derive(Debug, Clone)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Returns a table with these column names.
    pub fn new(header: &[&str]) -> Table {
        Table {
            rows: vec![header.iter().map(|name| name.to_string()).collect()],
        }
    }

    /// Adds a row; an empty cell is shown as a dash, so that columns can be counted.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(
            cells
                .into_iter()
                .map(|cell| {
                    if cell.is_empty() {
                        "-".into()
                    } else {
                        printable(&cell)
                    }
                })
                .collect(),
        );
    }

    /// Returns the table as text, on lines of at most `limit` characters if that can be.
    pub fn render(&self, limit: Option<usize>) -> String {
        let widths = self.widths(limit.unwrap_or(usize::MAX));
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, &width) in row.iter().zip(&widths) {
                line.push_str(&format!("{:width$}  ", cut(cell, width)));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Returns the widths of the columns; of those after the first, the widest are made narrower until all fit.
    fn widths(&self, limit: usize) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..columns).map(width).collect();
        let gaps = GAP * columns.saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > limit {
            match widths.iter_mut().skip(1).max() {
                Some(widest) if *widest > NARROW => *widest -= 1,
                _ => break,
            }
        }
        widths
    }

    /// Writes the table to standard output, and cuts it to the width of a terminal.
    pub fn print(&self) -> Result<()> {
        let mut stdout = std::io::stdout();
        let limit = stdout.is_terminal().then(terminal::size).flatten();
        let text = self.render(limit.map(|(columns, _)| columns.into()));
        stdout.write_all(text.as_bytes())
    }
}

/// Returns a text in at most `width` characters, the last of which tells if it was longer.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept = text.chars().take(width.saturating_sub(1));
    kept.chain(['…']).collect()
}

/// Replaces control characters: a name from a registry or a label must not reach the terminal as a command.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|char| if char.is_control() { '\u{fffd}' } else { char })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "SIZE", "LABELS"]);
        table.row(vec!["a-long-name".into(), "1".into(), String::new()]);
        table.row(vec!["b".into(), "12345".into(), "x=y".into()]);
        assert_eq!(
            table.render(None),
            "NAME         SIZE   LABELS\na-long-name  1      -\nb            12345  x=y\n"
        );
    }

    #[test]
    fn on_a_terminal_the_widest_columns_are_cut() {
        let mut table = Table::new(&["NAME", "DIGEST", "LABELS"]);
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        table.row(vec!["a-name".into(), digest.clone(), "x=y".into()]);
        let text = table.render(Some(40));
        let row = text.lines().nth(1).unwrap();
        assert_eq!(row, "a-name  sha256:0123456789abcdef…  x=y");
        assert!(table.render(None).contains(&digest));
        // What does not fit at all is left to the terminal.
        let narrow = table.render(Some(10));
        assert!(narrow.contains("sha256:0123…"), "{narrow}");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut table = Table::new(&["NAME"]);
        table.row(vec!["a\x1b[2Jb\nc".into()]);
        assert_eq!(table.render(None), "NAME\na\u{fffd}[2Jb\u{fffd}c\n");
    }
}
