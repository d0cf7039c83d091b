//! The runtime in the hands of an ordinary user: each case holds for runc too, or it is a wrong case.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tests::{Bundle, Runtime, command, skip};

/// A user that no host has.
const USER: u32 = 23456;

/// The end of a script that has been root until then.
const AS_USER: &str = r#"exec setpriv --reuid=23456 --regid=23456 --clear-groups "$@""#;

/// Runs a case with ours and with runc.
fn each(case: impl Fn(Bundle)) {
    for runtime in Runtime::both() {
        case(Bundle::of_user(&runtime, USER));
    }
}

#[test]
fn an_ordinary_user_has_containers() {
    each(|mut bundle| {
        let map = bundle.sh("id -u; cat /proc/self/uid_map /proc/self/setgroups; exit 3");
        assert_eq!(map.code, Some(3), "{map}");
        let words: Vec<&str> = map.stdout.split_whitespace().collect();
        assert_eq!(words, ["0", "0", "23456", "1", "deny"]);

        bundle.stay();
        let id = bundle.id().to_owned();
        let state = bundle.state();
        assert_eq!(state["status"], "running");
        let pid = &state["pid"];
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
        assert!(
            !groups.contains(&id),
            "a user has no right to groups: {groups}"
        );
        let exec = [
            "exec",
            &id,
            "sh",
            "-c",
            "id -u; kill -0 1; hostname; echo > /dev/null",
        ];
        let hostname = bundle.config["hostname"].as_str().expect("it has a name");
        assert_eq!(bundle.runtime(&exec).ok(), format!("0\n{hostname}\n"));
        bundle.runtime(&["exec", "-d", &id, "sleep", "601"]).ok();
        for needs_groups in [
            &["pause", &id][..],
            &["ps", &id],
            &["update", "--memory", "99M", &id],
        ] {
            bundle.runtime(needs_groups).refused();
        }
        bundle.runtime(&["delete", "--force", &id]).ok();
        let gone = || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(());
        tests::eventually("it has ended", command::LIMIT, gone);
        assert_eq!(bundle.runtime(&["list", "-q"]).ok(), "");
    });
}

#[test]
fn state_is_below_the_users_own_runtime_folder() {
    each(|bundle| {
        let run = bundle.path().join("run");
        let mut list = Command::new(&bundle.of().program);
        list.args(["list", "-q"]).uid(USER).gid(USER);
        assert_eq!(command::run(list.env("XDG_RUNTIME_DIR", &run)).ok(), "");
        let made = fs::read_dir(&run).expect("it was made").next();
        let made = made.expect("it has a folder").expect("list it");
        let mode = made.metadata().expect("stat it").permissions().mode();
        // What is old there is removed now and then unless it is marked so.
        assert_eq!(mode & 0o7777, 0o1700, "{made:?}");
    });
}

#[test]
fn what_an_ordinary_user_cannot_have_is_refused() {
    type Change = fn(&mut Bundle);
    let changes: [(Change, &str); 8] = [
        (
            |bundle| {
                let namespaces = bundle.config["linux"]["namespaces"].as_array_mut();
                namespaces
                    .expect("namespaces")
                    .retain(|one| one["type"] != "user");
                bundle.set("/linux/uidMappings", json!([]));
                bundle.set("/linux/gidMappings", json!([]));
            },
            "rootless container requires user namespaces",
        ),
        (
            |bundle| bundle.set("/process/user/additionalGids", json!([5])),
            "cannot set any additional groups in a rootless container",
        ),
        (
            |bundle| bundle.set("/process/user", json!({"uid": 5, "gid": 0})),
            "cannot setuid to unmapped uid 5 in user namespace",
        ),
        (
            |bundle| {
                let mount = json!({"destination": "/work", "type": "tmpfs", "source": "tmpfs", "options": ["gid=9"]});
                bundle.push("/mounts", mount);
            },
            "cannot specify gid=9 mount option for rootless container",
        ),
        (
            |bundle| bundle.set("/linux/cgroupsPath", json!("/corten-case-forbidden")),
            "permission denied",
        ),
        (
            |bundle| {
                bundle.set(
                    "/linux/resources",
                    json!({"memory": {"limit": 100_000_000}}),
                )
            },
            match Path::new("/sys/fs/cgroup/memory").exists() {
                true => "cannot set memory limit: container could not join or create cgroup",
                false => {
                    "rootless needs no limits + no cgrouppath when no permission is granted for cgroups"
                }
            },
        ),
        (
            |bundle| bundle.set("/process/oomScoreAdj", json!(-10)),
            "oom_score_adj",
        ),
        (
            |bundle| {
                let limit = json!([{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 1_u64 << 40}]);
                bundle.set("/process/rlimits", limit);
            },
            "operation not permitted",
        ),
    ];
    for (change, reason) in changes {
        each(|mut bundle| {
            change(&mut bundle);
            let refused = bundle.run();
            assert_eq!(refused.code, Some(1), "{refused}");
            let log = bundle.log().join("\n");
            assert!(log.contains(reason), "{reason:?} is not in {log}");
            let left = fs::read_dir(bundle.path().join("state"));
            assert_eq!(left.into_iter().flatten().count(), 0);
        });
    }
}

