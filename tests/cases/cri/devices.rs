//! Devices by the Container Device Interface: a node's containers, and those of `ctr run` and `corten run`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tests::{Ctr, Daemon, Engine, Finished, Image, Peers, command};

use super::pods::same;

/// What shows that a container has the devices of [`vendor`].
const SHOW: &str =
    "echo x >/dev/sink; stat -c '%t:%T %a' /dev/sink; env | grep ^CDI | sort; cat /given; id -G";

/// Returns what a vendor says, as YAML, of the devices `sink` and `file`, with a mount and a hook in `folder`.
fn vendor(folder: &Path) -> String {
    let hook = folder.join("hook");
    let ran = folder.join("ran");
    fs::write(
        &hook,
        format!("#!/bin/sh\ncat >/dev/null\necho $1 >>{}\n", ran.display()),
    )
    .expect("write a hook");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("make it a program");
    fs::write(folder.join("given"), "given\n").expect("write a file");
    format!(
        "\
cdiVersion: 0.7.0
kind: vendor.com/class
containerEdits:
  env:
  - CDI_ALL=1
devices:
- name: sink
  containerEdits:
    env: [CDI_SINK=1]
    deviceNodes:
    - path: /dev/sink
      hostPath: /dev/null
      fileMode: 0640
    additionalGids: [0, 4711]
- name: file
  containerEdits:
    env: [CDI_FILE=1]
    mounts:
    - hostPath: {folder}/given
      containerPath: /given
      options: [ro, rbind, rprivate]
    hooks:
    - hookName: createRuntime
      path: {folder}/hook
      args: [hook, called]
",
        folder = folder.display()
    )
}

/// A vendor whose device the host does not have.
fn lost() -> String {
    let node = json!({"path": "/dev/lost"});
    let device = json!({"name": "lost", "containerEdits": {"deviceNodes": [node]}});
    json!({"cdiVersion": "0.5.0", "kind": "lost.com/class", "devices": [device]}).to_string()
}

#[test]
fn a_container_has_the_devices_that_it_asks_for() {
    same(|node| {
        node.write_devices("cdi/vendor.yaml", &vendor(node.daemon.folder()));
        let pod = node.pod("web", &json!({}));
        let asked = |name: &str| json!({"name": format!("vendor.com/class={name}")});
        let more = json!({
            "command": ["sh", "-c", SHOW],
            "CDI_devices": [asked("sink"), asked("sink")],
            "annotations": {"cdi.k8s.io/plugin": "vendor.com/class=file,vendor.com/class=sink"},
        });
        let id = node.container(&pod, "main", &more);
        node.ok(&["start", &id]);
        node.wait_for(&id, "CONTAINER_EXITED");
        let said = node.ok(&["logs", &id]);
        assert!(
            said.starts_with("1:3 640\nCDI_ALL=1\nCDI_FILE=1\nCDI_SINK=1\ngiven\n"),
            "{said}"
        );
        assert!(said.contains(" 4711"), "{said}");
        let ran = fs::read_to_string(node.daemon.folder().join("ran"));
        node.ok(&["rmp", "-f", &pod.0]);
        node.daemon.assert_nothing_left();
        (said, ran.unwrap_or_default())
    });
}

