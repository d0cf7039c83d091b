//! What `corten run` gives a container: system calls, devices, a root file system; and nothing if it is interrupted.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tests::{binaries, command, eventually};

use super::{LIMIT, Setup, on_both};

/// Returns the lines of `/proc/self/status` about filters, and whether a call that needs a capability is refused.
const FILTERED: &str = "grep ^Seccomp: /proc/self/status; /bin/busybox unshare echo unshared 2>&1";

#[test]
fn system_calls_are_filtered_unless_that_is_turned_off() {
    on_both(|setup| {
        let image = setup.import();
        let profile = setup.daemon.folder().join("profile.json");
        let text = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
        });
        std::fs::write(&profile, text.to_string()).expect("write a profile");
        let profile = format!("--seccomp-profile={}", profile.display());
        let shell = |options: &[&str], script: &str| {
            let line = [
                &["run", "--rm"],
                options,
                &[image, "one", "sh", "-c", script],
            ]
            .concat();
            setup.run(&line).stdout
        };
        let refused = "Seccomp:\t2\nunshare: unshare(0x0): Operation not permitted\n";
        assert_eq!(shell(&[], FILTERED), refused);
        for options in [["--seccomp=false"], ["--privileged"]] {
            assert_eq!(
                shell(&options, FILTERED),
                "Seccomp:\t0\nunshared\n",
                "{options:?}"
            );
        }
        // With every capability the profile allows what capabilities allow.
        let allowed = "Seccomp:\t2\nunshared\n";
        assert_eq!(shell(&["--privileged", "--seccomp"], FILTERED), allowed);
        let made = shell(
            &[&profile],
            "mkdir /tmp/x 2>&1; /bin/busybox unshare echo unshared",
        );
        assert_eq!(
            made,
            "mkdir: can't create directory '/tmp/x': Operation not permitted\nunshared\n"
        );
        let both = setup.run(&["run", "--seccomp=false", &profile, image, "one", "true"]);
        assert!(both.refused().contains("exclude each other"));
        // The same profile as upstream's, which is asked for there.
        let line = [
            "run",
            "--rm",
            "--seccomp",
            image,
            "two",
            "sh",
            "-c",
            FILTERED,
        ];
        assert_eq!(setup.daemon.ctr().run(&line).stdout, refused);
        setup.assert_clean();
    });
}

#[test]
fn a_privileged_container_has_what_ctr_gives_it() {
    on_both(|setup| {
        let image = setup.import();
        let ctr = setup.daemon.ctr();
        let script = "ls -lR /dev | grep '^[bc]' | wc -l; head -c 3 /dev/zero | wc -c";
        for options in [
            &["--privileged"][..],
            &["--privileged", "--privileged-without-host-devices"],
            &["--device", "/dev/fuse"],
        ] {
            if options.contains(&"--device") && !Path::new("/dev/fuse").exists() {
                continue;
            }
            let run = [
                &["run", "--rm"],
                options,
                &[image, "one", "sh", "-c", script],
            ]
            .concat();
            assert_eq!(setup.ok(&run), ctr.ok(&run), "{options:?}");
            let configuration = |id: &str| {
                let text = setup.ok(&["containers", "info", "--spec", id]);
                let spec: Value = serde_json::from_str(&text).expect("a configuration is JSON");
                assert_eq!(setup.run(&["tasks", "delete", "-f", id]).code, Some(137));
                setup.ok(&["containers", "rm", id]);
                let sorted = |value: &Value| {
                    let mut all: Vec<String> = value
                        .as_array()
                        .into_iter()
                        .flatten()
                        .map(Value::to_string)
                        .collect();
                    all.sort();
                    all
                };
                let linux = &spec["linux"];
                let paths = linux["devices"].as_array().into_iter().flatten();
                let paths = paths.map(|device| device["path"].clone()).collect();
                (
                    sorted(&paths),
                    sorted(&linux["resources"]["devices"]),
                    sorted(&spec["process"]["capabilities"]["bounding"]),
                    sorted(&linux["maskedPaths"]),
                    sorted(&linux["readonlyPaths"]),
                )
            };
            let detached = |id| {
                let options = [&["run", "-d", "--null-io"], options].concat();
                [&options[..], &[image, id, "sleep", "600"]].concat()
            };
            setup.ok(&detached("ours"));
            ctr.ok(&detached("theirs"));
            assert_eq!(
                configuration("ours"),
                configuration("theirs"),
                "{options:?}"
            );
        }
        setup.assert_clean();
    });
}

