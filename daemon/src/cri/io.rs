//! Streams of processes: named pipes that a shim writes to and the daemon reads, for as long as either of them lives.
//!
//! A pipe is opened for reading and writing before the shim knows of it, so that it never seems to end too early; once
//! the shim has it open, the daemon keeps a reading end only, and sees the end when the shim closes its own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};

use super::log::{Entries, Log, Stream};
use crate::error::{Context, Error, Kind, Result};

/// How much is read at a time.
const CHUNK: usize = 32 << 10;
/// How many chunks wait for somebody who is attached.
const BEHIND: usize = 64;
/// How long somebody who is attached may hold up the output of all.
const STALL: Duration = Duration::from_secs(10);
/// How long output may come after the end of a process.
const DRAIN: Duration = Duration::from_secs(5);

/// What somebody who is attached gets.
pub type Output = mpsc::Receiver<(Stream, Bytes)>;

/// The named pipes of one process.
#[derive(Debug)]
pub struct Fifos {
    folder: PathBuf,
    pub stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

/// The streams of a container's first process.
#[derive(Debug)]
pub struct Io {
    folder: PathBuf,
    pub tty: bool,
    pub stdin: bool,
    limit: usize,
    log: Arc<Log>,
    taps: Arc<Taps>,
    input: tokio::sync::Mutex<Option<pipe::Sender>>,
    /// How many streams are being copied.
    copying: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Taps(Mutex<Vec<mpsc::Sender<(Stream, Bytes)>>>);

/// Which pipes a process has.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl Fifos {
    /// Makes pipes in `folder`, which is made too.
    pub fn create(folder: &Path, wanted: Wanted) -> Result<Self> {
        crate::listen::directory(folder, 0o700)?;
        let make = |name: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o700), 0)
                .context(|| format!("make pipe {path:?}"))?;
            Ok(path)
        };
        let mut options = pipe::OpenOptions::new();
        options.read_write(true);
        let output = |name: &str, wanted: bool| -> Result<Option<pipe::Receiver>> {
            if !wanted {
                return Ok(None);
            }
            let path = make(name)?;
            let opened = options.open_receiver(&path);
            opened.context(|| format!("open pipe {path:?}")).map(Some)
        };
        let stdin = match wanted.stdin {
            true => {
                let path = make("stdin")?;
                let opened = options.open_sender(&path);
                Some(opened.context(|| format!("open pipe {path:?}"))?)
            }
            false => None,
        };
        Ok(Self {
            folder: folder.to_owned(),
            stdin,
            stdout: output("stdout", wanted.stdout)?,
            stderr: output("stderr", wanted.stderr)?,
        })
    }

    /// Returns the paths of standard input, output and error, empty where there is no pipe.
    pub fn paths(&self) -> [String; 3] {
        let path = |name: &str, there: bool| match there {
            true => self.folder.join(name).to_string_lossy().into_owned(),
            false => String::new(),
        };
        [
            path("stdin", self.stdin.is_some()),
            path("stdout", self.stdout.is_some()),
            path("stderr", self.stderr.is_some()),
        ]
    }

    /// Returns standard output, for when the shim has it open.
    pub fn stdout(&mut self) -> Result<Option<pipe::Receiver>> {
        let both = self.stdout.take();
        both.map(|both| reading(&self.folder.join("stdout"), both))
            .transpose()
    }

    /// Returns standard error, for when the shim has it open.
    pub fn stderr(&mut self) -> Result<Option<pipe::Receiver>> {
        let both = self.stderr.take();
        both.map(|both| reading(&self.folder.join("stderr"), both))
            .transpose()
    }

    /// Removes the pipes; those who have them open keep them.
    pub fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Returns a reading end of the pipe in place of one that writes too.
fn reading(path: &Path, both: pipe::Receiver) -> Result<pipe::Receiver> {
    let opened = pipe::OpenOptions::new().open_receiver(path);
    drop(both);
    opened.context(|| format!("open pipe {path:?}"))
}

impl Io {
    /// Returns the streams of a container whose pipes are, or will be, in `folder`.
    pub fn new(folder: &Path, tty: bool, stdin: bool, log: &Path, limit: usize) -> Self {
        Self {
            folder: folder.to_owned(),
            tty,
            stdin,
            limit,
            log: Arc::new(Log::new(log)),
            taps: Arc::default(),
            input: tokio::sync::Mutex::default(),
            copying: watch::Sender::new(0),
        }
    }

    /// Makes the pipes; [`Io::follow`] must come when the shim has them open.
    pub fn create(&self) -> Result<Fifos> {
        let _ = std::fs::remove_dir_all(&self.folder);
        Fifos::create(
            &self.folder,
            Wanted {
                stdin: self.stdin,
                stdout: true,
                stderr: !self.tty,
            },
        )
    }

    /// Copies what comes out of the pipes to the log and to whoever is attached, until they end.
    pub async fn follow(&self, mut fifos: Fifos) -> Result<()> {
        *self.input.lock().await = fifos.stdin.take();
        self.log.open()?;
        let streams = [
            (Stream::Stdout, fifos.stdout()?),
            (Stream::Stderr, fifos.stderr()?),
        ];
        for (stream, pipe) in streams {
            if let Some(pipe) = pipe {
                self.copy(stream, pipe);
            }
        }
        Ok(())
    }

