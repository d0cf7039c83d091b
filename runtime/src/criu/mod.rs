//! Checkpoint and restore by CRIU, which is asked over its own RPC and does the work.
//!
//! ```text
//! checkpoint ── version, features, dump ──▶ criu swrk ─▶ images      descriptors.json: what stdio was
//! restore ──── version, restore ──────────▶ criu swrk ─▶ processes   the first one is the caller's child
//!           ◀─ setup-namespaces, orphan-pts-master, post-restore, ...
//! ```
//! What comes from outside the container is not in the images and has to be there again: the sources of bind mounts,
//! namespaces that were joined, pipes that are stdio. What each is called, and in which order things are done, follows
//! runc, so that either restores what the other has checkpointed.

mod checkpoint;
mod options;
mod restore;
mod rpc;
mod session;

use std::fs::DirBuilder;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use sys::{Context, Error, Kind, Result};

pub(crate) use checkpoint::checkpoint;
pub use options::{
    CgroupsMode, CheckpointOptions, CriuOptions, RestoreOptions, check_empty_namespaces,
};
pub(crate) use restore::restore;

/// The file of an image with the names of what stdin, stdout and stderr were.
const DESCRIPTORS: &str = "descriptors.json";

/// The annotation that names a file of options for CRIU, which win over those of the request.
const CONFIG: &str = "org.criu.config";

/// That file where the annotation is missing.
const DEFAULT_CONFIG: &str = "/etc/criu/runc.conf";

/// What a process may have open of outside, by what the kernel calls it.
pub(crate) fn stdio_names(pid: i32) -> Vec<String> {
    let name = |fd: i32| {
        let name = std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    (0..3).map(name).collect()
}

/// The folders of a checkpoint, opened for CRIU.
struct Folders {
    image: OwnedFd,
    work: Option<OwnedFd>,
    /// The one that has the logs.
    logs: PathBuf,
}

impl Folders {
    /// Opens the folders, of which that of logs is made if it is missing.
    fn open(options: &CriuOptions) -> Result<Self> {
        let work = options.work.as_deref();
        Ok(Self {
            image: open_folder(&options.image)?,
            work: work
                .map(|work| make_folder(work).and_then(|()| open_folder(work)))
                .transpose()?,
            logs: std::path::absolute(work.unwrap_or(&options.image))
                .context(|| "resolve the folder of logs")?,
        })
    }
}

fn make_folder(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.context(|| format!("create {path:?}"))
}

fn open_folder(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).context(|| format!("open {path:?}"))
}

/// Returns the options that a dump and a restore have in common.
fn request(options: &CriuOptions, folders: &Folders, log: &str, spec: &Spec) -> rpc::Options {
    let annotations = spec.annotations().as_ref();
    let config = annotations.and_then(|annotations| annotations.get(CONFIG));
    let config = config.map_or(DEFAULT_CONFIG, String::as_str);
    rpc::Options {
        images_dir_fd: folders.image.as_raw_fd(),
        work_dir_fd: folders.work.as_ref().map(AsRawFd::as_raw_fd),
        log_level: Some(4),
        log_file: Some(log.to_owned()),
        config_file: Some(config.to_owned()).filter(|path| !path.is_empty()),
        notify_scripts: Some(true),
        // For versions that know no modes.
        manage_cgroups: Some(true),
        cgroup_mode: Some(options.cgroups.rpc() as i32),
        tcp_established: Some(options.tcp_established),
        ext_unix_sk: Some(options.ext_unix_sk),
        shell_job: Some(options.shell_job),
        file_locks: Some(options.file_locks),
        auto_dedup: Some(options.auto_dedup),
        lazy_pages: Some(options.lazy_pages),
        empty_ns: Some(options::EMPTY),
        orphan_pts_master: Some(true),
        ..rpc::Options::default()
    }
}

/// Returns a path as CRIU's messages have it.
fn text(path: &Path) -> Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::new(Kind::InvalidArgument, format!("{path:?} is not UTF-8")))
}

/// Returns what CRIU calls a kind of namespaces.
fn name(kind: LinuxNamespaceType) -> Result<&'static str> {
    Ok(match kind {
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Time => "time",
        LinuxNamespaceType::Cgroup => {
            let message = "criu cannot restore into a control group namespace of another";
            return Err(Error::new(Kind::Unimplemented, message));
        }
    })
}

/// Returns what a namespace that is joined is called in images; only networks and pids can have such a name.
fn external_name(kind: LinuxNamespaceType) -> Option<&'static str> {
    match kind {
        LinuxNamespaceType::Network => Some("extRootNetNS"),
        LinuxNamespaceType::Pid => Some("extRootPidNS"),
        _ => None,
    }
}
