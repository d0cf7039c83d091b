//! The runtime where callers come to its edges: each case holds for runc too, or it is a wrong case.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tests::{Bundle, Runtime, skip};

/// Runs a case with ours and with runc.
fn each(case: impl Fn(Bundle)) {
    for runtime in Runtime::both() {
        case(Bundle::new(&runtime));
    }
}

/// Takes away the container's namespace of this kind.
fn without_namespace(bundle: &mut Bundle, kind: &str) {
    let namespaces = bundle.config.pointer_mut("/linux/namespaces");
    let namespaces = namespaces.and_then(Value::as_array_mut);
    namespaces
        .expect("there are namespaces")
        .retain(|one| one["type"] != kind);
}

#[test]
fn a_process_of_json_may_leave_out_who_it_is() {
    each(|mut bundle| {
        bundle.stay();
        let process = json!({
            "args": ["/bin/sh", "-c", "id -u"], "cwd": "/",
            "scheduler": {"policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        });
        fs::write(bundle.path().join("process.json"), process.to_string()).expect("write");
        let id = bundle.id().to_owned();
        let ran = bundle.runtime(&["exec", "--process", "process.json", &id]);
        assert_eq!(ran.ok(), "0\n");
    });
}

#[test]
fn a_further_process_joins_groups_below_the_containers() {
    if !Path::new("/sys/fs/cgroup/pids").exists() {
        skip!("groups for each controller are those of version 1");
    }
    each(|mut bundle| {
        without_namespace(&mut bundle, "cgroup");
        bundle.stay();
        let id = bundle.id().to_owned();
        let exec = |group: &str| {
            let args = ["exec", "--cgroup", group, &id, "cat", "/proc/self/cgroup"];
            bundle.runtime(&args)
        };
        let below = Path::new("/sys/fs/cgroup/pids").join(&id).join("below");
        fs::create_dir(&below).expect("make a group");
        let groups = exec("pids:below").ok();
        let in_group = |line: &str| groups.lines().any(|other| other.ends_with(line));
        assert!(in_group(&format!(":pids:/{id}/below")), "{groups}");
        assert!(in_group(&format!(":memory:/{id}")), "{groups}");
        for (group, reason) in [
            ("..", "sub cgroup path"),
            ("cpu:missing", "no such file or directory"),
            ("frob:/", "unknown controller"),
            (":a", "empty <controller> prefix"),
        ] {
            let refused = exec(group).refused();
            assert!(refused.contains(reason), "{group}: {refused}");
        }
    });
}

#[test]
fn hooks_have_the_folder_and_the_environment_that_runc_gives_them() {
    each(|mut bundle| {
        let hook = |script: &str| json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
        bundle.push("/hooks/createContainer", hook("echo here > work/created"));
        bundle.push(
            "/hooks/startContainer",
            hook("echo $A $HOME > /work/started"),
        );
        bundle.set("/process/env", json!(["PATH=/bin", "A=1"]));
        bundle.sh("true").ok();
        let work = bundle.rootfs().join("work");
        let read = |name| fs::read_to_string(work.join(name)).expect("the hook ran");
        assert_eq!(read("created"), "here\n");
        assert_eq!(read("started"), "1 /root\n");
    });
}

#[test]
fn a_profile_holds_for_the_hook_before_the_program_too() {
    each(|mut bundle| {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
        });
        bundle.set("/linux/seccomp", profile);
        let hook = json!({"path": "/bin/mkdir", "args": ["mkdir", "/made"]});
        bundle.push("/hooks/startContainer", hook);
        assert_ne!(bundle.sh("true").code, Some(0));
        assert!(!bundle.rootfs().join("made").exists());
    });
}

#[test]
fn a_profile_may_forbid_what_the_runtime_itself_uses() {
    each(|mut bundle| {
        let names = [
            "close_range",
            "openat2",
            "fsopen",
            "open_tree",
            "move_mount",
            "mount_setattr",
        ];
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 38}],
        });
        bundle.set("/linux/seccomp", profile);
        bundle.set("/process/noNewPrivileges", json!(false));
        bundle.sh("true").ok();
    });
}

