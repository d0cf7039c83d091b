//! Another OCI runtime, such as runc or crun, by the command line that all of them share with runc.
//!
//! What it makes becomes the shim's child once the program has ended, because the shim is a subreaper.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::runtime::Io;
use ::runtime::cgroup::Cgroup;
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use sys::program::Program;
use sys::{Context, Error, Kind, Result};
use tokio::io::Interest;
use tokio::net::UnixListener;

use super::{Checkpoint, Made, Subject, parse};
use crate::options::Options;
use crate::reaper::Reaper;

/// How long a runtime that has ended well may owe the terminal.
const CONSOLE: Duration = Duration::from_secs(30);
const LOG: &str = "log.json";

/// A container of another runtime.
#[derive(Debug)]
pub struct Command {
    binary: PathBuf,
    root: PathBuf,
    subject: Subject,
    no_pivot: bool,
    no_new_keyring: bool,
    systemd_cgroup: bool,
    criu_work_path: PathBuf,
    reaper: Reaper,
    /// The container's control group, found while its first process was known to live.
    cgroup: Option<Cgroup>,
}

/// A socket on which the runtime hands over a terminal, in a folder of its own.
struct Console {
    folder: PathBuf,
    listener: UnixListener,
}

/// What a run of the program gets.
#[derive(Default)]
struct Run<'a> {
    args: Vec<&'a [u8]>,
    io: Option<&'a Io>,
    output: Option<BorrowedFd<'a>>,
}

impl Command {
    /// Returns the runtime without a container.
    pub fn new(binary: &Path, subject: Subject, options: &Options, reaper: Reaper) -> Result<Self> {
        Ok(Self {
            binary: find(binary)?,
            root: options.records(&subject.namespace, &subject.bundle),
            no_pivot: options.no_pivot,
            no_new_keyring: options.no_new_keyring,
            systemd_cgroup: options.systemd_cgroup,
            criu_work_path: options.criu_work_path.clone(),
            subject,
            reaper,
            cgroup: None,
        })
    }

    pub(super) async fn create(&mut self, io: Io) -> Result<Made> {
        let pid_file = self.subject.bundle.join("init.pid");
        let bundle = self.subject.bundle.clone();
        let mut args: Vec<&[u8]> = vec![b"create", b"--bundle", bytes(&bundle)];
        if self.no_pivot {
            args.push(b"--no-pivot");
        }
        if self.no_new_keyring {
            args.push(b"--no-new-keyring");
        }
        let made = self.make(args, &pid_file, &io).await?;
        self.cgroup = Cgroup::of_process(made.pid).ok();
        Ok(made)
    }

    pub(super) async fn start(&mut self) -> Result<()> {
        self.run(&["start", &self.subject.id]).await
    }

    pub(super) async fn exec(&mut self, exec_id: &str, spec: &[u8], io: Io) -> Result<Made> {
        let process = self.subject.bundle.join(format!("{exec_id}.json"));
        let pid_file = self.subject.bundle.join(format!("{exec_id}.pid"));
        std::fs::write(&process, spec).context(|| format!("write {process:?}"))?;
        let args: Vec<&[u8]> = vec![b"exec", b"--detach", b"--process", bytes(&process)];
        let made = self.make(args, &pid_file, &io).await;
        let _ = std::fs::remove_file(&process);
        let _ = std::fs::remove_file(&pid_file);
        made
    }

