//! systemd's manager on its bus: calls that are waited for, with the jobs that they begin.
//!
//! A small client of its own: libraries for D-Bus bring an executor and its threads, which a process that clones
//! itself must not have, or leak their socket into what it executes.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use sys::{Context, Error, Kind, Result};

use super::message::{Call, ERROR, Message, Property, RETURN, SIGNAL, Writer};

/// How long systemd may take for a job: a machine that starts a hundred containers keeps it busy.
const LIMIT: Duration = Duration::from_secs(30);

/// The system bus. systemd's own socket does without it, but never answers calls about a unit that is gone.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

const DESTINATION: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// A connection to systemd.
#[derive(Debug)]
pub(super) struct Bus {
    socket: UnixStream,
    serial: u32,
    deadline: Instant,
    /// Jobs that ended before anybody waited for them, with their results.
    ended: Vec<(String, String)>,
}

/// Why systemd refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// The class of the error, such as `org.freedesktop.systemd1.NoSuchUnit`.
    pub name: String,
    /// What it says.
    pub message: String,
}

impl Refused {
    /// Returns the refusal as an error of what was being done.
    pub(super) fn context(self, doing: &str) -> Error {
        Error::new(Kind::Unknown, self.message).context(doing)
    }
}

type Answer<T> = Result<Result<T, Refused>>;

impl Bus {
    /// Connects to systemd by the system bus.
    pub(super) fn connect() -> Result<Self> {
        let socket = UnixStream::connect(SYSTEM_BUS)
            .context(|| format!("connect to systemd at {SYSTEM_BUS:?}"))?;
        let mut bus = Self {
            socket,
            serial: 0,
            deadline: Instant::now() + LIMIT,
            ended: Vec::new(),
        };
        bus.authenticate()
            .context(|| format!("authenticate at {SYSTEM_BUS:?}"))?;
        bus.greet()?;
        Ok(bus)
    }

    /// Makes a transient unit and waits until it runs; one that is there is replaced by no means.
    pub(super) fn start_transient(&mut self, unit: &str, properties: &[Property]) -> Answer<()> {
        let mut body = Writer::default();
        body.text(unit);
        body.text("replace");
        body.properties(properties);
        body.array(8, |_| {});
        self.job("StartTransientUnit", "ssa(sv)a(sa(sv))", body)
    }

    /// Ends a unit and waits until it is gone.
    pub(super) fn stop(&mut self, unit: &str) -> Answer<()> {
        let mut body = Writer::default();
        body.text(unit);
        body.text("replace");
        self.job("StopUnit", "ss", body)
    }

    /// Makes systemd forget that a unit failed.
    pub(super) fn reset_failed(&mut self, unit: &str) -> Answer<()> {
        let mut body = Writer::default();
        body.text(unit);
        Ok(self.manage("ResetFailedUnit", "s", body)?.map(drop))
    }

    /// Changes properties of a unit until it ends.
    pub(super) fn set_properties(&mut self, unit: &str, properties: &[Property]) -> Answer<()> {
        let mut body = Writer::default();
        body.text(unit);
        body.number(1);
        body.properties(properties);
        Ok(self.manage("SetUnitProperties", "sba(sv)", body)?.map(drop))
    }

    /// Calls a method that begins a job, and waits for the job.
    fn job(&mut self, member: &str, signature: &str, body: Writer) -> Answer<()> {
        let job = match self.manage(member, signature, body)? {
            Ok(answer) => answer.arguments().text()?,
            Err(refused) => return Ok(Err(refused)),
        };
        loop {
            if let Some(at) = self.ended.iter().position(|(ended, _)| *ended == job) {
                let (_, result) = self.ended.swap_remove(at);
                return Ok(match result.as_str() {
                    "done" => Ok(()),
                    _ => Err(Refused {
                        name: String::new(),
                        message: format!("the job of systemd ended as {result:?}"),
                    }),
                });
            }
            self.receive()?;
        }
    }

