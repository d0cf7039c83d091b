//! The log: lines as logrus writes them, on stderr, which is the FIFO `log` in the bundle.
//!
//! The FIFO does not block: when no daemon reads it and it is full, lines are lost rather than containers held up.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

static DEBUG: AtomicBool = AtomicBool::new(false);

/// Says whether steps are logged too.
pub fn set_debug(debug: bool) {
    DEBUG.store(debug, Ordering::Relaxed);
}

/// Logs what went wrong with something that was asked for.
pub fn error(message: impl Display) {
    write("error", &message.to_string());
}

/// Logs what is odd, but was dealt with.
pub fn warn(message: impl Display) {
    write("warning", &message.to_string());
}

/// Logs a change of state.
pub fn info(message: impl Display) {
    write("info", &message.to_string());
}

/// Logs a step.
pub fn debug(message: impl Display) {
    if DEBUG.load(Ordering::Relaxed) {
        write("debug", &message.to_string());
    }
}

fn write(level: &str, message: &str) {
    let line = format!(
        "time=\"{}\" level={level} msg={message:?}\n",
        ::runtime::now()
    );
    // One write: lines of several writers must not mix.
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}
