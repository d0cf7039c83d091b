//! Lists as tables, as names alone or as JSON.

use std::io::Write;

use anyhow::Result;
use serde_json::Value;

use crate::cli::Session;
use crate::table::{Table, printable};

/// A list in the three forms in which it can be printed.
#[derive(Debug)]
pub struct List {
    table: Table,
    names: Vec<String>,
    values: Vec<Value>,
}

impl List {
    /// Returns an empty list with these columns.
    pub fn new(header: &[&str]) -> List {
        List {
            table: Table::new(header),
            names: Vec::new(),
            values: Vec::new(),
        }
    }

    /// Adds an entry; its first cell is its name.
    pub fn add(&mut self, cells: Vec<String>, value: Value) {
        self.names.push(cells.first().cloned().unwrap_or_default());
        self.table.row(cells);
        self.values.push(value);
    }

    /// Prints the list.
    pub fn print(&self, session: &Session, quiet: bool) -> Result<()> {
        if session.json {
            return print_json(&Value::from(self.values.clone()));
        }
        if quiet {
            let mut stdout = std::io::stdout().lock();
            for name in &self.names {
                writeln!(stdout, "{}", printable(name))?;
            }
            return Ok(());
        }
        Ok(self.table.print()?)
    }
}

/// Prints a value as JSON for people and programs.
pub fn print_json(value: &Value) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut stdout, value)?;
    writeln!(stdout)?;
    Ok(())
}

/// Prints a line.
pub fn print_line(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}
