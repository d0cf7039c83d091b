//! What the kernel can do: each thing is tried where that changes nothing, and read where it would.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::FsOpenFlags;
use sys::attach::{self, Change};

use super::{Finding, Severity, read};

const AREA: &str = "kernel";
const CGROUPS: &str = "cgroups";
/// The controllers without which limits that clients ask for cannot be set.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// Looks at the kernel and at control groups.
pub fn findings() -> Vec<Finding> {
    let mut findings = vec![
        version(),
        overlay(),
        user_namespaces(),
        seccomp(),
        tried(
            "openat2",
            open_beneath(),
            "5.6",
            "paths are walked step by step, which is slower",
        ),
        tried("pidfd", pidfd(), "5.3", ""),
        tried(
            "the new mount API",
            tree(),
            "5.2",
            "mounts are made by path",
        ),
        tried(
            "mounts with mapped owners",
            mapped(),
            "5.12",
            "user namespaces need copies of images with other owners",
        ),
    ];
    findings.extend(cgroups());
    findings
}

fn version() -> Finding {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let numbers = numbers(&release);
    let what = format!("Linux {release}");
    match numbers {
        Some(version) if version < (5, 3) => Finding::new(
            Severity::Failure,
            AREA,
            what,
            "corten needs Linux 5.3 or newer",
        ),
        Some(version) if version < (5, 12) => Finding::new(
            Severity::Note,
            AREA,
            what,
            "5.12 or newer has all that is made use of",
        ),
        _ => Finding::fine(AREA, what),
    }
}

/// Returns the first two numbers of a release such as `6.1.0-18-amd64`.
fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|char: char| !char.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn overlay() -> Finding {
    let listed = read("/proc/filesystems").is_some_and(|all| {
        let mut names = all.lines().filter_map(|line| line.split('\t').nth(1));
        names.any(|name| name == "overlay")
    });
    // This has the kernel load the module.
    let opened = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC);
    match (listed, opened) {
        (true, _) | (_, Ok(_)) => Finding::fine(AREA, "overlay file systems"),
        (false, Err(errno)) => Finding::new(
            Severity::Warning,
            AREA,
            format!("no overlay file systems: {errno}"),
            "`modprobe overlay`, and put it into /etc/modules-load.d; or use the snapshotter native",
        ),
    }
}

fn user_namespaces() -> Finding {
    let most = read("/proc/sys/user/max_user_namespaces");
    match most.as_deref() {
        None => Finding::new(
            Severity::Warning,
            AREA,
            "no user namespaces",
            "containers and pods that ask for one fail; it needs CONFIG_USER_NS",
        ),
        Some("0") => Finding::new(
            Severity::Warning,
            AREA,
            "user namespaces are switched off",
            "`sysctl -w user.max_user_namespaces=15000`",
        ),
        Some(_) => Finding::fine(AREA, "user namespaces"),
    }
}

fn seccomp() -> Finding {
    let actions = read("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let lacks = |action: &&str| !actions.split(' ').any(|has| has == *action);
    let lacking: Vec<&str> = ["kill_process", "errno", "user_notif"]
        .into_iter()
        .filter(lacks)
        .collect();
    match lacking.as_slice() {
        [] => Finding::fine(AREA, "filters of system calls (seccomp)"),
        _ if actions.is_empty() => Finding::new(
            Severity::Failure,
            AREA,
            "no filters of system calls (seccomp)",
            "it needs CONFIG_SECCOMP_FILTER; without it only --privileged containers start",
        ),
        _ => Finding::new(
            Severity::Warning,
            AREA,
            format!("seccomp lacks {}", lacking.join(" and ")),
            "profiles that use it fail; a newer kernel has it",
        ),
    }
}

/// Returns what a try has shown of a feature that kernels have from version `since` on.
fn tried(feature: &str, tried: Result<(), Errno>, since: &str, without: &str) -> Finding {
    match tried {
        Ok(()) => Finding::fine(AREA, feature),
        Err(Errno::PERM) => Finding::new(
            Severity::Note,
            AREA,
            format!("{feature}: only root can find out"),
            "run `corten doctor` as root",
        ),
        Err(errno) if without.is_empty() => Finding::new(
            Severity::Failure,
            AREA,
            format!("no {feature}: {errno}"),
            format!("Linux {since} has it"),
        ),
        Err(errno) => Finding::new(
            Severity::Note,
            AREA,
            format!("no {feature}: {errno}"),
            format!("Linux {since} has it; without it {without}"),
        ),
    }
}

fn open_beneath() -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(CWD, ".", flags, Mode::empty(), within).map(drop)
}