#[test]
fn a_device_that_cannot_be_had_is_an_error_that_names_it() {
    same(|node| {
        let wrong = json!({"cdiVersion": "0.5.0", "kind": "wrong.com/class", "devcies": []});
        node.write_devices("cdi/wrong.json", &wrong.to_string());
        node.write_devices("cdi/lost.json", &lost());
        let text = vendor(node.daemon.folder());
        node.write_devices("cdi/one.yaml", &text);
        node.write_devices("cdi/two.yaml", &text);
        let pod = node.pod("web", &json!({}));
        let refused = |config: Value| {
            let mut whole = json!({
                "metadata": {"name": "main"},
                "image": {"image": node.image},
                "command": ["true"],
            });
            let fields = config.as_object().expect("an object").clone();
            whole.as_object_mut().expect("an object").extend(fields);
            let path = node.file("main.json", &whole);
            let finished = node.run(&["create", &pod.0, &path, &pod.1]);
            assert_ne!(finished.code, Some(0), "{whole}");
            finished.stderr
        };
        let device = |name: &str| json!({"CDI_devices": [{"name": name}]});
        for name in ["wrong.com/class=x", "vendor.com/class=sink", "no name"] {
            let said = refused(device(name));
            let wanted = format!("CDI device injection failed: unresolvable CDI devices {name}");
            assert!(said.contains(&wanted), "{said}");
            if node.daemon.engine == Engine::Corten {
                let file = match name {
                    "vendor.com/class=sink" => "one.yaml",
                    _ => "wrong.json",
                };
                assert!(said.contains(file), "{said}");
            }
        }
        let said = refused(device("lost.com/class=lost"));
        assert!(said.contains("failed to stat CDI host device"), "{said}");
        assert!(said.contains("/dev/lost"), "{said}");
        let said = refused(json!({"annotations": {"cdi.k8s.io/p": "vendor.com/class"}}));
        assert!(
            said.contains("failed to parse CDI device annotations"),
            "{said}"
        );
        node.ok(&["rmp", "-f", &pod.0]);
        node.daemon.assert_nothing_left();
    });
}

/// Runs a client that sees `etc` above the machine's `/etc`: clients look for devices there and nowhere else.
fn run_with_etc(ctr: &Ctr, etc: &Path, line: &[&str]) -> Finished {
    let client = ctr.command(line);
    let work = etc.with_extension("work");
    fs::create_dir_all(&work).expect("make a folder");
    let mount = format!(
        "mount -t overlay -o lowerdir=/etc,upperdir={},workdir={} overlay /etc && exec \"$@\"",
        etc.display(),
        work.display()
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", &mount, "sh"])
        .arg(client.get_program())
        .args(client.get_args());
    for (key, value) in client.get_envs() {
        if let Some(value) = value {
            command.env(key, value);
        }
    }
    command::run_with(&mut command, b"", Duration::from_secs(60))
}

#[test]
fn clients_give_their_containers_devices_by_name() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    for engine in [Engine::Containerd2, Engine::Corten] {
        let daemon = Daemon::start(engine, &peers);
        let image = "example.org/busybox:1";
        let archive = Image::busybox().write_archive(daemon.folder(), image);
        let ctr = daemon.ctr();
        ctr.ok(&["images", "import", &archive.display().to_string()]);
        let etc = daemon.folder().join("etc");
        fs::create_dir_all(etc.join("cdi")).expect("make a folder");
        let text = vendor(daemon.folder());
        fs::write(etc.join("cdi/vendor.yaml"), text).expect("write a file");
        fs::write(etc.join("cdi/lost.json"), lost()).expect("write a file");
        let run = |client: &Ctr, id: &str, devices: &[&str]| {
            let flags = devices.iter().map(|device| format!("--device={device}"));
            let flags: Vec<String> = flags.collect();
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            let line = [&["run", "--rm"], &flags[..], &[image, id, "sh", "-c", SHOW]].concat();
            run_with_etc(client, &etc, &line)
        };
        let devices = [
            "vendor.com/class=sink",
            "/dev/full",
            "vendor.com/class=file",
        ];
        let corten = daemon.corten().expect("corten is built");
        let [theirs, ours] = [(&ctr, "theirs"), (&corten, "ours")].map(|(client, id)| {
            let said = run(client, id, &devices).stdout;
            assert!(said.starts_with("1:3 640\n"), "{said}");
            said
        });
        assert_eq!(ours, theirs);
        for (client, id) in [(&ctr, "a"), (&corten, "b")] {
            for (device, wanted) in [
                (
                    "vendor.com/class=none",
                    "unresolvable CDI devices vendor.com/class=none",
                ),
                (
                    "lost.com/class=lost",
                    "failed to stat CDI host device \"/dev/lost\"",
                ),
            ] {
                // ctr leaves the snapshot of a container that could not be made.
                let id = format!("{id}-{}", device.replace(['/', '='], "-"));
                let finished = run(client, &id, &[device]);
                assert_ne!(finished.code, Some(0));
                assert!(finished.stderr.contains(wanted), "{finished:?}");
            }
        }
        assert_eq!(ctr.ok(&["containers", "list", "-q"]), "");
        daemon.assert_nothing_left();
    }
}
