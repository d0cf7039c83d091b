//! Restore: a container made of what a checkpoint has written.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::UnmountFlags;
use sys::process::{Child, Stat};
use sys::{Context, Error, Kind, Result};

use super::session::{Session, with_log};
use super::{DESCRIPTORS, Folders, RestoreOptions, rpc};
use crate::create::{Making, unit_options, write_pid};
use crate::options::{Io, Process};
use crate::record::{Dir, Record};
use crate::state::{State, Status};
use crate::sync::{self, Message};
use crate::{clock, hooks, rootfs, spec};

const LOG: &str = "restore.log";

/// The kernel's flag for a new mount namespace.
const NEW_MOUNTS: u64 = LinuxNamespaceType::Mount as u64;

/// The root file system as CRIU wants it: a mount, of which nothing covers the folder above.
struct AttachedRoot(PathBuf);

impl AttachedRoot {
    fn new(record: &Record, dir: &Dir) -> Result<Self> {
        let root = Self(dir.make_criu_root()?);
        rootfs::attach_at(&record.rootfs, &root.0)?;
        Ok(root)
    }
}

impl Drop for AttachedRoot {
    fn drop(&mut self) {
        // What is left of it goes with the container's folder.
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Makes a container of a checkpoint; its first process is the caller's child, and runs.
pub(crate) fn restore(options: &RestoreOptions) -> Result<(Dir, Record, Process)> {
    let folders = Folders::open(&options.criu)?;
    let (mut making, mut record) = Making::begin(&options.create)?;
    let console = revive(options, &folders, &mut making, &mut record)
        .map_err(|error| with_log(error, &folders.logs, LOG))?;
    if let Some(path) = &options.create.pid_file {
        write_pid(path, record.pid)?;
    }
    let (dir, process) = making.keep(console)?;
    Ok((dir, record, process))
}

/// Has CRIU make the processes, and saves the record as soon as the first one is there; returns its terminal.
fn revive(
    options: &RestoreOptions,
    folders: &Folders,
    making: &mut Making,
    record: &mut Record,
) -> Result<Option<OwnedFd>> {
    let was = read_descriptors(&options.criu.image)?;
    make_mount_points(record)?;
    let root = AttachedRoot::new(record, making.dir())?;
    let named = named_namespaces(&record.spec)?;
    let further: Vec<BorrowedFd<'_>> = named.iter().map(|(_, fd)| fd.as_fd()).collect();
    let session = Session::start(&stdio(&options.create.io), &further)?;
    enter_group(options, record, session.pid())?;
    record.descriptors = super::stdio_names(session.pid());
    let pipes = (0..).zip(was).filter(|(_, name)| name.contains("pipe:"));
    let keys = named.iter().enumerate();
    let keys = keys.map(|(at, (key, _))| (Session::further(at), (*key).to_owned()));
    let request = rpc::Options {
        root: Some(super::text(&root.0)?),
        evasive_devices: Some(true),
        rst_sibling: Some(true),
        lsm_profile: options.lsm_profile.clone(),
        lsm_mount_context: options.lsm_mount_context.clone(),
        join_ns: joined_by_path(&record.spec)?,
        inherit_fds: keys
            .chain(pipes)
            .map(|(fd, key)| rpc::InheritFd { key, fd })
            .collect(),
        external_mounts: external_mounts(record)?,
        cgroup_roots: cgroup_roots(session.pid())?,
        ..super::request(&options.criu, folders, LOG, &record.spec)
    };
    let mut console = None;
    session.run(rpc::Kind::Restore, request, |notify, fd| {
        let pid = notify.pid.unwrap_or(0);
        match notify.script.as_deref() {
            Some("setup-namespaces") => {
                hooks::run_outside(&record.spec, &State::new(record, Status::Creating, pid))?;
            }
            Some("orphan-pts-master") => console = fd,
            Some("post-restore") => {
                let pidfd = sys::process::open(pid).context(|| "open the first process")?;
                making.child = Some(Child { pid, pidfd });
                record.pid = pid;
                record.start_time = Stat::read(pid).map_or(0, |stat| stat.start_time);
                record.created = clock::now();
                add_clocks(&mut record.spec);
                making.dir().save(record)?;
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(console)
}

/// Returns what stdio was.
fn read_descriptors(image: &Path) -> Result<Vec<String>> {
    let path = image.join(DESCRIPTORS);
    let text = std::fs::read(&path).context(|| format!("read {path:?}"))?;
    serde_json::from_slice(&text).map_err(|error| Error::other(format!("parse {path:?}"), error))
}

/// Makes what is to be mounted on, by a process whose mounts go with it.
fn make_mount_points(record: &Record) -> Result<()> {
    let (here, there) = sync::pair()?;
    let child = sys::process::spawn(NEW_MOUNTS, None, || {
        let made = rootfs::make_mount_points(record);
        made.map_or_else(|error| i32::from(!there.fail(&error)) + 1, |()| 0)
    })?;
    drop(there);
    let heard = here.receive();
    let exit = sys::process::wait(child.pidfd.as_fd())?;
    match (heard?, exit.code()) {
        (Message::Failed(error), _) => Err(error),
        (_, 0) => Ok(()),
        _ => Err(Error::new(
            Kind::Unknown,
            "the process that makes mount points died",
        )),
    }
}

/// Opens the joined namespaces that have a name in the images.
fn named_namespaces(spec: &Spec) -> Result<Vec<(&'static str, OwnedFd)>> {
    let mut named = Vec::new();
    for (kind, path) in spec::namespaces(spec) {
        let (Some(path), Some(key)) = (path, super::external_name(kind)) else {
            continue;
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, &path, flags, Mode::empty())
            .context(|| format!("open namespace {path:?}"))?;
        named.push((key, fd));
    }
    Ok(named)
}

/// Returns the namespaces that CRIU joins by their paths.
fn joined_by_path(spec: &Spec) -> Result<Vec<rpc::JoinNamespace>> {
    let mut joined = Vec::new();
    for (kind, path) in spec::namespaces(spec) {
        let Some(path) = path.filter(|_| super::external_name(kind).is_none()) else {
            continue;
        };
        joined.push(rpc::JoinNamespace {
            kind: super::name(kind)?.to_owned(),
            path: super::text(&path)?,
        });
    }
    Ok(joined)
}

fn stdio(io: &Io) -> Vec<BorrowedFd<'_>> {
    match io {
        Io::Inherit => vec![
            rustix::stdio::stdin(),
            rustix::stdio::stdout(),
            rustix::stdio::stderr(),
        ],
        Io::Fds {
            stdin,
            stdout,
            stderr,
        } => vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        // CRIU makes the terminal.
        Io::Console => Vec::new(),
    }
}

/// Moves CRIU into the container's group, where what it makes is born.
fn enter_group(options: &RestoreOptions, record: &Record, pid: i32) -> Result<()> {
    if !options.create.systemd_cgroup {
        return record.cgroup.join(pid);
    }
    let annotations = record.spec.annotations().clone().unwrap_or_default();
    let unit = unit_options(&record.spec, &record.id, &annotations);
    record.cgroup.start_unit(&unit, pid)
}

/// Returns the groups that a process is in, as roots of what is restored.
fn cgroup_roots(pid: i32) -> Result<Vec<rpc::CgroupRoot>> {
    let path = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&path).context(|| format!("read {path:?}"))?;
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let roots = lines.flat_map(|(controllers, path)| {
        controllers.split(',').map(|controller| rpc::CgroupRoot {
            controller: Some(controller.to_owned()),
            path: path.to_owned(),
        })
    });
    Ok(roots.collect())
}

/// Returns what stands on the host behind the names that mounts have in the images.
fn external_mounts(record: &Record) -> Result<Vec<rpc::ExternalMount>> {
    let mut mounts = Vec::new();
    for mount in rootfs::external(record)? {
        mounts.push(rpc::ExternalMount {
            key: super::text(&mount.target)?,
            value: super::text(&mount.source)?,
        });
    }
    let linux = record.spec.linux().as_ref();
    let masked = linux.and_then(|linux| linux.masked_paths().as_deref());
    if masked.is_some_and(|paths| !paths.is_empty()) {
        mounts.push(rpc::ExternalMount {
            key: rootfs::NULL.to_owned(),
            value: rootfs::NULL.to_owned(),
        });
    }
    Ok(mounts)
}

/// Adds the time namespace that CRIU puts processes into, where the kernel has such, for further processes to join.
fn add_clocks(spec: &mut Spec) {
    let has = spec::namespace(spec, LinuxNamespaceType::Time).is_some();
    let Some(mut linux) = spec.linux().clone() else {
        return;
    };
    if has || !Path::new("/proc/self/ns/time").exists() {
        return;
    }
    let mut time = LinuxNamespace::default();
    time.set_typ(LinuxNamespaceType::Time);
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    namespaces.push(time);
    linux.set_namespaces(Some(namespaces));
    spec.set_linux(Some(linux));
}
