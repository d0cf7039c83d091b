//! Creating a container: what the caller does while the first process makes its way.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use sys::process::{Child, Stat};
use sys::procfs::Procfs;
use sys::{Context, Error, Kind, Result};

use crate::cgroup::{Cgroup, Entrance, UnitOptions};
use crate::init::{
    Command, Identity, InitPlan, Labels, Namespaces, Plan, Stdio, failed_in_init, run_init,
};
use crate::options::{CreateOptions, Process};
use crate::record::{Dir, Record, validate_id};
use crate::rootfs::BindTrees;
use crate::state::{SPEC_VERSION, State, Status};
use crate::sync::{self, Maker, Message};
use crate::{clock, criu, hooks, rootless, seccomp, spec, wording};

/// A container in the making: what there is of it is undone when this is dropped, unless it is kept.
#[derive(Debug)]
pub(crate) struct Making {
    dir: Dir,
    cgroup: Option<Cgroup>,
    /// The first process.
    pub child: Option<Child>,
    /// Open until the child is killed, lest it sees that nobody listens and says so itself.
    maker: Option<Maker>,
    kept: bool,
}

/// Creates a container: its folder, its control group, its first process.
pub(crate) fn create(options: &CreateOptions) -> Result<(Dir, Record, Process)> {
    let (mut making, mut record) = Making::begin(options)?;
    let cgroup = record.cgroup.clone();
    let console = make_init(options, &mut record, &cgroup, &mut making)
        // Whatever the error is: this is most likely what caused it, as for runc.
        .map_err(|error| match cgroup.oom_kills() {
            0 => error,
            _ => wording::out_of_memory(),
        })?;
    let (dir, process) = making.keep(console)?;
    Ok((dir, record, process))
}

impl Making {
    /// Makes a container's folder and its control group, and returns what is known of it before it has a process.
    pub fn begin(options: &CreateOptions) -> Result<(Self, Record)> {
        validate_id(&options.id)?;
        check_preserved(options.preserve_fds)?;
        let bundle = std::path::absolute(&options.bundle)
            .context(|| format!("resolve bundle {:?}", options.bundle))?;
        let spec = spec::load(&bundle)?;
        spec::validate(&spec)?;
        let rootfs = rootfs(&spec, &bundle);
        std::fs::metadata(&rootfs).map_err(|error| wording::invalid_rootfs(&rootfs, error))?;
        let mut making = Self {
            dir: Dir::create(&options.root, &options.id)?,
            cgroup: None,
            child: None,
            maker: None,
            kept: false,
        };
        let cgroup = create_cgroup(&spec, options)?;
        making.cgroup = Some(cgroup.clone());
        let record = Record {
            id: options.id.clone(),
            pid: 0,
            start_time: 0,
            created: clock::now(),
            owner: owner(),
            rootfs,
            bundle,
            cgroup,
            descriptors: Vec::new(),
            spec,
        };
        Ok((making, record))
    }

    /// Returns the container's folder.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Leaves everything as it is, and returns the folder and the first process with its terminal.
    pub fn keep(mut self, console: Option<OwnedFd>) -> Result<(Dir, Process)> {
        let Some(child) = self.child.take() else {
            return Err(Error::new(Kind::Internal, "the first process got lost"));
        };
        self.kept = true;
        let process = Process {
            pid: child.pid,
            pidfd: child.pidfd,
            console,
        };
        Ok((self.dir.clone(), process))
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // Why the making failed is what the caller has to know, not what else did.
        if let Some(child) = &self.child {
            let _ = sys::process::kill_and_wait(child);
        }
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.kill_all(rustix::process::Signal::KILL.as_raw());
            let _ = cgroup.remove();
        }
        let _ = self.dir.remove();
    }
}