#[test]
fn limits_and_the_like_are_what_ctr_makes_of_them() {
    on_both(|setup| {
        let image = setup.import();
        let ctr = setup.daemon.ctr();
        let variables = setup.daemon.folder().join("env");
        std::fs::write(&variables, "FROM=file\nMADE=there\n").expect("write a file");
        let variables = format!("--env-file={}", variables.display());
        let network = format!("--with-ns=network:/proc/{}/ns/net", std::process::id());
        let options = [
            &variables,
            "--env=AND=more",
            "--cpus=0.5",
            "--cpu-shares=512",
            "--cpuset-cpus=0",
            "--memory-limit=67108864",
            &network,
            "--mount=type=tmpfs,src=tmpfs,dst=/dev/shm,options=size=1m",
            "--cap-add=CAP_SYS_TIME",
            "--cap-drop=CAP_KILL",
            "--annotation=a=b",
            "--hostname=h",
        ];
        let configuration = |client: &tests::Ctr, id: &str| {
            let command = [image, id, "sleep", "600"];
            client.ok(&[&["run", "-d", "--null-io"], &options[..], &command].concat());
            let text = setup.ok(&["containers", "info", "--spec", id]);
            let spec: Value = serde_json::from_str(&text).expect("a configuration is JSON");
            assert_eq!(setup.run(&["tasks", "delete", "-f", id]).code, Some(137));
            setup.ok(&["containers", "rm", id]);
            let sorted = |pointer: &str| {
                let values = spec.pointer(pointer).and_then(Value::as_array);
                let mut values: Vec<String> =
                    values.into_iter().flatten().map(Value::to_string).collect();
                values.sort();
                values
            };
            let lists = [
                "/process/env",
                "/process/rlimits",
                "/process/capabilities/bounding",
                "/linux/namespaces",
                "/mounts",
            ];
            let values = [
                "/linux/resources/cpu",
                "/linux/resources/memory",
                "/annotations",
                "/hostname",
            ];
            let values = values.map(|pointer| spec.pointer(pointer).cloned());
            (lists.map(sorted), values)
        };
        assert_eq!(
            configuration(&setup.corten, "ours"),
            configuration(&ctr, "theirs")
        );
        let line = [
            "run",
            "--rm",
            "--rlimit-nofile=100:200",
            image,
            "one",
            "sh",
            "-c",
        ];
        let files = setup.ok(&[&line[..], &["ulimit -n; ulimit -H -n"]].concat());
        assert_eq!(files, "100\n200\n");
        setup.assert_clean();
    });
}

#[test]
fn the_output_goes_where_it_is_told_to() {
    on_both(|setup| {
        let image = setup.import();
        let log = setup.daemon.folder().join("log.txt");
        let uri = format!("--log-uri=file://{}", log.display());
        let line = [
            "run",
            "--rm",
            &uri,
            image,
            "one",
            "sh",
            "-c",
            // Upstream's shim loses what is written right before the end.
            "echo out; echo err >&2; sleep 1",
        ];
        assert_eq!(setup.ok(&line), "");
        eventually("the log is written", LIMIT, || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            (text.contains("out\n") && text.contains("err\n")).then_some(())
        });
        setup.assert_clean();
    });
}

#[test]
fn a_folder_of_the_host_is_a_root_file_system() {
    on_both(|setup| {
        let root = setup.root();
        std::fs::write(root.join("etc/passwd"), "me:x:7:8::/:/bin/sh\n").expect("write a file");
        std::fs::set_permissions(&root, PermissionsExt::from_mode(0o777)).expect("open the folder");
        let root = root.display().to_string();
        let line = [
            "run", "--rm", "--rootfs", "--user", "me", &root, "one", "/bin/sh", "-c",
        ];
        let script = "echo made >/made; exit 4";
        let line = [&line[..], &[script]].concat();
        assert_eq!(setup.run(&line).code, Some(4));
        let made = Path::new(&root).join("made");
        let owner = std::fs::metadata(&made).expect("the container wrote into the folder");
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&owner), 7);
        std::fs::remove_file(&made).expect("the folder is still there");
        assert_eq!(setup.daemon.ctr().run(&line).code, Some(4));
        assert!(made.exists());
        assert_eq!(setup.ok(&["snapshots", "list", "-q"]), "");
        setup.assert_clean();
    });
}

impl Setup {
    /// Makes a root file system in a folder.
    fn root(&self) -> PathBuf {
        let root = self.daemon.folder().join("busybox");
        for folder in ["bin", "dev", "etc", "proc", "run", "sys"] {
            std::fs::create_dir_all(root.join(folder)).expect("make a root file system");
        }
        std::fs::copy("/bin/busybox", root.join("bin/sh")).expect("busybox-static is installed");
        root
    }