    /// Has the program make a process, and takes over its terminal if it has one.
    async fn make<'a>(
        &'a self,
        mut args: Vec<&'a [u8]>,
        pid_file: &'a Path,
        io: &'a Io,
    ) -> Result<Made> {
        let console = match io {
            Io::Console => Some(Console::listen()?),
            _ => None,
        };
        let socket = console.as_ref().map(Console::path);
        if let Some(socket) = &socket {
            args.extend([b"--console-socket", bytes(socket)]);
        }
        args.extend([b"--pid-file", bytes(pid_file)]);
        args.push(self.subject.id.as_bytes());
        // The process may end before its number is known.
        let _adoption = self.reaper.adopt();
        let run = Run {
            args,
            io: Some(io),
            output: None,
        };
        self.execute(run).await?;
        let text = std::fs::read_to_string(pid_file).context(|| format!("read {pid_file:?}"))?;
        let pid = text.trim().parse().map_err(|_| {
            Error::new(
                Kind::Internal,
                format!("{pid_file:?} has no number: {text:?}"),
            )
        })?;
        let end = self.reaper.watch(pid);
        let console = match console {
            Some(console) => Some(console.receive().await?),
            None => None,
        };
        Ok(Made {
            pid,
            pidfd: sys::process::open(pid).ok(),
            console,
            end,
        })
    }

    pub(super) async fn kill(&mut self, signal: i32, all: bool) -> Result<()> {
        let signal = signal.to_string();
        match all {
            true => {
                self.run(&["kill", "--all", &self.subject.id, &signal])
                    .await
            }
            false => self.run(&["kill", &self.subject.id, &signal]).await,
        }
    }

    pub(super) async fn pause(&mut self) -> Result<()> {
        self.run(&["pause", &self.subject.id]).await
    }

    pub(super) async fn resume(&mut self) -> Result<()> {
        self.run(&["resume", &self.subject.id]).await
    }

    pub(super) async fn delete(&mut self, force: bool) -> Result<()> {
        match force {
            true => self.run(&["delete", "--force", &self.subject.id]).await,
            false => self.run(&["delete", &self.subject.id]).await,
        }
    }

    pub(super) async fn update(&mut self, resources: &[u8]) -> Result<()> {
        let file = self.subject.bundle.join("resources.json");
        std::fs::write(&file, resources).context(|| format!("write {file:?}"))?;
        let path = file.to_string_lossy();
        let updated = self
            .run(&["update", "--resources", &path, &self.subject.id])
            .await;
        let _ = std::fs::remove_file(&file);
        updated
    }

    pub(super) async fn pids(&mut self) -> Result<Vec<i32>> {
        let text = self
            .output(&["ps", "--format", "json", &self.subject.id])
            .await?;
        let pids: Option<Vec<i32>> = parse("the runtime's list of processes", &text)?;
        Ok(pids.unwrap_or_default())
    }

    pub(super) async fn checkpoint(&mut self, checkpoint: &Checkpoint, work: &Path) -> Result<()> {
        let (image, work) = (checkpoint.image.to_string_lossy(), work.to_string_lossy());
        let mut args = vec!["checkpoint", "--image-path", &image, "--work-path", &work];
        let options = &checkpoint.options;
        let flags = [
            (!options.exit, "--leave-running"),
            (options.open_tcp, "--tcp-established"),
            (options.external_unix_sockets, "--ext-unix-sk"),
            (options.terminal, "--shell-job"),
            (options.file_locks, "--file-locks"),
        ];
        args.extend(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag));
        for namespace in &options.empty_namespaces {
            args.extend(["--empty-ns", namespace]);
        }
        if !options.parent_path.is_empty() {
            args.extend(["--parent-path", &options.parent_path]);
        }
        args.push(&self.subject.id);
        self.run(&args).await
    }

    pub(super) async fn restore(&mut self, image: &Path, io: Io) -> Result<Made> {
        let pid_file = self.subject.bundle.join("init.pid");
        let (bundle, work) = (self.subject.bundle.clone(), self.criu_work_path.clone());
        let mut args: Vec<&[u8]> = vec![b"restore", b"--detach", b"--no-subreaper"];
        args.extend([b"--bundle", bytes(&bundle), b"--image-path", bytes(image)]);
        // Whoever wrote the image has allowed what is in it.
        args.extend([
            b"--tcp-established".as_slice(),
            b"--ext-unix-sk",
            b"--file-locks",
        ]);
        if !work.as_os_str().is_empty() {
            args.extend([b"--work-path", bytes(&work)]);
        }
        if self.no_pivot {
            args.push(b"--no-pivot");
        }
        let made = self.make(args, &pid_file, &io).await?;
        self.cgroup = Cgroup::of_process(made.pid).ok();
        Ok(made)
    }

    pub(super) fn cgroup(&self) -> Result<Cgroup> {
        self.cgroup
            .clone()
            .ok_or_else(|| Error::new(Kind::NotFound, "the container's control group is not known"))
    }

    async fn run(&self, args: &[&str]) -> Result<()> {
        let run = Run {
            args: args.iter().map(|arg| arg.as_bytes()).collect(),
            ..Run::default()
        };
        self.execute(run).await
    }

    /// Runs the program and returns what it prints.
    async fn output(&self, args: &[&str]) -> Result<Vec<u8>> {
        // A file and not a pipe, so that nobody has to read while the program runs.
        let file = rustix::fs::memfd_create("output", rustix::fs::MemfdFlags::CLOEXEC)
            .context(|| "create a memfd")?;
        let run = Run {
            args: args.iter().map(|arg| arg.as_bytes()).collect(),
            output: Some(file.as_fd()),
            ..Run::default()
        };
        self.execute(run).await?;
        let mut text = Vec::new();
        let mut file = std::fs::File::from(file);
        std::io::Seek::rewind(&mut file)
            .and_then(|()| std::io::Read::read_to_end(&mut file, &mut text))
            .context(|| "read what the runtime printed")?;
        Ok(text)
    }

    async fn execute(&self, run: Run<'_>) -> Result<()> {
        let log = self.subject.bundle.join(LOG);
        let before = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .context(|| "open \"/dev/null\"")?;
        let mut program = Program::new(&self.binary)?;
        program.arg("--root")?.arg(bytes(&self.root))?;
        program.arg("--log")?.arg(bytes(&log))?;
        program.arg("--log-format")?.arg("json")?;
        if self.systemd_cgroup {
            program.arg("--systemd-cgroup")?;
        }
        for arg in run.args {
            program.arg(arg)?;
        }
        for (name, value) in std::env::vars_os() {
            if let Some(name) = name.to_str() {
                program.env(name, value.as_encoded_bytes())?;
            }
        }
        match run.io {
            Some(Io::Fds {
                stdin,
                stdout,
                stderr,
            }) => program
                .fd(stdin.as_fd(), 0)
                .fd(stdout.as_fd(), 1)
                .fd(stderr.as_fd(), 2),
            _ => program
                .fd(null.as_fd(), 0)
                .fd(run.output.unwrap_or(null.as_fd()), 1)
                .fd(null.as_fd(), 2),
        };
        let child = program.start()?;
        let end = self
            .reaper
            .watch(child.pid)
            .await
            .map_err(|_| Error::new(Kind::Internal, format!("{:?} got lost", self.binary)))?;
        match end.status {
            0 => Ok(()),
            status => Err(Error::new(Kind::Unknown, self.said(&log, before, status))),
        }
    }

    /// Returns the last error in what the runtime has added to its log, or containerd's words where it has said none:
    /// dockerd takes its exit code from them.
    fn said(&self, log: &Path, before: u64, status: u32) -> String {
        #[derive(Deserialize)]
        struct Line {
            level: String,
            msg: String,
        }
        let ended = format!(
            "{} did not terminate successfully: exit status {status}",
            self.binary.display()
        );
        let read = std::fs::read(log).context(|| format!("open {}", log.display()));
        let text = match read {
            Ok(text) => text,
            Err(error) => {
                let why = super::text(&error);
                return format!("unable to retrieve OCI runtime error ({why}): {ended}");
            }
        };
        let new = text.get(before as usize..).unwrap_or_default();
        let lines = new.split(|byte| *byte == b'\n').rev();
        let mut lines = lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok());
        match lines.find(|line| line.level == "error" || line.level == "fatal") {
            Some(line) => line.msg.trim().to_owned(),
            None => ended,
        }
    }
}