#[test]
fn a_kill_without_pids_of_the_containers_own_is_one_of_all() {
    each(|mut bundle| {
        without_namespace(&mut bundle, "pid");
        bundle.stay();
        let id = bundle.id().to_owned();
        bundle
            .runtime(&["exec", "-d", "--pid-file", "pid", &id, "sleep", "600"])
            .ok();
        let pid = fs::read_to_string(bundle.path().join("pid")).expect("a pid file");
        bundle.runtime(&["kill", &id, "KILL"]).ok();
        tests::eventually("the other one has ended", tests::command::LIMIT, || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let alive = status
                .lines()
                .any(|line| line.starts_with("State:") && !line.contains('Z'));
            (!alive).then_some(())
        });
    });
}

#[test]
fn a_container_that_waits_to_be_started_can_be_told_to_end() {
    each(|mut bundle| {
        let id = bundle.id().to_owned();
        bundle.args(&["/bin/true"]);
        bundle.runtime(&["create", &id]).ok();
        bundle.runtime(&["kill", &id]).ok();
        tests::eventually("it has stopped", tests::command::LIMIT, || {
            (bundle.state()["status"] == "stopped").then_some(())
        });
    });
}

#[test]
fn a_mount_goes_where_links_lead_that_lead_to_nothing() {
    each(|mut bundle| {
        let rootfs = bundle.rootfs();
        std::os::unix::fs::symlink("/tmp/far", rootfs.join("jump")).expect("link");
        std::os::unix::fs::symlink("/jump/hosts", rootfs.join("etc/hosts")).expect("link");
        fs::write(bundle.path().join("hosts"), "mounted\n").expect("write");
        let source = bundle.path().join("hosts");
        let mount =
            |target: &str| json!({"destination": target, "source": source, "options": ["bind"]});
        bundle.push("/mounts", mount("/etc/hosts"));
        // A folder of the host in the root file system is meant as that of the container.
        bundle.push(
            "/mounts",
            mount(&rootfs.join("other").display().to_string()),
        );
        assert_eq!(
            bundle.sh("cat /tmp/far/hosts /other").ok(),
            "mounted\nmounted\n"
        );
    });
}

#[test]
fn a_masked_path_is_masked_once() {
    // Debian's runc masks it twice; upstream's does not since 1.4.
    let mut bundle = Bundle::new(&Runtime::ours());
    bundle.push("/linux/maskedPaths", json!("/work"));
    bundle.push("/linux/maskedPaths", json!("/work"));
    assert_eq!(bundle.sh("grep -c ' /work ' /proc/mounts").ok(), "1\n");
}

#[test]
fn devices_can_be_read_only_with_a_terminal() {
    each(|mut bundle| {
        bundle.push("/mounts/1/options", json!("ro"));
        bundle.set("/process/terminal", json!(true));
        let script = "touch /dev/x 2>/dev/null || echo refused";
        bundle.args(&["/bin/sh", "-c", script]);
        let id = bundle.id().to_owned();
        let command = bundle.command(&["run", &id]);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        let mut in_terminal = std::process::Command::new("script");
        in_terminal
            .args(["-qec", &line.join(" "), "/dev/null"])
            .current_dir(bundle.path());
        let shown = tests::command::run(&mut in_terminal).ok();
        assert!(shown.contains("refused"), "{shown:?}");
    });
    // A newline comes as the program prints it: it is for the outer terminal to make more of it.
    let mut bundle = Bundle::new(&Runtime::ours());
    bundle.set("/process/terminal", json!(true));
    assert_eq!(bundle.sh("echo a").ok(), "a\n");
}

#[test]
fn clocks_are_set_in_a_user_namespace_too() {
    each(|mut bundle| {
        bundle.push("/linux/namespaces", json!({"type": "time"}));
        bundle.push("/linux/namespaces", json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        bundle.set("/linux/uidMappings", map.clone());
        bundle.set("/linux/gidMappings", map);
        let offsets =
            json!({"monotonic": {"secs": 7881, "nanosecs": 5}, "boottime": {"secs": 1337}});
        bundle.set("/linux/timeOffsets", offsets);
        for path in [bundle.path().to_owned(), bundle.rootfs()] {
            std::os::unix::fs::chown(&path, Some(100_000), Some(100_000)).expect("chown");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&path, mode).expect("chmod");
        }
        let script = "while read -r clock secs nanosecs; do echo $clock $secs $nanosecs; done \
            < /proc/self/timens_offsets";
        let shown = bundle.sh(script).ok();
        assert_eq!(shown, "monotonic 7881 5\nboottime 1337 0\n");
    });
}

