//! The stages of a new process, in the only order in which they can be taken.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Process};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{Gid, Uid};
use sys::attach;
use sys::console::Pty;
use sys::mutant::{self, Mutant};
use sys::path::Root;
use sys::{Context, Error, Kind, Result, namespace};

use super::command::Found;
use super::{InitPlan, Plan, Stdio, schedule};
use crate::spec::has_clocks;
use crate::{rootfs, wording};

/// A first process that is in its namespaces.
pub(crate) struct Namespaced<'a>(&'a InitPlan<'a>);

/// A first process whose root file system is complete, but not entered.
pub(crate) struct Mounted<'a> {
    init: &'a InitPlan<'a>,
    root: Root,
}

/// A first process that sees only its root file system.
pub(crate) struct Rooted<'a>(&'a InitPlan<'a>);

/// A further process that is in the container's namespaces.
pub(crate) struct Joined<'a>(&'a Plan<'a>);

/// A process that is who it is to be, and has found its program.
pub(crate) struct Dropped<'a> {
    plan: &'a Plan<'a>,
    init: Option<&'a InitPlan<'a>>,
    found: Found,
}

/// A process that may run its program.
pub(crate) struct Started<'a> {
    plan: &'a Plan<'a>,
    found: Found,
}

impl<'a> Namespaced<'a> {
    /// Takes the process into its namespaces and gives these their names.
    pub fn enter(init: &'a InitPlan<'a>) -> Result<Self> {
        let plan = &init.plan;
        if init.wait_first {
            plan.sync.wait()?;
        }
        plan.entrance.enter()?;
        schedule::use_all_processors()?;
        let namespaces = &plan.namespaces;
        if namespaces.makes(LinuxNamespaceType::User) {
            become_root()?;
        }
        namespaces.enter()?;
        if namespaces.joins(LinuxNamespaceType::User) {
            become_root()?;
        }
        if namespaces.own != 0 {
            namespace::unshare(namespaces.own).context(|| "make namespaces from within")?;
        }
        plan.close_ways_in()?;
        if has_clocks(plan.spec) {
            // Only the maker may write them: this process is hidden even from the root of its user namespace.
            plan.sync.clocks()?;
        }
        sys::process::hide()?;
        join_keyring(plan)?;
        if namespaces.makes(LinuxNamespaceType::Network) {
            namespace::loopback_up()?;
        }
        if let Some(name) = plan
            .spec
            .hostname()
            .as_deref()
            .filter(|name| !name.is_empty())
        {
            namespace::set_hostname(name)?;
        }
        if let Some(name) = plan
            .spec
            .domainname()
            .as_deref()
            .filter(|name| !name.is_empty())
        {
            namespace::set_domainname(name)?;
        }
        Ok(Self(init))
    }

    /// Mounts everything.
    pub fn mount(self) -> Result<Mounted<'a>> {
        let init = self.0;
        let root = rootfs::prepare(init.rootfs, init.bundle, init.plan.spec, &init.bind_trees)?;
        Ok(Mounted { init, root })
    }
}

impl<'a> Mounted<'a> {
    /// Enters the root file system, after the hooks that are to see both it and the host's.
    pub fn pivot(self) -> Result<Rooted<'a>> {
        let Self { init, root } = self;
        let plan = &init.plan;
        init.run_hooks_before_pivot(&root)?;
        if matches!(plan.io, Stdio::Console) {
            take_console(plan, &root, true)?;
        }
        root.create_dir_all(plan.process.cwd(), 0o755)
            .context(|| format!("make working folder {:?}", plan.process.cwd()))?;
        match init.no_pivot {
            true => attach::move_root(root.dir())?,
            false => attach::pivot(root.dir())?,
        }
        rootfs::reopen_null(&root, plan.spec)?;
        rootfs::mask(&root, plan.spec)?;
        set_sysctls(plan)?;
        rootfs::finish(&root, plan.spec)?;
        Ok(Rooted(init))
    }
}

