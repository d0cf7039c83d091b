//! What the kernel alone needs to start a container: namespaces, the mounts and devices of a default bundle, a pivot and an
//! exec; no configuration, no control group, no seccomp. Runtimes are measured as multiples of it.
//!
//! `floor ROOTFS PROGRAM [ARG...]` exits with the program's code.
#![forbid(unsafe_code)]

use std::ffi::{CStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use rustix::fs::{FileType, Mode, makedev, mknodat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, unmount,
};

const NEWNS: u64 = 0x0002_0000;
const NEWCGROUP: u64 = 0x0200_0000;
const NEWUTS: u64 = 0x0400_0000;
const NEWIPC: u64 = 0x0800_0000;
const NEWPID: u64 = 0x2000_0000;
const NEWNET: u64 = 0x4000_0000;

const MOUNTS: &[(&str, &str, &CStr)] = &[
    ("proc", "proc", c""),
    ("tmpfs", "dev", c"mode=755,size=65536k"),
    (
        "devpts",
        "dev/pts",
        c"newinstance,ptmxmode=0666,mode=0620,gid=5",
    ),
    ("tmpfs", "dev/shm", c"mode=1777,size=65536k"),
    ("mqueue", "dev/mqueue", c""),
    ("sysfs", "sys", c""),
];
const DEVICES: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "dev/fd"),
    ("/proc/self/fd/0", "dev/stdin"),
    ("/proc/self/fd/1", "dev/stdout"),
    ("/proc/self/fd/2", "dev/stderr"),
    ("pts/ptmx", "dev/ptmx"),
];
const READ_ONLY: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];
const MASKED: &[&str] = &["kcore", "keys", "timer_list", "acpi", "asound"];

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("floor: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let rootfs = args
        .next()
        .context("usage: floor ROOTFS PROGRAM [ARG...]")?;
    let words: Vec<OsString> = args.collect();
    let flags = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWPID | NEWNET;
    let child = sys::process::spawn(flags, None, || match start(Path::new(&rootfs), &words) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("floor: {error:#}");
            127
        }
    })?;
    let exit = sys::process::wait(child.pidfd.as_fd())?;
    Ok(ExitCode::from(exit.code() as u8))
}

/// Runs as the first process of the namespaces.
fn start(rootfs: &Path, words: &[OsString]) -> Result<std::convert::Infallible> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("make mounts private")?;
    mount_bind(rootfs, rootfs).context("bind the root")?;
    std::env::set_current_dir(rootfs)?;
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for &(kind, target, options) in MOUNTS {
        if !Path::new(target).exists() {
            std::fs::create_dir(target).with_context(|| format!("make {target}"))?;
        }
        let flags = if kind == "devpts" || target == "dev" {
            MountFlags::NOSUID
        } else {
            safe
        };
        mount(kind, target, kind, flags, options).with_context(|| format!("mount {target}"))?;
    }
    devices()?;
    // The old root ends up above the new one and is taken off.
    rustix::process::pivot_root(".", ".").context("pivot")?;
    unmount(".", UnmountFlags::DETACH).context("unmount the old root")?;
    std::env::set_current_dir("/")?;
    for name in READ_ONLY
        .iter()
        .filter(|name| Path::new("/proc").join(name).exists())
    {
        let path = Path::new("/proc").join(name);
        mount_bind(&path, &path)?;
        mount_remount(&path, MountFlags::BIND | MountFlags::RDONLY, c"")?;
    }
    for name in MASKED {
        let path = Path::new("/proc").join(name);
        if path.is_dir() {
            mount("tmpfs", &path, "tmpfs", MountFlags::RDONLY, c"")?;
        } else if path.exists() {
            mount_bind("/dev/null", &path)?;
        }
    }
    mount_remount("/", MountFlags::BIND | MountFlags::RDONLY, c"")
        .context("make the root read-only")?;
    rustix::system::sethostname(b"floor")?;
    let (program, args) = words.split_first().context("no program to run")?;
    Err(Command::new(program).args(args).env_clear().exec()).context("execute")
}

fn devices() -> Result<()> {
    for &(name, major, minor) in DEVICES {
        let path = format!("dev/{name}");
        let mode = Mode::from_raw_mode(0o666);
        mknodat(
            rustix::fs::CWD,
            path,
            FileType::CharacterDevice,
            mode,
            makedev(major, minor),
        )
        .with_context(|| format!("make {name}"))?;
    }
    for &(target, path) in LINKS {
        std::os::unix::fs::symlink(target, path).with_context(|| format!("link {path}"))?;
    }
    Ok(())
}
