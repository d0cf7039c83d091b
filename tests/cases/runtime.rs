//! The OCI runtime by its command line: each case holds for runc too, or it is a wrong case.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tests::{Bundle, Peers, Runtime, command, skip, vm};

/// Runs a case with ours and with runc.
fn each(case: impl Fn(Bundle)) {
    for runtime in Runtime::both() {
        case(Bundle::new(&runtime));
    }
}

#[test]
fn a_container_goes_through_its_states() {
    each(|mut bundle| {
        let id = bundle.id().to_owned();
        bundle.args(&["/bin/sleep", "600"]);
        bundle.runtime(&["create", "--pid-file", "pid", &id]).ok();
        let state = bundle.state();
        assert_eq!(state["status"], "created");
        assert_eq!(state["id"], json!(id));
        assert_eq!(state["bundle"], json!(bundle.path()));
        let pid = fs::read_to_string(bundle.path().join("pid")).expect("there is a pid file");
        assert_eq!(state["pid"].to_string(), pid);
        let again = bundle.runtime(&["create", &id]).refused();
        assert!(
            again.contains("container with given ID already exists"),
            "{again}"
        );
        bundle.runtime(&["start", &id]).ok();
        assert_eq!(bundle.state()["status"], "running");
        bundle.runtime(&["start", &id]).refused();
        assert_eq!(bundle.runtime(&["list", "-q"]).ok(), format!("{id}\n"));
        let list: Value = serde_json::from_str(&bundle.runtime(&["list", "-f", "json"]).ok())
            .expect("the list is JSON");
        assert_eq!(list[0]["status"], "running");
        assert_eq!(
            bundle.runtime(&["ps", "-f", "json", &id]).ok(),
            format!("[{pid}]\n")
        );
        bundle.runtime(&["delete", &id]).refused();
        bundle.runtime(&["pause", &id]).ok();
        assert_eq!(bundle.state()["status"], "paused");
        bundle.runtime(&["exec", &id, "true"]).refused();
        bundle.runtime(&["resume", &id]).ok();
        bundle.runtime(&["kill", &id, "KILL"]).ok();
        tests::eventually("it has stopped", tests::command::LIMIT, || {
            (bundle.state()["status"] == "stopped").then_some(())
        });
        let refused = bundle.runtime(&["kill", &id, "KILL"]).refused();
        assert!(refused.contains("container not running"), "{refused}");
        bundle.runtime(&["delete", &id]).ok();
        let gone = bundle.runtime(&["state", &id]).refused();
        assert!(gone.contains("does not exist"), "{gone}");
        bundle.runtime(&["delete", "--force", &id]).ok();
    });
}

#[test]
fn a_process_that_ignores_the_pause_runs_once_it_is_over() {
    each(|mut bundle| {
        bundle.stay();
        let id = bundle.id().to_owned();
        bundle.runtime(&["pause", &id]).ok();
        let refused = bundle.runtime(&["exec", &id, "true"]).refused();
        assert!(
            refused.contains("cannot exec in a paused container (use --ignore-paused to override)"),
            "{refused}"
        );
        let mut exec = bundle.command(&["exec", "--ignore-paused", &id, "/bin/sh", "-c", "exit 9"]);
        let mut exec = exec.spawn().expect("start the runtime");
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(exec.try_wait().expect("wait for a child of ours").is_none());
        bundle.runtime(&["resume", &id]).ok();
        assert_eq!(command::wait(&mut exec, command::LIMIT), Some(9));
    });
}

#[test]
fn exit_codes_are_those_of_the_program() {
    each(|mut bundle| {
        assert_eq!(bundle.sh("exit 7").code, Some(7));
        // The first process of a pid namespace cannot kill itself: this is a shell's report of another one's end.
        assert_eq!(bundle.sh("sh -c 'kill -9 $$'; exit $?").code, Some(137));
    });
}