impl<'a> Rooted<'a> {
    /// Becomes the user and finds the program.
    pub fn drop_privileges(self) -> Result<Dropped<'a>> {
        let init = self.0;
        let found = drop_privileges(&init.plan)?;
        Ok(Dropped {
            plan: &init.plan,
            init: Some(init),
            found,
        })
    }
}

impl<'a> Joined<'a> {
    /// Takes the process into the container.
    pub fn enter(plan: &'a Plan<'a>) -> Result<Self> {
        plan.sync.wait()?;
        sys::process::hide()?;
        join_keyring(plan)?;
        let affinity = plan.process.exec_cpu_affinity().as_ref();
        schedule::set_affinity(affinity.and_then(|cpus| cpus.initial().as_deref()))?;
        plan.entrance.enter()?;
        match affinity.and_then(|cpus| cpus.cpu_affinity_final().as_deref()) {
            Some(list) => schedule::set_affinity(Some(list))?,
            None if affinity.is_none() => schedule::use_all_processors()?,
            None => {}
        }
        plan.namespaces.enter()?;
        plan.close_ways_in()?;
        if plan.namespaces.joins(LinuxNamespaceType::User) {
            become_root()?;
        }
        if matches!(plan.io, Stdio::Console) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::openat(CWD, "/", flags, Mode::empty());
            let root = Root::new(root.context(|| "open the container's root")?);
            take_console(plan, &root, false)?;
        }
        Ok(Self(plan))
    }

    /// Becomes the user and finds the program.
    pub fn drop_privileges(self) -> Result<Dropped<'a>> {
        let found = drop_privileges(self.0)?;
        Ok(Dropped {
            plan: self.0,
            init: None,
            found,
        })
    }
}

impl<'a> Dropped<'a> {
    /// Waits at the gate until the container is started.
    pub fn start(self) -> Result<Started<'a>> {
        let Self { plan, init, found } = self;
        plan.install_seccomp(Moment::Heard)?;
        if let Some(init) = init {
            plan.sync.ready()?;
            wait_at(&init.gate)?;
            verify_cwd()?;
            plan.install_seccomp(Moment::Last)?;
            init.run_start_hooks(&found)?;
        }
        Ok(Started { plan, found })
    }

    /// Goes on without waiting.
    pub fn go(self) -> Result<Started<'a>> {
        self.plan.install_seccomp(Moment::Heard)?;
        verify_cwd()?;
        self.plan.install_seccomp(Moment::Last)?;
        Ok(Started {
            plan: self.plan,
            found: self.found,
        })
    }
}

impl Started<'_> {
    /// Runs the program; returns only why it could not.
    pub fn execute(self) -> Error {
        self.plan.command.execute(&self.found)
    }
}

/// When a seccomp profile is installed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// While the process still has the capability that is needed for it unless it can gain no privileges.
    Privileged,
    /// While the maker still listens, whom a profile that notifies needs to hand its listener to.
    Heard,
    /// Right before the program, and the hooks before it, are executed: what comes earlier may be what the profile
    /// forbids.
    Last,
}

impl Plan<'_> {
    /// Installs the seccomp profile if this is its moment.
    fn install_seccomp(&self, now: Moment) -> Result<()> {
        let Some(program) = self.seccomp.as_ref() else {
            return Ok(());
        };
        let moment = match (self.identity.no_new_privs(), program.notifies()) {
            (false, _) => Moment::Privileged,
            (true, true) => Moment::Heard,
            (true, false) => Moment::Last,
        };
        if now != moment {
            return Ok(());
        }
        match program
            .install()
            .context(|| "install the seccomp profile")?
        {
            Some(listener) => self.sync.listener(listener.as_fd()),
            None => Ok(()),
        }
    }
}

/// Becomes the root user of a user namespace, as which everything else is set up.
fn become_root() -> Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
        .context(|| "become root of the user namespace")
}

fn join_keyring(plan: &Plan<'_>) -> Result<()> {
    let Some(name) = &plan.keyring else {
        return Ok(());
    };
    match sys::keyring::join_session(name) {
        // A kernel without keyrings has none that could leak.
        Ok(()) | Err(Errno::NOSYS) => Ok(()),
        Err(errno) => Err(errno).context(|| format!("join session keyring {name:?}")),
    }
}

