//! A process in a container with our standard streams: copies them, hands on signals and the window's size, waits.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use api_protos::containerd::services::tasks::v1::{
    CloseIoRequest, KillRequest, ResizePtyRequest, WaitRequest,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::client::{Client, Doing as _};
use crate::fifo::{self, Fifos};
use crate::terminal::{self, Raw};

/// How long output may stand still, after the process has ended, until nobody is believed to write any more.
const QUIET: Duration = Duration::from_secs(2);

/// Which process.
#[derive(Debug, Clone)]
pub struct Target {
    /// The container.
    pub container: String,
    /// The process that was added to it; empty for its first.
    pub exec: String,
}

/// The open ends of a process's FIFOs, before the process runs.
#[derive(Debug)]
pub struct Streams {
    stdin: Option<File>,
    outputs: Vec<(File, Output)>,
    terminal: bool,
}

#[derive(Debug, Clone, Copy)]
enum Output {
    Stdout,
    Stderr,
}

impl Streams {
    /// Opens our ends; this must come before the shim opens its own, which waits for ours.
    pub fn open(fifos: &Fifos, terminal: bool) -> Result<Streams> {
        let mut outputs = Vec::new();
        for (path, output) in [
            (&fifos.stdout, Output::Stdout),
            (&fifos.stderr, Output::Stderr),
        ] {
            if !path.is_empty() {
                outputs.push((fifo::open_reader(path)?, output));
            }
        }
        let stdin = (!fifos.stdin.is_empty())
            .then(|| fifo::open_writer(&fifos.stdin))
            .transpose()?;
        Ok(Streams {
            stdin,
            outputs,
            terminal,
        })
    }
}

/// Returns whether a process is to read our standard input: if asked, or if it is a pipe or a file.
pub fn wants_input(interactive: bool, terminal: bool) -> bool {
    interactive || terminal || !std::io::stdin().is_terminal()
}

/// A signal came before there was a process to hand it on to; the program's exit code is the usual one for it.
#[derive(Debug)]
pub struct Interrupted(i32);

impl Interrupted {
    /// Returns the exit code of a program that the signal ended.
    pub fn exit_code(&self) -> u8 {
        128 + self.0 as u8
    }
}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "interrupted by signal {}", self.0)
    }
}

impl std::error::Error for Interrupted {}

/// Signals that go on to the process.
#[derive(Debug)]
pub struct Signals {
    receiver: mpsc::UnboundedReceiver<i32>,
}

/// What was done, and whether there was a signal meanwhile.
#[derive(Debug)]
pub struct Done<T> {
    /// What came of it.
    pub value: T,
    /// The signal.
    pub interrupted: Option<Interrupted>,
}

impl Signals {
    /// Takes the signals that would end us, from now on.
    pub fn take() -> Result<Signals> {
        let (sender, receiver) = mpsc::unbounded_channel();
        for number in [1, 2, 3, 10, 12, 15] {
            let mut signals: Signal =
                signal(SignalKind::from_raw(number)).context("take signals")?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() && sender.send(number).is_ok() {}
            });
        }
        Ok(Signals { receiver })
    }

    /// Does `work`, which can be left at any point, unless a signal comes before it is done.
    pub async fn unless<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            number = self.next() => Err(Interrupted(number).into()),
            result = work => result,
        }
    }

    /// Does `work`, which should not be left half done; after a first signal it is waited for, after a second not.
    pub async fn after<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<Done<T>> {
        let mut work = std::pin::pin!(work);
        let mut first = None;
        loop {
            tokio::select! {
                result = &mut work => {
                    let interrupted = first.map(Interrupted);
                    return result.map(|value| Done { value, interrupted });
                }
                number = self.next() => match first {
                    None => first = Some(number),
                    Some(first) => return Err(Interrupted(first).into()),
                },
            }
        }
    }

    /// Returns the next signal.
    pub async fn next(&mut self) -> i32 {
        match self.receiver.recv().await {
            Some(number) => number,
            None => std::future::pending().await,
        }
    }
}

