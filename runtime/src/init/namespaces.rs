//! Which namespaces a process gets: new ones made with it, and those of others that it joins.
//!
//! A process that is born in new namespaces has none of the host's rights over others' if one of the new ones is a user
//! namespace, and one that has joined a user namespace cannot itself move into a pid namespace of its own. In both cases
//! a process between joins what is to be joined, and makes the new one as its sibling:
//!
//! ```text
//! maker ─┬─ between: joins ─ clone3(CLONE_PARENT) ─ ends
//!        └─ new process: born with the rest
//! ```

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use sys::process::Child;
use sys::{Context, Error, Kind, Result, namespace};

use crate::sync::{self, Message};
use crate::{rootless, spec};

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
    /// Whether a process between joins what is to be joined.
    through: bool,
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
        let joins_user = namespaces.joins(LinuxNamespaceType::User);
        if namespaces.born & user != 0 || joins_user {
            // What is made with a namespace belongs to its maker, who has a number only once the maps are written.
            let early = user | flag(LinuxNamespaceType::Pid);
            namespaces.own |= namespaces.born & !early;
            namespaces.born &= early;
        }
        let joined = !namespaces.join.is_empty();
        namespaces.through = namespaces.born != 0
            && (joins_user || namespaces.makes(LinuxNamespaceType::User) && joined);
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
            // An ordinary user may join it only from within the user namespace.
            through: pid.is_some() && rootless::is_user(),
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

    /// Joins the namespaces that are joined from within, unless the process was made by one that had joined them.
    pub fn enter(&self) -> Result<()> {
        match self.through {
            true => Ok(()),
            false => self.join_all(None),
        }
    }

    /// Joins what the caller has rights over first, then the user namespace, and what only its members have rights over.
    fn join_all(&self, pid: Option<&OwnedFd>) -> Result<()> {
        let user = flag(LinuxNamespaceType::User);
        let pid = pid.map(|fd| (fd, flag(LinuxNamespaceType::Pid)));
        let all = self.join.iter().map(|(fd, kinds)| (fd, *kinds)).chain(pid);
        let mut late = Vec::new();
        for (fd, kinds) in all.filter(|(_, kinds)| *kinds != 0) {
            if kinds == user {
                late.insert(0, (fd, kinds));
                continue;
            }
            match namespace::join(fd.as_fd(), kinds) {
                Err(Errno::PERM) => late.push((fd, kinds)),
                joined => joined.context(|| format!("join namespaces {kinds:#x}"))?,
            }
        }
        for (fd, kinds) in late {
            namespace::join(fd.as_fd(), kinds).context(|| format!("join namespaces {kinds:#x}"))?;
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
        if self.through {
            return self.spawn_through(cgroup, child);
        }
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

    /// Makes a process by way of one that joins what is to be joined, and ends.
    fn spawn_through(
        &self,
        cgroup: Option<BorrowedFd<'_>>,
        child: impl FnOnce() -> i32,
    ) -> Result<Child> {
        let (here, there) = sync::pair()?;
        let between = sys::process::spawn(0, cgroup, || {
            let made = self.join_and_spawn(child);
            let told = made.and_then(|sibling| there.sibling(&sibling));
            match told {
                Ok(()) => 0,
                Err(error) => {
                    there.fail(&error);
                    1
                }
            }
        })?;
        drop(there);
        let heard = here.receive();
        sys::process::wait(between.pidfd.as_fd())?;
        match heard? {
            Message::Sibling(pid, pidfd) => Ok(Child { pid, pidfd }),
            Message::Failed(error) => Err(error),
            _ => Err(Error::new(
                Kind::Unknown,
                "the process that was to make the first one died",
            )),
        }
    }

    fn join_and_spawn(&self, child: impl FnOnce() -> i32) -> Result<Child> {
        if !rootless::is_user() {
            sys::process::hide()?;
        }
        self.join_all(self.pid.as_ref())?;
        sys::process::spawn_sibling(self.born as u32 as u64, child)
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
