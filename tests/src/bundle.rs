//! A bundle of an OCI runtime, and the runtime that is given it: ours, or runc to compare with.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use api_protos::oci::CAPABILITIES;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Criu, Finished, Peers, binaries, command};

/// Programs of the root file system, all by one static busybox.
const APPLETS: &str = "awk cat chmod cut dd echo env false find grep head hostname id kill ln ls mkdir mknod mount \
    nc printf ps pwd readlink rm sed sh sleep sort stat stty sync tail test touch tr true tty umount uname wc";

/// An OCI runtime by its command line.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// What tests call it.
    pub name: &'static str,
    /// Its program.
    pub program: PathBuf,
}

impl Runtime {
    /// Returns ours.
    pub fn ours() -> Runtime {
        Runtime {
            name: "corten-runtime",
            // A weakened build in its place is `make mutants`.
            program: std::env::var_os("CORTEN_TESTS_RUNTIME")
                .map(PathBuf::from)
                .or_else(|| binaries::find("corten-runtime"))
                .expect("the tree has a runtime"),
        }
    }

    /// Returns ours and runc, or prints why the test is skipped.
    pub fn both() -> Vec<Runtime> {
        let Some(peers) = Peers::or_skip() else {
            return Vec::new();
        };
        let program = peers.sid.join("runc");
        let runc = Runtime {
            name: "runc",
            program,
        };
        vec![Runtime::ours(), runc]
    }
}

/// A bundle with a root file system of busybox, and a private state folder; dropping it deletes its containers.
#[derive(Debug)]
pub struct Bundle {
    runtime: Runtime,
    folder: TempDir,
    /// The configuration, written whenever a container is made.
    pub config: Value,
    id: String,
    /// Where the runtime finds programs that it executes, before the usual folders.
    programs: Option<PathBuf>,
    /// The number of the ordinary user, and of that user's group, who runs the runtime; root if there is none.
    user: Option<u32>,
}

impl Bundle {
    /// Makes a bundle that is like Docker's: all namespaces but the user's, its mounts, masks and capabilities.
    pub fn new(runtime: &Runtime) -> Bundle {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::Builder::new()
            .prefix("corten-bundle-")
            .tempdir()
            .expect("make a folder");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("corten-case-{}-{number}", std::process::id());
        let rootfs = folder.path().join("rootfs");
        for name in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "work"] {
            fs::create_dir_all(rootfs.join(name)).expect("make the root file system");
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static is installed");
        for name in APPLETS.split_whitespace() {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).expect("link");
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/work:/bin/sh\n";
        fs::write(rootfs.join("etc/passwd"), passwd).expect("write passwd");
        let config = config(&id);
        Bundle {
            runtime: runtime.clone(),
            folder,
            config,
            id,
            programs: None,
            user: None,
        }
    }

    /// Makes a bundle of an ordinary user, with the configuration that the runtime proposes to one.
    pub fn of_user(runtime: &Runtime, user: u32) -> Bundle {
        let mut bundle = Bundle::new(runtime);
        let folder = bundle.path().to_owned();
        let config = folder.join("config.json");
        // The tree that tests run from need not be open to others. Not copied by this process: others that its tests start
        // meanwhile would have the copy open for writing, and a program that is cannot be executed.
        let program = folder.join("runtime");
        let copied = Command::new("cp")
            .arg(&runtime.program)
            .arg(&program)
            .status();
        assert!(copied.expect("run cp").success());
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("open the folder");
        let owner = format!("{user}:{user}");
        let given = Command::new("chown")
            .arg("-R")
            .arg(owner)
            .arg(&folder)
            .status();
        assert!(given.expect("run chown").success());
        bundle.runtime.program = program;
        bundle.user = Some(user);
        let mut spec = bundle.command(&["spec", "--rootless"]);
        fs::remove_file(&config).expect("make room for the runtime's own");
        command::run(&mut spec).ok();
        let text = fs::read(config).expect("read the configuration");
        bundle.config = serde_json::from_slice(&text).expect("the configuration is JSON");
        bundle.set("/process/terminal", json!(false));
        bundle
    }

    /// Makes a bundle whose runtime finds CRIU.
    pub fn with_criu(runtime: &Runtime, criu: &Criu) -> Bundle {
        let mut bundle = Bundle::new(runtime);
        bundle.programs = Some(criu.folder.clone());
        bundle
    }

    /// Has another runtime go on with the bundle.
    pub fn hand_to(&mut self, runtime: &Runtime) {
        self.runtime = runtime.clone();
    }

