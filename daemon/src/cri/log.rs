//! Container logs as CRI wants them: `time stream tag content`, one entry a line.
//!
//! The tag is `F` where a line ends, `P` where it goes on: a line longer than the limit is split, and what comes
//! before the end of the output without a line break is a part too.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Context, Result};
use crate::time;

/// A stream of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A log file, which both streams of a container are written to.
#[derive(Debug, Default)]
pub struct Log {
    /// Empty if nothing is logged.
    path: PathBuf,
    file: Mutex<Option<File>>,
}

/// Makes log entries of what one stream brings.
#[derive(Debug)]
pub struct Entries {
    stream: Stream,
    limit: usize,
    line: Vec<u8>,
}

impl Log {
    /// Returns the log at `path`, which is not opened yet; an empty path is no log.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: Mutex::default(),
        }
    }

    /// Opens the file anew: whoever rotates logs has renamed it.
    pub fn open(&self) -> Result<()> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        let opened = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(&self.path)
            .context(|| format!("open log file {:?}", self.path))?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened);
        Ok(())
    }

    /// Writes whole entries.
    pub fn write(&self, entries: &[u8]) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match file.as_mut() {
            Some(file) if !entries.is_empty() => file
                .write_all(entries)
                .context(|| format!("write log file {:?}", self.path)),
            _ => Ok(()),
        }
    }

    /// Closes the file.
    pub fn close(&self) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Entries {
    /// Returns what makes entries of at most `limit` bytes of content; 0 is no limit.
    pub fn new(stream: Stream, limit: usize) -> Self {
        Self {
            stream,
            limit,
            line: Vec::new(),
        }
    }

    /// Returns the entries that `bytes` complete.
    pub fn feed(&mut self, mut bytes: &[u8], at: SystemTime) -> Vec<u8> {
        let mut entries = Vec::new();
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let part = &bytes[..end.unwrap_or(bytes.len())];
            self.append(part, at, &mut entries);
            let Some(end) = end else { break };
            self.entry('F', at, &mut entries);
            bytes = &bytes[end + 1..];
        }
        entries
    }

    /// Returns what is left when the stream ends.
    pub fn finish(&mut self, at: SystemTime) -> Vec<u8> {
        let mut entries = Vec::new();
        if !self.line.is_empty() {
            self.entry('P', at, &mut entries);
        }
        entries
    }

    /// Takes in a part of a line, and lets go of what is more than the limit.
    fn append(&mut self, mut part: &[u8], at: SystemTime, entries: &mut Vec<u8>) {
        let limit = match self.limit {
            0 => usize::MAX,
            limit => limit,
        };
        while self.line.len().saturating_add(part.len()) > limit {
            let (now, later) = part.split_at(limit - self.line.len());
            self.line.extend_from_slice(now);
            self.entry('P', at, entries);
            part = later;
        }
        self.line.extend_from_slice(part);
    }

    fn entry(&mut self, tag: char, at: SystemTime, entries: &mut Vec<u8>) {
        let head = format!("{} {} {tag} ", stamp(at), self.stream.name());
        entries.extend_from_slice(head.as_bytes());
        entries.append(&mut self.line);
        entries.push(b'\n');
    }
}

/// Returns a time as RFC 3339 writes it, with nanoseconds.
fn stamp(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = time::format(since.as_secs() as i64);
    let seconds = seconds.trim_end_matches('Z');
    format!("{seconds}.{:09}Z", since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(entries: &[u8]) -> Vec<String> {
        let text = String::from_utf8(entries.to_vec()).unwrap();
        text.lines()
            .map(|line| line.splitn(3, ' ').nth(2).unwrap().to_owned())
            .collect()
    }

    #[test]
    fn an_entry_has_its_time_and_its_stream() {
        let at = UNIX_EPOCH + Duration::new(1_475_717_830, 417_462_000);
        let entries = Entries::new(Stream::Stderr, 0).feed(b"hello\n", at);
        assert_eq!(
            String::from_utf8(entries).unwrap(),
            "2016-10-06T01:37:10.417462000Z stderr F hello\n"
        );
    }

    #[test]
    fn lines_are_told_from_parts_of_lines() {
        let at = UNIX_EPOCH;
        let cases: [(usize, &[&str], &[&str]); 6] = [
            (0, &["a\nb\n"], &["F a", "F b"]),
            (0, &["a", "b\n", "\n"], &["F ab", "F "]),
            (0, &["a"], &["P a"]),
            (4, &["abcdefghij\n"], &["P abcd", "P efgh", "F ij"]),
            (4, &["abc", "de\n"], &["P abcd", "F e"]),
            (4, &["abcd\n", "abcd"], &["F abcd", "P abcd"]),
        ];
        for (limit, chunks, wanted) in cases {
            let mut stream = Entries::new(Stream::Stdout, limit);
            let mut entries = Vec::new();
            for chunk in chunks {
                entries.extend(stream.feed(chunk.as_bytes(), at));
            }
            entries.extend(stream.finish(at));
            assert_eq!(contents(&entries), wanted, "{limit} {chunks:?}");
        }
    }

    #[test]
    fn a_log_goes_on_in_a_new_file_once_it_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let log = Log::new(&path);
        log.write(b"lost\n").unwrap();
        log.open().unwrap();
        log.write(b"one\n").unwrap();
        std::fs::rename(&path, dir.path().join("1.log")).unwrap();
        log.write(b"two\n").unwrap();
        log.open().unwrap();
        log.write(b"three\n").unwrap();
        let read = |name| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("1.log"), "one\ntwo\n");
        assert_eq!(read("0.log"), "three\n");
        let nowhere = Log::new(Path::new(""));
        nowhere.open().unwrap();
        nowhere.write(b"x").unwrap();
    }
}
