//! Groups of the real kernel, below the caller's own ones.

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::stats::Stats;
use super::*;

/// A group that is removed with all its processes when the test ends, also when it fails.
struct Group(Cgroup);

impl Group {
    fn create(name: &str, resources: &str) -> Result<Self> {
        let id = format!("corten-test-{name}-{}", std::process::id());
        Cgroup::create(None, &id, Some(&parse(resources)), false).map(Self)
    }

    /// Returns a group of v2 where the host's hierarchy of it has controllers or not.
    fn unified(name: &str) -> Option<Self> {
        let host = Host::read().unwrap();
        let id = format!("corten-test-{name}-{}", std::process::id());
        let mut paths = host.paths(Path::new(&id)).unwrap();
        let path = paths.remove(UNIFIED).or_else(|| {
            eprintln!("SKIP: no cgroup v2 is mounted");
            None
        })?;
        v2::create(&path, host.root(UNIFIED)).unwrap();
        Some(Self(Cgroup {
            version: Version::V2,
            paths: BTreeMap::from([(UNIFIED.to_owned(), path)]),
            unit: None,
            rootless: false,
        }))
    }

    fn file(&self, controller: &str, name: &str) -> String {
        let path = self.0.folder(controller).unwrap().join(name);
        std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{path:?}: {error}"))
            .trim()
            .to_owned()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.0.kill_all(9);
        let removed = self.0.remove();
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

fn parse(resources: &str) -> LinuxResources {
    serde_json::from_str(resources).unwrap()
}

/// A process that is killed when the test ends.
struct Process(Child);

impl Process {
    fn run(program: &str, arguments: &[&str]) -> Self {
        Self(Command::new(program).args(arguments).spawn().unwrap())
    }

    fn sleeping() -> Self {
        Self::run("sleep", &["60"])
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    fn signal_that_ended_it(&mut self) -> Option<i32> {
        self.0.wait().unwrap().signal()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reports whether the host has v1's controllers; a test of them says so if not.
fn has_v1() -> bool {
    let v1 = Host::read().unwrap().version() == Version::V1;
    if !v1 {
        eprintln!("SKIP: the host has no cgroup v1");
    }
    v1
}

const DOCKER: &str = r#"{
    "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"}],
    "memory": {"limit": 67108864, "reservation": 33554432, "swap": 134217728, "swappiness": 10, "disableOOMKiller": false},
    "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
    "pids": {"limit": 50},
    "blockIO": {"weight": 0}
}"#;

#[test]
fn limits_are_set_before_anything_joins() {
    if !has_v1() {
        return;
    }
    let group = Group::create("limits", DOCKER).unwrap();
    for (controller, file, value) in [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("memory", "memory.memsw.limit_in_bytes", "134217728"),
        ("memory", "memory.swappiness", "10"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("pids", "pids.max", "50"),
    ] {
        assert_eq!(group.file(controller, file), value, "{file}");
    }
    assert!(!group.file("cpuset", "cpuset.mems").is_empty());
    let devices = group.file("devices", "devices.list");
    assert!(
        !devices.lines().any(|line| line.starts_with('a')),
        "{devices}"
    );
    for entry in [
        "c 1:5 rwm",
        "c 1:3 rwm",
        "c *:* m",
        "b *:* m",
        "c 136:* rwm",
    ] {
        assert!(
            devices.lines().any(|line| line == entry),
            "{entry} in {devices}"
        );
    }
}

#[test]
fn without_rules_no_device_but_the_usual_ones_can_be_opened() {
    if !has_v1() {
        return;
    }
    let group = Group::create("no-rules", "{}").unwrap();
    let devices = group.file("devices", "devices.list");
    assert!(!devices.contains("a *:*"), "{devices}");
    assert_eq!(devices.lines().count(), 11, "{devices}");
}

#[test]
fn processes_join_are_listed_freeze_and_die() {
    if !has_v1() {
        return;
    }
    let group = Group::create("life", "{}").unwrap();
    let mut process = Process::sleeping();
    group.0.join(process.pid()).unwrap();
    assert_eq!(group.0.pids().unwrap(), [process.pid()]);

    assert!(!group.0.is_frozen().unwrap());
    group.0.freeze().unwrap();
    assert!(group.0.is_frozen().unwrap());
    group.0.thaw().unwrap();
    assert!(!group.0.is_frozen().unwrap());

    group.0.kill_all(9).unwrap();
    assert_eq!(process.signal_that_ended_it(), Some(9));
}

#[test]
fn a_frozen_group_can_be_killed() {
    if !has_v1() {
        return;
    }
    let group = Group::create("frozen", "{}").unwrap();
    let mut process = Process::sleeping();
    group.0.join(process.pid()).unwrap();
    group.0.freeze().unwrap();
    group.0.kill_all(9).unwrap();
    assert_eq!(process.signal_that_ended_it(), Some(9));
}

#[test]
fn a_group_with_processes_is_not_taken_over() {
    if !has_v1() {
        return;
    }
    let group = Group::create("occupied", "{}").unwrap();
    let process = Process::sleeping();
    group.0.join(process.pid()).unwrap();
    let error = Group::create("occupied", "{}").map(|_| ()).unwrap_err();
    assert!(
        format!("{error:#}").contains("not empty: 1 process(es)"),
        "{error:#}"
    );
    assert!(group.0.exists());
}

#[test]
fn memory_and_swap_grow_and_shrink_in_any_order() {
    if !has_v1() {
        return;
    }
    let group = Group::create("memory", "{}").unwrap();
    const MB: i64 = 1 << 20;
    for (limit, swap) in [
        (64, 128),
        (256, 512),
        (32, 32),
        (32, 64),
        (-1, -1),
        (64, 64),
    ] {
        let bytes = |megabytes| if megabytes < 0 { -1 } else { megabytes * MB };
        let resources = format!(
            r#"{{"memory": {{"limit": {}, "swap": {}}}}}"#,
            bytes(limit),
            bytes(swap)
        );
        group.0.update(&parse(&resources)).unwrap();
        if limit > 0 {
            assert_eq!(
                group.file("memory", "memory.limit_in_bytes"),
                bytes(limit).to_string()
            );
            assert_eq!(
                group.file("memory", "memory.memsw.limit_in_bytes"),
                bytes(swap).to_string()
            );
        }
    }
}

#[test]
fn an_update_leaves_what_it_does_not_name() {
    if !has_v1() {
        return;
    }
    let group = Group::create("update", DOCKER).unwrap();
    let devices = group.file("devices", "devices.list");
    group
        .0
        .update(&parse(r#"{"pids": {"limit": -1}, "cpu": {"quota": -1}}"#))
        .unwrap();
    assert_eq!(group.file("pids", "pids.max"), "max");
    assert_eq!(group.file("cpu", "cpu.cfs_quota_us"), "-1");
    assert_eq!(group.file("cpu", "cpu.shares"), "512");
    assert_eq!(group.file("memory", "memory.limit_in_bytes"), "67108864");
    assert_eq!(group.file("devices", "devices.list"), devices);
}

#[test]
fn limits_that_can_not_be_set_are_errors_and_leave_nothing() {
    if !has_v1() {
        return;
    }
    for (resources, message) in [
        (
            r#"{"cpu": {"shares": 1}}"#,
            "minimum allowed cpu-shares is 2",
        ),
        (
            r#"{"memory": {"swappiness": 101}}"#,
            "invalid memory swappiness value",
        ),
        (
            r#"{"unified": {"memory.max": "1"}}"#,
            "cannot use unified on cgroup v1",
        ),
        (
            r#"{"devices": [{"allow": true, "type": "c"}]}"#,
            "device access at 0",
        ),
        (r#"{"cpu": {"cpus": "99"}}"#, "cpuset.cpus"),
    ] {
        let error = Group::create("refused", resources).map(|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains(message), "{error:#}");
        let host = Host::read().unwrap();
        let id = format!("corten-test-refused-{}", std::process::id());
        for path in host.paths(Path::new(&id)).unwrap().values() {
            assert!(!path.exists(), "{path:?} is left");
        }
    }
}

#[test]
fn a_saved_group_is_the_same_one() {
    if !has_v1() {
        return;
    }
    let group = Group::create("saved", "{}").unwrap();
    let saved = serde_json::to_string(&group.0).unwrap();
    let loaded: Cgroup = serde_json::from_str(&saved).unwrap();
    assert_eq!(loaded, group.0);
    assert!(loaded.exists());
}

#[test]
fn groups_that_the_container_made_are_counted_and_removed() {
    if !has_v1() {
        return;
    }
    let group = Group::create("nested", "{}").unwrap();
    let process = Process::sleeping();
    for path in group.0.paths().values() {
        std::fs::create_dir_all(path.join("a/b")).unwrap();
    }
    let devices = group.0.paths()["devices"].join("a/b/cgroup.procs");
    std::fs::write(devices, process.pid().to_string()).unwrap();
    assert_eq!(group.0.pids().unwrap(), [process.pid()]);
    drop(process);
    group.0.remove().unwrap();
    assert!(!group.0.exists());
    group.0.remove().unwrap();
}

#[test]
fn use_is_counted() {
    if !has_v1() {
        return;
    }
    let group = Group::create("stats", DOCKER).unwrap();
    // Not a shell that reads: its stdin may be at its end, and then so is the shell.
    let mut process = Process::sleeping();
    group.0.join(process.pid()).unwrap();
    let Stats::V1(metrics) = group.0.stats().unwrap() else {
        panic!("not of v1");
    };
    let pids = metrics.pids.unwrap();
    assert_eq!((pids.current, pids.limit), (1, 50));
    let memory = metrics.memory.unwrap();
    assert_eq!(memory.usage.limit, 67_108_864);
    assert_eq!(memory.stat["hierarchical_memory_limit"], 67_108_864);
    assert_eq!(memory.swap.unwrap().limit, 134_217_728);
    let cpu = metrics.cpu.unwrap();
    assert!(cpu.per_cpu.iter().sum::<u64>() <= cpu.total);
    assert_eq!(metrics.memory_oom_control.unwrap().under_oom, 0);
    let _ = process.0.kill();
}

#[test]
fn a_process_that_is_killed_for_memory_is_told_of() {
    if !has_v1() {
        return;
    }
    let group = Group::create("oom", r#"{"memory": {"limit": 8388608, "swap": 8388608}}"#).unwrap();
    let mut watch = group.0.oom_watch().unwrap();
    assert!(!watch.take().unwrap());
    let mut process = Process::run(
        "sh",
        &["-c", "sleep 0.3; head -c 100m /dev/zero | tail >/dev/null"],
    );
    group.0.join(process.pid()).unwrap();
    let mut fds = [PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)).unwrap(), 1);
    assert!(watch.take().unwrap());
    let _ = process.0.wait();
}

#[test]
fn v2_freezes_and_kills_at_once() {
    let Some(group) = Group::unified("v2") else {
        return;
    };
    let mut process = Process::run("sh", &["-c", "sleep 60; true"]);
    group.0.join(process.pid()).unwrap();
    group.0.freeze().unwrap();
    assert!(group.0.is_frozen().unwrap());
    group.0.thaw().unwrap();
    assert!(!group.0.is_frozen().unwrap());
    assert!(group.0.entrance().unwrap().clone_fd().is_some());
    let Stats::V2(metrics) = group.0.stats().unwrap() else {
        panic!("not of v2");
    };
    assert!(metrics.pids.unwrap().current >= 1);
    group.0.kill_all(9).unwrap();
    assert_eq!(process.signal_that_ended_it(), Some(9));
}

#[test]
fn the_program_of_v2_allows_what_v1s_lists_allow() {
    let Some(group) = Group::unified("v2-devices") else {
        return;
    };
    let opens = |device: &str, write: bool| {
        let script = format!(
            "echo $$ > {}/cgroup.procs; exec 3{}{device}",
            group.0.folder(UNIFIED).unwrap().display(),
            if write { ">" } else { "<" }
        );
        let status = Command::new("sh")
            .args(["-c", &script])
            .stderr(std::process::Stdio::null())
            .status();
        status.unwrap().success()
    };
    let set = |rules: &str| {
        let resources = parse(&format!(r#"{{"devices": [{rules}]}}"#));
        let dir = Dir::open(group.0.folder(UNIFIED).unwrap()).unwrap();
        devices::apply_v2(&dir, resources.devices().as_deref().unwrap()).unwrap();
        let fd = dir.file(".", rustix::fs::OFlags::RDONLY).unwrap();
        assert_eq!(sys::bpf::DeviceProgram::attached(&fd).unwrap().len(), 1);
    };
    assert!(opens("/dev/kmsg", false));
    set(r#"{"allow": false, "access": "rwm"}"#);
    assert!(opens("/dev/zero", true), "the usual devices");
    assert!(!opens("/dev/kmsg", false), "not in the list");
    set(
        r#"{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}"#,
    );
    assert!(opens("/dev/kmsg", false), "read is allowed");
    assert!(!opens("/dev/kmsg", true), "write is not");
    set(r#"{"allow": true, "access": "rwm"}"#);
    assert!(opens("/dev/kmsg", true), "all is allowed");
    set(
        r#"{"allow": true, "access": "rwm"}, {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "w"}"#,
    );
    assert!(opens("/dev/kmsg", false), "read is not denied");
    assert!(!opens("/dev/kmsg", true), "write is");
}

#[test]
fn removal_waits_for_processes_that_are_exiting() {
    if !has_v1() {
        return;
    }
    let group = Group::create("exiting", "{}").unwrap();
    let process = Process::run("sleep", &["0.2"]);
    group.0.join(process.pid()).unwrap();
    let reaper = std::thread::spawn(move || drop_after_exit(process));
    let start = Instant::now();
    group.0.remove().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
    reaper.join().unwrap();
}

fn drop_after_exit(mut process: Process) {
    let _ = process.0.wait();
}