    /// Returns the folder with `config.json`, whose other files are the test's.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the runtime that the bundle is given.
    pub fn of(&self) -> &Runtime {
        &self.runtime
    }

    /// Returns the root file system.
    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// Returns the container's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Sets a value of the configuration; what is missing on the way to it is made.
    pub fn set(&mut self, pointer: &str, value: Value) {
        let mut place = &mut self.config;
        for name in pointer.split('/').skip(1) {
            place = match name.parse::<usize>() {
                Ok(index) if place.is_array() => &mut place[index],
                _ => &mut place[name],
            };
        }
        *place = value;
    }

    /// Adds a value to an array of the configuration, which is made if it is missing.
    pub fn push(&mut self, pointer: &str, value: Value) {
        if self.config.pointer(pointer).is_none_or(Value::is_null) {
            self.set(pointer, json!([]));
        }
        let array = self.config.pointer_mut(pointer).expect("was just made");
        array.as_array_mut().expect("an array").push(value);
    }

    /// Sets what the container runs.
    pub fn args(&mut self, args: &[&str]) {
        self.set("/process/args", json!(args));
    }

    /// Returns a command of the runtime with its global flags and `args`.
    pub fn command(&self, args: &[&str]) -> Command {
        let text = serde_json::to_vec_pretty(&self.config).expect("encode the configuration");
        fs::write(self.path().join("config.json"), text).expect("write the configuration");
        let mut command = Command::new(&self.runtime.program);
        command
            .arg("--root")
            .arg(self.path().join("state"))
            .arg("--log")
            .arg(self.path().join("log"))
            .args(["--log-format", "json"])
            .args(args)
            .current_dir(self.path());
        if let Some(folder) = &self.programs {
            command.env("PATH", path_after(folder));
        }
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// Runs a command of the runtime to its end.
    pub fn runtime(&self, args: &[&str]) -> Finished {
        command::run(&mut self.command(args))
    }

    /// Runs a script in a mount namespace of its own, as root, whose `"$@"` is a command of the runtime.
    pub fn script(&self, script: &str, args: &[&str]) -> Finished {
        let runtime = self.command(args);
        let mut shell = Command::new("unshare");
        shell
            .args(["--mount", "sh", "-ec", script, "sh"])
            .arg(runtime.get_program())
            .args(runtime.get_args())
            .current_dir(self.path());
        command::run(&mut shell)
    }

    /// Runs the container to its end.
    pub fn run(&self) -> Finished {
        let id = self.id.clone();
        self.runtime(&["run", &id])
    }

    /// Runs a script in the container to its end.
    pub fn sh(&mut self, script: &str) -> Finished {
        self.args(&["/bin/sh", "-c", script]);
        self.run()
    }

    /// Runs a container that stays until it is killed.
    pub fn stay(&mut self) {
        self.args(&["/bin/sleep", "600"]);
        let id = self.id.clone();
        // A detached container keeps stdio, which are files here.
        self.runtime(&["run", "-d", &id]).ok();
    }

    /// Returns what the runtime tells of the container.
    pub fn state(&self) -> Value {
        let text = self.runtime(&["state", &self.id]).ok();
        serde_json::from_str(&text).expect("the state is JSON")
    }

    /// Returns the messages of the log.
    pub fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path().join("log")).unwrap_or_default();
        let message = |line: &str| {
            let line: Value = serde_json::from_str(line).expect("a line of the log is JSON");
            line["msg"]
                .as_str()
                .expect("a line has a message")
                .to_owned()
        };
        text.lines().map(message).collect()
    }

    /// Returns a file of the container's control group in the hierarchy of `controller`.
    pub fn cgroup(&self, controller: &str, file: &str) -> String {
        let path = Path::new("/sys/fs/cgroup").join(controller);
        let path = path.join(&self.id).join(file);
        fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{path:?}: {error}"))
            .trim()
            .to_owned()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- with {}: {:?}", self.runtime.name, self.log());
        }
        let state = self.path().join("state");
        for entry in fs::read_dir(state).into_iter().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            let _ = self.runtime(&["delete", "--force", &id]);
        }
    }
}

/// Returns `PATH` with a folder before all others.
fn path_after(folder: &Path) -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).expect("no folder has a colon in its name")
}

/// Returns a configuration like Docker's.
fn config(id: &str) -> Value {
    let mount = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/usr/bin:/bin", "HOME=/root"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"}, {"type": "cgroup"},
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
