//! What `corten` does with images, blobs and snapshots beside pulling and running, and with itself.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::image::digest;
use tests::{Image, binaries, command};

use super::{LIMIT, on_both};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[test]
fn images_are_checked_inspected_and_labelled() {
    on_both(|setup| {
        let name = setup.import();
        let image = Image::busybox();
        let row = |text: &str| text.lines().nth(1).unwrap_or_default().to_owned();
        let checked = row(&setup.ok(&["images", "check"]));
        assert!(
            checked.contains("complete (1/1 layers)") && checked.ends_with("true"),
            "{checked}"
        );
        let found = json(&setup.ok(&["images", "inspect", name]));
        assert_eq!(found["manifest"]["config"]["digest"], image.config.digest);
        assert_eq!(found["config"]["config"]["Env"][1], "MADE=here");
        let labels = setup.ok(&["images", "label", name, "a=b", "c=d"]);
        assert!(labels.contains("a=b,c=d"), "{labels}");
        assert!(!setup.ok(&["images", "label", name, "a="]).contains("a="));
        let listed = setup.daemon.ctr().ok(&["images", "ls", "labels.c==d"]);
        assert!(listed.contains(name), "{listed}");
        setup.ok(&["content", "rm", &image.layers[0].digest]);
        let checked = row(&setup.ok(&["images", "check"]));
        assert!(checked.contains("incomplete (0/1 layers)"), "{checked}");
        assert_eq!(setup.ok(&["images", "check", "-q"]), "");
        assert_eq!(
            json(&setup.ok(&["images", "check", "--json"]))[0]["complete"],
            false
        );
    });
}

#[test]
fn blobs_are_written_from_standard_input() {
    on_both(|setup| {
        let bytes: Vec<u8> = (0..3_000_000u32).map(|number| number as u8).collect();
        let right = digest(&bytes);
        let ingest = |reference: &str, options: &[&str], input: &[u8]| {
            let line = [
                "content",
                "ingest",
                "-l",
                "containerd.io/gc.root=1",
                reference,
            ];
            setup
                .corten
                .run_with(&[&line[..], options].concat(), input, LIMIT)
        };
        let other = digest(b"something else");
        let refused = ingest("wrong", &["--expected-digest", &other], &bytes).refused();
        assert!(
            refused.starts_with("corten: write content wrong: "),
            "{refused}"
        );
        ingest("short", &["--expected-size", "7"], &bytes).refused();
        // What was written could be gone on with.
        let active = setup.ok(&["content", "active", "-q"]);
        let mut active: Vec<&str> = active.lines().collect();
        active.sort();
        assert_eq!(active, ["short", "wrong"]);
        let options = ["--expected-size", "3000000", "--expected-digest", &right];
        assert_eq!(ingest("right", &options, &bytes).ok(), format!("{right}\n"));
        assert_eq!(ingest("empty", &[], b"").ok(), format!("{}\n", digest(b"")));
        let got = setup.ok(&["content", "get", &digest(b"")]);
        assert_eq!(got, "");
        let listed = json(&setup.ok(&["content", "ls", "--json"]));
        let sizes: Vec<_> = listed
            .as_array()
            .expect("a list")
            .iter()
            .map(|blob| &blob["size"])
            .collect();
        assert!(
            sizes.len() == 2 && sizes.contains(&&3_000_000.into()),
            "{sizes:?}"
        );
        let labels = setup.ok(&["content", "label", &right, "x=y"]);
        assert_eq!(labels, "containerd.io/gc.root=1,x=y\n");
        setup.ok(&["content", "rm", &right, &digest(b"")]);
        setup.assert_clean();
    });
}