#[test]
fn a_program_that_cannot_run_is_told_of_in_the_words_that_clients_know() {
    for (program, reason) in [
        ("frob", "exec: \"frob\": executable file not found in $PATH"),
        (
            "/frob",
            "exec: \"/frob\": stat /frob: no such file or directory",
        ),
        ("/etc", "exec: \"/etc\": is a directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
    ] {
        each(|mut bundle| {
            bundle.args(&[program]);
            assert_eq!(bundle.run().code, Some(1));
            let expected = format!(
                "runc run failed: unable to start container process: error during container init: {reason}"
            );
            assert_eq!(bundle.log().last(), Some(&expected));
        });
    }
}

#[test]
fn a_process_is_who_the_configuration_says() {
    each(|mut bundle| {
        bundle.set(
            "/process/user",
            json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 1001], "umask": 0o27}),
        );
        bundle.set("/process/env", json!(["PATH=/bin", "A=1", "A=2"]));
        bundle.set("/process/cwd", json!("/new/folder"));
        bundle.set("/process/oomScoreAdj", json!(100));
        let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
        bundle.set("/process/rlimits", limits);
        bundle.set("/domainname", json!("domain"));
        bundle.set("/linux/personality", json!({"domain": "LINUX32"}));
        bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
        let script = "id -u; id -g; id -G; umask; pwd; echo $A $HOME; hostname; ulimit -n; \
            cat /proc/self/oom_score_adj /proc/sys/kernel/domainname /proc/self/personality \
            /proc/sys/net/ipv4/ip_forward; grep -E 'Cap(Inh|Eff|Bnd)|NoNew' /proc/self/status";
        let expected = "1000\n1001\n1001 5\n0027\n/new/folder\n2 /work\nbox\n100\n100\ndomain\n\
            00000008\n1\nCapInh:\t0000000000000000\nCapEff:\t0000000000000000\n\
            CapBnd:\t00000000a80425fb\nNoNewPrivs:\t1\n";
        assert_eq!(bundle.sh(script).ok(), expected);
    });
}

#[test]
fn mounts_have_the_options_they_ask_for() {
    each(|mut bundle| {
        let volume = bundle.path().join("volume");
        fs::create_dir(&volume).expect("make a folder");
        fs::write(volume.join("file"), "text").expect("write a file");
        let full = bundle.rootfs().join("full");
        fs::create_dir(&full).expect("make a folder");
        fs::write(full.join("file"), "below").expect("write a file");
        let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
        for mount in [
            mount("/m/ro", "bind", "volume", &["bind", "ro"]),
            mount(
                "/m/rro",
                "bind",
                "volume",
                &["rbind", "rro", "nosuid", "nodev"],
            ),
            mount("/m/file", "bind", "volume/file", &["bind", "noexec"]),
            mount("/m/shared", "bind", "volume", &["rbind", "rshared"]),
            mount(
                "/m/tmp",
                "tmpfs",
                "tmpfs",
                &["size=1m", "mode=1750", "nosymfollow"],
            ),
            mount("/full", "tmpfs", "tmpfs", &["tmpcopyup", "ro"]),
        ] {
            bundle.push("/mounts", mount);
        }
        let script = "grep -E ' (/m/|/full)' /proc/self/mountinfo | cut -d' ' -f5,6; stat -c %a /m/tmp; \
            cat /m/file /full/file; touch /m/ro/x || touch /m/rro/x || touch /full/x || echo read-only";
        let expected = "/m/ro ro,relatime\n/m/rro ro,nosuid,nodev,relatime\n\
            /m/file rw,noexec,relatime\n/m/shared rw,relatime\n/m/tmp rw,relatime,nosymfollow\n\
            /full ro,relatime\n1750\ntextbelowread-only\n";
        assert_eq!(bundle.sh(script).ok(), expected);
    });
}