impl Console {
    fn listen() -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Not in the bundle, whose path may be too long for the address of a socket.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("corten-pty-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .context(|| format!("make {folder:?}"))?;
        let listener =
            UnixListener::bind(folder.join("pty.sock")).context(|| format!("listen in {folder:?}"));
        if listener.is_err() {
            let _ = std::fs::remove_dir_all(&folder);
        }
        Ok(Self {
            listener: listener?,
            folder,
        })
    }

    fn path(&self) -> PathBuf {
        self.folder.join("pty.sock")
    }

    async fn receive(&self) -> Result<OwnedFd> {
        let receive = async {
            let (socket, _) = self.listener.accept().await.context(|| "accept")?;
            loop {
                socket.readable().await.context(|| "wait")?;
                let mut name = [0; 4096];
                let received = socket.try_io(Interest::READABLE, || {
                    sys::fdpass::receive(&socket, &mut name).map_err(std::io::Error::from)
                });
                match received {
                    Ok((_, Some(master))) => return Ok(master),
                    Ok((_, None)) => {
                        return Err(Error::new(Kind::Unknown, "no descriptor was sent"));
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error).context(|| "receive"),
                }
            }
        };
        tokio::time::timeout(CONSOLE, receive)
            .await
            .unwrap_or_else(|_| {
                Err(Error::new(
                    Kind::DeadlineExceeded,
                    "nothing was sent in time",
                ))
            })
            .context(|| "get the terminal from the runtime")
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Finds a program by its path, or by its name in the folders of `PATH`.
fn find(binary: &Path) -> Result<PathBuf> {
    if binary.components().count() > 1 || binary.is_absolute() {
        return std::path::absolute(binary).context(|| format!("resolve {binary:?}"));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(binary))
        .find(|path| {
            path.metadata().is_ok_and(|metadata| {
                metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
            })
        });
    found.ok_or_else(|| {
        let name = binary.to_string_lossy();
        Error::new(
            Kind::Unknown,
            format!("exec: {name:?}: executable file not found in $PATH"),
        )
    })
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}