#[test]
fn snapshots_are_prepared_viewed_committed_and_labelled() {
    on_both(|setup| {
        setup.import();
        let base = setup.ok(&["snapshots", "ls", "-q"]).trim().to_owned();
        let mounts = setup.ok(&["snapshots", "prepare", "-t", "/mnt", "one", &base]);
        assert!(
            mounts.starts_with("mount -t overlay overlay /mnt -o "),
            "{mounts}"
        );
        assert_eq!(setup.ok(&["snapshots", "mounts", "/mnt", "one"]), mounts);
        let info = json(&setup.ok(&["snapshots", "info", "one"]));
        assert_eq!(
            (&info["kind"], &info["parent"]),
            (&"Active".into(), &base.as_str().into())
        );
        setup.ok(&["snapshots", "commit", "two", "one"]);
        assert_eq!(
            json(&setup.ok(&["snapshots", "info", "two"]))["kind"],
            "Committed"
        );
        let labels = setup.ok(&["snapshots", "label", "two", "x=y"]);
        assert!(labels.ends_with("x=y\n"), "{labels}");
        assert_eq!(setup.ok(&["snapshots", "view", "three", "two"]), "");
        assert_eq!(
            json(&setup.ok(&["snapshots", "info", "three"]))["kind"],
            "View"
        );
        let theirs = json(&setup.daemon.ctr().ok(&["snapshots", "info", "three"]));
        assert_eq!(theirs["Parent"], "two");
        setup.ok(&["snapshots", "rm", "three", "two"]);
        let missing = setup.run(&["snapshots", "info", "three"]).refused();
        assert!(
            missing.starts_with("corten: get snapshot three: "),
            "{missing}"
        );
    });
}

#[test]
fn an_image_is_mounted_measured_and_pruned() {
    on_both(|setup| {
        let name = setup.import();
        let usage = json(&setup.ok(&["images", "usage", "--json", name]));
        let keys = setup.ok(&["snapshots", "ls", "-q"]);
        assert_eq!(usage[0]["key"], keys.trim());
        assert_eq!(json(&setup.ok(&["snapshots", "usage", "--json"])), usage);
        let target = setup.daemon.folder().join("mounted");
        std::fs::create_dir(&target).expect("make a folder");
        let folder = target.display().to_string();
        let nowhere = format!("{folder}/nowhere");
        let refused = setup.run(&["images", "mount", name, &nowhere]).refused();
        assert!(
            refused.starts_with(&format!("corten: mount {name} at ")),
            "{refused}"
        );
        setup.ok(&["images", "mount", name, &folder]);
        std::fs::write(target.join("new"), "").expect_err("it is read-only");
        assert!(target.join("bin/busybox").exists());
        setup.ok(&["images", "unmount", "--rm", &folder]);
        setup.ok(&["images", "mount", "--rw", name, &folder]);
        std::fs::write(target.join("new"), "").expect("it can be written to");
        setup.ok(&["images", "unmount", &folder]);
        assert!(!target.join("bin").exists());
        assert!(setup.ok(&["snapshots", "ls", "-q"]).contains(&folder));
        setup.ok(&["images", "unmount", "--rm", &folder]);
        assert_eq!(setup.ok(&["snapshots", "ls", "-q"]), keys);
        setup.ok(&["images", "tag", name, "example.org/unused:1"]);
        setup.ok(&["containers", "create", name, "one", "true"]);
        assert_eq!(
            setup.ok(&["images", "prune", "--all"]),
            "example.org/unused:1\n"
        );
        assert_eq!(setup.run(&["images", "prune"]).code, Some(2));
        setup.ok(&["containers", "rm", "one"]);
        assert_eq!(setup.ok(&["images", "prune", "--all"]), format!("{name}\n"));
        assert_eq!(setup.ok(&["snapshots", "ls", "-q"]), "");
        setup.assert_clean();
    });
}

#[test]
fn a_difference_is_a_layer() {
    on_both(|setup| {
        let name = setup.import();
        let base = setup.ok(&["snapshots", "ls", "-q"]).trim().to_owned();
        let write = "echo made >/made; rm /etc/group";
        setup.ok(&["run", name, "one", "sh", "-c", write]);
        let members = |line: &[&str]| {
            let layer = setup.daemon.folder().join("layer");
            let file = std::fs::File::create(&layer).expect("make a file");
            let mut diff = setup.corten.command(line);
            assert!(diff.stdout(file).status().expect("run corten").success());
            let mut tar = Command::new("tar");
            let listed = command::run(tar.arg("-tf").arg(&layer)).ok();
            let names = listed.lines().filter(|name| !name.ends_with('/'));
            names.map(str::to_owned).collect::<Vec<_>>()
        };
        let made = ["etc/.wh.group", "made"];
        assert_eq!(members(&["snapshots", "diff", "one"]), made);
        assert_eq!(members(&["snapshots", "diff", &base, "one"]), made);
        let plain = "--media-type=application/vnd.oci.image.layer.v1.tar";
        assert_eq!(
            members(&["snapshots", "diff", plain, "one", &base]),
            ["etc/group", ".wh.made"]
        );
        let kept = ["content", "ls", "-q", "labels.\"containerd.io/gc.root\""];
        assert_eq!(setup.ok(&kept), "");
        members(&["snapshots", "diff", "--keep", plain, "one"]);
        assert_eq!(setup.ok(&kept).lines().count(), 1);
        setup.ok(&["containers", "rm", "one"]);
        assert_eq!(
            setup.ok(&["snapshots", "unpack", name]),
            format!("{base}\n")
        );
        assert_eq!(setup.ok(&["snapshots", "ls", "-q"]), format!("{base}\n"));
    });
}

