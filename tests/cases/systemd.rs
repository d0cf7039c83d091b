//! Control groups that systemd makes, on a machine of version 2 alone: our runtime and runc.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tests::{Finished, Peers, binaries, command, vm};

/// A container of one of the runtimes, which is deleted when this is dropped.
struct Container {
    runtime: PathBuf,
    folder: tempfile::TempDir,
    id: String,
}

impl Container {
    /// Makes a bundle of busybox whose configuration `change` has changed.
    fn new(runtime: &Path, change: impl FnOnce(&mut Value)) -> Container {
        let folder = tempfile::tempdir().expect("make a folder");
        let bin = folder.path().join("rootfs/bin");
        fs::create_dir_all(&bin).expect("make a root file system");
        fs::copy("/bin/busybox", bin.join("busybox")).expect("copy busybox");
        for name in ["sh", "sleep", "cat"] {
            symlink("busybox", bin.join(name)).expect("make a link");
        }
        let container = Container {
            runtime: runtime.to_owned(),
            id: format!("corten-{}", std::process::id()),
            folder,
        };
        let config = container.folder.path().join("config.json");
        container
            .run(&["spec", "--bundle", &container.bundle()])
            .ok();
        let text = fs::read(&config).expect("read the configuration");
        let mut spec: Value = serde_json::from_slice(&text).expect("parse the configuration");
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["/bin/sleep", "100"]);
        change(&mut spec);
        fs::write(&config, spec.to_string()).expect("write the configuration");
        container
    }

    fn bundle(&self) -> String {
        self.folder.path().display().to_string()
    }

    fn run(&self, args: &[&str]) -> Finished {
        let state = self.folder.path().join("state");
        command::run(
            Command::new(&self.runtime)
                .arg("--root")
                .arg(state)
                .arg("--systemd-cgroup")
                .args(args),
        )
    }

    fn start(&self) -> Finished {
        let bundle = self.bundle();
        self.run(&["run", "--detach", "--bundle", &bundle, &self.id])
    }

    /// Returns a property of the container's unit as systemd tells it.
    fn property(&self, unit: &str, name: &str) -> String {
        let mut systemctl = Command::new("systemctl");
        systemctl.args(["show", "--value", "--property", name, unit]);
        command::run(&mut systemctl).ok().trim().to_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let id = self.id.clone();
        self.run(&["delete", "--force", &id]);
    }
}

/// Runs the test in the machine, once with runc and once with ours.
fn with_each_runtime(test: impl Fn(&Path)) {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let ours = binaries::find("corten-runtime").expect("corten-runtime is built");
    vm::inside(&["--systemd"], || {
        test(&peers.sid.join("runc"));
        test(&ours);
    });
}

#[test]
fn a_scope_has_the_limits_of_the_container_and_goes_with_it() {
    with_each_runtime(|runtime| {
        let container = Container::new(runtime, |spec| {
            spec["linux"]["cgroupsPath"] = json!("corten-test.slice:box:one");
            spec["linux"]["resources"] = json!({
                "memory": {"limit": 64 << 20},
                "cpu": {"quota": 50_000, "period": 100_000},
                "pids": {"limit": 42},
                "devices": [{"allow": false, "access": "rwm"}],
            });
            spec["annotations"] = json!({"org.systemd.property.TimeoutStopUSec": "uint64 7000000"});
        });
        container.start().ok();
        let unit = "box-one.scope";
        let group = Path::new("/sys/fs/cgroup/corten.slice/corten-test.slice/box-one.scope");
        let read = |name: &str| fs::read_to_string(group.join(name)).expect("read the group");
        let told = |name: &str| container.property(unit, name);
        assert_eq!(told("ActiveState"), "active");
        assert_eq!(told("Slice"), "corten-test.slice");
        assert_eq!(told("MemoryMax"), (64 << 20).to_string());
        assert_eq!(told("TasksMax"), "42");
        assert_eq!(told("CPUQuotaPerSecUSec"), "500ms");
        assert_eq!(told("TimeoutStopUSec"), "7s");
        assert_eq!(told("DevicePolicy"), "strict");
        assert_eq!(read("memory.max").trim(), (64 << 20).to_string());
        assert_eq!(read("cpu.max").trim(), "50000 100000");
        assert_eq!(read("pids.max").trim(), "42");

        let update = [
            "update",
            "--memory",
            "33554432",
            "--pids-limit",
            "7",
            &container.id,
        ];
        container.run(&update).ok();
        assert_eq!(told("MemoryMax"), (32 << 20).to_string());
        assert_eq!(read("pids.max").trim(), "7");

        let exec = container.run(&["exec", &container.id, "/bin/cat", "/proc/self/cgroup"]);
        assert_eq!(exec.ok().trim(), "0::/");
        container.run(&["pause", &container.id]).ok();
        assert_eq!(read("cgroup.freeze").trim(), "1");
        container.run(&["resume", &container.id]).ok();
        container.run(&["delete", "--force", &container.id]).ok();
        assert_eq!(told("ActiveState"), "inactive");
        assert!(!group.exists());
    });
}

#[test]
fn a_path_that_is_none_of_systemd_is_refused() {
    with_each_runtime(|runtime| {
        let container = Container::new(runtime, |spec| {
            spec["linux"]["cgroupsPath"] = json!("/not/a/unit");
        });
        let said = container.start().refused();
        assert!(said.contains("slice:prefix:name"), "{said}");
    });
}

#[test]
fn a_container_that_fails_leaves_no_unit() {
    with_each_runtime(|runtime| {
        let container = Container::new(runtime, |spec| {
            spec["linux"]["cgroupsPath"] = json!("system.slice:box:two");
            spec["process"]["args"] = json!(["/bin/absent"]);
        });
        container.start().refused();
        let unit = "box-two.scope";
        assert_eq!(container.property(unit, "ActiveState"), "inactive");
        assert!(!Path::new("/sys/fs/cgroup/system.slice/box-two.scope").exists());
    });
}

#[test]
fn properties_that_reach_out_of_the_container_are_refused_by_ours() {
    let ours = binaries::find("corten-runtime").expect("corten-runtime is built");
    vm::inside(&["--systemd"], || {
        let container = Container::new(&ours, |spec| {
            spec["linux"]["cgroupsPath"] = json!("system.slice:box:three");
            spec["annotations"] = json!({"org.systemd.property.ExecStop": "'/bin/sh'"});
        });
        let said = container.start().refused();
        assert!(said.contains("property ExecStop may not be set"), "{said}");
    });
}
