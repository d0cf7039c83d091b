//! A container daemon on a private root, state and socket: ours or upstream's.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::leftovers::Leftovers;
use crate::{Ctr, Network, Peers, binaries, command, eventually, peers};

/// Whose daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Our `cortend`.
    Corten,
    /// Debian sid's containerd 2.x.
    Containerd2,
    /// Debian bookworm's containerd 1.6.
    Containerd1,
}

/// A running daemon; dropping it ends it with all its shims, containers, mounts and cgroups.
#[derive(Debug)]
pub struct Daemon {
    /// Whose it is.
    pub engine: Engine,
    /// The peers it was started with.
    pub peers: Peers,
    /// A containerd namespace that no other fixture uses; its containers' cgroups carry it.
    pub namespace: String,
    child: Option<Child>,
    folder: TempDir,
    config: String,
    network: Option<Network>,
}

impl Daemon {
    /// Starts a daemon and waits until it serves.
    pub fn start(engine: Engine, peers: &Peers) -> Daemon {
        Daemon::start_with(engine, peers, "")
    }

    /// Starts a daemon with these lines at the end of its configuration file.
    pub fn start_with(engine: Engine, peers: &Peers, config: &str) -> Daemon {
        Daemon::start_in(engine, peers, config, None)
    }

    /// Starts a daemon like [`Daemon::start_with`], in a network of its own if there is one.
    pub fn start_in(
        engine: Engine,
        peers: &Peers,
        config: &str,
        network: Option<Network>,
    ) -> Daemon {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut daemon = Daemon {
            engine,
            peers: peers.clone(),
            namespace: format!("ct-{}-{count}", std::process::id()),
            child: None,
            folder: tempfile::Builder::new()
                .prefix("corten-")
                .tempdir()
                .expect("make a folder"),
            config: config.to_owned(),
            network,
        };
        daemon.restart();
        daemon
    }

