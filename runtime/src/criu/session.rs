//! A conversation with CRIU: one process of it, asked over a socket, which asks back at each step.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use prost::Message;
use rustix::io::Errno;
use sys::process::{Child, Exit};
use sys::program::Program;
use sys::{Context, Error, Kind, Result, fdpass};

use super::rpc::{self, Features, Notify, Request, Response};
use crate::wording;

/// The program, which is looked for in `PATH`.
const PROGRAM: &str = "criu";

/// The oldest version that has everything which is asked of it here: external namespaces of both kinds, notifications of
/// lazy pages, profiles on restore.
const OLDEST: (i32, i32) = (3, 16);

/// The number that the socket has in CRIU.
const SOCKET: i32 = 3;

/// How many errors of a log go into ours; some are of no consequence, so that the first alone would mislead.
const ERRORS_MAX: usize = 8;

/// The longest message.
const LENGTH_MAX: usize = 64 * 1024;

/// CRIU, waiting for a request.
pub(super) struct Session {
    /// Closed first: CRIU ends when nobody talks to it.
    socket: Option<OwnedFd>,
    child: Option<Child>,
}

impl Session {
    /// Starts CRIU with these descriptors from 0 on and, after those and its socket, `further` ones, and makes sure that
    /// it is not too old.
    pub fn start(stdio: &[BorrowedFd<'_>], further: &[BorrowedFd<'_>]) -> Result<Self> {
        let (ours, theirs) = fdpass::pair()?;
        let mut program = Program::new(&find()?)?;
        program.arg("swrk")?.arg(SOCKET.to_string())?;
        for (name, value) in std::env::vars_os() {
            if let Some(name) = name.to_str() {
                program.env(name, value.as_encoded_bytes())?;
            }
        }
        program.fd(theirs.as_fd(), SOCKET);
        for (number, fd) in (0..).zip(stdio) {
            program.fd(*fd, number);
        }
        for (number, fd) in (SOCKET + 1..).zip(further) {
            program.fd(*fd, number);
        }
        let child = program.start()?;
        let session = Self {
            socket: Some(ours),
            child: Some(child),
        };
        session.check_version()?;
        Ok(session)
    }

    /// Returns the number that the first of `further` descriptors has in CRIU.
    pub fn further(at: usize) -> i32 {
        SOCKET + 1 + at as i32
    }