#[test]
fn a_user_namespace_has_its_maps_devices_and_idmapped_mounts() {
    each(|mut bundle| {
        fs::create_dir(bundle.path().join("volume")).expect("make a folder");
        // Users of the namespace cannot make it in a root file system of the host's root.
        fs::create_dir(bundle.rootfs().join("m")).expect("make a folder");
        bundle.push("/linux/namespaces", json!({"type": "user"}));
        let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 65536}]);
        bundle.set("/linux/uidMappings", map(100_000));
        bundle.set("/linux/gidMappings", map(200_000));
        bundle.push(
            "/mounts",
            json!({"destination": "/m", "type": "bind", "source": "volume", "options": ["bind", "idmap"]}),
        );
        // The path to the bundle has to be open for users of the namespace.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(bundle.path(), mode).expect("open the folder");
        let script = "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; stat -c '%u %g' /m; \
            echo x > /dev/null && head -c1 /dev/zero | wc -c; stat -c %u /dev/mqueue /proc/sys/net";
        let expected = " 0 100000 65536\n 0 200000 65536\n0 0\n1\n0\n0\n";
        let shown = bundle.sh(script).ok();
        assert!(
            shown.starts_with(&expected[..expected.len() - 4]),
            "{shown}"
        );
    });
}

#[test]
fn limits_are_set_and_changed() {
    each(|mut bundle| {
        bundle.set("/linux/resources/memory", json!({"limit": 67_108_864}));
        bundle.set("/linux/resources/pids", json!({"limit": 50}));
        let v1 = Path::new("/sys/fs/cgroup/memory").exists();
        // Where there is one processor there may be no control of them.
        let cpu = match v1 {
            true => json!({"shares": 512, "cpus": "0"}),
            false => json!({"quota": 50_000, "period": 100_000}),
        };
        bundle.set("/linux/resources/cpu", cpu);
        let read = |bundle: &Bundle, controller: &str, v1_file: &str, v2_file: &str| match v1 {
            true => bundle.cgroup(controller, v1_file),
            false => bundle.cgroup("", v2_file),
        };
        let memory =
            |bundle: &Bundle| read(bundle, "memory", "memory.limit_in_bytes", "memory.max");
        let pids = |bundle: &Bundle| read(bundle, "pids", "pids.max", "pids.max");
        bundle.stay();
        assert_eq!(memory(&bundle), "67108864");
        assert_eq!(pids(&bundle), "50");
        let expected = if v1 { "512" } else { "50000 100000" };
        assert_eq!(read(&bundle, "cpu", "cpu.shares", "cpu.max"), expected);
        let id = bundle.id().to_owned();
        bundle
            .runtime(&["update", "--memory", "33554432", "--pids-limit", "20", &id])
            .ok();
        assert_eq!(memory(&bundle), "33554432");
        assert_eq!(pids(&bundle), "20");
        let stats: Value = serde_json::from_str(&bundle.runtime(&["events", "--stats", &id]).ok())
            .expect("statistics are JSON");
        assert_eq!(stats["type"], "stats");
        assert_eq!(stats["data"]["pids"], json!({"current": 1, "limit": 20}));
        assert_eq!(stats["data"]["memory"]["usage"]["limit"], 33_554_432);
    });
}