    fn manage(&mut self, member: &str, signature: &str, body: Writer) -> Answer<Message> {
        self.call(Call {
            destination: DESTINATION,
            path: PATH,
            interface: MANAGER,
            member,
            signature,
            body,
        })
    }

    /// Calls a method and waits for its answer.
    fn call(&mut self, call: Call<'_>) -> Answer<Message> {
        let doing = format!("call {} of systemd", call.member);
        self.serial += 1;
        let serial = self.serial;
        self.deadline = Instant::now() + LIMIT;
        let answer = self
            .send(&call.encode(serial))
            .and_then(|()| self.answer(serial))
            .map_err(|error| error.context(doing))?;
        if answer.kind == RETURN {
            return Ok(Ok(answer));
        }
        let message = answer.arguments().text().unwrap_or_default();
        Ok(Err(Refused {
            name: answer.error,
            message,
        }))
    }

    fn answer(&mut self, serial: u32) -> Result<Message> {
        loop {
            match self.receive()? {
                Some(answer) if answer.reply_to == serial => return Ok(answer),
                _ => {}
            }
        }
    }

    /// Takes the next message; jobs that end are noted, answers are returned.
    fn receive(&mut self) -> Result<Option<Message>> {
        let mut start = [0; 16];
        self.fill(&mut start)?;
        let mut bytes = vec![0; Message::length(&start)?];
        let (first, rest) = bytes.split_at_mut(16);
        first.copy_from_slice(&start);
        self.fill(rest)?;
        let message = Message::decode(&bytes)?;
        match message.kind {
            RETURN | ERROR => return Ok(Some(message)),
            SIGNAL if message.member == "JobRemoved" => {
                // Its number, its path, its unit, and how it ended.
                let mut arguments = message.arguments();
                arguments.number()?;
                let job = arguments.text()?;
                arguments.text()?;
                self.ended.push((job, arguments.text()?));
            }
            _ => {}
        }
        Ok(None)
    }

    /// Says who we are, as the kernel confirms (D-Bus specification, "EXTERNAL").
    fn authenticate(&mut self) -> Result<()> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let name: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.send(format!("\0AUTH EXTERNAL {name}\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 512 {
            let mut byte = [0; 1];
            self.fill(&mut byte)?;
            line.extend(byte);
        }
        if !line.starts_with(b"OK ") {
            let line = String::from_utf8_lossy(&line);
            let message = format!("the bus answered {:?}", line.trim());
            return Err(Error::new(Kind::PermissionDenied, message));
        }
        self.send(b"BEGIN\r\n")
    }

    /// Enters the bus, and asks for the signals that tell of jobs.
    fn greet(&mut self) -> Result<()> {
        let call = |member, signature, body| Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member,
            signature,
            body,
        };
        let mut rule = Writer::default();
        rule.text("type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'");
        let entered = self.call(call("Hello", "", Writer::default()))?;
        entered.map_err(|refused| refused.context("enter the bus"))?;
        let matched = self.call(call("AddMatch", "s", rule))?;
        matched.map_err(|refused| refused.context("ask the bus for signals"))?;
        let subscribed = self.manage("Subscribe", "", Writer::default())?;
        subscribed.map_err(|refused| refused.context("ask systemd for signals"))?;
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.left()?;
        self.socket
            .set_write_timeout(Some(left))
            .and_then(|()| self.socket.write_all(bytes))
            .context(|| "write to the bus")
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        let left = self.left()?;
        self.socket
            .set_read_timeout(Some(left))
            .and_then(|()| self.socket.read_exact(buffer))
            .map_err(|error| match error.kind() {
                ErrorKind::WouldBlock => late(),
                _ => Error::other("read from the bus", error),
            })
    }

    fn left(&self) -> Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(late()),
            false => Ok(left),
        }
    }
}

fn late() -> Error {
    Error::new(Kind::DeadlineExceeded, "systemd does not answer in time")
}