    /// Goes on with pipes that an earlier daemon made and a shim has open.
    pub async fn follow_again(&self) -> Result<()> {
        self.log.open()?;
        let open = |name: &str| {
            let path = self.folder.join(name);
            let opened = pipe::OpenOptions::new().open_receiver(&path);
            opened.context(|| format!("open pipe {path:?}"))
        };
        self.copy(Stream::Stdout, open("stdout")?);
        if !self.tty {
            self.copy(Stream::Stderr, open("stderr")?);
        }
        if self.stdin {
            let path = self.folder.join("stdin");
            let opened = pipe::OpenOptions::new().read_write(true).open_sender(&path);
            let opened = opened.context(|| format!("open pipe {path:?}"))?;
            *self.input.lock().await = Some(opened);
        }
        Ok(())
    }

    fn copy(&self, stream: Stream, mut pipe: pipe::Receiver) {
        self.copying.send_modify(|count| *count += 1);
        let (copying, log, taps) = (self.copying.clone(), self.log.clone(), self.taps.clone());
        let mut entries = Entries::new(stream, self.limit);
        tokio::spawn(async move {
            let mut buffer = vec![0; CHUNK];
            loop {
                let read = match pipe.read(&mut buffer).await {
                    Ok(0) => break,
                    Ok(read) => read,
                    Err(error) => {
                        tracing::warn!("read output: {error}");
                        break;
                    }
                };
                // The log is written through the page cache: a few microseconds, less than handing it to a thread.
                note(log.write(&entries.feed(&buffer[..read], SystemTime::now())));
                taps.send(stream, &buffer[..read]).await;
            }
            note(log.write(&entries.finish(SystemTime::now())));
            copying.send_modify(|count| *count -= 1);
            if *copying.borrow() == 0 {
                taps.close();
            }
        });
    }

    /// Waits until the last output has come, but not for ever: a process may have left the pipes to another.
    pub async fn drain(&self) {
        let mut copying = self.copying.subscribe();
        let done = copying.wait_for(|count| *count == 0);
        let _ = tokio::time::timeout(DRAIN, done).await;
        self.input.lock().await.take();
        self.taps.close();
        self.log.close();
    }

    /// Opens the log anew.
    pub fn reopen_log(&self) -> Result<()> {
        self.log.open()
    }

    /// Returns the output from now on.
    pub fn attach(&self) -> Output {
        let (sender, receiver) = mpsc::channel(BEHIND);
        self.taps.lock().push(sender);
        receiver
    }

    /// Writes to standard input.
    pub async fn write(&self, bytes: &[u8]) -> Result<()> {
        match self.input.lock().await.as_mut() {
            Some(input) => input.write_all(bytes).await.context(|| "write to stdin"),
            None => Err(Error::new(Kind::FailedPrecondition, "stdin is closed")),
        }
    }

    /// Closes standard input.
    pub async fn close_stdin(&self) {
        self.input.lock().await.take();
    }

    /// Removes the pipes.
    pub fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Taps {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::Sender<(Stream, Bytes)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends output to all who are attached; who does not take it in time is cut off.
    async fn send(&self, stream: Stream, bytes: &[u8]) {
        let taps = self.lock().clone();
        if taps.is_empty() {
            return;
        }
        let bytes = Bytes::copy_from_slice(bytes);
        let mut lost = false;
        for tap in &taps {
            let sent = tap.send_timeout((stream, bytes.clone()), STALL).await;
            if sent.is_err() {
                lost = true;
                self.lock().retain(|other| !other.same_channel(tap));
            }
        }
        if lost {
            tracing::debug!("somebody who was attached is gone");
        }
    }

    fn close(&self) {
        self.lock().clear();
    }
}

fn note(result: Result<()>) {
    if let Err(error) = result {
        tracing::warn!("{error:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_goes_to_the_log_and_to_those_attached() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        let io = Io::new(&dir.path().join("io"), false, false, &log, 0);
        let fifos = io.create().unwrap();
        let [stdin, stdout, stderr] = fifos.paths();
        assert_eq!(stdin, "");
        // As the shim does, before the daemon follows.
        let mut out = pipe::OpenOptions::new().open_sender(&stdout).unwrap();
        let mut err = pipe::OpenOptions::new().open_sender(&stderr).unwrap();
        io.follow(fifos).await.unwrap();
        let mut tap = io.attach();
        out.write_all(b"hello\n").await.unwrap();
        let (stream, bytes) = tap.recv().await.unwrap();
        assert_eq!((stream, bytes.as_ref()), (Stream::Stdout, &b"hello\n"[..]));
        err.write_all(b"oh").await.unwrap();
        let (stream, bytes) = tap.recv().await.unwrap();
        assert_eq!((stream, bytes.as_ref()), (Stream::Stderr, &b"oh"[..]));
        drop((out, err));
        io.drain().await;
        assert!(tap.recv().await.is_none());
        let text = std::fs::read_to_string(&log).unwrap();
        let lines: Vec<&str> = text.lines().map(|line| &line[31..]).collect();
        assert_eq!(lines, ["stdout F hello", "stderr P oh"]);
    }

    #[tokio::test]
    async fn a_process_that_ends_at_once_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Wanted {
            stdin: false,
            stdout: true,
            stderr: false,
        };
        let mut fifos = Fifos::create(&dir.path().join("io"), wanted).unwrap();
        let [_, stdout, _] = fifos.paths();
        let mut out = pipe::OpenOptions::new().open_sender(&stdout).unwrap();
        out.write_all(b"last words").await.unwrap();
        drop(out);
        let mut text = String::new();
        let mut pipe = fifos.stdout().unwrap().unwrap();
        pipe.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "last words");
    }
}