#[test]
fn a_further_process_has_what_its_flags_say() {
    each(|mut bundle| {
        bundle.stay();
        let id = bundle.id().to_owned();
        let exec = |args: &[&str]| {
            let mut all = vec!["exec"];
            all.extend(args);
            bundle.runtime(&all)
        };
        assert_eq!(exec(&[&id, "sh", "-c", "exit 5"]).code, Some(5));
        let shown = exec(&[
            "--env",
            "B=3",
            "--cwd",
            "/tmp",
            "--user",
            "1000:1001",
            "-g",
            "7",
            &id,
            "sh",
            "-c",
            "pwd; echo $B; id -u; id -G | cut -d' ' -f1,2; grep CapInh /proc/self/status",
        ]);
        let expected = "/tmp\n3\n1000\n1001 7\nCapInh:\t0000000000000000\n";
        assert_eq!(shown.ok(), expected);
        let shown = exec(&[
            "--cap",
            "CAP_SYS_TIME",
            &id,
            "grep",
            "CapEff",
            "/proc/self/status",
        ]);
        assert_eq!(shown.ok(), "CapEff:\t00000000aa0425fb\n");
        assert_eq!(exec(&[&id, "frob"]).code, Some(255));
        let last = bundle.log().pop().unwrap_or_default();
        assert_eq!(
            last,
            "exec failed: unable to start container process: exec: \"frob\": executable file not found in $PATH"
        );
        let process =
            json!({"args": ["/bin/sh", "-c", "exit 9"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
        fs::write(bundle.path().join("process.json"), process.to_string()).expect("write");
        assert_eq!(exec(&["--process", "process.json", &id]).code, Some(9));
        exec(&["-d", "--pid-file", "exec.pid", &id, "sleep", "60"]).ok();
        let pid = fs::read_to_string(bundle.path().join("exec.pid")).expect("a pid file");
        assert!(
            bundle
                .runtime(&["ps", "-f", "json", &id])
                .ok()
                .contains(&pid)
        );
    });
}

#[test]
fn hooks_run_in_their_order_and_read_the_state() {
    each(|mut bundle| {
        let (outside, inside) = (bundle.rootfs().join("work/order"), "/work/order");
        for kind in [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ] {
            let order = match kind {
                "startContainer" => inside.to_owned(),
                _ => outside.display().to_string(),
            };
            let value = |name: &str, value: &str| {
                format!("$(echo \"$state\" | sed 's/.*\"{name}\": *\"*\\({value}\\).*/\\1/')")
            };
            let (status, pid) = (value("status", "[a-z]*"), value("pid", "[0-9]*"));
            let script = format!("read -r state; echo {kind} {status} {pid} >> {order}");
            let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]});
            bundle.push(&format!("/hooks/{kind}"), hook);
        }
        bundle.sh("true").ok();
        let order = fs::read_to_string(outside).expect("hooks ran");
        // The numbers that the host's hooks see are of the host, and differ from run to run.
        let mut seen: Vec<String> = order
            .lines()
            .map(|line| match line.rsplit_once(' ') {
                Some((_, "1")) => line.to_owned(),
                Some((before, _)) => format!("{before} N"),
                None => line.to_owned(),
            })
            .collect();
        // Nothing orders these two: the one runs as soon as the program may, the other before it does.
        seen[3..5].sort_unstable();
        if bundle.of().name == "runc" {
            // It looks, and sees the first process on its way or arrived.
            seen[3] = seen[3].replace("created", "running");
        }
        assert_eq!(
            seen,
            [
                "prestart creating N",
                "createRuntime creating N",
                "createContainer creating 1",
                "poststart running N",
                "startContainer created 1",
                "poststop stopped N"
            ]
        );
    });
}

#[test]
fn a_hook_that_fails_fails_the_container() {
    for kind in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
    ] {
        each(|mut bundle| {
            let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo why >&2; exit 3"]});
            bundle.push(&format!("/hooks/{kind}"), hook);
            bundle.args(&["/bin/true"]);
            let said = bundle.run().refused();
            assert!(
                said.contains(&format!("error running {kind} hook #0")),
                "{said}"
            );
            assert!(
                said.contains("exit status 3") || said.contains("exit status: 3"),
                "{said}"
            );
        });
    }
}

/// Returns a bundle that users of a namespace can enter, with a new user namespace or the one at a path.
fn in_user_namespace(bundle: &mut Bundle, path: Option<&str>) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(bundle.path(), mode).expect("open the folder");
    match path {
        Some(path) => bundle.push("/linux/namespaces", json!({"type": "user", "path": path})),
        None => bundle.push("/linux/namespaces", json!({"type": "user"})),
    }
    let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 65536}]);
    bundle.set("/linux/uidMappings", map(100_000));
    bundle.set("/linux/gidMappings", map(200_000));
}

/// Has the bundle join the namespaces of these kinds of another container's first process.
fn join(bundle: &mut Bundle, pid: &str, kinds: &[(&str, &str)]) {
    let all = bundle.config["linux"]["namespaces"].as_array_mut();
    for namespace in all.expect("an array") {
        let kind = namespace["type"].as_str().unwrap_or_default().to_owned();
        if let Some((_, file)) = kinds.iter().find(|(name, _)| *name == kind) {
            namespace["path"] = json!(format!("/proc/{pid}/ns/{file}"));
        }
    }
}

