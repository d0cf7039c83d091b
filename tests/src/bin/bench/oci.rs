//! OCI runtimes by their command lines: `run` of a minimal bundle and `exec` into a running container.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{binaries, command};

use crate::Bench;
use crate::report::{Row, version};
use crate::sample::{self, Contender};

/// Rows of [`run`].
pub const RUN: &[&str] = &["run-vs-runc", "run-vs-crun", "run-vs-floor"];
/// Rows of [`exec`].
pub const EXEC: &[&str] = &["exec-vs-runc", "exec-vs-crun"];

/// Measures `run` of `true` in a fresh container, against runc, crun and a program that does only what the kernel needs.
pub fn run(bench: &Bench) -> Vec<Row> {
    let bundle = Bundle::new(bench, &["/bin/true"]);
    let floor = binaries::find("floor").expect("floor is built");
    let mut contenders: Vec<Contender<'_>> = runtimes(bench)
        .into_iter()
        .map(|program| {
            let bundle = &bundle;
            let sample = move || sample::milliseconds(&mut bundle.run(&program, &id(), false));
            Box::new(sample) as Contender<'_>
        })
        .collect();
    contenders.push(Box::new(|| {
        sample::milliseconds(
            Command::new(&floor)
                .arg(bundle.folder.path().join("rootfs"))
                .arg("/bin/true"),
        )
    }));
    let medians = sample::medians(bench.samples, &mut contenders);
    let [_, runc, crun] = runtimes(bench);
    vec![
        Row::new("run-vs-runc", "ms", medians[0], medians[1])
            .peer("runc", &version(&runc))
            .goal(0.5),
        Row::new("run-vs-crun", "ms", medians[0], medians[2])
            .peer("crun", &version(&crun))
            .goal(1.0),
        Row::new("run-vs-floor", "ms", medians[0], medians[3]).peer("floor", ""),
    ]
}

/// Measures `exec` of `true` in a container that runs.
pub fn exec(bench: &Bench) -> Vec<Row> {
    let bundle = Bundle::new(bench, &["/bin/sleep", "3600"]);
    let runtimes = runtimes(bench);
    let containers = runtimes.clone().map(|program| bundle.start(&program));
    let mut contenders: Vec<Contender<'_>> = containers
        .iter()
        .map(|container| {
            let sample =
                move || sample::milliseconds(&mut container.command(&["exec"], &["/bin/true"]));
            Box::new(sample) as Contender<'_>
        })
        .collect();
    let medians = sample::medians(bench.samples, &mut contenders);
    vec![
        Row::new("exec-vs-runc", "ms", medians[0], medians[1]).peer("runc", &version(&runtimes[1])),
        Row::new("exec-vs-crun", "ms", medians[0], medians[2]).peer("crun", &version(&runtimes[2])),
    ]
}

/// Returns ours, runc and crun.
fn runtimes(bench: &Bench) -> [PathBuf; 3] {
    [
        binaries::find("corten-runtime").expect("corten-runtime is built"),
        bench.peers.sid.join("runc"),
        bench.peers.sid.join("crun"),
    ]
}

fn id() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("bench-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The bundle of `runc spec` with busybox for a root and no terminal, and the state of the containers made of it.
struct Bundle {
    folder: TempDir,
}

impl Bundle {
    fn new(bench: &Bench, args: &[&str]) -> Bundle {
        let folder = tempfile::Builder::new()
            .prefix("bundle-")
            .tempdir()
            .expect("make a folder");
        let rootfs = folder.path().join("rootfs");
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(name)).expect("make a folder");
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("copy Debian's busybox");
        for name in ["true", "sleep"] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name))
                .expect("make a link");
        }
        command::run(
            Command::new(bench.peers.sid.join("runc"))
                .arg("spec")
                .current_dir(folder.path()),
        )
        .ok();
        let config = folder.path().join("config.json");
        let text = fs::read(&config).expect("read the configuration");
        let mut value: Value = serde_json::from_slice(&text).expect("runc writes JSON");
        value["process"]["terminal"] = json!(false);
        value["process"]["args"] = json!(args);
        fs::write(&config, value.to_string()).expect("write the configuration");
        Bundle { folder }
    }

    fn run(&self, program: &Path, id: &str, detached: bool) -> Command {
        let mut command = Command::new(program);
        command.arg("--root").arg(self.state(program)).arg("run");
        if detached {
            command.arg("--detach");
        }
        command.arg("--bundle").arg(self.folder.path()).arg(id);
        command
    }

    fn start(&self, program: &Path) -> Container {
        let container = Container {
            program: program.to_owned(),
            state: self.state(program),
            id: id(),
        };
        sample::seconds(&mut self.run(program, &container.id, true));
        container
    }

    fn state(&self, program: &Path) -> PathBuf {
        let name = program.file_name().expect("a program has a name");
        self.folder.path().join("state").join(name)
    }
}

/// A detached container; dropping it ends it.
struct Container {
    program: PathBuf,
    state: PathBuf,
    id: String,
}

impl Container {
    fn command(&self, before: &[&str], after: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--root")
            .arg(&self.state)
            .args(before)
            .arg(&self.id)
            .args(after);
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        command::run(&mut self.command(&["delete", "--force"], &[]));
    }
}
