//! Which namespaces a process gets: new ones made with it, and those of others that it joins.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use sys::process::Child;
use sys::{Context, Error, Kind, Result, namespace};

use crate::spec;

/// The namespaces of a process to be made.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// New ones that it is born with.
    pub born: i32,
    /// New ones that it makes itself.
    pub own: i32,
    /// Ones that it joins.
    join: Vec<(OwnedFd, i32)>,
    /// The pid namespace that it is born in.
    pid: Option<OwnedFd>,
}

impl Namespaces {
    /// Sorts the namespaces of a container's first process.
    pub fn of_init(spec: &Spec) -> Result<Self> {
        let mut namespaces = Self::default();
        for (kind, path) in spec::namespaces(spec) {
            let flag = flag(kind);
            match (path, kind) {
                (Some(path), kind) => {
                    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                    let fd = rustix::fs::openat(CWD, &path, flags, Mode::empty())
                        .context(|| format!("open namespace {path:?}"))?;
                    match kind {
                        LinuxNamespaceType::Pid => namespaces.pid = Some(fd),
                        _ => namespaces.join.push((fd, flag)),
                    }
                }
                // A control group namespace starts at the group that its maker is in.
                (None, LinuxNamespaceType::Cgroup | LinuxNamespaceType::Time) => {
                    namespaces.own |= flag;
                }
                (None, _) => namespaces.born |= flag,
            }
        }
        let user = flag(LinuxNamespaceType::User);
        if namespaces.born & user != 0 {
            // What is made with a namespace belongs to its maker, who has a number only once the maps are written.
            let early = user | flag(LinuxNamespaceType::Pid);
            namespaces.own |= namespaces.born & !early;
            namespaces.born &= early;
        }
        // A user namespace comes first, for it says what may be done in the others.
        namespaces.join.sort_by_key(|(_, flag)| *flag != user);
        if namespaces.joins(LinuxNamespaceType::User) && namespaces.born != 0 {
            let message =
                "joining a user namespace with new namespaces beside it is not supported yet";
            return Err(Error::new(Kind::Unimplemented, message));
        }
        Ok(namespaces)
    }

    /// Takes the namespaces of a container's first process for a further one.
    pub fn of_process(spec: &Spec, pidfd: OwnedFd) -> Result<Self> {
        let mut kinds = 0;
        let mut pid = None;
        for (kind, _) in spec::namespaces(spec) {
            match kind {
                LinuxNamespaceType::Pid => {
                    pid = Some(
                        pidfd
                            .try_clone()
                            .context(|| "copy the descriptor of the process")?,
                    );
                }
                kind => kinds |= flag(kind),
            }
        }
        Ok(Self {
            born: 0,
            own: 0,
            join: vec![(pidfd, kinds)],
            pid,
        })
    }

    /// Tells whether the process joins a namespace of this kind.
    pub fn joins(&self, kind: LinuxNamespaceType) -> bool {
        self.join.iter().any(|(_, kinds)| kinds & flag(kind) != 0)
    }

    /// Tells whether the process is born into a new namespace of this kind.
    pub fn makes(&self, kind: LinuxNamespaceType) -> bool {
        (self.born | self.own) & flag(kind) != 0
    }

    /// Joins the namespaces that are joined from within.
    pub fn enter(&self) -> Result<()> {
        for (fd, kinds) in self.join.iter().filter(|(_, kinds)| *kinds != 0) {
            namespace::join(fd.as_fd(), *kinds)
                .context(|| format!("join namespaces {kinds:#x}"))?;
        }
        Ok(())
    }

    /// Makes a process in the pid namespace that it belongs to.
    ///
    /// Only a maker's children enter a pid namespace, so the caller steps in for the moment of making one. That
    /// saves a process between the two, and the new one is the caller's own child.
    pub fn spawn(
        &self,
        cgroup: Option<BorrowedFd<'_>>,
        child: impl FnOnce() -> i32,
    ) -> Result<Child> {
        let born = self.born as u32 as u64;
        let Some(pid) = &self.pid else {
            return sys::process::spawn(born, cgroup, child);
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let own = rustix::fs::openat(CWD, "/proc/self/ns/pid", flags, Mode::empty())
            .context(|| "open own pid namespace")?;
        let kind = flag(LinuxNamespaceType::Pid);
        namespace::join(pid.as_fd(), kind).context(|| "join the container's pid namespace")?;
        let spawned = sys::process::spawn(born, cgroup, child);
        match namespace::join(own.as_fd(), kind) {
            Ok(()) => spawned,
            Err(errno) => {
                if let Ok(child) = &spawned {
                    let _ = sys::process::kill_and_wait(child);
                }
                Err(errno).context(|| "go back to the own pid namespace")
            }
        }
    }

    /// Returns the descriptors' numbers, to keep them open.
    pub fn raw(&self) -> impl Iterator<Item = RawFd> {
        self.join.iter().map(|(fd, _)| fd.as_raw_fd())
    }
}

/// Returns the kernel's flag for a kind of namespaces.
pub(crate) fn flag(kind: LinuxNamespaceType) -> i32 {
    kind as i32
}