/// Makes the first process and sees it through to the gate; returns its terminal.
fn make_init(
    options: &CreateOptions,
    record: &mut Record,
    cgroup: &Cgroup,
    making: &mut Making,
) -> Result<Option<OwnedFd>> {
    let spec = &record.spec;
    let Some(process) = spec.process() else {
        return Err(Error::new(
            Kind::InvalidArgument,
            "process property must not be empty",
        ));
    };
    let profile = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().as_ref());
    let namespaces = Namespaces::of_init(spec)?;
    let maps_users = namespaces.makes(LinuxNamespaceType::User);
    let entrance = match options.systemd_cgroup {
        // systemd makes the group around a process that is there.
        true => Entrance::default(),
        false => cgroup.entrance()?,
    };
    let (maker, made) = sync::pair()?;
    let maker = making.maker.insert(maker);
    let procfs = Procfs::open()?;
    let bind_trees = BindTrees::new(spec, &record.bundle, &procfs)?;
    let plan = InitPlan {
        plan: Plan {
            spec,
            process,
            command: Command::new(process, options.listen_fds)?,
            identity: Identity::new(process),
            labels: Labels::new(process)?,
            namespaces,
            io: Stdio::new(&options.io),
            preserve_fds: options.preserve_fds,
            keyring: (!options.no_new_keyring).then(|| format!("_ses.{}", options.id)),
            procfs,
            entrance,
            seccomp: profile.map(seccomp::compile).transpose()?,
            sync: made,
            by_user: rootless::is_user(),
        },
        bundle: &record.bundle,
        rootfs: &record.rootfs,
        no_pivot: options.no_pivot,
        bind_trees,
        gate: making.dir.make_gate()?,
        wait_first: maps_users || options.systemd_cgroup,
        state: State::new(record, Status::Creating, 0),
    };
    let spawned = &plan.plan;
    let child = spawned
        .namespaces
        .spawn(spawned.entrance.clone_fd(), || run_init(&plan))?;
    let pid = child.pid;
    making.child = Some(child);
    if options.systemd_cgroup {
        let annotations = spec.annotations().clone().unwrap_or_default();
        cgroup.start_unit(&unit_options(spec, &options.id, &annotations), pid)?;
    }
    if maps_users {
        rootless::map_users(&plan.plan.procfs, pid, spec)?;
    }
    set_oom_score(&plan.plan.procfs, pid, process.oom_score_adj())?;
    if plan.wait_first {
        maker.go()?;
    }
    // The plan has the new process's ends, which must close here for its death to show.
    drop(plan);
    let (record_pid, start_time) = (pid, Stat::read(pid).map_or(0, |stat| stat.start_time));
    let console = follow(maker, record, record_pid)?;
    record.pid = record_pid;
    record.start_time = start_time;
    record.descriptors = criu::stdio_names(pid);
    making.dir.save(record)?;
    if let Some(path) = &options.pid_file {
        write_pid(path, pid)?;
    }
    Ok(console)
}

/// Serves the first process until it is ready.
fn follow(maker: &Maker, record: &Record, pid: i32) -> Result<Option<OwnedFd>> {
    let mut console = None;
    loop {
        match maker.receive()? {
            Message::Console(master) => console = Some(master),
            Message::Mounted => {
                hooks::run_outside(&record.spec, &State::new(record, Status::Creating, pid))?;
                maker.go()?;
            }
            Message::Clocks => {
                set_clocks(&record.spec, pid)?;
                maker.go()?;
            }
            Message::Listener(listener) => {
                hand_over(&listener, record, Status::Creating, pid, pid)?;
            }
            Message::Ready => return Ok(console),
            Message::Sibling(..) => {}
            Message::Failed(error) => return Err(failed_in_init(error)),
            Message::End => {
                let error = Error::new(Kind::Unknown, "the process died before it was ready");
                return Err(failed_in_init(error));
            }
        }
    }
}