#[test]
fn a_group_that_is_frozen_is_refused() {
    if !Path::new("/sys/fs/cgroup/freezer").exists() {
        skip!("the file is that of version 1");
    }
    each(|mut bundle| {
        let group = Path::new("/sys/fs/cgroup/freezer").join(bundle.id());
        fs::create_dir(&group).expect("make a group");
        fs::write(group.join("freezer.state"), "FROZEN").expect("freeze it");
        bundle.sh("true").refused();
        let last = bundle.log().pop().unwrap_or_default();
        assert!(
            last.contains("container's cgroup unexpectedly frozen"),
            "{last}"
        );
        // A runtime that fails may leave it, or not.
        let _ = fs::remove_dir(&group);
    });
}

#[test]
fn capabilities_that_cannot_be_ambient_are_warned_of() {
    each(|mut bundle| {
        bundle.set("/process/capabilities/inheritable", json!(["CAP_KILL"]));
        bundle.set(
            "/process/capabilities/ambient",
            json!(["CAP_KILL", "CAP_CHOWN"]),
        );
        let shown = bundle.sh("grep CapAmb /proc/self/status").ok();
        assert_eq!(shown, "CapAmb:\t0000000000000020\n");
        let warned = "can't raise ambient capability CAP_CHOWN: ";
        assert!(bundle.log().iter().any(|line| line.starts_with(warned)));
    });
}

#[test]
fn statistics_are_printed_until_the_container_ends() {
    each(|mut bundle| {
        bundle.stay();
        let id = bundle.id().to_owned();
        let lines = bundle.path().join("events");
        let mut events = bundle
            .command(&["events", "--interval", "100ms", &id])
            .stdout(fs::File::create(&lines).expect("make a file"))
            .spawn()
            .expect("start events");
        let start = format!("{{\"type\":\"stats\",\"id\":{id:?},\"data\":{{");
        tests::eventually("there are two lines", tests::command::LIMIT, || {
            let lines = fs::read_to_string(&lines).expect("read the lines");
            let wrong = lines.lines().find(|line| !line.starts_with(&start));
            assert_eq!(wrong, None);
            (lines.lines().count() > 1).then_some(())
        });
        bundle.runtime(&["delete", "--force", &id]).ok();
        assert!(events.wait().expect("wait for events").success());
    });
}

#[test]
fn sizes_of_memory_have_units() {
    let v1 = Path::new("/sys/fs/cgroup/memory").exists();
    each(|mut bundle| {
        bundle.stay();
        let id = bundle.id().to_owned();
        bundle.runtime(&["update", "--memory", "50M", &id]).ok();
        let limit = match v1 {
            true => bundle.cgroup("memory", "memory.limit_in_bytes"),
            false => bundle.cgroup("", "memory.max"),
        };
        assert_eq!(limit, "52428800");
    });
}

#[test]
fn a_process_is_not_kept_to_the_processors_of_its_caller() {
    let all = fs::read_to_string("/proc/self/status").expect("read own status");
    let all = all
        .lines()
        .find(|line| line.starts_with("Cpus_allowed_list:"));
    let all = all.expect("the kernel tells");
    if all.ends_with("\t0") {
        skip!("there is one processor");
    }
    each(|mut bundle| {
        bundle.args(&["/bin/grep", "Cpus_allowed_list", "/proc/self/status"]);
        let id = bundle.id().to_owned();
        let command = bundle.command(&["run", &id]);
        let mut pinned = std::process::Command::new("taskset");
        pinned
            .args(["-c", "0"])
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(bundle.path());
        let shown = tests::command::run(&mut pinned).ok();
        assert_eq!(shown.trim_end(), all);
    });
}

#[test]
fn a_state_folder_that_is_not_there_is_a_mistake() {
    each(|bundle| {
        bundle.runtime(&["list"]).refused();
    });
}

#[test]
fn memory_comes_from_the_nodes_of_the_policy() {
    if !Path::new("/proc/self/numa_maps").exists() {
        skip!("the kernel knows no memory nodes");
    }
    // Debian's runc does not know of it yet.
    let mut bundle = Bundle::new(&Runtime::ours());
    let policy = json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    bundle.set("/linux/memoryPolicy", policy);
    let shown = bundle
        .sh("head -n 1 /proc/self/numa_maps | cut -d ' ' -f 2")
        .ok();
    assert_eq!(shown, "bind=static:0\n");
    bundle.set(
        "/linux/memoryPolicy",
        json!({"mode": "MPOL_DEFAULT", "nodes": "0-7"}),
    );
    bundle.sh("true").refused();
    let last = bundle.log().pop().unwrap_or_default();
    assert!(last.contains("mode requires 0 nodes but got 8"), "{last}");
}

