//! What an image or a process in a container tries against the host, by the classes of runc's and crun's past holes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tests::{Bundle, Runtime};

fn bundle() -> Option<Bundle> {
    // As root: what is defended here is what only root can do.
    tests::Peers::or_skip().map(|_| Bundle::new(&Runtime::ours()))
}

#[test]
fn a_root_file_system_with_a_symlink_for_proc_is_refused() {
    let Some(mut bundle) = bundle() else { return };
    fs::remove_dir(bundle.rootfs().join("proc")).expect("remove");
    symlink("/tmp", bundle.rootfs().join("proc")).expect("link");
    let refused = bundle.sh("true").refused();
    assert!(
        refused.contains("must be mounted on ordinary directory"),
        "{refused}"
    );
}

#[test]
fn a_symlink_for_dev_leads_nowhere_on_the_host() {
    for relative in [false, true] {
        let Some(mut bundle) = bundle() else { return };
        let decoy = bundle.path().join("decoy");
        fs::create_dir(&decoy).expect("make a folder");
        fs::write(decoy.join("ptmx"), "decoy").expect("write");
        fs::remove_dir(bundle.rootfs().join("dev")).expect("remove");
        let target = if relative {
            Path::new("../decoy")
        } else {
            decoy.as_path()
        };
        symlink(target, bundle.rootfs().join("dev")).expect("link");
        // Without the mount over it, as in a configuration that brings no /dev.
        let mounts = bundle.config["mounts"].as_array_mut().expect("an array");
        mounts.retain(|mount| {
            !mount["destination"]
                .as_str()
                .unwrap_or("")
                .starts_with("/dev")
        });
        bundle.sh("true").refused();
        let names: Vec<_> = fs::read_dir(&decoy).expect("list").flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        assert_eq!(
            fs::read_to_string(decoy.join("ptmx")).expect("read"),
            "decoy"
        );
    }
}

#[test]
fn a_masked_path_is_not_covered_by_something_else_than_the_null_device() {
    for link in [true, false] {
        let Some(mut bundle) = bundle() else { return };
        let mounts = bundle.config["mounts"].as_array_mut().expect("an array");
        mounts.retain(|mount| {
            !mount["destination"]
                .as_str()
                .unwrap_or("")
                .starts_with("/dev")
        });
        let null = bundle.rootfs().join("dev/null");
        match link {
            true => symlink("/proc/sys/kernel/core_pattern", null).expect("link"),
            false => fs::write(null, "not null").expect("write"),
        }
        bundle.sh("true").refused();
    }
}

#[test]
fn no_descriptor_of_the_caller_or_the_runtime_is_open_in_the_container() {
    let Some(mut bundle) = bundle() else { return };
    bundle.args(&["/bin/sleep", "600"]);
    let id = bundle.id().to_owned();
    // A shell that has descriptors open passes them on to the runtime.
    let runtime = bundle.command(&["run", "-d", &id]);
    let mut words = vec![runtime.get_program().to_owned()];
    words.extend(runtime.get_args().map(ToOwned::to_owned));
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", "exec \"$@\" 7</etc/shadow 8</etc", "sh"])
        .args(words)
        .current_dir(bundle.path());
    tests::command::run(&mut shell).ok();
    let pid = bundle.state()["pid"].to_string();
    let mut open: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("list descriptors")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    open.sort();
    assert_eq!(open, ["0", "1", "2"]);
}

#[test]
fn the_working_folder_is_not_a_descriptor_of_the_host() {
    let Some(mut staying) = bundle() else { return };
    staying.stay();
    for number in 3..12 {
        let cwd = format!("/proc/self/fd/{number}");
        let Some(mut bundle) = bundle() else { return };
        bundle.set("/process/cwd", json!(cwd));
        let ended = bundle.sh("ls ../../../../etc/shadow");
        assert_ne!(ended.code, Some(0), "{ended}");
        let id = staying.id().to_owned();
        let args = [
            "exec",
            "-d",
            "--pid-file",
            "exec.pid",
            "--cwd",
            &cwd,
            &id,
            "sleep",
            "60",
        ];
        if staying.runtime(&args).code != Some(0) {
            continue;
        }
        // What it got must be on a file system that is mounted in the container.
        let pid = fs::read_to_string(staying.path().join("exec.pid")).expect("a pid file");
        let stat = rustix::fs::stat(format!("/proc/{pid}/cwd")).expect("stat its folder");
        let (major, minor) = (
            rustix::fs::major(stat.st_dev),
            rustix::fs::minor(stat.st_dev),
        );
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("read mounts");
        assert!(
            mounts.contains(&format!(" {major}:{minor} ")),
            "{cwd}: {major}:{minor}"
        );
    }
}

