//! A process in the foreground: its terminal is the caller's, and so are its signals.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use runtime::{Container, Io, Process};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, OutputModes, Termios};
use sys::process::Exit;
use sys::signals::Signals;
use sys::{Context, Error, Kind, Result, fdpass};

/// Signals that are not passed on: they concern this process itself.
const OWN: [i32; 3] = [CHLD, PIPE, URG];
const CHLD: i32 = 17;
const PIPE: i32 = 13;
const URG: i32 = 23;
const WINCH: i32 = 28;

/// What is done for a process while it runs.
pub(super) struct Foreground {
    signals: Option<Signals>,
    terminal: Option<Terminal>,
}

/// The caller's terminal in raw mode, and the master of the process's.
struct Terminal {
    master: OwnedFd,
    before: Option<Termios>,
    reads: bool,
}

/// Refuses combinations of flags in which nobody would get the terminal.
pub(super) fn check(io: &Io, detach: bool, has_socket: bool) -> Result<()> {
    let terminal = matches!(io, Io::Console);
    let message = match (terminal, detach, has_socket) {
        (true, true, false) => {
            "cannot allocate tty if runc will detach without setting console socket"
        }
        (false, _, true) => "cannot use console socket if runc will not detach or allocate tty",
        _ => return Ok(()),
    };
    Err(Error::new(Kind::InvalidArgument, message))
}

/// Sends the master of a terminal to who listens at the console socket.
pub(super) fn send_console(socket: Option<&Path>, master: OwnedFd) -> Result<()> {
    let Some(path) = socket else {
        let message = "cannot allocate tty if runc will detach without setting console socket";
        return Err(Error::new(Kind::InvalidArgument, message));
    };
    let socket = fdpass::connect(path)?;
    fdpass::send(&socket, b"/dev/pts/ptmx", Some(master.as_fd()))
        .context(|| format!("send the terminal to {path:?}"))
}

/// Sends a descriptor of the process to who listens at a socket.
pub(super) fn send_pidfd(socket: Option<&Path>, process: &Process) -> Result<()> {
    let Some(path) = socket else {
        return Ok(());
    };
    let socket = fdpass::connect(path)?;
    fdpass::send(&socket, b"pidfd", Some(process.pidfd.as_fd()))
        .context(|| format!("send the process's descriptor to {path:?}"))
}

/// Waits for a container's process unless it is detached, and returns its exit code; deletes the container then, unless it
/// is kept, or at once if its process was not `prepared`.
pub(super) fn see_through(
    container: Container,
    process: &Process,
    prepared: Result<Foreground>,
    detach: bool,
    keep: bool,
) -> Result<u8> {
    let foreground = match prepared {
        Ok(foreground) => foreground,
        Err(error) => {
            container.delete(true)?;
            return Err(error);
        }
    };
    if detach {
        return Ok(0);
    }
    let exit = foreground.wait(process);
    if !keep {
        container.delete(true)?;
    }
    Ok(exit?.code() as u8)
}

impl Foreground {
    /// Takes the process's terminal to where it belongs, before the process is started.
    pub fn prepare(process: &mut Process, socket: Option<&Path>, detach: bool) -> Result<Self> {
        let terminal = match process.console.take() {
            Some(master) if socket.is_some() => {
                send_console(socket, master)?;
                None
            }
            Some(master) => Some(Terminal::take(master)?),
            None => None,
        };
        let signals = match detach {
            true => None,
            false => Some(Signals::block_all()?),
        };
        Ok(Self { signals, terminal })
    }

    /// Passes on signals and what is typed and printed, until the process has ended.
    pub fn wait(self, process: &Process) -> Result<Exit> {
        let Self {
            signals,
            mut terminal,
        } = self;
        let Some(signals) = signals else {
            return sys::process::wait(process.pidfd.as_fd());
        };
        loop {
            let mut fds = vec![
                PollFd::new(&process.pidfd, PollFlags::IN),
                PollFd::new(&signals, PollFlags::IN),
            ];
            let stdin = rustix::stdio::stdin();
            if let Some(terminal) = &terminal {
                fds.push(PollFd::new(&terminal.master, PollFlags::IN));
                if terminal.reads {
                    fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
                }
            }
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context(|| "wait for the container"),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            if ready[1] {
                pass_signals(&signals, process, terminal.as_ref())?;
            }
            if let Some(terminal) = &mut terminal {
                terminal.pass(ready[2], ready.get(3).copied().unwrap_or(false));
            }
            if ready[0] {
                let exit = sys::process::wait(process.pidfd.as_fd());
                if let Some(terminal) = &mut terminal {
                    terminal.drain();
                }
                return exit;
            }
        }
    }
}

fn pass_signals(signals: &Signals, process: &Process, terminal: Option<&Terminal>) -> Result<()> {
    while let Some(signal) = signals.next()? {
        if signal == WINCH && terminal.is_some() {
            terminal.into_iter().for_each(Terminal::resize);
        } else if !OWN.contains(&signal) {
            // It may just have ended.
            let _ = sys::process::signal(&process.pidfd, signal);
        }
    }
    Ok(())
}

impl Terminal {
    fn take(master: OwnedFd) -> Result<Self> {
        keep_newlines(&master)?;
        let stdin = rustix::stdio::stdin();
        let before = match rustix::termios::tcgetattr(stdin) {
            Ok(before) => {
                let mut raw = before.clone();
                raw.make_raw();
                rustix::termios::tcsetattr(stdin, OptionalActions::Now, &raw)
                    .context(|| "make the terminal raw")?;
                Some(before)
            }
            // It is no terminal: bytes are passed on all the same.
            Err(_) => None,
        };
        let terminal = Self {
            master,
            before,
            reads: true,
        };
        terminal.resize();
        Ok(terminal)
    }

    /// Gives the process's terminal the size of the caller's.
    fn resize(&self) {
        if let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
            let _ = rustix::termios::tcsetwinsize(&self.master, size);
        }
    }

    fn pass(&mut self, printed: bool, typed: bool) {
        if printed {
            let _ = copy(self.master.as_fd(), rustix::stdio::stdout());
        }
        if typed && !copy(rustix::stdio::stdin(), self.master.as_fd()) {
            self.reads = false;
        }
    }

    /// Prints what the process has left in its terminal.
    fn drain(&mut self) {
        let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        while poll(&mut fds, Some(&now)) == Ok(1)
            && fds[0].revents().contains(PollFlags::IN)
            && copy(self.master.as_fd(), rustix::stdio::stdout())
        {}
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let stdin = rustix::stdio::stdin();
            let _ = rustix::termios::tcsetattr(stdin, OptionalActions::Now, before);
        }
    }
}

/// Has the process's terminal print newlines as they are: the caller's own adds what its line discipline is to add.
fn keep_newlines(master: &OwnedFd) -> Result<()> {
    rustix::termios::tcgetattr(master)
        .and_then(|mut attributes| {
            attributes.output_modes.remove(OutputModes::ONLCR);
            rustix::termios::tcsetattr(master, OptionalActions::Now, &attributes)
        })
        .context(|| "set up the process's terminal")
}

/// Copies what is there; false at the end or when nobody takes it.
fn copy(from: impl AsFd, to: impl AsFd) -> bool {
    let mut buffer = [0; 8192];
    let Ok(count @ 1..) = rustix::io::read(from, &mut buffer) else {
        return false;
    };
    let mut left = &buffer[..count];
    while !left.is_empty() {
        match rustix::io::write(&to, left) {
            Ok(written) => left = &left[written..],
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}
