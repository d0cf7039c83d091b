//! Docker, unchanged, on top of a container daemon: `dockerd` and its command line in a network of their own.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::{Daemon, Engine, Finished, Network, Peers, Registry, binaries, command, eventually};

/// How long one line of shell may take.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The first of the host's users that containers have, where users are mapped.
const REMAPPED: u32 = 200_000;

/// What every line of shell can use beside `docker` and [`command::EVENTUALLY`].
const PRELUDE: &str = r#"
# shows TEXT COMMAND...: whether the command's output has this text.
shows() { text=$1; shift; "$@" 2>&1 | grep -q -e "$text"; }
# state CONTAINER: its state by one word.
state() { docker inspect -f '{{.State.Status}}' "$1"; }
# is STATE CONTAINER: whether it is in this state.
is() { [ "$(state "$2")" = "$1" ]; }
"#;

/// Where `tests/peers-docker` has put Docker.
#[derive(Debug, Clone)]
pub struct DockerPeers {
    /// Debian sid's: the root of `usr/bin` and the rest.
    pub sid: PathBuf,
    /// Debian bookworm's.
    pub bookworm: PathBuf,
    /// A root file system with `redis-server`.
    pub stack: PathBuf,
}

impl DockerPeers {
    /// Returns Docker's programs, or nothing when `tests/peers-docker` has not run on this machine.
    pub fn find() -> Option<DockerPeers> {
        let value = |name| crate::peers::folder("docker.env", name);
        Some(DockerPeers {
            sid: value("PEERS_DOCKER_SID")?,
            bookworm: value("PEERS_DOCKER_BOOKWORM")?,
            stack: value("PEERS_DOCKER_STACK")?,
        })
    }

    /// Returns Docker's programs, or prints why the test is skipped.
    pub fn or_skip() -> Option<DockerPeers> {
        let found = DockerPeers::find();
        if found.is_none() {
            crate::print_skip("needs Docker: run tests/peers-docker");
        }
        found
    }
}

/// Where dockerd keeps its images and the root file systems of its containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// In its own folder, with the graph driver overlay2.
    Overlay2,
    /// In the container daemon: the containerd image store.
    Containerd,
}

/// How a dockerd is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where it keeps images.
    pub store: Store,
    /// Whether it makes bridges and rules of iptables, in the fixture's own network; else its containers have none.
    pub network: bool,
    /// More keys of `daemon.json`.
    pub config: Value,
    /// Whether it is bookworm's instead of sid's.
    pub old: bool,
    /// Whether it trusts the certificate that the fixture makes as `tls.crt`, for 10.9.9.9.
    pub trusting: bool,
    /// Whether it maps the users of containers to those of the host from 200000 on.
    pub remapped: bool,
}

impl Setup {
    /// Returns a set-up without networks.
    pub fn new(store: Store) -> Setup {
        Setup {
            store,
            network: false,
            config: json!({}),
            old: false,
            trusting: false,
            remapped: false,
        }
    }

    /// Gives the containers networks.
    pub fn with_network(mut self) -> Setup {
        self.network = true;
        self
    }

    /// Makes it trust a certificate of the fixture's.
    pub fn trusting(mut self) -> Setup {
        self.trusting = true;
        self
    }

    /// Makes it map the users of containers to others.
    pub fn remapped(mut self) -> Setup {
        self.remapped = true;
        self
    }

    /// Takes bookworm's Docker instead of sid's.
    pub fn old(mut self) -> Setup {
        self.old = true;
        self
    }

    /// Sets a key of `daemon.json`.
    pub fn with(mut self, key: &str, value: Value) -> Setup {
        self.config[key] = value;
        self
    }
}

/// A running dockerd on a daemon of its own; dropping it ends both with all that they made.
#[derive(Debug)]
pub struct Dockerd {
    /// The container daemon below.
    pub daemon: Daemon,
    setup: Setup,
    /// The programs it was started from.
    pub docker: DockerPeers,
    child: Option<Child>,
    registries: Vec<Child>,
}

impl Dockerd {
    /// Starts a daemon and a dockerd on it, and waits until it serves.
    pub fn start(engine: Engine, peers: &Peers, docker: &DockerPeers, setup: Setup) -> Dockerd {
        let network = match setup.remapped {
            true => Network::with_state(),
            false => Network::new(),
        };
        let daemon = Daemon::start_in(engine, peers, "", Some(network));
        let mut dockerd = Dockerd {
            daemon,
            setup,
            docker: docker.clone(),
            child: None,
            registries: Vec::new(),
        };
        dockerd.lay_out();
        dockerd.spawn();
        dockerd
    }

    /// Returns the folder where lines of shell run and leave their files.
    pub fn work(&self) -> PathBuf {
        self.daemon.folder().join("work")
    }