#[test]
fn tables_fit_on_a_terminal_and_are_whole_in_a_pipe() {
    on_both(|setup| {
        let name = setup.import();
        let whole = setup.ok(&["images", "list"]);
        let digest = Image::busybox().manifest.digest;
        for line in [["images", "list"], ["plugins", "list"]] {
            let mut terminal = setup.on_terminal(&line);
            assert_eq!(terminal.wait_for(LIMIT), Some(0));
            // What was written last may still be on its way.
            std::thread::sleep(Duration::from_millis(100));
            let seen = terminal.seen();
            let widest = seen
                .lines()
                .map(|line| line.trim_end().chars().count())
                .max();
            assert!(
                widest.is_some_and(|widest| (40..=80).contains(&widest)),
                "{seen}"
            );
        }
        assert!(whole.contains(name) && whole.contains(&digest), "{whole}");
    });
}

#[test]
fn the_daemon_tells_of_itself() {
    on_both(|setup| {
        let info = json(&setup.ok(&["info"]));
        assert_eq!(info["pid"], setup.daemon.pid());
        let theirs = json(&setup.daemon.ctr().ok(&["info"]));
        assert_eq!(theirs["server"]["uuid"], info["uuid"]);
        let used = json(&setup.ok(&["deprecations", "list", "--json"]));
        assert_eq!(used, info["deprecations"]);
    });
}

#[test]
fn each_command_has_a_manual_page() {
    let corten = binaries::find("corten").expect("corten is built");
    let folder = tempfile::tempdir().expect("make a folder");
    let write = |folder: &Path| command::run(Command::new(&corten).arg("man").arg(folder));
    write(folder.path()).ok();
    let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("a page");
    assert!(page("corten.1").contains("corten\\-images(1)"));
    let pull = page("corten-images-pull.1");
    assert!(pull.contains(".TH corten-images-pull 1"), "{pull}");
    assert!(pull.contains("\\-\\-all\\-platforms"), "{pull}");
    let refused = write(&folder.path().join("nowhere"));
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("write manual pages to"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_shell_completes_the_command_line() {
    let corten = binaries::find("corten").expect("corten is built");
    let completed = |words: &[&str]| {
        let last = words.last().expect("a word");
        let script = format!(
            "source <({corten} completion bash); COMP_WORDS=(corten {words}); COMP_CWORD={count}; \
             _corten corten {last} corten; echo ${{COMPREPLY[@]}}",
            corten = corten.display(),
            words = words.join(" "),
            count = words.len(),
        );
        command::run(Command::new("bash").args(["-c", &script])).ok()
    };
    assert_eq!(completed(&["imag"]), "images image\n");
    assert_eq!(completed(&["images", "pu"]), "pull push\n");
    assert_eq!(
        completed(&["run", "--privileged-w"]),
        "--privileged-without-host-devices\n"
    );
    for (shell, start) in [("zsh", "#compdef corten"), ("fish", "#")] {
        let script = command::run(Command::new(&corten).args(["completion", shell])).ok();
        assert!(
            script.starts_with(start) && script.contains("snapshots"),
            "{script}"
        );
    }
    let refused = command::run(Command::new(&corten).args(["completion", "cmd"]));
    assert_eq!(refused.code, Some(2));
    // Neither this nor the default configuration needs a daemon.
    let spec = command::run(Command::new(&corten).args(["-a", "/nowhere", "oci", "spec"])).ok();
    assert_eq!(json(&spec)["linux"]["cgroupsPath"], "/default/");
}