/// Copies streams and hands on signals until the process has ended; returns its exit code.
///
/// The terminal's mode is put back in every case. A second Ctrl-C kills.
pub async fn foreground(
    client: &Client,
    target: &Target,
    streams: Streams,
    signals: &mut Signals,
) -> Result<u32> {
    let client = client.without_timeout();
    let raw = if streams.terminal {
        Raw::enter()?
    } else {
        None
    };
    let mut windows = signal(SignalKind::window_change()).context("take signals")?;
    if streams.terminal {
        resize(&client, target).await;
    }
    let (ended, mut input_ended) = oneshot::channel();
    if let Some(stdin) = streams.stdin {
        copy_input(stdin, ended);
    }
    let mut input_open = true;
    let outputs: Vec<Copying> = streams
        .outputs
        .into_iter()
        .map(|(from, to)| Copying::start(from, to))
        .collect();
    let request = WaitRequest {
        container_id: target.container.clone(),
        exec_id: target.exec.clone(),
    };
    let mut tasks = client.tasks();
    let mut waiting = std::pin::pin!(tasks.wait(request));
    let mut interrupted = false;
    let exit = loop {
        tokio::select! {
            answer = &mut waiting => break answer.doing(|| "wait".into())?.into_inner(),
            _ = windows.recv(), if streams.terminal => resize(&client, target).await,
            number = signals.next() => {
                let kill = number == 2 && interrupted;
                interrupted |= number == 2;
                send(&client, target, if kill { 9 } else { number }).await;
            }
            result = &mut input_ended, if input_open => {
                input_open = false;
                if result.is_ok() {
                    close_input(&client, target).await;
                }
            }
        }
    };
    for output in outputs {
        output.drain().await;
    }
    drop(raw);
    Ok(exit.exit_status)
}

async fn resize(client: &Client, target: &Target) {
    let Some((width, height)) = terminal::size() else {
        return;
    };
    let request = ResizePtyRequest {
        container_id: target.container.clone(),
        exec_id: target.exec.clone(),
        width: width.into(),
        height: height.into(),
    };
    // The process may have ended between the change and now.
    let _ = client.tasks().resize_pty(request).await;
}

async fn send(client: &Client, target: &Target, number: i32) {
    let request = KillRequest {
        container_id: target.container.clone(),
        exec_id: target.exec.clone(),
        signal: number.unsigned_abs(),
        all: false,
    };
    let _ = client.tasks().kill(request).await;
}

async fn close_input(client: &Client, target: &Target) {
    let request = CloseIoRequest {
        container_id: target.container.clone(),
        exec_id: target.exec.clone(),
        stdin: true,
    };
    let _ = client.tasks().close_io(request).await;
}

/// Copies standard input on a thread that nobody waits for: a read from a terminal cannot be called off.
fn copy_input(mut fifo: File, ended: oneshot::Sender<()>) {
    std::thread::spawn(move || {
        let _ = copy(&mut std::io::stdin().lock(), &mut fifo, |_| {});
        drop(fifo);
        let _ = ended.send(());
    });
}

/// A thread that copies one output.
#[derive(Debug)]
struct Copying {
    done: oneshot::Receiver<()>,
    moved: Arc<AtomicU64>,
    writing: Arc<AtomicBool>,
}

impl Copying {
    fn start(mut from: File, to: Output) -> Copying {
        let (sender, done) = oneshot::channel();
        let (moved, writing) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (count, busy) = (Arc::clone(&moved), Arc::clone(&writing));
        std::thread::spawn(move || {
            let mut to: Box<dyn Write> = match to {
                Output::Stdout => Box::new(std::io::stdout()),
                Output::Stderr => Box::new(std::io::stderr()),
            };
            let watch = |length: Option<usize>| {
                busy.store(length.is_some(), Ordering::Relaxed);
                count.fetch_add(length.unwrap_or(0) as u64, Ordering::Relaxed);
            };
            if copy(&mut from, &mut to, watch).is_err() {
                // Whoever read our output has gone: the process must not stand still for that.
                let _ = std::io::copy(&mut from, &mut std::io::sink());
            }
            let _ = sender.send(());
        });
        Copying {
            done,
            moved,
            writing,
        }
    }

    /// Waits for the end of the output, or until it has stood still although we could write.
    async fn drain(mut self) {
        loop {
            let before = self.moved.load(Ordering::Relaxed);
            if tokio::time::timeout(QUIET, &mut self.done).await.is_ok() {
                return;
            }
            if before == self.moved.load(Ordering::Relaxed) && !self.writing.load(Ordering::Relaxed)
            {
                return;
            }
        }
    }
}

/// Copies and flushes as it comes; `watch` hears the length before a write and nothing after it.
fn copy(
    from: &mut impl Read,
    to: &mut impl Write,
    watch: impl Fn(Option<usize>),
) -> std::io::Result<()> {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        watch(Some(count));
        to.write_all(&buffer[..count])?;
        to.flush()?;
        watch(None);
    }
}