/// Hands the descriptor that supervises system calls to the agent that the profile names.
pub(crate) fn hand_over(
    listener: &OwnedFd,
    record: &Record,
    status: Status,
    init: i32,
    pid: i32,
) -> Result<()> {
    let linux = record.spec.linux().as_ref();
    let profile = linux.and_then(|linux| linux.seccomp().as_ref());
    let Some(path) = profile.and_then(|profile| profile.listener_path().as_deref()) else {
        let message = "the seccomp profile notifies, but has no listenerPath";
        return Err(Error::new(Kind::InvalidArgument, message));
    };
    let state = serde_json::json!({
        "ociVersion": SPEC_VERSION,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": profile.and_then(|profile| profile.listener_metadata().as_ref()),
        "state": State::new(record, status, init),
    });
    let socket = sys::fdpass::connect(path)
        .context(|| "failed to connect with seccomp agent specified in the seccomp profile")?;
    sys::fdpass::send(
        &socket,
        state.to_string().as_bytes(),
        Some(listener.as_fd()),
    )
    .context(|| format!("send the seccomp listener to {path:?}"))
}

fn create_cgroup(spec: &Spec, options: &CreateOptions) -> Result<Cgroup> {
    let none = HashMap::new();
    let unit = unit_options(spec, &options.id, &none);
    match options.systemd_cgroup {
        true => Cgroup::of_unit(&unit),
        false => {
            let rootless = options.rootless.unwrap_or_else(rootless::is_rootless);
            Cgroup::create(unit.path, unit.id, unit.resources, rootless)
        }
    }
}

/// Returns what systemd has to know of the container.
pub(crate) fn unit_options<'a>(
    spec: &'a Spec,
    id: &'a str,
    annotations: &'a HashMap<String, String>,
) -> UnitOptions<'a> {
    let linux = spec.linux().as_ref();
    UnitOptions {
        path: linux.and_then(|linux| linux.cgroups_path().as_deref()),
        id,
        annotations,
        resources: linux.and_then(|linux| linux.resources().as_ref()),
    }
}

fn rootfs(spec: &Spec, bundle: &Path) -> PathBuf {
    let root = spec.root().as_ref().map(|root| root.path().as_path());
    bundle.join(root.unwrap_or(Path::new("rootfs")))
}

/// Sets the clocks of the time namespace that the process has made, and enters as it executes its program.
fn set_clocks(spec: &Spec, pid: i32) -> Result<()> {
    let linux = spec.linux().as_ref();
    let offsets = linux.and_then(|linux| linux.time_offsets().as_ref());
    let mut text = String::new();
    for (clock, offset) in offsets.into_iter().flatten() {
        let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        text.push_str(&format!("{clock} {seconds} {nanoseconds}\n"));
    }
    Procfs::open()?.write(&format!("{pid}/timens_offsets"), text.as_bytes())
}

/// Sets how readily the kernel kills a process for want of memory.
pub(crate) fn set_oom_score(procfs: &Procfs, pid: i32, score: Option<i32>) -> Result<()> {
    match score {
        Some(score) => procfs.write(
            &format!("{pid}/oom_score_adj"),
            score.to_string().as_bytes(),
        ),
        None => Ok(()),
    }
}

/// Writes a process's number to a file; a reader sees it whole.
pub(crate) fn write_pid(path: &Path, pid: i32) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}"));
    std::fs::write(&temporary, pid.to_string())
        .and_then(|()| std::fs::rename(&temporary, path))
        .context(|| format!("write pid file {path:?}"))
}

/// Makes sure that descriptors to be inherited are open, lest one of ours takes such a number.
pub(crate) fn check_preserved(count: u32) -> Result<()> {
    for fd in 3..3 + count {
        if std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
            let message = format!("please check that preserved-fd {fd} (of {count}) is present");
            return Err(Error::new(Kind::InvalidArgument, message));
        }
    }
    Ok(())
}

/// Returns the name of the calling user.
fn owner() -> String {
    let uid = rustix::process::getuid();
    match uid.is_root() {
        true => "root".to_string(),
        false => uid.as_raw().to_string(),
    }
}
