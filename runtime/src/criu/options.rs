//! How a container is checkpointed and restored.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::LinuxNamespaceType;
use sys::{Error, Kind, Result};

use super::rpc;
use crate::CreateOptions;

/// What a checkpoint and its restore have in common.
#[derive(Clone, Debug, Default)]
pub struct CriuOptions {
    /// The folder of the images.
    pub image: PathBuf,
    /// The folder of logs and statistics, if that is another one.
    pub work: Option<PathBuf>,
    /// Whether TCP connections may be open.
    pub tcp_established: bool,
    /// Whether Unix sockets may be connected to processes outside.
    pub ext_unix_sk: bool,
    /// Whether the processes may have a session or a terminal from outside.
    pub shell_job: bool,
    /// Whether files may be locked.
    pub file_locks: bool,
    /// Whether pages of earlier images that a later one has too are removed.
    pub auto_dedup: bool,
    /// Whether pages are sent once the restored processes ask for them.
    pub lazy_pages: bool,
    /// What becomes of control groups.
    pub cgroups: CgroupsMode,
}

/// How to checkpoint a container.
#[derive(Debug, Default)]
pub struct CheckpointOptions {
    /// What the restore should have too.
    pub criu: CriuOptions,
    /// The folder of an earlier image, relative to that of the images: what is as it was then is left out.
    pub parent: Option<PathBuf>,
    /// Whether the processes go on afterwards.
    pub leave_running: bool,
    /// Whether only memory is written, while the processes go on.
    pub pre_dump: bool,
    /// Whether TCP connections that are being made are left out.
    pub tcp_skip_in_flight: bool,
    /// Whether files without a name get one, by which they are found again.
    pub link_remap: bool,
    /// The address and the port of a server that gets the pages.
    pub page_server: Option<(String, u16)>,
    /// What gets a zero byte once lazy pages are served.
    pub status: Option<OwnedFd>,
}

/// How to restore a container.
#[derive(Debug)]
pub struct RestoreOptions {
    /// Where the container comes to be, as for one that is created.
    pub create: CreateOptions,
    /// What the checkpoint had too.
    pub criu: CriuOptions,
    /// The profile of a security module, in the form `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    /// The context that mounts get.
    pub lsm_mount_context: Option<String>,
}

/// What CRIU does about control groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupsMode {
    /// What it does by default: `soft`.
    #[default]
    Default,
    /// Properties are restored of those groups that it makes.
    Soft,
    /// All are made, with their properties.
    Full,
    /// None may be there before.
    Strict,
    /// They are left alone.
    Ignore,
}

impl CgroupsMode {
    /// Parses a mode by the name that runc has for it; an empty one is the default.
    pub fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "" => Self::Default,
            "soft" => Self::Soft,
            "full" => Self::Full,
            "strict" => Self::Strict,
            "ignore" => Self::Ignore,
            _ => {
                let message = "invalid manage-cgroups-mode value";
                return Err(Error::new(Kind::InvalidArgument, message));
            }
        })
    }

    pub(super) fn rpc(self) -> rpc::CgroupMode {
        match self {
            Self::Default => rpc::CgroupMode::Default,
            Self::Soft => rpc::CgroupMode::Soft,
            Self::Full => rpc::CgroupMode::Full,
            Self::Strict => rpc::CgroupMode::Strict,
            Self::Ignore => rpc::CgroupMode::Ignore,
        }
    }
}

/// Refuses namespaces that cannot be restored empty; a network's always is, for its devices are not the runtime's.
pub fn check_empty_namespaces(names: &[String]) -> Result<()> {
    match names.iter().find(|name| *name != "network") {
        None => Ok(()),
        Some(name) => {
            let message = format!("namespace {name:?} is not supported");
            Err(Error::new(Kind::InvalidArgument, message))
        }
    }
}

/// The kinds of namespaces that are restored empty.
pub(super) const EMPTY: u32 = LinuxNamespaceType::Network as u32;