    /// Returns the folder of root, state, socket and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns a command that runs `program` in the daemon's network.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match &self.network {
            Some(network) => network.command(program),
            None => Command::new(program),
        }
    }

    /// Returns the path of the daemon's socket.
    pub fn address(&self) -> PathBuf {
        self.folder.path().join("d.sock")
    }

    /// Returns the pid of the daemon.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// Returns sid's `ctr` for this daemon, in the daemon's own namespace.
    pub fn ctr(&self) -> Ctr {
        Ctr::new(self.peers.sid.join("ctr"), self)
    }

    /// Returns bookworm's `ctr` for this daemon, in the daemon's own namespace.
    pub fn old_ctr(&self) -> Ctr {
        Ctr::new(self.peers.bookworm.join("ctr"), self)
    }

    /// Returns our `corten` for this daemon, in the daemon's own namespace.
    pub fn corten(&self) -> Option<Ctr> {
        Some(Ctr::new(binaries::find("corten")?, self))
    }

    /// Kills the daemon with no warning; shims and containers live on.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().expect("kill a child of ours");
        child.wait().expect("wait for a child of ours");
    }

    /// Asks the daemon to end and returns its exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("the daemon runs");
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&child),
            rustix::process::Signal::TERM,
        );
        command::wait(&mut child, Duration::from_secs(20))
    }

    /// Returns whether the daemon has ended by itself; if so, it can be started again.
    pub fn has_ended(&mut self) -> bool {
        let child = self.child.as_mut().expect("the daemon was started");
        child
            .try_wait()
            .expect("wait for a child of ours")
            .is_some()
    }

    /// Starts the daemon again after [`Daemon::kill`] or [`Daemon::terminate`].
    pub fn restart(&mut self) {
        self.launch();
        self.wait_until_it_serves();
    }

    /// Starts the daemon again without waiting for anything.
    pub fn launch(&mut self) {
        let child = self.program().spawn().expect("start the daemon");
        self.child = Some(child);
    }

    /// Has the daemon, or a shim of it, do `what` at the failpoint `name`; upstream has none.
    pub fn arm(&self, name: &str, what: &str) {
        fs::create_dir_all(self.failpoints()).expect("make a folder");
        fs::write(self.failpoints().join(name), what).expect("write a file");
    }

    /// Returns whether what [`Daemon::arm`] asked for has not been done yet.
    pub fn is_armed(&self, name: &str) -> bool {
        // Whoever comes by renames it for a moment.
        let names = [name.to_owned(), format!("{name}.taken")];
        names
            .iter()
            .any(|name| self.failpoints().join(name).exists())
    }

    /// Takes [`Daemon::arm`] back and returns whether what it asked for had not been done.
    pub fn disarm(&self, name: &str) -> bool {
        fs::remove_file(self.failpoints().join(name)).is_ok()
    }

    fn failpoints(&self) -> PathBuf {
        self.folder.path().join("failpoints")
    }

    /// Returns what the daemon has written since it was made.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Fails unless the daemon has no shim, container, mount or cgroup, now or within a few seconds.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let own = self.child.as_ref().map(|child| child.id() as i32);
        let mut last = Leftovers::default();
        for _ in 0..150 {
            last = Leftovers::find(self.folder.path(), &self.namespace);
            last.processes.retain(|&pid, _| Some(pid) != own);
            // The namespace's own group outlives its containers with upstream too.
            last.cgroups
                .retain(|group| !group.ends_with(&self.namespace));
            if last.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("left behind: {last:#?}\n--- log\n{}", self.log());
    }

    fn program(&self) -> Command {
        let folder = self.folder.path();
        let program = match self.engine {
            Engine::Corten => binaries::find("cortend").expect("cortend is built"),
            Engine::Containerd2 => self.peers.sid.join("containerd"),
            Engine::Containerd1 => self.peers.bookworm.join("containerd"),
        };
        let config = folder.join("config.toml");
        fs::write(&config, self.configuration()).expect("write the configuration");
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .expect("open the log");
        let mut command = self.command(program);
        command
            .arg("--config")
            .arg(&config)
            .arg("--address")
            .arg(self.address())
            .args(["--root".into(), folder.join("root")])
            .args(["--state".into(), folder.join("state")])
            .env("PATH", self.search_path())
            .env("CORTEN_FAILPOINTS", self.failpoints())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("duplicate a descriptor"))
            .stderr(log)
            .process_group(0);
        command
    }

    /// Returns a configuration that every engine understands, without CRI unless the test has settings for it.
    fn configuration(&self) -> String {
        let config = &self.config;
        match self.engine {
            Engine::Corten => config.clone(),
            Engine::Containerd1 => {
                format!("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n{config}")
            }
            // Where a case has settings for it, its NRI has a socket of its own.
            Engine::Containerd2 if config.contains("io.containerd.nri.v1") => {
                format!("version = 3\n{config}")
            }
            Engine::Containerd2 if config.contains("io.containerd.cri.v1") => {
                format!("version = 3\ndisabled_plugins = [\"io.containerd.nri.v1.nri\"]\n{config}")
            }
            Engine::Containerd2 => format!(
                "version = 3\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \
                 \"io.containerd.cri.v1.runtime\", \"io.containerd.nri.v1.nri\"]\n{config}"
            ),
        }
    }

    /// Returns a search path that finds the engine's own shim and runtime first, then ours, then the machine's.
    fn search_path(&self) -> OsString {
        let own: &[&Path] = match self.engine {
            Engine::Corten => &[],
            Engine::Containerd2 => &[&self.peers.sid],
            Engine::Containerd1 => &[&self.peers.bookworm],
        };
        let machine = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(Path::new);
        let ours = binaries::folder();
        let criu = peers::folder("criu.env", "PEERS_CRIU");
        let before = own.iter().copied().chain([ours]).chain(criu.as_deref());
        std::env::join_paths(before.chain(machine)).expect("no colon in these paths")
    }

    fn wait_until_it_serves(&mut self) {
        let address = self.address();
        let child = self.child.as_mut().expect("just started");
        let mut ended = None;
        eventually("the daemon serves", Duration::from_secs(30), || {
            ended = child.try_wait().expect("wait for a child of ours");
            (ended.is_some() || UnixStream::connect(&address).is_ok()).then_some(())
        });
        if let Some(status) = ended {
            self.child = None;
            panic!(
                "the daemon ended with {status} at once\n--- log\n{}",
                self.log()
            );
        }
        // The socket listens before every service is registered with upstream: the first answer counts.
        let ctr = self.ctr();
        eventually("the daemon answers", Duration::from_secs(30), || {
            (ctr.run(&["version"]).code == Some(0)).then_some(())
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log
                .lines()
                .rev()
                .filter(|line| !line.contains("loading plugin"))
                .take(40)
                .collect();
            eprintln!("--- log of {:?}, its last lines", self.engine);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        Leftovers::remove(self.folder.path(), &self.namespace);
    }
}