#[test]
fn the_runtimes_program_cannot_be_written_from_a_container() {
    let Some(mut bundle) = bundle() else { return };
    let program = Runtime::ours().program;
    let before = fs::read(&program).expect("read the program");
    // The container's program is the runtime's own: whoever looks at it finds the file that it was executed from.
    bundle.args(&["/proc/self/exe", "list"]);
    bundle.set("/linux/maskedPaths", json!([]));
    let _ = bundle.run();
    bundle.stay();
    let id = bundle.id().to_owned();
    let script = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); for p in /proc/[0-9]*; do \
        [ $p != /proc/$$ ] && [ $p != /proc/1 ] && echo x 2>/dev/null >> $p/exe && echo WRITTEN $p; done; done";
    bundle
        .runtime(&[
            "exec",
            "-d",
            &id,
            "sh",
            "-c",
            &format!("({script}) > /work/seen 2>/dev/null"),
        ])
        .ok();
    for _ in 0..20 {
        let _ = bundle.runtime(&["exec", &id, "/proc/self/exe", "--version"]);
        bundle.runtime(&["exec", &id, "true"]).ok();
    }
    let seen = fs::read_to_string(bundle.rootfs().join("work/seen")).unwrap_or_default();
    let busybox = seen.lines().filter(|line| line.contains("WRITTEN")).count();
    // A running file of the container's own cannot be written either: the kernel says that it is busy.
    assert_eq!(busybox, 0, "{seen}");
    assert!(fs::read(&program).expect("read the program") == before);
}

#[test]
fn a_created_containers_program_is_the_sealed_one() {
    let Some(mut bundle) = bundle() else { return };
    bundle.args(&["/bin/sleep", "600"]);
    let id = bundle.id().to_owned();
    bundle.runtime(&["create", &id]).ok();
    let pid = bundle.state()["pid"].to_string();
    let opened = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/exe"));
    let error = opened.expect_err("it is read-only").raw_os_error();
    assert_eq!(error, Some(rustix::io::Errno::ROFS.raw_os_error()));
}

#[test]
fn odd_users_are_refused() {
    let Some(mut bundle) = bundle() else { return };
    bundle.stay();
    let id = bundle.id().to_owned();
    for user in [
        "",
        "+0",
        "-1",
        " 0",
        "0x0",
        "root",
        "2147483648",
        "4294967296",
        "0:",
        "1:-1",
        "1:2:3",
    ] {
        let ended = bundle.runtime(&["exec", &format!("--user={user}"), &id, "id"]);
        assert_ne!(ended.code, Some(0), "{user:?}: {ended}");
    }
}

#[test]
fn an_empty_list_of_devices_allows_none() {
    let Some(mut bundle) = bundle() else { return };
    bundle.set("/linux/resources", json!({}));
    // Capable of making the node, not of opening it; whoever may open this one needs no other right.
    let ended = bundle.sh("mknod /tmp/fuse c 10 229 && : < /tmp/fuse");
    assert!(ended.refused().contains("Operation not permitted"));
}

#[test]
fn no_capability_is_inheritable() {
    let Some(mut bundle) = bundle() else { return };
    let none = "CapInh:\t0000000000000000\n";
    let show = ["grep", "CapInh", "/proc/self/status"];
    assert_eq!(bundle.sh(&show.join(" ")).ok(), none);
    bundle.stay();
    let id = bundle.id().to_owned();
    for flags in [&["exec"][..], &["exec", "--cap", "CAP_SYS_TIME"]] {
        let all = [flags, &[&id], &show].concat();
        assert_eq!(bundle.runtime(&all).ok(), none);
    }
}