#[test]
fn a_root_moved_over_the_hosts_leaves_no_other_proc() {
    each(|mut bundle| {
        // What is masked in the container's own can be mounted afresh only where one is seen whole.
        let script = "busybox unshare -mrpf busybox mount -t proc none /work";
        bundle.args(&["/bin/sh", "-c", script]);
        let id = bundle.id().to_owned();
        let refused = bundle.runtime(&["run", "--no-pivot", &id]).refused();
        assert!(refused.contains("ermission denied"), "{refused}");
    });
}

#[test]
fn letters_that_are_no_access_to_a_device_are_passed_over() {
    each(|mut bundle| {
        let rule = json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": "ra"});
        bundle.push("/linux/resources/devices", rule);
        let kmsg = json!({"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11});
        bundle.push("/linux/devices", kmsg);
        for set in ["bounding", "permitted", "effective"] {
            // The kernel may keep its log from all others.
            let set = format!("/process/capabilities/{set}");
            bundle.push(&set, json!("CAP_SYSLOG"));
        }
        let script = "(: < /dev/kmsg) && echo read; (: > /dev/kmsg) 2>/dev/null || echo refused";
        assert_eq!(bundle.sh(script).ok(), "read\nrefused\n");
    });
}

#[test]
fn a_container_with_a_shared_root_takes_no_mount_of_the_host_along() {
    each(|mut bundle| {
        bundle.set("/linux/rootfsPropagation", json!("shared"));
        bundle.args(&["/bin/true"]);
        let id = bundle.id().to_owned();
        // In a mount namespace of its own, with a shared mount and one below it, as dockerd's folder is.
        let script = "mkdir top && mount -t tmpfs top top && mount --make-shared top && mkdir top/below \
            && mount -t tmpfs below top/below && \"$@\" && grep -c /top/below /proc/self/mountinfo";
        assert_eq!(bundle.script(script, &["run", &id]).ok(), "1\n");
    });
}

#[test]
fn what_a_container_mounts_in_a_shared_mount_is_the_hosts_too() {
    each(|mut bundle| {
        bundle.set("/linux/rootfsPropagation", json!("rshared"));
        let source = bundle.path().join("top");
        let shared =
            json!({"destination": "/work", "source": source, "options": ["rbind", "rshared"]});
        bundle.push("/mounts", shared);
        for set in ["bounding", "permitted", "effective"] {
            let set = format!("/process/capabilities/{set}");
            bundle.push(&set, json!("CAP_SYS_ADMIN"));
        }
        bundle.args(&["/bin/mount", "-t", "tmpfs", "inside", "/work/inside"]);
        let id = bundle.id().to_owned();
        let script = "mkdir -p top/inside && mount --bind top top && mount --make-shared top && \
            \"$@\" && grep -c /top/inside /proc/self/mountinfo";
        assert_eq!(bundle.script(script, &["run", &id]).ok(), "1\n");
    });
}

#[test]
fn a_bind_mount_that_names_a_flag_has_no_others() {
    each(|mut bundle| {
        let mount = |target: &str, options: &[&str]| {
            let source = format!("{}/dev/shm", bundle.rootfs().display());
            json!({"destination": target, "source": source, "options": options})
        };
        // The container's own mount is nosuid, nodev and noexec.
        let mounts = [
            mount("/work", &["bind"]),
            mount("/tmp", &["bind", "ro"]),
            mount("/root", &["bind", "dev", "noatime"]),
        ];
        for mount in mounts {
            bundle.push("/mounts", mount);
        }
        let script =
            "for at in /work /tmp /root; do grep \" $at \" /proc/mounts | cut -d ' ' -f 4; done";
        let shown = bundle.sh(script).ok();
        let starts = [
            "rw,nosuid,nodev,noexec,relatime",
            "ro,relatime",
            "rw,noatime",
        ];
        for (line, start) in shown.lines().zip(starts) {
            assert!(line.starts_with(start), "{shown}");
        }
        assert_eq!(shown.lines().count(), starts.len());
    });
}