fn pidfd() -> Result<(), Errno> {
    let own = rustix::process::getpid();
    rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty()).map(drop)
}

/// Clones the mount of the root folder, which nobody sees and which goes with its descriptor.
fn tree() -> Result<(), Errno> {
    attach::clone_tree(CWD, c"/", false).map(drop)
}

fn mapped() -> Result<(), Errno> {
    let tree = attach::clone_tree(CWD, c"/", false)?;
    let unknown = |error: sys::Error| error.errno().unwrap_or(Errno::INVAL);
    let procfs = sys::procfs::Procfs::open().map_err(unknown)?;
    let users = sys::namespace::mapped_user(&procfs, "0 65534 1", "0 65534 1").map_err(unknown)?;
    let change = Change {
        userns: Some(users.as_fd()),
        ..Change::default()
    };
    attach::change(&tree, &change)
}

fn cgroups() -> Vec<Finding> {
    let unified = read("/sys/fs/cgroup/cgroup.controllers");
    match unified {
        Some(controllers) => version_2(&controllers),
        None if Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists() => {
            version_1("version 1, with version 2 beside it for processes")
        }
        None if Path::new("/sys/fs/cgroup/memory/tasks").exists() => version_1("version 1"),
        None => vec![Finding::new(
            Severity::Failure,
            CGROUPS,
            "no control groups are mounted at /sys/fs/cgroup",
            "`mount -t cgroup2 cgroup2 /sys/fs/cgroup`",
        )],
    }
}

fn version_2(controllers: &str) -> Vec<Finding> {
    let has = |name: &str| controllers.split(' ').any(|has| has == name);
    let mut findings = vec![Finding::fine(CGROUPS, "version 2")];
    findings.extend(missing(&has));
    findings
}

fn version_1(what: &str) -> Vec<Finding> {
    let has = |name: &str| {
        // Version 1 has another name for it.
        let name = if name == "io" { "blkio" } else { name };
        Path::new("/sys/fs/cgroup")
            .join(name)
            .join("tasks")
            .exists()
    };
    let mut findings = vec![Finding::new(
        Severity::Note,
        CGROUPS,
        what,
        "version 2 alone is what new software is made for: boot with systemd.unified_cgroup_hierarchy=1",
    )];
    findings.extend(missing(&has));
    findings
}

fn missing(has: &dyn Fn(&str) -> bool) -> Option<Finding> {
    let missing: Vec<&str> = CONTROLLERS.into_iter().filter(|name| !has(name)).collect();
    let enable = match missing.contains(&"memory") {
        true => "; some machines need cgroup_enable=memory on the kernel's command line",
        false => "",
    };
    (!missing.is_empty()).then(|| {
        Finding::new(
            Severity::Warning,
            CGROUPS,
            format!("no controller for {}", missing.join(", ")),
            format!("containers with such limits fail{enable}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_understood() {
        for (release, expected) in [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.4.17", Some((5, 4))),
            ("4.18-rc1", Some((4, 18))),
            ("odd", None),
        ] {
            assert_eq!(numbers(release), expected, "{release}");
        }
    }

    #[test]
    fn what_fails_is_told_apart_from_what_is_forbidden() {
        let finding = |result| tried("it", result, "5.3", "").severity;
        assert_eq!(finding(Ok(())), Severity::Fine);
        assert_eq!(finding(Err(Errno::PERM)), Severity::Note);
        assert_eq!(finding(Err(Errno::NOSYS)), Severity::Failure);
        let slower = tried("it", Err(Errno::NOSYS), "5.3", "all is slow");
        assert_eq!(slower.severity, Severity::Note);
        assert!(slower.advice.contains("all is slow"));
    }

    #[test]
    fn missing_controllers_are_named() {
        assert_eq!(version_2("cpuset cpu io memory hugetlb pids rdma").len(), 1);
        let findings = version_2("cpu pids");
        assert_eq!(findings[1].what, "no controller for cpuset, io, memory");
        assert!(findings[1].advice.contains("cgroup_enable=memory"));
    }
}
