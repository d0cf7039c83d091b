//! Upstream's `ctr` tells the same about `cortend` as about upstream containerd.

use std::collections::BTreeMap;
use std::time::Duration;

use tests::{Ctr, Daemon, Engine, Image, Peers, Registry, Terminal, binaries, eventually};

const NAME: &str = "example.org/busybox:1";

/// Runs `scenario` against upstream's daemon, then against ours, and compares what it returns.
///
/// With `CORTEN_TESTS_AGAINST=upstream` both are upstream's: a case that fails then is a wrong case.
fn same_as_upstream<T: PartialEq + std::fmt::Debug>(scenario: impl Fn(&Daemon) -> T) {
    if binaries::find("containerd-shim-corten-v2").is_none() {
        tests::print_skip("the shim is not in the tree yet");
        return;
    }
    same_without_shim(scenario);
}

/// Does what [`same_as_upstream`] does for a scenario that runs no container.
pub fn same_without_shim<T: PartialEq + std::fmt::Debug>(scenario: impl Fn(&Daemon) -> T) {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let upstream = scenario(&Daemon::start(Engine::Containerd2, &peers));
    let second =
        if std::env::var_os("CORTEN_TESTS_AGAINST").is_some_and(|value| value == "upstream") {
            eprintln!("{upstream:#?}");
            Engine::Containerd2
        } else {
            Engine::Corten
        };
    let ours = scenario(&Daemon::start(second, &peers));
    assert_eq!(ours, upstream, "left: ours, right: upstream's");
}

/// Imports the busybox image and returns what ctr said.
fn import(daemon: &Daemon, ctr: &Ctr) -> String {
    let archive = Image::busybox().write_archive(daemon.folder(), NAME);
    ctr.ok(&[
        "images",
        "import",
        "--local",
        &archive.display().to_string(),
    ])
}

/// The columns of a table by position, without those that differ from run to run, sorted by row.
pub fn table(text: &str, columns: &[usize]) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = text
        .lines()
        .map(|line| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .map(|words| {
            columns
                .iter()
                .filter_map(|&column| words.get(column).cloned())
                .collect()
        })
        .collect();
    rows.sort();
    rows
}

/// Exit code, standard output and the last line of standard error, without what differs from run to run.
pub fn said(ctr: &Ctr, args: &[&str]) -> (Option<i32>, String, String) {
    let finished = ctr.run(args);
    let last = finished.stderr.lines().last().unwrap_or("");
    let message = last
        .split_once("level=")
        .map_or(last, |(_, message)| message);
    let out = finished.stdout.lines().map(|line| steady(ctr, line) + "\n");
    (finished.code, out.collect(), steady(ctr, message))
}

/// A line without the fixture's names; labels in order and without times.
fn steady(ctr: &Ctr, line: &str) -> String {
    let line = line
        .replace(&ctr.folder().display().to_string(), "FOLDER")
        .replace(ctr.namespace(), "NAMESPACE");
    // How many objects the namespace had before is each daemon's own matter.
    let line = match line.split_once("NAMESPACE/") {
        Some((_, rest)) => {
            let number = rest.split('/').next().unwrap_or_default().to_owned();
            line.replace(&format!("NAMESPACE/{number}/"), "NAMESPACE/N/")
        }
        None => line,
    };
    let mut labels: Vec<&str> = line.split(',').collect();
    if labels.len() < 2 || !labels.iter().all(|label| label.contains('=')) {
        return line;
    }
    labels.retain(|label| !label.starts_with("containerd.io/gc.root="));
    labels.sort_unstable();
    labels.join(",")
}

#[test]
fn version_has_a_client_and_a_server_part() {
    same_as_upstream(|daemon| {
        let lines = |ctr: Ctr| -> Vec<String> {
            let text = ctr.ok(&["version"]);
            let keys = text
                .lines()
                .map(|line| line.split(':').next().unwrap_or("").to_owned());
            keys.collect()
        };
        (lines(daemon.ctr()), lines(daemon.old_ctr()))
    });
}