#[test]
fn the_hosts_null_device_keeps_its_owner() {
    let Some(mut bundle) = bundle() else { return };
    let null = bundle.path().join("null");
    let device = rustix::fs::makedev(1, 3);
    let (kind, mode) = (rustix::fs::FileType::CharacterDevice, 0o666.into());
    rustix::fs::mknodat(rustix::fs::CWD, &null, kind, mode, device).expect("make a node");
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let id = bundle.id().to_owned();
    let runtime = bundle.command(&["run", &id]);
    let mut shell = std::process::Command::new("sh");
    shell
        .args([
            "-c",
            "null=$1; shift; exec \"$@\" <$null >$null 2>$null",
            "sh",
        ])
        .arg(&null)
        .arg(runtime.get_program())
        .args(runtime.get_args())
        .current_dir(bundle.path());
    tests::command::run(&mut shell).ok();
    let owner = rustix::fs::stat(&null).expect("stat the node").st_uid;
    assert_eq!(owner, 0);
}

#[test]
fn kernel_parameters_are_not_written_to_a_false_proc() {
    let Some(mut bundle) = bundle() else { return };
    let mounts = bundle.config["mounts"].as_array_mut().expect("an array");
    mounts.retain(|mount| mount["destination"] != "/proc");
    bundle.set("/linux/readonlyPaths", json!([]));
    bundle.set("/linux/maskedPaths", json!([]));
    bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    let folder = bundle.rootfs().join("proc/sys/net/ipv4");
    fs::create_dir_all(&folder).expect("make a folder");
    fs::write(folder.join("ip_forward"), "false").expect("write");
    let _ = bundle.sh("true");
    let text = fs::read_to_string(folder.join("ip_forward")).expect("read");
    assert_eq!(text, "false");
}

#[test]
fn control_groups_that_are_mounted_read_only_cannot_be_written() {
    let Some(mut bundle) = bundle() else { return };
    let script =
        "for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do mkdir $d/made && exit 0; done; exit 9";
    assert_eq!(bundle.sh(script).code, Some(9));
}

#[test]
fn a_path_longer_than_any_is_refused() {
    let Some(mut bundle) = bundle() else { return };
    bundle.set(
        "/linux/namespaces/1/path",
        json!(format!("/{}", "a".repeat(70_000))),
    );
    bundle.sh("true").refused();
    let Some(mut bundle) = self::bundle() else {
        return;
    };
    let source = format!("/{}", "b".repeat(70_000));
    bundle.push(
        "/mounts",
        json!({"destination": "/m", "type": "bind", "source": source, "options": ["bind"]}),
    );
    bundle.sh("true").refused();
}

#[test]
fn a_volume_whose_folders_turn_into_symlinks_never_leads_to_the_host() {
    let Some(mut bundle) = bundle() else { return };
    let (canary, volume) = (bundle.path().join("canary"), bundle.path().join("volume"));
    fs::create_dir_all(&canary).expect("make a folder");
    fs::create_dir_all(volume.join("a")).expect("make a folder");
    symlink(&canary, volume.join("b")).expect("link");
    let rounds: u32 = std::env::var("CORTEN_TESTS_SWAPS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(10_000);
    let (done, stop) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let swapper = {
        let (volume, done, stop) = (volume.clone(), done.clone(), stop.clone());
        std::thread::spawn(move || {
            let dir = fs::File::open(&volume).expect("open the volume");
            let mut round = 0;
            while round < rounds || !stop.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                let _ = rustix::fs::renameat_with(&dir, "a", &dir, "b", exchange);
                round += 1;
                done.store(round >= rounds, Ordering::Relaxed);
            }
        })
    };
    let mount = |target: &str, kind: &str, source: &Path| json!({"destination": target, "type": kind, "source": source, "options": if kind == "bind" { vec!["rbind"] } else { vec![] }});
    bundle.push("/mounts", mount("/v", "bind", &volume));
    bundle.push(
        "/mounts",
        mount("/v/a/made/deep", "tmpfs", Path::new("tmpfs")),
    );
    bundle.push("/mounts", mount("/v/a/proc", "proc", Path::new("proc")));
    bundle.push(
        "/mounts",
        mount("/v/b/file", "bind", Path::new("/etc/hostname")),
    );
    let mut runs = 0;
    while runs < 20 || !done.load(Ordering::Relaxed) {
        // It may fail, but nothing of it may be seen outside.
        let _ = bundle.sh("true");
        runs += 1;
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().expect("the swapper ends");
    let left: Vec<_> = fs::read_dir(&canary).expect("list").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}
