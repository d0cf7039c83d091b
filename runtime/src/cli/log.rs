//! The log: runc's lines, as text or JSON, in the file that a shim reads a failure's reason from.

use std::fs::{File, OpenOptions};
use std::io::Write;

use super::Global;

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

/// Where lines go.
pub(super) struct Log {
    file: Option<File>,
    format: Format,
}

impl Log {
    /// Opens the log; one that cannot be opened leaves stderr.
    pub fn new(global: &Global) -> Self {
        let open = |path| OpenOptions::new().create(true).append(true).open(path);
        let file = global
            .log
            .as_ref()
            .filter(|path| !path.as_os_str().is_empty());
        Self {
            file: file.and_then(|path| open(path).ok()),
            format: global.log_format,
        }
    }

    /// Says why the command failed, in the log and to who called.
    pub fn error(&self, message: &str) {
        let line = line(self.format, "error", message);
        if let Some(mut file) = self.file.as_ref() {
            let _ = file.write_all(line.as_bytes());
            eprintln!("{message}");
        } else {
            eprint!("{line}");
        }
    }

    /// Tells of what will not be as it was asked for.
    pub fn warning(&self, message: &str) {
        let line = line(self.format, "warning", message);
        match self.file.as_ref() {
            Some(mut file) => drop(file.write_all(line.as_bytes())),
            None => eprint!("{line}"),
        }
    }
}

fn line(format: Format, level: &str, message: &str) -> String {
    let time = runtime::now();
    match format {
        Format::Json => {
            let line = serde_json::json!({ "level": level, "msg": message, "time": time });
            format!("{line}\n")
        }
        Format::Text => format!("time={time:?} level={level} msg={message:?}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_json_has_the_fields_that_shims_read() {
        let line = line(Format::Json, "error", "no \"b\"");
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["level"], "error");
        assert_eq!(parsed["msg"], "no \"b\"");
        assert!(parsed["time"].as_str().unwrap().ends_with('Z'));
    }
}