fn set_sysctls(plan: &Plan<'_>) -> Result<()> {
    let linux = plan.spec.linux().as_ref();
    let sysctls = linux.and_then(|linux| linux.sysctl().as_ref());
    for (name, value) in sysctls.into_iter().flatten() {
        let path = match name.contains('/') {
            true => format!("sys/{name}"),
            false => format!("sys/{}", name.replace('.', "/")),
        };
        plan.procfs.write(&path, value.as_bytes())?;
    }
    Ok(())
}

/// Opens a terminal of the container, makes it the controlling one, and hands its master over.
fn take_console(plan: &Plan<'_>, root: &Root, init: bool) -> Result<()> {
    let pty = Pty::open(root)?;
    if let Some((rows, columns)) = size(plan.process) {
        pty.resize(rows, columns)?;
    }
    plan.sync.console(pty.master.as_fd())?;
    if init {
        let place = root.create_file(Path::new("/dev/console"), 0o620)?;
        attach::clone_tree(pty.slave.as_fd(), c"", false)
            .and_then(|slave| attach::attach(&slave, &place))
            .context(|| "attach the terminal at \"/dev/console\"")?;
    }
    take_terminal(&pty.slave).context(|| "take the terminal as stdin, stdout and stderr")
}

fn take_terminal(slave: &OwnedFd) -> Result<(), Errno> {
    rustix::process::ioctl_tiocsctty(slave)?;
    rustix::stdio::dup2_stdin(slave)?;
    rustix::stdio::dup2_stdout(slave)?;
    rustix::stdio::dup2_stderr(slave)
}

/// Returns the rows and columns that a process's terminal is to have.
fn size(process: &Process) -> Option<(u16, u16)> {
    let size = process.console_size()?;
    Some((
        size.height().try_into().ok()?,
        size.width().try_into().ok()?,
    ))
}

/// Becomes the user in the working folder, and finds the program as that user.
fn drop_privileges(plan: &Plan<'_>) -> Result<Found> {
    let identity = &plan.identity;
    plan.labels.set(&plan.procfs)?;
    schedule::apply(plan.process, plan.spec)?;
    identity.limit()?;
    identity.own_stdio()?;
    // Here and no later: the profile may forbid it. All that is opened from now on closes on exec by itself.
    sys::process::close_on_exec_from(3 + plan.preserve_fds)?;
    plan.install_seccomp(Moment::Privileged)?;
    let cwd = plan.process.cwd();
    // A folder that only root can enter, or one that only the user can, are both fine.
    let entered = match rustix::process::chdir(cwd) {
        Ok(()) => true,
        Err(Errno::ACCESS | Errno::PERM) => false,
        Err(errno) => return Err(wording::cannot_enter(cwd, errno)),
    };
    identity.assume()?;
    if !entered {
        rustix::process::chdir(cwd).map_err(|errno| wording::cannot_enter(cwd, errno))?;
    }
    verify_cwd()?;
    if identity.no_new_privs() {
        rustix::thread::set_no_new_privs(true).context(|| "forbid new privileges")?;
    }
    plan.command.find(identity.uid)
}

/// Makes sure that the working folder is inside the container, and not one of the host's behind a descriptor.
fn verify_cwd() -> Result<()> {
    let cwd = match rustix::process::getcwd(Vec::new()) {
        Err(Errno::NOENT) => None,
        cwd => Some(cwd.context(|| "get the working folder")?),
    };
    match cwd {
        Some(cwd) if cwd.as_bytes().first() == Some(&b'/') => Ok(()),
        _ if mutant::is(Mutant::NoCwdCheck) => Ok(()),
        _ => {
            let message = "current working directory is outside of container mount namespace root -- possible container breakout detected";
            Err(Error::new(Kind::PermissionDenied, message))
        }
    }
}

/// Blocks until someone opens the gate.
fn wait_at(gate: &OwnedFd) -> Result<()> {
    loop {
        match rustix::io::read(gate, &mut [0; 1]) {
            Err(Errno::INTR) => {}
            read => return read.map(drop).context(|| "wait to be started"),
        }
    }
}