#[test]
fn plugins_that_clients_look_for_are_listed_as_ok() {
    same_as_upstream(|daemon| {
        let text = daemon.ctr().ok(&["plugins", "ls"]);
        let rows: BTreeMap<(String, String), String> = text
            .lines()
            .skip(1)
            .map(|line| {
                line.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .filter(|row| row.len() == 4)
            .map(|row| ((row[0].clone(), row[1].clone()), row[3].clone()))
            .collect();
        let wanted = [
            ("io.containerd.snapshotter.v1", "overlayfs"),
            ("io.containerd.snapshotter.v1", "native"),
            ("io.containerd.content.v1", "content"),
            ("io.containerd.differ.v1", "walking"),
            ("io.containerd.gc.v1", "scheduler"),
            ("io.containerd.runtime.v2", "task"),
            ("io.containerd.streaming.v1", "manager"),
            ("io.containerd.transfer.v1", "local"),
            ("io.containerd.grpc.v1", "containers"),
            ("io.containerd.grpc.v1", "content"),
            ("io.containerd.grpc.v1", "diff"),
            ("io.containerd.grpc.v1", "events"),
            ("io.containerd.grpc.v1", "images"),
            ("io.containerd.grpc.v1", "introspection"),
            ("io.containerd.grpc.v1", "leases"),
            ("io.containerd.grpc.v1", "namespaces"),
            ("io.containerd.grpc.v1", "snapshots"),
            ("io.containerd.grpc.v1", "streaming"),
            ("io.containerd.grpc.v1", "tasks"),
            ("io.containerd.grpc.v1", "transfer"),
            ("io.containerd.grpc.v1", "version"),
        ];
        wanted.map(|(kind, name)| rows.get(&(kind.to_owned(), name.to_owned())).cloned())
    });
}

#[test]
fn namespaces_are_created_labelled_listed_and_removed() {
    same_as_upstream(|daemon| {
        let ctr = daemon.ctr();
        [
            said(&ctr, &["namespaces", "create", "one", "a=b"]),
            said(&ctr, &["namespaces", "create", "one"]),
            said(&ctr, &["namespaces", "ls"]),
            said(&ctr, &["namespaces", "label", "one", "a=", "c=d"]),
            said(&ctr, &["namespaces", "ls"]),
            said(&ctr, &["namespaces", "create", "not/valid"]),
            said(&ctr, &["namespaces", "rm", "one"]),
            said(&ctr, &["namespaces", "rm", "one"]),
            said(&ctr, &["namespaces", "ls", "-q"]),
        ]
    });
}

#[test]
fn images_are_imported_listed_labelled_tagged_exported_and_removed() {
    same_as_upstream(|daemon| {
        let ctr = daemon.ctr();
        import(daemon, &ctr);
        let exported = daemon.folder().join("exported.tar").display().to_string();
        let list = |args: &[&str]| table(&ctr.ok(args), &[0, 1, 2, 3, 4, 5]);
        let before = list(&["images", "ls"]);
        let steps = vec![
            said(&ctr, &["images", "label", NAME, "colour=red"]),
            said(
                &ctr,
                &["images", "tag", "--local", NAME, "example.org/other:2"],
            ),
            said(
                &ctr,
                &["images", "tag", "--local", NAME, "example.org/other:2"],
            ),
            said(&ctr, &["images", "ls", "-q"]),
            said(&ctr, &["images", "ls", "-q", "name~=other"]),
            said(&ctr, &["images", "ls", "-q", "labels.colour==red"]),
            said(&ctr, &["images", "export", "--local", &exported, NAME]),
            said(
                &ctr,
                &["images", "rm", "--sync", NAME, "example.org/other:2"],
            ),
            said(&ctr, &["images", "rm", NAME]),
            said(&ctr, &["images", "ls", "-q"]),
            said(&ctr, &["images", "import", "--local", &exported]),
            said(&ctr, &["images", "ls", "-q"]),
            said(&ctr, &["images", "check", "-q"]),
        ];
        // The progress of an import carries times.
        let steps: Vec<_> = steps
            .into_iter()
            .map(|(code, out, err)| {
                (
                    code,
                    if out.contains("elapsed") {
                        String::new()
                    } else {
                        out
                    },
                    err,
                )
            })
            .collect();
        (before, steps)
    });
}

#[test]
fn the_transfer_service_imports_exports_and_pulls() {
    same_as_upstream(|daemon| {
        let (ctr, registry) = (daemon.ctr(), Registry::start());
        let folder = daemon.folder();
        let archive = Image::busybox()
            .write_archive(folder, NAME)
            .display()
            .to_string();
        let exported = folder.join("exported.tar").display().to_string();
        let image = Image::many_layers(4, 100_000);
        let reference = registry.push("many", "1", &image);
        let plain = ["--plain-http", "--platform"];
        let platform = format!("linux/{}", tests::image::architecture());
        let mut codes = vec![
            ctr.run(&["images", "import", &archive]).code,
            ctr.run(&["images", "export", &exported, NAME]).code,
            ctr.run(&["images", "pull", plain[0], plain[1], &platform, &reference])
                .code,
        ];
        let list =
            |text: String| table(&text.replace(&registry.host(), "HOST"), &[0, 1, 2, 3, 4, 5]);
        let listed = list(ctr.ok(&["images", "ls"]));
        let chain = list(ctr.ok(&["snapshots", "ls"]));
        let run = ctr.run(&[
            "run",
            "--rm",
            &reference,
            "r",
            "/bin/sh",
            "-c",
            "cat /data/last; ls /data; wc -c /data/2",
        ]);
        codes.push(run.code);
        let old = daemon.old_ctr();
        codes.push(old.run(&["images", "rm", "--sync", &reference]).code);
        let left = table(&ctr.ok(&["snapshots", "ls"]), &[0, 1, 2]).len();
        codes.push(
            old.run(&[
                "images",
                "pull",
                "--plain-http",
                "--all-platforms",
                &reference,
            ])
            .code,
        );
        (codes, listed, chain, run.stdout, left)
    });
}

#[test]
fn content_is_listed_read_labelled_and_deleted() {
    same_as_upstream(|daemon| {
        let ctr = daemon.ctr();
        import(daemon, &ctr);
        let image = Image::busybox();
        let digest = image.config.digest.clone();
        let none = tests::image::digest(b"nobody has this");
        // The archive's index is collected soon after the import, so only the image's own blobs are sure.
        let listed = table(&ctr.ok(&["content", "ls"]), &[0]).concat();
        let listed: Vec<_> = image
            .blobs()
            .map(|blob| listed.contains(&blob.digest))
            .collect();
        let steps = [
            said(&ctr, &["content", "get", &digest]),
            said(&ctr, &["content", "get", &none]),
            said(&ctr, &["content", "label", &digest, "a=b"]),
            said(&ctr, &["content", "rm", &none]),
            said(&ctr, &["content", "rm", &digest]),
            said(&ctr, &["content", "get", &digest]),
            said(&ctr, &["content", "active"]),
        ];
        (listed, steps)
    });
}

#[test]
fn content_is_ingested_only_with_the_right_digest_and_size() {
    same_as_upstream(|daemon| {
        let ctr = daemon.ctr();
        let right = tests::image::digest(b"some bytes\n");
        let wrong = tests::image::digest(b"other bytes\n");
        let ingest = |digest: &str, size: &str, name: &str| {
            let args = [
                "content",
                "ingest",
                "--expected-digest",
                digest,
                "--expected-size",
                size,
                name,
            ];
            let finished = ctr.run_with(&args, b"some bytes\n", Duration::from_secs(20));
            (
                finished.code,
                finished.stderr.contains("failed precondition")
                    || finished.stderr.contains("failed size"),
            )
        };
        let steps = [
            ingest(&wrong, "0", "a"),
            ingest(&right, "5", "b"),
            ingest(&right, "11", "c"),
        ];
        // Nobody refers to it, so that a collection may take it before it is read; that is upstream's way too.
        let mut read = said(&ctr, &["content", "get", &right]);
        for _ in 0..5 {
            if read.0 == Some(0) {
                break;
            }
            ingest(&right, "11", "c");
            read = said(&ctr, &["content", "get", &right]);
        }
        (steps, read)
    });
}

#[test]
fn snapshots_are_prepared_viewed_committed_measured_and_removed() {
    same_as_upstream(|daemon| {
        let ctr = daemon.ctr();
        import(daemon, &ctr);
        ctr.ok(&["run", "--rm", NAME, "unpack", "/bin/true"]);
        // The container's end starts a collection, which would take the view before it has its label.
        std::thread::sleep(Duration::from_secs(1));
        let parent = tests::image::digest(&tests::image::busybox_layer());
        let steps = vec![
            said(&ctr, &["snapshots", "prepare", "active", &parent]),
            said(&ctr, &["snapshots", "prepare", "active", &parent]),
            said(&ctr, &["snapshots", "prepare", "orphan", "nobody"]),
            said(&ctr, &["snapshots", "view", "view", &parent]),
            // Only prepare marks its snapshot as wanted; a view would be gone with the next collection.
            said(
                &ctr,
                &["snapshots", "label", "view", "containerd.io/gc.root=now"],
            ),
            said(&ctr, &["snapshots", "rm", &parent]),
            said(&ctr, &["snapshots", "commit", "view-committed", "view"]),
            said(&ctr, &["snapshots", "commit", "committed", "active"]),
            said(&ctr, &["snapshots", "prepare", "child", "committed"]),
            said(&ctr, &["snapshots", "label", "child", "a=b"]),
            said(&ctr, &["snapshots", "tree"]),
            said(&ctr, &["snapshots", "rm", "child", "committed", "view"]),
            said(&ctr, &["snapshots", "rm", "view"]),
            said(&ctr, &["snapshots", "mounts", "/nowhere", "nobody"]),
        ];
        let usage = table(&ctr.ok(&["snapshots", "usage"]), &[0, 1, 2, 3]);
        let list = table(&ctr.ok(&["snapshots", "ls"]), &[0, 1, 2]);
        ctr.ok(&["snapshots", "prepare", "again", &parent]);
        let mounts = ctr.ok(&["snapshots", "mounts", "/target", "again"]);
        (
            steps,
            usage,
            list,
            mounts
                .split(' ')
                .take(4)
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )
    });
}

#[test]
fn leases_are_created_listed_and_deleted() {
    same_as_upstream(|daemon| {
        let ctr = daemon.ctr();
        [
            said(
                &ctr,
                &["leases", "create", "--id", "mine", "--expires", "0", "a=b"],
            ),
            said(
                &ctr,
                &["leases", "create", "--id", "mine", "--expires", "0"],
            ),
            (
                None,
                table(&ctr.ok(&["leases", "ls"]), &[0, 2])
                    .concat()
                    .join(" "),
                String::new(),
            ),
            said(&ctr, &["leases", "rm", "--sync", "mine"]),
            said(&ctr, &["leases", "rm", "mine"]),
            said(&ctr, &["leases", "ls", "-q"]),
        ]
    });
}

#[test]
fn containers_are_created_labelled_inspected_and_removed() {
    same_as_upstream(|daemon| {
        let ctr = daemon.ctr();
        import(daemon, &ctr);
        let steps = [
            said(
                &ctr,
                &[
                    "containers",
                    "create",
                    "--label",
                    "a=b",
                    NAME,
                    "one",
                    "/bin/sleep",
                    "100",
                ],
            ),
            said(&ctr, &["containers", "create", NAME, "one"]),
            said(&ctr, &["containers", "create", NAME, "not/valid"]),
            said(
                &ctr,
                &["containers", "create", "example.org/nobody:1", "two"],
            ),
            said(&ctr, &["containers", "label", "one", "c=d"]),
            said(&ctr, &["containers", "ls"]),
            said(&ctr, &["containers", "ls", "-q", "labels.c==d"]),
            said(&ctr, &["containers", "ls", "-q", "labels.c==e"]),
            said(&ctr, &["containers", "info", "nobody"]),
            said(&ctr, &["containers", "rm", "nobody"]),
        ];
        let info: serde_json::Value =
            serde_json::from_str(&ctr.ok(&["containers", "info", "one"])).unwrap();
        let told =
            ["ID", "Labels", "Image", "SnapshotKey", "Snapshotter"].map(|key| info[key].clone());
        let removed = said(&ctr, &["containers", "rm", "one"]);
        (steps, told, removed)
    });
}

#[test]
fn tasks_are_started_listed_killed_and_deleted_with_the_same_words() {
    same_as_upstream(|daemon| {
        let ctr = daemon.ctr();
        import(daemon, &ctr);
        let mut steps = vec![
            said(&ctr, &["run", "-d", NAME, "one", "/bin/sleep", "100"]),
            said(&ctr, &["run", "-d", NAME, "one", "/bin/sleep", "100"]),
            said(&ctr, &["run", "--rm", NAME, "missing", "/bin/nobody"]),
            said(&ctr, &["tasks", "start", "nobody"]),
            said(&ctr, &["tasks", "delete", "one"]),
            said(&ctr, &["containers", "rm", "one"]),
            said(
                &ctr,
                &["tasks", "exec", "--exec-id", "e", "one", "/bin/nobody"],
            ),
            said(
                &ctr,
                &[
                    "tasks",
                    "exec",
                    "--exec-id",
                    "e",
                    "one",
                    "/bin/sh",
                    "-c",
                    "echo in; exit 4",
                ],
            ),
            said(
                &ctr,
                &[
                    "tasks",
                    "exec",
                    "--exec-id",
                    "e",
                    "--cwd",
                    "/tmp",
                    "one",
                    "pwd",
                ],
            ),
            said(
                &ctr,
                &[
                    "tasks",
                    "exec",
                    "--exec-id",
                    "e",
                    "--user",
                    "1000",
                    "one",
                    "id",
                ],
            ),
            said(&ctr, &["tasks", "pause", "one"]),
            said(&ctr, &["tasks", "pause", "one"]),
            said(&ctr, &["tasks", "resume", "one"]),
            said(&ctr, &["tasks", "kill", "--signal", "SIGNOBODY", "one"]),
            said(&ctr, &["tasks", "kill", "--signal", "SIGKILL", "one"]),
        ];
        let status = || table(&ctr.ok(&["tasks", "ls"]), &[0, 2]);
        eventually("the task has stopped", Duration::from_secs(10), || {
            status().iter().any(|row| row[1] == "STOPPED").then_some(())
        });
        steps.extend([
            said(&ctr, &["tasks", "kill", "--signal", "SIGKILL", "one"]),
            said(&ctr, &["tasks", "delete", "one"]),
            said(&ctr, &["tasks", "delete", "one"]),
            said(&ctr, &["tasks", "kill", "one"]),
            said(&ctr, &["containers", "rm", "one"]),
        ]);
        for (_, _, err) in &mut steps {
            // A runtime's refusal is in its own words.
            if err.contains("runtime create failed")
                || err.contains("exec failed")
                || err.contains("nobody")
            {
                *err = "refused".to_owned();
            }
        }
        daemon.assert_nothing_left();
        steps
    });
}

#[test]
fn events_of_a_containers_life_come_in_the_same_order() {
    same_as_upstream(|daemon| {
        let ctr = daemon.ctr();
        import(daemon, &ctr);
        ctr.ok(&["run", "--rm", NAME, "unpack", "/bin/true"]);
        let log = daemon.folder().join("events");
        let file = std::fs::File::create(&log).unwrap();
        let mut listener = ctr.command(&["events"]).stdout(file).spawn().unwrap();
        let topics = || -> Vec<String> {
            let text = std::fs::read_to_string(&log).unwrap();
            let topics = text
                .lines()
                .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
            topics.map(str::to_owned).collect()
        };
        // The subscription has no sign of being there but an event that arrives.
        let mut count = 0;
        eventually("the listener listens", Duration::from_secs(10), || {
            count += 1;
            ctr.ok(&["namespaces", "create", &format!("probe-{count}")]);
            std::thread::sleep(Duration::from_millis(100));
            (!topics().is_empty()).then_some(())
        });
        ctr.ok(&["run", "-d", NAME, "one", "/bin/sh", "-c", "read x"]);
        ctr.run(&["tasks", "exec", "--exec-id", "e", "one", "/bin/true"]);
        ctr.ok(&["tasks", "kill", "--signal", "SIGKILL", "one"]);
        eventually("the exit is told", Duration::from_secs(10), || {
            (topics()
                .iter()
                .filter(|topic| *topic == "/tasks/exit")
                .count()
                == 2)
                .then_some(())
        });
        ctr.run(&["tasks", "delete", "one"]);
        ctr.ok(&["containers", "rm", "one"]);
        // The end of the task is told by its shim, and upstream's may be gone before it has told.
        eventually(
            "the end of the container is told",
            Duration::from_secs(10),
            || {
                topics()
                    .contains(&"/containers/delete".to_owned())
                    .then_some(())
            },
        );
        listener.kill().unwrap();
        listener.wait().unwrap();
        let mut life = topics();
        life.retain(|topic| !topic.starts_with("/namespaces") && topic != "/tasks/delete");
        life
    });
}

#[test]
fn a_terminal_has_its_size_and_follows_the_window() {
    same_as_upstream(|daemon| {
        let ctr = daemon.ctr();
        import(daemon, &ctr);
        let mut terminal = Terminal::start(
            &ctr.command(&["run", "--rm", "-t", NAME, "term", "/bin/sh"]),
            91,
            33,
        );
        terminal.expect("# ");
        terminal.send("tty; stty size; echo mark-$((1+1))\n");
        terminal.expect("mark-2");
        terminal.expect("33 91");
        terminal.expect("/dev/pts/0");
        terminal.resize(120, 40);
        // The new size travels by signal, client and daemon: ask until it is there.
        eventually("the new size arrives", Duration::from_secs(10), || {
            terminal.send("stty size\n");
            std::thread::sleep(Duration::from_millis(200));
            terminal.seen().contains("40 120").then_some(())
        });
        terminal.send("exit 7\n");
        let code = terminal.wait();
        daemon.assert_nothing_left();
        code
    });
}

#[test]
fn what_is_typed_reaches_a_container_without_a_terminal() {
    same_as_upstream(|daemon| {
        let ctr = daemon.ctr();
        import(daemon, &ctr);
        let input = "line\n".repeat(50_000);
        let finished = ctr.run_with(
            &["run", "--rm", NAME, "reader", "/bin/wc", "-l"],
            input.as_bytes(),
            Duration::from_secs(30),
        );
        (finished.code, finished.stdout)
    });
}

#[test]
fn options_of_run_arrive_in_the_container() {
    same_as_upstream(|daemon| {
        let ctr = daemon.ctr();
        import(daemon, &ctr);
        let shared = daemon.folder().join("shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::write(shared.join("file"), "from outside\n").unwrap();
        let mount = format!(
            "type=bind,src={},dst=/mnt,options=rbind:ro",
            shared.display()
        );
        let script = "env | sort; pwd; id; cat /mnt/file; touch /mnt/new 2>&1; hostname; \
                      grep -E 'Cap(Eff|Bnd)|NoNewPrivs|Seccomp:' /proc/self/status; \
                      ls /dev; ls -d /proc/self/fd/*; cat /proc/self/mounts | cut -d' ' -f2,3 ";
        let args = [
            "run",
            "--rm",
            "--env",
            "COLOUR=red",
            "--cwd",
            "/tmp",
            "--user",
            "1000:1000",
            "--hostname",
            "boat",
            "--mount",
            &mount,
            NAME,
            "opts",
            "/bin/sh",
            "-c",
            script,
        ];
        let finished = ctr.run(&args);
        (finished.code, finished.stdout.replace("cut: not found", ""))
    });
}
