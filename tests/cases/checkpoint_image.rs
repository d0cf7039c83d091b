//! Checkpoints in the content store by upstream's `ctr`: each case holds for upstream's daemon too, or it is a wrong case.

use tests::command::LIMIT;
use tests::{Criu, Ctr, Daemon, Engine, Image, Peers, eventually};

const IMAGE: &str = "example.org/busybox:1";
const COUNT: &str = "i=0; while :; do i=$((i + 1)); echo $i >/tmp/count; sleep 0.05; done";

/// Runs a case with upstream's daemon and with ours, each with a container that counts.
fn each(flags: &[&str], case: impl Fn(&Daemon, &Ctr)) {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    if Criu::or_skip().is_none() {
        return;
    }
    for engine in [Engine::Containerd2, Engine::Corten] {
        let daemon = Daemon::start(engine, &peers);
        let ctr = daemon.ctr();
        let archive = Image::busybox().write_archive(daemon.folder(), IMAGE);
        let archive = archive.display().to_string();
        ctr.ok(&["images", "import", "--local", &archive]);
        let run = [
            &["run", "-d"],
            flags,
            &[IMAGE, "first", "/bin/sh", "-c", COUNT],
        ];
        ctr.ok(&run.concat());
        passes(&ctr, "first", 20);
        case(&daemon, &ctr);
    }
}

/// Returns how far a container has counted, unless it is just writing that down.
fn count(ctr: &Ctr, id: &str) -> Option<u64> {
    let exec = [
        "tasks",
        "exec",
        "--exec-id",
        "look",
        id,
        "cat",
        "/tmp/count",
    ];
    ctr.run(&exec).stdout.trim().parse().ok()
}

/// Waits until a container has counted further than `from`, and not from the start.
fn passes(ctr: &Ctr, id: &str, from: u64) -> u64 {
    let now = eventually("it goes on counting", LIMIT, || {
        count(ctr, id).filter(|now| *now > from)
    });
    assert!(now < from + 1000, "{now} after {from}");
    now
}

fn end(ctr: &Ctr, id: &str) {
    ctr.run(&["tasks", "kill", "--signal", "SIGKILL", id]);
    eventually("it has ended", LIMIT, || {
        let tasks = ctr.ok(&["tasks", "ls"]);
        let row = tasks.lines().find(|line| line.starts_with(id));
        row.is_none_or(|row| row.contains("STOPPED")).then_some(())
    });
    ctr.run(&["tasks", "delete", id]);
    ctr.ok(&["containers", "delete", id]);
}

#[test]
fn a_container_is_restored_from_an_image_of_it() {
    each(&[], |_, ctr| restored(ctr));
}

#[test]
fn a_container_of_another_runtime_is_restored_by_that() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let runc = peers.sid.join("runc").display().to_string();
    each(&["--runc-binary", &runc], |_, ctr| restored(ctr));
}

/// Writes a container into an image, and makes another one of that.
fn restored(ctr: &Ctr) {
    let at = passes(ctr, "first", 20);
    let image = "example.org/checkpoint:1";
    let write = [
        "containers",
        "checkpoint",
        "--image",
        "--rw",
        "--task",
        "first",
        image,
    ];
    ctr.ok(&write);
    // It was only paused meanwhile.
    passes(ctr, "first", at);
    end(ctr, "first");
    ctr.ok(&["containers", "restore", "--rw", "--live", "second", image]);
    let tasks = ctr.ok(&["tasks", "ls"]);
    let row = tasks.lines().find(|line| line.starts_with("second"));
    assert!(row.is_some_and(|row| row.contains("RUNNING")), "{tasks}");
    let now = passes(ctr, "second", at);
    passes(ctr, "second", now);
    end(ctr, "second");
}

#[test]
fn a_task_is_written_to_the_content_store_or_to_a_folder() {
    each(&["--null-io"], |daemon, ctr| {
        let folder = daemon.folder().join("images").display().to_string();
        ctr.ok(&["tasks", "checkpoint", "--image-path", &folder, "first"]);
        for file in ["inventory.img", "descriptors.json"] {
            assert!(daemon.folder().join("images").join(file).exists(), "{file}");
        }
        let at = count(ctr, "first").unwrap_or(0);
        passes(ctr, "first", at);
        let name = ctr.ok(&["tasks", "checkpoint", "--exit", "first"]);
        let images = ctr.ok(&["images", "ls", "-q"]);
        assert!(
            name.trim().contains("first") && images.contains(name.trim()),
            "{images}"
        );
        eventually("it has ended", LIMIT, || {
            ctr.ok(&["tasks", "ls"]).contains("STOPPED").then_some(())
        });
        end(ctr, "first");
    });
}
