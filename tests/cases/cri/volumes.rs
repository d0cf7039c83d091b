//! User namespaces of pods, and images as volumes.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tests::image::Layer;
use tests::{Engine, Image, eventually};

use super::node::{Node, Programs};
use super::pods::same;

/// The first user on the host of a pod with a namespace of its own.
const FIRST: u32 = 100_000;
const DATA: &str = "registry.test/library/data:1";

/// Returns settings of a pod or container that ask for a user namespace.
fn userns(mode: u32, mappings: &[[u32; 2]]) -> Value {
    let mappings: Vec<Value> = mappings
        .iter()
        .map(|[container, host]| {
            json!({"container_id": container, "host_id": host, "length": 65536})
        })
        .collect();
    let options = json!({"mode": mode, "uids": mappings, "gids": mappings});
    json!({"linux": {"security_context": {"namespace_options": {"userns_options": options}}}})
}

fn own() -> Value {
    userns(0, &[[0, FIRST]])
}

/// Adds `more` to the fields of `value`.
fn with(mut value: Value, more: Value) -> Value {
    if let (Some(fields), Value::Object(more)) = (value.as_object_mut(), more) {
        fields.extend(more);
    }
    value
}

fn sh(node: &Node, id: &str, script: &str) -> (Option<i32>, String) {
    let finished = node.run(&["exec", "-s", id, "sh", "-c", script]);
    (finished.code, finished.stdout)
}

#[test]
fn a_pods_users_are_others_on_the_host() {
    same(|node| {
        let pod = node.pod("web", &own());
        let folder = node.daemon.folder().join("volume");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("file"), "").unwrap();
        std::os::unix::fs::chown(folder.join("file"), Some(5), Some(6)).unwrap();
        let map = json!([{"container_id": 0, "host_id": FIRST, "length": 65536}]);
        let volume = |path: &str| json!({"container_path": path, "host_path": folder});
        let mapped = with(
            volume("/mapped"),
            json!({"uidMappings": map, "gidMappings": map}),
        );
        let settings = with(
            own(),
            json!({"command": ["sleep", "1000"], "mounts": [mapped, volume("/plain")]}),
        );
        let id = node.container(&pod, "main", &settings);
        node.ok(&["start", &id]);
        let pid = node.inspect(&id, "/info/pid").as_u64().unwrap();
        let owner = std::fs::metadata(format!("/proc/{pid}")).unwrap().uid();
        let scripts = [
            "cat /proc/self/uid_map /proc/self/gid_map",
            "stat -c %u:%g / /bin/busybox /etc/hosts /etc/hostname",
            "stat -c %u:%g /mapped/file /plain/file",
            "echo x >/new && stat -c %u:%g /new",
            "echo x >>/bin/busybox.copy && echo x >/dev/shm/x && echo x >/mapped/new && echo ok",
            "id -u; readlink /proc/1/exe >/dev/null && echo seen",
        ];
        let said = scripts.map(|script| sh(node, &id, script));
        let new = std::fs::metadata(folder.join("new")).unwrap().uid();
        // The pod's network belongs to its users.
        let [net, user] = ["net", "user"].map(|kind| {
            let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}"));
            link.unwrap() == std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap()
        });
        node.ok(&["rmp", "-f", &pod.0]);
        node.daemon.assert_nothing_left();
        assert_eq!((owner, new), (FIRST, 0), "{said:?}");
        (owner, said, new, net, user)
    });
}

#[test]
fn user_namespaces_that_cannot_be_are_refused() {
    same(|node| {
        let run = |name: &str, asked: &Value| {
            let config = with(
                asked.clone(),
                json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "attempt": 1}}),
            );
            node.run(&["runp", &node.file(name, &config)]).code
        };
        let refused = [
            run("none", &userns(0, &[])),
            run("two", &userns(0, &[[0, FIRST], [65536, FIRST * 2]])),
            run("no-root", &userns(0, &[[1, FIRST]])),
            run("node", &userns(2, &[[0, FIRST]])),
            run("container", &userns(1, &[])),
        ];
        let pod = node.pod("web", &own());
        let other = with(
            userns(0, &[[0, FIRST * 2]]),
            json!({
                "metadata": {"name": "other", "attempt": 1},
                "image": {"image": node.image},
                "command": ["true"],
            }),
        );
        let path = node.file("other", &other);
        let other = node.run(&["create", &pod.0, &path, &pod.1]).code;
        node.ok(&["rmp", "-f", &pod.0]);
        let pods = node.ok(&["pods", "-q"]);
        (refused, other, pods)
    });
}

/// Makes an image of data known to a node.
fn import_data(node: &Node) {
    let mut layer = Layer::new();
    layer.folder("data", 0o755);
    layer.file("data/file", 0o644, b"data\n");
    layer.symlink("out", "/etc");
    let image = Image::busybox_recipe().layer(layer.finish()).build();
    let archive = image.write_archive(node.daemon.folder(), DATA);
    let ctr = node.daemon.ctr().in_namespace("k8s.io");
    ctr.ok(&["images", "import", &archive.display().to_string()]);
    eventually("the image is known", Duration::from_secs(20), || {
        (node.run(&["inspecti", DATA]).code == Some(0)).then_some(())
    });
}