    /// Writes a shell script in which `WAIT` stands for saying that one waits and waiting until one is let go.
    fn waiting(&self, script: &str) -> String {
        let folder = self.daemon.folder();
        let wait = format!(
            "touch {folder}/waits; until [ -e {folder}/go ]; do sleep 0.02; done",
            folder = folder.display()
        );
        let script = format!("#!/bin/sh\n{}\n", script.replace("WAIT", &wait));
        let program = folder.join("waiting");
        std::fs::write(&program, script).expect("write a script");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("make it run");
        program.display().to_string()
    }

    /// Writes a configuration of a container of [`Setup::root`], and returns its path.
    fn configuration(&self, change: impl FnOnce(&mut Value)) -> String {
        let text = self.ok(&["oci", "spec"]);
        let mut spec: Value = serde_json::from_str(&text).expect("a configuration is JSON");
        spec["root"]["path"] = json!(self.root());
        spec["process"]["args"] = json!(["/bin/sh", "-c", "echo configured; exit 3"]);
        let group = format!("/{}/configured", self.daemon.namespace);
        spec["linux"]["cgroupsPath"] = json!(group);
        change(&mut spec);
        let file = self.daemon.folder().join("config.json");
        std::fs::write(&file, spec.to_string()).expect("write a configuration");
        file.display().to_string()
    }
}

#[test]
fn a_file_can_be_the_whole_configuration() {
    on_both(|setup| {
        let file = setup.configuration(|_| {});
        let line = ["run", "--rm", "--config", &file, "one"];
        for client in [&setup.corten, &setup.daemon.ctr()] {
            let run = client.run(&line);
            assert_eq!(
                (run.code, run.stdout.as_str()),
                (Some(3), "configured\n"),
                "{run}"
            );
        }
        setup.ok(&[
            "containers",
            "create",
            "-c",
            &file,
            "--label",
            "a=b",
            "made",
        ]);
        let info = setup.ok(&["containers", "info", "made"]);
        assert!(
            info.contains("\"a\": \"b\"") && info.contains("echo configured"),
            "{info}"
        );
        setup.ok(&["containers", "rm", "made"]);
        setup.assert_clean();
    });
}

/// A `corten run` that waits before its container has started, until it is let go.
struct Held<'a> {
    setup: &'a Setup,
    child: Child,
}

impl Held<'_> {
    fn start<'a>(setup: &'a Setup, line: &[&str]) -> Held<'a> {
        let folder = setup.daemon.folder();
        for file in ["waits", "go"] {
            let _ = std::fs::remove_file(folder.join(file));
        }
        let mut command = setup.corten.command(line);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let held = Held {
            setup,
            child: child.expect("start corten"),
        };
        eventually("something waits", LIMIT, || {
            folder.join("waits").exists().then_some(())
        });
        held
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal a child of ours");
    }

    fn let_go(&self) {
        std::fs::write(self.setup.daemon.folder().join("go"), "").expect("write a file");
    }

    fn wait(&mut self) -> Option<i32> {
        command::wait(&mut self.child, LIMIT)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.let_go();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_signal_before_the_start_leaves_nothing() {
    on_both(|setup| {
        let image = setup.import();
        let runtime = binaries::folder().join("corten-runtime");
        // A runtime by its command line, which waits before it makes the container.
        let script = "case \" $* \" in *' create '*) WAIT;; esac\nexec RUNTIME \"$@\"";
        let script = script.replace("RUNTIME", &runtime.display().to_string());
        let binary = format!("--runc-binary={}", setup.waiting(&script));
        for options in [&["--rm"][..], &["-d"], &[]] {
            let line = [&["run", &binary], options, &[image, "one", "sleep", "600"]].concat();
            let mut held = Held::start(setup, &line);
            held.signal(Signal::TERM);
            held.let_go();
            assert_eq!(held.wait(), Some(128 + 15), "{options:?}");
            setup.assert_clean();
        }
        // Who asks twice does not wait for the runtime.
        let mut held = Held::start(setup, &["run", &binary, image, "one", "sleep", "600"]);
        held.signal(Signal::INT);
        std::thread::sleep(std::time::Duration::from_millis(200));
        held.signal(Signal::INT);
        assert_eq!(held.wait(), Some(128 + 2));
        held.let_go();
        setup.assert_clean();
    });
}

#[test]
fn a_signal_while_a_hook_runs_leaves_nothing() {
    on_both(|setup| {
        let hook = setup.waiting("WAIT");
        let file = setup.configuration(|spec| {
            spec["hooks"] = json!({"createRuntime": [{"path": hook}]});
            spec["process"]["args"] = json!(["/bin/sh", "-c", "exec sleep 600"]);
        });
        let mut held = Held::start(setup, &["run", "--config", &file, "one"]);
        held.signal(Signal::HUP);
        held.let_go();
        assert_eq!(held.wait(), Some(128 + 1));
        setup.assert_clean();
    });
}