    /// Returns dockerd's socket.
    pub fn socket(&self) -> PathBuf {
        self.daemon.folder().join("docker.sock")
    }

    /// Returns what dockerd has written since it was made.
    pub fn log(&self) -> String {
        fs::read_to_string(self.daemon.folder().join("dockerd.log")).unwrap_or_default()
    }

    /// Returns a command in dockerd's network, with Docker's programs and addresses in its environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.daemon.command(program);
        command
            .current_dir(self.work())
            .env("PATH", self.search_path())
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_CONFIG", self.daemon.folder().join("cli"))
            .env("DOCKER_CLI_HINTS", "false")
            .env("BUILDKIT_PROGRESS", "plain")
            .env("HOME", self.work())
            .env("TMPDIR", self.work());
        command
    }

    /// Returns a command that runs these lines of shell.
    pub fn shell_command(&self, lines: &str) -> Command {
        let mut command = self.command("bash");
        // Who enters another view of the file system is at its root.
        let work = self.work();
        let start = format!("cd {} || exit", work.display());
        let text = format!("{start}\n{}{PRELUDE}\n{lines}", command::EVENTUALLY);
        command.args(["-c", &text]);
        command
    }

    /// Runs these lines of shell to their end.
    pub fn shell(&self, lines: &str) -> Finished {
        let mut finished = command::run_with(&mut self.shell_command(lines), b"", LIMIT);
        finished.command = lines.to_owned();
        finished
    }

    /// Runs these lines of shell, which must succeed, and returns their standard output.
    #[track_caller]
    pub fn ok(&self, lines: &str) -> String {
        self.shell(lines).ok()
    }

    /// Kills dockerd with no warning.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("dockerd runs");
        child.kill().expect("kill a child of ours");
        child.wait().expect("wait for a child of ours");
    }

    /// Asks dockerd to end and returns its exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("dockerd runs");
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&child),
            rustix::process::Signal::TERM,
        );
        command::wait(&mut child, Duration::from_secs(30))
    }

    /// Starts dockerd again after [`Dockerd::kill`] or [`Dockerd::terminate`].
    pub fn restart(&mut self) {
        self.spawn();
    }

    /// Puts sid's Docker in the place of bookworm's, for the next start and every line of shell from now on.
    pub fn upgrade(&mut self) {
        self.setup.old = false;
        fs::remove_dir_all(self.daemon.folder().join("bin")).expect("remove the links");
        self.link_programs();
    }

    /// Starts a registry in dockerd's network, with these lines at the end of its configuration, and waits until it listens.
    pub fn serve_registry(&mut self, address: &str, more: &str) {
        let data = format!("registry-{}.data", self.registries.len());
        let data = self.daemon.folder().join(data);
        self.serve(&data, address, more);
    }

    /// Starts a registry in dockerd's network with another one's images, and waits until it listens.
    pub fn serve_images_of(&mut self, registry: &Registry, address: &str) {
        self.serve(&registry.data(), address, "");
    }

    fn serve(&mut self, data: &Path, address: &str, more: &str) {
        let folder = self.daemon.folder();
        let config = folder.join(format!("registry-{}.yml", self.registries.len()));
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: '{address}'\n{more}",
            data.display()
        );
        fs::write(&config, text).expect("write the configuration");
        let log = File::create(config.with_extension("log")).expect("make the log");
        let registry = self
            .daemon
            .command("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("duplicate a descriptor"))
            .stderr(log)
            .spawn()
            .expect("start docker-registry");
        self.registries.push(registry);
        let (host, port) = address.split_once(':').expect("a host and a port");
        self.ok(&format!("eventually bash -c ': </dev/tcp/{host}/{port}'"));
    }

    /// Ends every registry.
    pub fn end_registries(&mut self) {
        for mut child in self.registries.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Makes the folders, the links to the programs and the files of configuration.
    fn lay_out(&self) {
        let folder = self.daemon.folder();
        for name in ["work", "cli"] {
            fs::create_dir(folder.join(name)).expect("make a folder");
        }
        self.link_programs();
        let plugins = self.docker.sid.join("usr/libexec/docker/cli-plugins");
        let cli = json!({"cliPluginsExtraDirs": [plugins]});
        fs::write(folder.join("cli/config.json"), cli.to_string())
            .expect("write the configuration");
        if self.setup.trusting {
            let mut openssl = Command::new("openssl");
            openssl
                .args("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tests".split(' '))
                .args("-addext subjectAltName=IP:10.9.9.9 -out tls.crt -keyout tls.key".split(' '))
                .current_dir(folder);
            command::run(&mut openssl).ok();
        }
        if self.setup.remapped {
            let line = format!("daemon:{REMAPPED}:65536\n");
            fs::write(folder.join("ids"), line).expect("write a file");
            // In the view of the fixture's programs alone. And the mapped users come through to their root file systems.
            self.ok(
                "for f in /etc/subuid /etc/subgid; do mount --bind ../ids $f; done; chmod 711 ..",
            );
        }
        fs::write(folder.join("daemon.json"), self.configuration().to_string())
            .expect("write the configuration");
    }

    fn link_programs(&self) {
        let (root, folder) = (self.programs(), self.daemon.folder().join("bin"));
        fs::create_dir(&folder).expect("make a folder");
        let runc = match self.daemon.engine {
            Engine::Corten => binaries::find("corten-runtime").expect("corten-runtime is built"),
            _ => self.daemon.peers.sid.join("runc"),
        };
        let links = [
            ("runc", runc),
            ("docker-init", root.join("usr/bin/tini-static")),
            ("docker-proxy", root.join("usr/sbin/docker-proxy")),
            ("dockerd", root.join("usr/sbin/dockerd")),
            ("docker", root.join("usr/bin/docker")),
        ];
        for (name, target) in links {
            std::os::unix::fs::symlink(target, folder.join(name)).expect("make a link");
        }
    }

    fn configuration(&self) -> Value {
        let folder = self.daemon.folder();
        let mut config = json!({
            "hosts": [format!("unix://{}", self.socket().display())],
            "containerd": self.daemon.address(),
            "data-root": folder.join("docker"),
            "exec-root": folder.join("docker-run"),
            "pidfile": folder.join("dockerd.pid"),
            // The groups of its containers are found and removed by this name.
            "cgroup-parent": format!("/{}", self.daemon.namespace),
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "init-path": folder.join("bin/docker-init"),
            "userland-proxy-path": folder.join("bin/docker-proxy"),
            "log-level": "debug",
        });
        if !self.setup.network {
            config["bridge"] = json!("none");
            config["iptables"] = json!(false);
            config["ip6tables"] = json!(false);
        }
        match self.setup.store {
            Store::Overlay2 => config["storage-driver"] = json!("overlay2"),
            Store::Containerd => config["features"] = json!({"containerd-snapshotter": true}),
        }
        if self.setup.remapped {
            config["userns-remap"] = json!("daemon");
        }
        for (key, value) in self.setup.config.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        config
    }

    fn programs(&self) -> &Path {
        if self.setup.old {
            &self.docker.bookworm
        } else {
            &self.docker.sid
        }
    }

    fn search_path(&self) -> OsString {
        let machine = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
        std::env::join_paths(
            [self.daemon.folder().join("bin")]
                .into_iter()
                .chain(machine),
        )
        .expect("no colon in these paths")
    }

    /// Copies the whole logs to where they outlive the fixture, and says where that is.
    fn keep_logs(&self) {
        let kept = binaries::folder().join("../failed");
        let kept = kept.join(&self.daemon.namespace);
        let copied = fs::create_dir_all(&kept).and_then(|()| {
            for name in ["log", "dockerd.log"] {
                fs::copy(self.daemon.folder().join(name), kept.join(name))?;
            }
            Ok(())
        });
        match copied {
            Ok(()) => eprintln!("--- the whole logs are in {}", kept.display()),
            Err(e) => eprintln!("--- the logs are not kept: {e}"),
        }
    }

    fn spawn(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.daemon.folder().join("dockerd.log"))
            .expect("open the log");
        let program = self.daemon.folder().join("bin/dockerd");
        let certificate = self.daemon.folder().join("tls.crt");
        let trusted = certificate
            .exists()
            .then_some(("SSL_CERT_FILE", certificate));
        let mut command = self.command(&program.display().to_string());
        command
            .arg("--config-file")
            .arg(self.daemon.folder().join("daemon.json"))
            .env_remove("DOCKER_HOST")
            .envs(trusted)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("duplicate a descriptor"))
            .stderr(log)
            .process_group(0);
        let mut child = command.spawn().expect("start dockerd");
        let mut ended = None;
        let serves = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("dockerd answers", Duration::from_secs(60), || {
                ended = child.try_wait().expect("wait for a child of ours");
                let answers = || self.shell("docker version").code == Some(0);
                (ended.is_some() || (self.socket().exists() && answers())).then_some(())
            });
        }));
        self.child = Some(child);
        assert!(serves.is_ok(), "{}", tail(&self.log()));
        if let Some(status) = ended {
            self.child = None;
            panic!("dockerd ended with {status} at once\n{}", tail(&self.log()));
        }
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of dockerd, its last lines\n{}", tail(&self.log()));
            self.keep_logs();
        }
        // Killed, not asked: asked, it would first wait for its containers, which end with the daemon's fixture.
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.end_registries();
    }
}

fn tail(log: &str) -> String {
    let telling = |line: &&str| !line.contains("level=debug");
    let lines: Vec<&str> = log.lines().filter(telling).collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