fn image_mount(path: &str, sub_path: &str) -> Value {
    json!({
        "container_path": path,
        "readonly": true,
        "image": {"image": DATA},
        "image_sub_path": sub_path,
    })
}

/// Leaves what a daemon leaves that is killed while it makes a container: a folder with a mount, and no record.
fn begin_container(node: &Node) -> PathBuf {
    let info: Value = serde_json::from_str(&node.ok(&["info"])).expect("JSON");
    let state = PathBuf::from(info["config"]["stateDir"].as_str().expect("a folder"));
    let begun = state.join("containers/begun");
    let target = begun.join("images/0");
    std::fs::create_dir_all(&target).expect("make a folder");
    rustix::mount::mount_bind(node.daemon.folder(), &target).expect("mount");
    assert!(target.join("d.sock").exists());
    begun
}

#[test]
fn an_image_is_mounted_and_released() {
    let Some(programs) = Programs::or_skip() else {
        return;
    };
    let mut said = Vec::new();
    for engine in [Engine::Containerd2, Engine::Corten] {
        let mut node = Node::start(engine, &programs);
        import_data(&node);
        let pod = node.pod("web", &json!({}));
        let mut mounts = vec![image_mount("/all", "")];
        if engine == Engine::Corten {
            // Upstream's version does not know of sub-paths, and mounts the whole image.
            mounts.push(image_mount("/part", "data"));
        }
        let settings = json!({"command": ["sleep", "1000"], "mounts": mounts});
        let id = node.container(&pod, "main", &settings);
        node.ok(&["start", &id]);
        let script = "cat /all/data/file; touch /all/x || ls /all";
        let before = sh(&node, &id, script);
        let begun = (engine == Engine::Corten).then(|| begin_container(&node));
        node.daemon.kill();
        node.daemon.restart();
        node.wait_for(&id, "CONTAINER_RUNNING");
        if let Some(begun) = begun {
            assert!(!begun.exists(), "{begun:?} goes, its mount too");
        }
        let after = sh(&node, &id, script);
        let bad = [
            json!({"readonly": false}),
            json!({"host_path": "/tmp"}),
            json!({"image": {"image": "registry.test/library/none:1"}}),
        ];
        let try_with = |change: Value| {
            let config = json!({
                "metadata": {"name": "bad", "attempt": 1},
                "image": {"image": node.image},
                "command": ["true"],
                "mounts": [with(image_mount("/all", ""), change)],
            });
            let path = node.file("bad", &config);
            node.run(&["create", &pod.0, &path, &pod.1]).code
        };
        let refused = bad.map(try_with);
        if engine == Engine::Corten {
            assert_eq!(sh(&node, &id, "cat /part/file").1.trim(), "data");
            for path in ["none", "data/file", "out/none"] {
                let code = try_with(json!({"image_sub_path": path}));
                assert_eq!(code, Some(1), "{path}");
            }
        }
        node.ok(&["rm", "-f", &id]);
        if engine == Engine::Corten {
            // Upstream's are the pod's, and go with it.
            let left = node.daemon.ctr().in_namespace("k8s.io");
            let left = left.ok(&["snapshots", "list"]);
            assert!(!left.contains("-image-"), "{left}");
        }
        node.ok(&["rmp", "-f", &pod.0]);
        node.daemon.assert_nothing_left();
        said.push((before, after, refused));
    }
    assert_eq!(
        said[1], said[0],
        "ours on the left, upstream's on the right"
    );
}

#[test]
fn an_image_belongs_to_a_pods_users() {
    same(|node| {
        import_data(node);
        let pod = node.pod("web", &own());
        let map = json!([{"container_id": 0, "host_id": FIRST, "length": 65536}]);
        let mount = with(
            image_mount("/all", ""),
            json!({"uidMappings": map, "gidMappings": map}),
        );
        let settings = with(
            own(),
            json!({"command": ["sleep", "1000"], "mounts": [mount]}),
        );
        let id = node.container(&pod, "main", &settings);
        node.ok(&["start", &id]);
        let said = sh(
            node,
            &id,
            "stat -c %u:%g /all/data/file; cat /all/data/file",
        );
        node.ok(&["rmp", "-f", &pod.0]);
        node.daemon.assert_nothing_left();
        said
    });
}

#[test]
fn a_snapshotter_that_cannot_map_owners_has_no_user_namespaces() {
    let Some(programs) = Programs::or_skip() else {
        return;
    };
    // Upstream tells of the runtime alone.
    for (snapshotter, can) in [("overlayfs", true), ("native", false)] {
        let settings = format!(
            "[plugins.'io.containerd.cri.v1.runtime'.containerd]\nsnapshotter = '{snapshotter}'\n"
        );
        let node = Node::start_in(Engine::Corten, &programs, None, &settings);
        let info: Value = serde_json::from_str(&node.ok(&["info"])).unwrap();
        let handlers = info["runtimeHandlers"].as_array().unwrap();
        assert!(!handlers.is_empty());
        for handler in handlers {
            let found = handler["features"]["user_namespaces"].as_bool();
            assert_eq!(found.unwrap_or(false), can, "{snapshotter}: {handler}");
        }
    }
}