const SHOW: &str = "cat /proc/self/uid_map | tr -s ' '; for n in user net ipc uts pid mnt cgroup; do \
    readlink /proc/self/ns/$n; done";

/// Returns which of a container's namespaces are those of the process `pid`.
fn shared(shown: &str, pid: &str) -> Vec<&'static str> {
    let kinds = ["user", "net", "ipc", "uts", "pid", "mnt", "cgroup"];
    let link = |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("read a link");
    let links = kinds.map(|kind| (kind, link(kind).display().to_string()));
    let same = links
        .into_iter()
        .filter(|(_, link)| shown.contains(&**link));
    same.map(|(kind, _)| kind).collect()
}

#[test]
fn a_mount_is_mapped_as_the_user_namespace_that_is_joined() {
    each(|mut first| {
        in_user_namespace(&mut first, None);
        first.stay();
        let pid = first.state()["pid"].to_string();
        let mut second = Bundle::new(first.of());
        in_user_namespace(&mut second, Some(&format!("/proc/{pid}/ns/user")));
        for maps in ["/linux/uidMappings", "/linux/gidMappings"] {
            second.set(maps, Value::Null);
        }
        let source = second.path().join("source");
        fs::create_dir(&source).expect("make a folder");
        let options = ["bind", "idmap"];
        let mount = json!({"destination": "/work", "source": source, "options": options});
        second.push("/mounts", mount);
        // The host's root owns the folder, and so does the container's in this mount of it.
        assert_eq!(second.sh("stat -c '%u %g' /work").ok(), "0 0\n");
    });
}

#[test]
fn a_new_user_namespace_goes_with_joined_ones() {
    each(|mut first| {
        first.stay();
        let pid = first.state()["pid"].to_string();
        let mut second = Bundle::new(first.of());
        in_user_namespace(&mut second, None);
        join(&mut second, &pid, &[("ipc", "ipc"), ("uts", "uts")]);
        second.set("/hostname", Value::Null);
        // A queue file system of the host's cannot be mounted by users of the namespace.
        let mounts = second.config["mounts"].as_array_mut().expect("an array");
        mounts.retain(|mount| mount["destination"] != "/dev/mqueue");
        let shown = second.sh(SHOW).ok();
        assert!(shown.starts_with(" 0 100000 65536\n"), "{shown}");
        assert_eq!(shared(&shown, &pid), ["ipc", "uts"]);
    });
}

#[test]
fn a_user_namespace_is_joined_with_new_ones_beside_it() {
    each(|mut first| {
        in_user_namespace(&mut first, None);
        first.stay();
        let pid = first.state()["pid"].to_string();
        let mut second = Bundle::new(first.of());
        in_user_namespace(&mut second, Some(&format!("/proc/{pid}/ns/user")));
        let shown = second.sh(SHOW).ok();
        assert!(shown.starts_with(" 0 100000 65536\n"), "{shown}");
        assert_eq!(shared(&shown, &pid), ["user"]);
        assert_eq!(second.sh("exit 7").code, Some(7));
    });
}

