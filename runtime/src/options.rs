//! What callers ask of the library: how to create a container and how to run a further process in it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::Process as ProcessSpec;

/// How to create a container.
#[derive(Debug)]
pub struct CreateOptions {
    /// The folder with a sub-folder of state for each container.
    pub root: PathBuf,
    /// The container's name, unique in `root`.
    pub id: String,
    /// The folder with `config.json`; a relative root file system starts there.
    pub bundle: PathBuf,
    /// What the first process reads and writes.
    pub io: Io,
    /// A file that gets the first process's number.
    pub pid_file: Option<PathBuf>,
    /// Whether to move the root file system over `/` instead of pivoting, as is needed on an initramfs.
    pub no_pivot: bool,
    /// Whether to stay in the caller's session keyring.
    pub no_new_keyring: bool,
    /// Whether systemd makes the control group.
    pub systemd_cgroup: bool,
    /// Whether to do without the control groups that the caller has no right to make, unless the configuration asks for
    /// them or for limits; None leaves it to [`is_rootless`](crate::is_rootless).
    pub rootless: Option<bool>,
    /// How many descriptors after stderr the first process inherits.
    pub preserve_fds: u32,
    /// How many of those are sockets that the process finds by `LISTEN_FDS`.
    pub listen_fds: u32,
}

impl CreateOptions {
    /// Returns options for a container whose first process has the caller's stdin, stdout and stderr.
    pub fn new(
        root: impl Into<PathBuf>,
        id: impl Into<String>,
        bundle: impl Into<PathBuf>,
    ) -> Self {
        Self {
            root: root.into(),
            id: id.into(),
            bundle: bundle.into(),
            io: Io::Inherit,
            pid_file: None,
            no_pivot: false,
            no_new_keyring: false,
            systemd_cgroup: false,
            rootless: None,
            preserve_fds: 0,
            listen_fds: 0,
        }
    }
}

/// How to run a further process in a container.
#[derive(Debug)]
pub struct ExecOptions {
    /// The process; capabilities and the like that it leaves out are those of the container's first process.
    pub process: ProcessSpec,
    /// What the process reads and writes.
    pub io: Io,
    /// A file that gets the process's number.
    pub pid_file: Option<PathBuf>,
    /// How many descriptors after stderr the process inherits.
    pub preserve_fds: u32,
    /// Groups below the container's own that the process joins, by controller; an empty name stands for all.
    pub cgroups: Vec<(String, PathBuf)>,
    /// Whether the container may be paused: the process then comes to run once it is resumed.
    pub ignore_paused: bool,
}

impl ExecOptions {
    /// Returns options for a process that has the caller's stdin, stdout and stderr.
    pub fn new(process: ProcessSpec) -> Self {
        Self {
            process,
            io: Io::Inherit,
            pid_file: None,
            preserve_fds: 0,
            cgroups: Vec::new(),
            ignore_paused: false,
        }
    }
}

/// What a process reads and writes.
#[derive(Debug, Default)]
pub enum Io {
    /// The caller's own stdin, stdout and stderr.
    #[default]
    Inherit,
    /// These descriptors, which the caller keeps and should close afterwards.
    Fds {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A new pseudo-terminal of the container; its master comes back as [`Process::console`].
    Console,
}

/// A process that was made in a container: a child of the caller, who must reap it.
#[derive(Debug)]
pub struct Process {
    /// Its number in the caller's namespace.
    pub pid: i32,
    /// A descriptor of it: readable once it has exited, and the way to signal it without a race.
    pub pidfd: OwnedFd,
    /// The master of its pseudo-terminal, for [`Io::Console`].
    pub console: Option<OwnedFd>,
}
