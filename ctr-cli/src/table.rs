//! Tables: columns as wide as their widest cell, the last one ragged.

use std::io::{Result, Write};

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

    /// Returns the table as text.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Writes the table to standard output.
    pub fn print(&self) -> Result<()> {
        std::io::stdout().write_all(self.render().as_bytes())
    }
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
            table.render(),
            "NAME         SIZE   LABELS\na-long-name  1      -\nb            12345  x=y\n"
        );
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut table = Table::new(&["NAME"]);
        table.row(vec!["a\x1b[2Jb\nc".into()]);
        assert_eq!(table.render(), "NAME\na\u{fffd}[2Jb\u{fffd}c\n");
    }
}