    /// Returns CRIU's own number.
    pub fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |child| child.pid)
    }

    fn check_version(&self) -> Result<()> {
        let answer = self.ask(&Request {
            kind: rpc::Kind::Version as i32,
            keep_open: Some(true),
            ..Request::default()
        })?;
        let version = answer.version.unwrap_or_default();
        if (version.major, version.minor) >= OLDEST {
            return Ok(());
        }
        let message = format!(
            "criu {}.{} is too old: {}.{} or higher is needed",
            version.major, version.minor, OLDEST.0, OLDEST.1
        );
        Err(Error::new(Kind::FailedPrecondition, message))
    }

    /// Makes sure that CRIU can do, with this kernel, what is wanted of it.
    pub fn require(&self, wanted: Features) -> Result<()> {
        let answer = self.ask(&Request {
            kind: rpc::Kind::FeatureCheck as i32,
            keep_open: Some(true),
            features: Some(wanted),
            ..Request::default()
        })?;
        let has = answer.features.unwrap_or_default();
        let lacks =
            |wanted: Option<bool>, has: Option<bool>| wanted == Some(true) && has != Some(true);
        let mut missing = Vec::new();
        if lacks(wanted.mem_track, has.mem_track) {
            missing.push("MemTrack");
        }
        if lacks(wanted.lazy_pages, has.lazy_pages) {
            missing.push("LazyPages");
        }
        if missing.is_empty() {
            return Ok(());
        }
        let message = format!("criu is missing features: [{}]", missing.join(" "));
        Err(Error::new(Kind::FailedPrecondition, message))
    }

    /// Has CRIU do what its process is for; `notified` is told of every step, with the descriptor that came with it.
    pub fn run(
        mut self,
        kind: rpc::Kind,
        options: rpc::Options,
        mut notified: impl FnMut(&Notify, Option<OwnedFd>) -> Result<()>,
    ) -> Result<()> {
        self.send(&Request {
            kind: kind as i32,
            options: Some(options),
            ..Request::default()
        })?;
        loop {
            let (answer, fd) = self.receive()?;
            if answer.kind != rpc::Kind::Notify as i32 {
                break;
            }
            notified(&answer.notify.unwrap_or_default(), fd)?;
            self.send(&Request {
                kind: rpc::Kind::Notify as i32,
                notify_success: Some(true),
                ..Request::default()
            })?;
        }
        match self.end()? {
            Some(Exit::Code(0)) | None => Ok(()),
            Some(exit) => {
                let message = format!("criu failed: exit status {}", exit.code());
                Err(Error::new(Kind::Unknown, message))
            }
        }
    }

    fn ask(&self, request: &Request) -> Result<Response> {
        self.send(request)?;
        self.receive().map(|(answer, _)| answer)
    }

    fn send(&self, request: &Request) -> Result<()> {
        let socket = self.socket.as_ref();
        let sent = socket.map_or(Err(Errno::NOTCONN), |socket| {
            fdpass::send(socket, &request.encode_to_vec(), None)
        });
        sent.context(|| "ask criu")
    }

    fn receive(&self) -> Result<(Response, Option<OwnedFd>)> {
        let mut buffer = vec![0; LENGTH_MAX];
        let socket = self.socket.as_ref();
        let received = socket.map_or(Err(Errno::NOTCONN), |socket| {
            fdpass::receive(socket, &mut buffer)
        });
        let (length, fd) = received.context(|| "hear from criu")?;
        if length == 0 {
            return Err(Error::new(
                Kind::Unknown,
                "criu ended before it had answered",
            ));
        }
        let answer = Response::decode(&buffer[..length])
            .map_err(|error| Error::other("decode what criu says", error))?;
        if answer.success {
            return Ok((answer, fd));
        }
        let kind = rpc::Kind::try_from(answer.kind).map_or("?", name);
        let errno = answer.errno.unwrap_or(0);
        let message = format!("criu failed: type {kind} errno {errno}");
        Err(Error::new(Kind::Unknown, message))
    }

    /// Hangs up, and waits until CRIU has ended.
    fn end(&mut self) -> Result<Option<Exit>> {
        self.socket = None;
        let child = self.child.take();
        child
            .map(|child| sys::process::wait(child.pidfd.as_fd()))
            .transpose()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Not killed: it undoes what it has begun, lest processes stay stopped.
        let _ = self.end();
    }
}

/// Adds to an error where CRIU's log is, and what it says went wrong.
pub(super) fn with_log(error: Error, folder: &Path, file: &str) -> Error {
    let path = folder.join(file);
    let Ok(log) = std::fs::File::open(&path) else {
        return error;
    };
    let lines = BufReader::new(log).split(b'\n').map_while(Result::ok);
    let text = lines
        .filter(|line| line.windows(5).any(|word| word == b"Error"))
        .take(ERRORS_MAX)
        .fold(wording::render(&error), |text, line| {
            format!("{text}\n{}", String::from_utf8_lossy(&line))
        });
    Error::new(
        error.kind(),
        format!("{text}\nlog file: {}", path.display()),
    )
}

/// Finds the program.
fn find() -> Result<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let is_program = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&folders)
        .filter(|folder| folder.as_os_str() != OsStr::new(""))
        .map(|folder| folder.join(PROGRAM))
        .find(is_program)
        .ok_or_else(|| wording::not_in_path(PROGRAM))
}

fn name(kind: rpc::Kind) -> &'static str {
    match kind {
        rpc::Kind::Empty => "EMPTY",
        rpc::Kind::Dump => "DUMP",
        rpc::Kind::Restore => "RESTORE",
        rpc::Kind::Notify => "NOTIFY",
        rpc::Kind::FeatureCheck => "FEATURE_CHECK",
        rpc::Kind::Version => "VERSION",
        rpc::Kind::SinglePreDump => "PRE_DUMP",
    }
}