#[test]
fn containers_of_a_pod_share_its_user_namespace_and_more() {
    each(|mut first| {
        in_user_namespace(&mut first, None);
        first.stay();
        let pid = first.state()["pid"].to_string();
        for with_pid in [false, true] {
            let mut second = Bundle::new(first.of());
            in_user_namespace(&mut second, Some(&format!("/proc/{pid}/ns/user")));
            let mut kinds = vec![("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
            if with_pid {
                kinds.push(("pid", "pid"));
            }
            join(&mut second, &pid, &kinds);
            second.set("/hostname", Value::Null);
            let shown = second.sh(SHOW).ok();
            let mut expected = vec!["user", "net", "ipc", "uts"];
            if with_pid {
                expected.push("pid");
            }
            assert_eq!(shared(&shown, &pid), expected);
            second.stay();
            let id = second.id().to_owned();
            let shown = second.runtime(&["exec", &id, "/bin/sh", "-c", SHOW]).ok();
            assert_eq!(shared(&shown, &pid), expected);
        }
    });
}

#[test]
fn a_limit_of_memory_that_is_too_low_is_told_of() {
    each(|mut bundle| {
        bundle.set(
            "/linux/resources/memory",
            json!({"limit": 16_384, "swap": 16_384}),
        );
        let said = bundle.sh("true").refused();
        // runc sets the limit around what it already uses, which version 1 may refuse.
        let refused = bundle.of().name == "runc" && said.contains("unable to set memory limit");
        let killed = said.contains("container init was OOM-killed (memory limit too low?)");
        assert!(killed || refused, "{said}");
    });
}

#[test]
fn a_container_that_has_delegated_its_controllers_takes_further_processes() {
    if Path::new("/sys/fs/cgroup/memory").exists() {
        skip!("the host has no cgroup v2 with controllers");
    }
    each(|mut bundle| {
        let mounts = bundle.config["mounts"].as_array_mut().expect("an array");
        for mount in mounts {
            if mount["type"] == "cgroup" {
                mount["options"] = json!(["nosuid", "noexec", "nodev", "relatime", "rw"]);
            }
        }
        let delegate = "mkdir /sys/fs/cgroup/init && echo 0 > /sys/fs/cgroup/init/cgroup.procs && \
            echo +memory > /sys/fs/cgroup/cgroup.subtree_control && touch /tmp/done; sleep 600";
        bundle.args(&["/bin/sh", "-c", delegate]);
        let id = bundle.id().to_owned();
        bundle.runtime(&["run", "-d", &id]).ok();
        let done = bundle.rootfs().join("tmp/done");
        tests::eventually("it has delegated", tests::command::LIMIT, || {
            done.exists().then_some(())
        });
        let shown = bundle.runtime(&["exec", &id, "cat", "/proc/self/cgroup"]);
        assert_eq!(shown.ok(), "0::/init\n");
    });
}

/// The cases of this name and the one below run the others in the machine, and not themselves.
const IN_MACHINE: &str = "on_control_groups_of_version_2";

#[test]
fn runtime_cases_pass_on_control_groups_of_version_2() {
    if Peers::or_skip().is_none() {
        return;
    }
    // The cases that start a machine of their own are not for within one.
    let skipped = ["--skip", IN_MACHINE, "--skip", "of_apparmor"];
    vm::again(
        &[],
        &[
            &["runtime::", "runtime_edges::", "security::"],
            &skipped[..],
        ]
        .concat(),
    );
}

#[test]
fn unit_tests_of_control_groups_pass_on_control_groups_of_version_2() {
    if Peers::or_skip().is_none() {
        return;
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--package", "runtime", "--lib", "--no-run"]);
    cargo.args(["--quiet", "--message-format", "json"]);
    let built = command::run_with(&mut cargo, b"", 10 * command::LIMIT).ok();
    let program = built.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(str::to_owned)
    });
    let program = program.expect("cargo tells where the tests are");
    vm::tests_of(Path::new(&program), &[], &["cgroup::"]);
}

#[test]
fn a_profile_that_the_kernel_can_not_apply_is_refused() {
    if fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text == b"Y\n") {
        skip!("this kernel applies profiles");
    }
    each(|mut bundle| {
        bundle.config["process"]["apparmorProfile"] = json!("absent");
        let said = bundle.sh("true").refused();
        assert!(said.to_lowercase().contains("apparmor"), "{said}");
    });
}

#[test]
fn a_profile_of_apparmor_is_applied() {
    tests::vm::inside(&["--append", "security=apparmor apparmor=1"], || {
        each(|mut bundle| {
            bundle.config["process"]["apparmorProfile"] = json!("unconfined");
            let shown = bundle.sh("cat /proc/self/attr/current").ok();
            assert_eq!(shown.trim(), "unconfined");
            bundle.config["process"]["apparmorProfile"] = json!("absent");
            let said = bundle.sh("true").refused();
            assert!(said.contains("apparmor"), "{said}");
        });
    });
}
