//! The terminal of the person who runs `corten`: its size, and raw mode that is undone in every case.

use std::io::{IsTerminal, Stdin, stdin, stdout};

use anyhow::{Context as _, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// A terminal in raw mode; dropping it puts back the mode it had.
#[derive(Debug)]
pub struct Raw {
    terminal: Stdin,
    before: Termios,
}

impl Raw {
    /// Makes the terminal on standard input hand over every key as it is; nothing if it is no terminal.
    pub fn enter() -> Result<Option<Raw>> {
        let terminal = stdin();
        if !terminal.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&terminal).context("read the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw).context("make the terminal raw")?;
        Ok(Some(Raw { terminal, before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// Returns columns and rows of the terminal on standard output or input, if one of them is a terminal with a size.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(stdout())
        .or_else(|_| tcgetwinsize(stdin()))
        .ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}