#[test]
fn mounts_devices_and_clocks_of_a_user_are_what_they_are_of_root() {
    each(|mut bundle| {
        let shown = bundle.path().join("shown");
        fs::create_dir(&shown).expect("make a folder");
        fs::write(shown.join("file"), "seen\n").expect("write a file");
        bundle.push("/mounts", json!({"destination": "/work", "type": "bind", "source": shown, "options": ["rbind", "ro", "nosuid"]}));
        bundle.push("/mounts", json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["uid=0", "mode=700"]}));
        bundle.push("/linux/devices", json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0, "gid": 0}));
        let kinds = ["network", "cgroup", "time"];
        for kind in kinds {
            bundle.push("/linux/namespaces", json!({"type": kind}));
        }
        bundle.set(
            "/linux/timeOffsets",
            json!({"boottime": {"secs": 1_000_000_000}}),
        );
        let script =
            "cat /work/file; touch /work/other || echo refused; touch /tmp/mine && echo made
            test -c /dev/fuse && echo device; cut -d. -f1 /proc/uptime
            for kind in net cgroup time; do readlink /proc/self/ns/$kind; done";
        let ran = bundle.sh(script).ok();
        let lines: Vec<&str> = ran.lines().collect();
        assert_eq!(lines[..4], ["seen", "refused", "made", "device"], "{ran}");
        let uptime: u64 = lines[4].parse().expect("a number of seconds");
        assert!(uptime > 1_000_000_000, "{ran}");
        for (kind, line) in kinds.iter().zip(&lines[5..]) {
            let kind = kind.replace("network", "net");
            let own = fs::read_link(format!("/proc/self/ns/{kind}")).expect("there is one");
            assert_ne!(own, Path::new(line));
        }
    });
}

#[test]
fn groups_that_a_user_has_been_given_limit_containers() {
    let Some(hierarchy) = Some(Path::new("/sys/fs/cgroup/pids")).filter(|path| path.exists())
    else {
        skip!("a group of its own controller is one of version 1");
    };
    each(|mut bundle| {
        let given = hierarchy.join(bundle.id());
        fs::create_dir(&given).expect("make a group");
        let owner = Some(USER);
        for name in [".", "cgroup.procs", "tasks"] {
            std::os::unix::fs::chown(given.join(name), owner, owner).expect("give the group away");
        }
        bundle.set("/linux/resources", json!({"pids": {"limit": 17}}));
        bundle.args(&["sleep", "600"]);
        // The group of who runs the runtime is where the container's is made.
        let id = bundle.id().to_owned();
        let enter = format!("echo $$ >{}/cgroup.procs; {AS_USER}", given.display());
        let ran = bundle.script(&enter, &["run", "-d", &id]);
        let limit = fs::read_to_string(given.join(&id).join("pids.max"));
        let listed = bundle.runtime(&["exec", &id, "cat", "/proc/self/cgroup"]);
        let deleted = bundle.runtime(&["delete", "--force", &id]);
        let left = given.join(&id).exists();
        tests::eventually(
            "the group given to the user is empty",
            command::LIMIT,
            || fs::remove_dir(&given).ok(),
        );
        ran.ok();
        assert_eq!(limit.expect("the container has a group").trim(), "17");
        let listed = listed.ok();
        assert!(listed.contains(&format!("{id}/{id}")), "{listed}");
        deleted.ok();
        assert!(!left, "its group is left");
    });
}

#[test]
fn more_ids_are_mapped_by_the_tools_for_it() {
    if !Path::new("/usr/bin/newuidmap").exists() {
        skip!("needs newuidmap and newgidmap, Debian's package uidmap");
    }
    each(|mut bundle| {
        let map = |own: u32| json!([{"containerID": 0, "hostID": own, "size": 1}, {"containerID": 1, "hostID": 300_000, "size": 1000}]);
        bundle.set("/linux/uidMappings", map(USER));
        bundle.set("/linux/gidMappings", map(USER));
        bundle.set("/process/user", json!({"uid": 7, "gid": 8}));
        bundle.args(&["sh", "-c", "id -u; id -g; cat /proc/self/setgroups"]);
        let id = bundle.id().to_owned();
        // What /etc says is so only where the script's commands look.
        let script = format!(
            "mkdir etc upper work
            echo {USER}:300000:1000 | tee upper/subuid >upper/subgid
            echo user:x:{USER}:{USER}::/:/bin/sh | cat /etc/passwd - >upper/passwd
            mount -t overlay -o lowerdir=/etc,upperdir=upper,workdir=work overlay /etc
            {AS_USER}"
        );
        let ran = bundle.script(&script, &["run", &id]);
        assert_eq!(ran.ok(), "7\n8\nallow\n");
    });
}

#[test]
fn a_user_can_ask_for_groups_whatever_the_rights() {
    each(|bundle| {
        let id = bundle.id().to_owned();
        let ran = bundle.runtime(&["--rootless=false", "run", &id]);
        assert_eq!(ran.code, Some(1), "{ran}");
        let log = bundle.log().join("\n");
        assert!(log.contains("permission denied"), "{log}");
        bundle
            .runtime(&["--rootless=perhaps", "run", &id])
            .refused();
        bundle.runtime(&["--rootless=true", "run", &id]).ok();
    });
}
