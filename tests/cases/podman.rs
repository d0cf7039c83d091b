//! Debian's podman on our runtime: what it prints and how it ends is what it does on runc.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tests::{Bundle, Finished, Runtime, command, leftovers::Leftovers, print_skip};

/// How long one command of podman's may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The name of the image, which is busybox.
const IMAGE: &str = "localhost/box:1";

/// Limits that podman can set without CAP_SYS_RESOURCE, and nothing that reaches the machine's own services.
const CONFIG: &str = r#"
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime_supports_json = ["runc", "corten-runtime"]
"#;

/// Podman with everything that it keeps in one folder, on one runtime.
struct Podman {
    runtime: Runtime,
    folder: tempfile::TempDir,
    /// The control group above its containers.
    group: String,
}

impl Podman {
    /// Makes an empty store with the image in it.
    fn new(runtime: &Runtime) -> Podman {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::Builder::new()
            .prefix("corten-podman-")
            .tempdir()
            .expect("make a folder");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let podman = Podman {
            runtime: runtime.clone(),
            group: format!("corten-podman-{}-{number}", std::process::id()),
            folder,
        };
        fs::write(podman.path().join("containers.conf"), CONFIG).expect("write a file");
        let (root, run) = (podman.path().join("root"), podman.path().join("run"));
        let storage =
            format!("[storage]\ndriver = \"vfs\"\nrunroot = {run:?}\ngraphroot = {root:?}\n");
        fs::write(podman.path().join("storage.conf"), storage).expect("write a file");
        let bundle = Bundle::new(runtime);
        let layer = podman.path().join("layer.tar");
        let mut tar = Command::new("tar");
        tar.arg("-C")
            .arg(bundle.rootfs())
            .arg("-cf")
            .arg(&layer)
            .arg(".");
        command::run(&mut tar).ok();
        podman
            .run(&["import", "--quiet", &layer.display().to_string(), IMAGE])
            .ok();
        podman
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs podman to its end; the path of the runtime is left out of what it says.
    fn run(&self, args: &[&str]) -> Finished {
        let mut podman = Command::new("podman");
        for (flag, name) in [
            ("--root", "root"),
            ("--runroot", "run"),
            ("--tmpdir", "tmp"),
        ] {
            podman.arg(flag).arg(self.path().join(name));
        }
        podman
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"])
            .args(["--events-backend", "none", "--runtime"])
            .arg(&self.runtime.program)
            .args(args)
            .env("CONTAINERS_CONF", self.path().join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.path().join("storage.conf"))
            .env("XDG_RUNTIME_DIR", self.path())
            .env("HOME", self.path());
        let mut finished = command::run_with(&mut podman, b"", LIMIT);
        let program = self.runtime.program.display().to_string();
        finished.stderr = finished.stderr.replace(&program, "RUNTIME");
        finished
    }

    /// Runs a container to its end, with these flags.
    fn container(&self, flags: &[&str], args: &[&str]) -> Finished {
        let parent = format!("--cgroup-parent=/{}", self.group);
        let mut all = vec!["run", "--rm", &parent];
        if !flags.contains(&"--network") {
            all.extend(["--network", "none"]);
        }
        all.extend(flags);
        all.push(IMAGE);
        all.extend(args);
        self.run(&all)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.run(&["rm", "--all", "--force", "--time", "0"]);
        Leftovers::remove(self.path(), &self.group);
    }
}

/// Runs a case on runc and on ours; the lines that it returns must be the same.
fn same(case: impl Fn(&Podman) -> Vec<String>) {
    let mut told: Option<Vec<String>> = None;
    for runtime in Runtime::both().iter().rev() {
        let podman = Podman::new(runtime);
        if told.is_none() {
            let tried = podman.container(&[], &["/bin/true"]);
            if tried.code != Some(0) {
                print_skip(&format!("podman cannot run a container with runc: {tried}"));
                return;
            }
        }
        let seen = case(&podman);
        let Some(expected) = &told else {
            told = Some(seen);
            continue;
        };
        let missing: Vec<_> = expected
            .iter()
            .filter(|line| !seen.contains(line))
            .collect();
        let strange: Vec<_> = seen
            .iter()
            .filter(|line| !expected.contains(line))
            .collect();
        assert!(
            missing.is_empty() && strange.is_empty(),
            "with runc alone: {missing:#?}\nwith ours alone: {strange:#?}"
        );
        assert_eq!(&seen, expected, "in another order");
    }
}

/// Returns what a command left as lines, each with what it is about.
fn lines(about: &str, ended: &Finished) -> Vec<String> {
    let code = [format!("{about}: ends with {:?}", ended.code)];
    let out = ended.stdout.lines().map(|line| format!("{about}: {line}"));
    let err = ended
        .stderr
        .lines()
        .map(|line| format!("{about}: ! {line}"));
    code.into_iter().chain(out).chain(err).collect()
}

#[test]
fn exit_codes_and_output_are_podmans_own() {
    same(|podman| {
        let cases: [(&[&str], &[&str]); 5] = [
            (&[], &["/bin/echo", "hello"]),
            (&[], &["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]),
            (&[], &["/etc"]),
            (&[], &["frob"]),
            (&[], &["/absent"]),
        ];
        let mut told = Vec::new();
        for ((flags, args), code) in cases.into_iter().zip([0, 3, 126, 127, 127]) {
            let ended = podman.container(flags, args);
            assert_eq!(ended.code, Some(code), "{ended}");
            told.extend(lines(&args.join(" "), &ended));
        }
        let unknown = podman.container(&["--no-such-flag"], &["true"]);
        assert_eq!(unknown.code, Some(125), "{unknown}");
        told
    });
}

#[test]
fn flags_of_run_do_what_they_do_on_runc() {
    same(|podman| {
        // runc of late leaves the folder of the hierarchies of version 1 writable, which ours does not.
        let show = "id; grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; hostname | wc -c; ulimit -n; \
            mount | cut -d' ' -f3- | grep -vE ' /(etc|run)/|^/sys/fs/cgroup ' | sed 's/size=[0-9]*k//' | sort; ls /dev | sort; \
            touch /x /tmp/x; ls /sys/class/net; cat /proc/self/oom_score_adj";
        let flags: [&[&str]; 7] = [
            &[],
            &["--read-only"],
            &["--user", "1000:1000", "--group-add", "7"],
            &["--cap-drop", "all", "--security-opt", "no-new-privileges"],
            &["--privileged"],
            &["--tmpfs", "/t:size=1m", "--volume", "/etc/hostname:/h:ro"],
            &[
                "--network",
                "host",
                "--ipc",
                "host",
                "--uts",
                "host",
                "--pid",
                "host",
            ],
        ];
        let run = |flags: &[&str]| {
            let ended = podman.container(flags, &["/bin/sh", "-c", show]);
            lines(&flags.join(" "), &ended)
        };
        flags.into_iter().flat_map(run).collect()
    });
}

#[test]
fn limits_of_a_container_are_set() {
    if !Path::new("/sys/fs/cgroup/memory").exists() {
        tests::skip!("reads the files of cgroup v1");
    }
    same(|podman| {
        let flags = [
            "--memory",
            "64m",
            "--cpus",
            "0.5",
            "--pids-limit",
            "42",
            "--cpu-shares",
            "512",
            "--cpuset-cpus",
            "0",
        ];
        let show = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us \
            cpu/cpu.shares pids/pids.max cpuset/cpuset.cpus; sort devices/devices.list";
        let shown = podman.container(&flags, &["/bin/sh", "-c", show]).ok();
        assert!(
            shown.starts_with("67108864\n50000\n512\n42\n0\n"),
            "{shown}"
        );
        shown.lines().map(str::to_owned).collect()
    });
}

#[test]
fn a_detached_container_goes_through_its_life() {
    same(|podman| {
        let parent = format!("--cgroup-parent=/{}", podman.group);
        let run = [
            "run",
            "--detach",
            "--name",
            "c1",
            "--network",
            "none",
            &parent,
            IMAGE,
            "/bin/sh",
            "-c",
            "echo started; sleep 600",
        ];
        podman.run(&run).ok();
        let mut seen: Vec<String> = Vec::new();
        let mut step = |args: &[&str]| {
            let ended = podman.run(args);
            seen.extend(lines(&args.join(" "), &ended));
        };
        let status = [
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.ExitCode}}",
            "c1",
        ];
        step(&status);
        step(&["exec", "c1", "/bin/sh", "-c", "echo inside; exit 5"]);
        step(&[
            "exec",
            "--user",
            "1000",
            "--env",
            "A=1",
            "c1",
            "/bin/sh",
            "-c",
            "id; echo $A",
        ]);
        step(&["exec", "c1", "frob"]);
        step(&["pause", "c1"]);
        step(&status);
        step(&["unpause", "c1"]);
        step(&[
            "stats",
            "--no-stream",
            "--format",
            "{{.Name}} {{.PIDs}}",
            "c1",
        ]);
        step(&["top", "c1", "args"]);
        step(&["kill", "c1"]);
        step(&["wait", "c1"]);
        step(&status);
        step(&["logs", "c1"]);
        step(&["start", "c1"]);
        step(&["stop", "--time", "0", "c1"]);
        step(&["rm", "c1"]);
        step(&["ps", "--all", "--format", "{{.Names}}"]);
        seen
    });
}
