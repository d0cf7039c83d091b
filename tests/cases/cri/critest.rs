//! critest, the Kubernetes node SIG's suite: what passes on upstream's containerd passes on cortend.
//!
//! It takes many minutes, so it runs only when it is asked for: `make test-cri`. The results are kept in
//! `docs/parity/critest.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tests::image::Layer;
use tests::{Engine, Image, Network, Registry, command, skip};

use super::node::{Node, Programs};

const LIMIT: Duration = Duration::from_secs(2400);
/// Where the registry is in the node's network.
const PORT: &str = "127.0.0.1:5000";

/// A registry in a network of its own, which serves what another has stored.
struct Mirror {
    child: Child,
    folder: tempfile::TempDir,
}

impl Mirror {
    fn start(network: &Network, data: &Path) -> Mirror {
        let folder = tempfile::Builder::new().prefix("corten-mirror-").tempdir();
        let folder = folder.expect("make a folder");
        let config = folder.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{PORT}'}}\n",
            data.display()
        );
        fs::write(&config, text).expect("write the configuration");
        let hosts = folder.path().join("certs.d/_default");
        fs::create_dir_all(&hosts).expect("make a folder");
        let text = format!(
            "[host.\"http://{PORT}\"]\ncapabilities = [\"pull\", \"resolve\"]\nskip_verify = true\n"
        );
        fs::write(hosts.join("hosts.toml"), text).expect("write the hosts");
        let child = network
            .command("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start docker-registry");
        Mirror { child, folder }
    }

    /// Returns the settings of a node that asks this registry for every image.
    fn settings(&self) -> String {
        format!(
            "[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '{}'\n",
            self.folder.path().join("certs.d").display()
        )
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The control groups of pods that name no parent, whose containers are in one that daemons make and leave.
struct Groups {
    /// Those that are not somebody else's.
    ours: Vec<PathBuf>,
}

impl Groups {
    /// Notes which are not there yet.
    fn note() -> Groups {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
        let folders = hierarchies.map(|entry| entry.path()).chain([root.into()]);
        let groups = folders.map(|folder| folder.join("k8s.io"));
        Groups {
            ours: groups.filter(|group| !group.exists()).collect(),
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.ours {
            // Not one that somebody else has made since and uses: it cannot be removed.
            let _ = fs::remove_dir(group);
        }
    }
}

/// Pushes the images that critest asks for under the names that it knows them by, made of busybox.
fn push_images(registry: &Registry) {
    let busybox = Image::busybox;
    let web = || {
        let mut layer = Layer::new();
        layer.symlink("bin/httpd", "busybox");
        layer.folder("www", 0o755);
        layer.file("www/index.html", 0o644, b"<html>nginx</html>\n");
        Image::busybox_recipe()
            .layer(layer.finish())
            .config(
                "Cmd",
                json!(["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"]),
            )
            .build()
    };
    let user = |user: &str| {
        let mut layer = Layer::new();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/:/bin/sh\ndefault-user:x:1000:1000::/:/bin/sh\n";
        layer.file("etc/passwd", 0o644, passwd.as_bytes());
        let group = "root:x:0:\nwww-data:x:33:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n";
        layer.file("etc/group", 0o644, group.as_bytes());
        Image::busybox_recipe()
            .layer(layer.finish())
            .config("User", json!(user))
            .build()
    };
    let other = |text: &str| {
        let mut layer = Layer::new();
        layer.file("other", 0o644, text.as_bytes());
        Image::busybox_recipe().layer(layer.finish()).build()
    };
    // Another image for each version: a spec counts the names of one, and another one's sandboxes keep theirs.
    let pause = |version: &str| {
        Image::busybox_recipe()
            .config("Env", json!([format!("VERSION={version}")]))
            .config("Entrypoint", json!(["/bin/sleep"]))
            .config("Cmd", json!(["1000000"]))
            .build()
    };
    registry.push("library/pause", "1", &pause("1"));
    registry.push("pause", "3.9", &pause("3.9"));
    registry.push("e2e-test-images/busybox", "1.29-2", &busybox());
    registry.push("e2e-test-images/nginx", "1.14-2", &web());
    registry.push("e2e-test-images/httpd", "2.4.39-4", &web());
    let staging = |name: &str| format!("k8s-staging-cri-tools/{name}");
    for (name, tag, image) in [
        ("test-image-user-uid", "latest", user("1002")),
        ("test-image-user-username", "latest", user("www-data")),
        ("test-image-user-uid-group", "latest", user("1003:users")),
        (
            "test-image-user-username-group",
            "latest",
            user("www-data:100"),
        ),
        ("test-image-predefined-group", "latest", user("1000")),
        ("test-image-latest", "latest", other("latest")),
        ("test-image-tag", "test", other("test")),
        ("test-image-tag", "all", other("all")),
        ("test-image-1", "latest", other("1")),
        ("test-image-2", "latest", other("2")),
        ("test-image-3", "latest", other("3")),
        ("test-image-tags", "1", other("tags")),
        ("test-image-tags", "2", other("tags")),
        ("test-image-tags", "3", other("tags")),
        ("hostnet-nginx-amd64", "latest", web()),
    ] {
        registry.push(&staging(name), tag, &image);
    }
}

/// Runs critest on a node and returns each spec with its end.
fn results(engine: Engine, programs: &Programs, registry: &Registry) -> BTreeMap<String, String> {
    let _groups = Groups::note();
    let network = Network::new();
    let mirror = Mirror::start(&network, &registry.data());
    let node = Node::start_in(engine, programs, Some(network), &mirror.settings());
    let report = node.daemon.folder().join("report.json");
    let socket = format!("unix://{}", node.daemon.address().display());
    let mut critest = node.daemon.command(node.programs().join("critest"));
    critest
        .arg(format!("--runtime-endpoint={socket}"))
        .arg(format!("--image-endpoint={socket}"))
        .arg(format!("--nri-socket={}", node.nri().display()))
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .args(["--ginkgo.no-color", "--ginkgo.timeout=35m"]);
    if let Ok(focus) = std::env::var("CORTEN_TESTS_CRITEST_FOCUS") {
        critest.arg(format!("--ginkgo.focus={focus}"));
    }
    let finished = command::run_with(&mut critest, b"", LIMIT);
    let name = format!("critest-{engine:?}.log");
    let kept = std::env::temp_dir().join(name);
    let _ = fs::write(&kept, format!("{}\n{}", finished.stdout, finished.stderr));
    let text = fs::read_to_string(&report).unwrap_or_default();
    let suites: Value = serde_json::from_str(&text).unwrap_or_default();
    let mut ends = BTreeMap::new();
    for spec in suites[0]["SpecReports"].as_array().into_iter().flatten() {
        if spec["LeafNodeType"] != "It" {
            continue;
        }
        let above = spec["ContainerHierarchyTexts"]
            .as_array()
            .into_iter()
            .flatten();
        let mut name: Vec<&str> = above.filter_map(Value::as_str).collect();
        name.extend(spec["LeafNodeText"].as_str());
        let end = spec["State"].as_str().unwrap_or_default();
        ends.insert(name.join(" "), end.to_owned());
    }
    assert!(!ends.is_empty(), "critest has no results: see {kept:?}");
    ends
}

#[test]
fn what_passes_upstream_passes_here() {
    if std::env::var_os("CORTEN_TESTS_CRITEST").is_none() {
        skip!("critest takes long: make test-cri runs it");
    }
    let Some(programs) = Programs::or_skip() else {
        return;
    };
    let registry = Registry::start();
    push_images(&registry);
    let upstream = results(Engine::Containerd2, &programs, &registry);
    let ours = results(Engine::Corten, &programs, &registry);
    write(&upstream, &ours);
    let passed = |ends: &BTreeMap<String, String>, name: &str| {
        ends.get(name).is_some_and(|end| end == "passed")
    };
    let worse: Vec<&String> = upstream
        .keys()
        .filter(|name| passed(&upstream, name) && !passed(&ours, name))
        .collect();
    assert!(worse.is_empty(), "pass upstream but not here: {worse:#?}");
}

/// Writes both results down.
fn write(upstream: &BTreeMap<String, String>, ours: &BTreeMap<String, String>) {
    let count = |ends: &BTreeMap<String, String>, end: &str| {
        ends.values().filter(|other| *other == end).count()
    };
    let mut text = String::from(
        "# critest\n\nWritten by `make test-cri`: every spec of critest on Debian's newest containerd and on `cortend`, with the same\n\
         kernel, images and network plugins.\n\n| | passed | failed | skipped |\n|---|---|---|---|\n",
    );
    for (name, ends) in [("containerd", upstream), ("cortend", ours)] {
        let [passed, failed, skipped] = ["passed", "failed", "skipped"].map(|end| count(ends, end));
        let _ = writeln!(text, "| {name} | {passed} | {failed} | {skipped} |");
    }
    text += "\n| spec | containerd | cortend |\n|---|---|---|\n";
    for (name, end) in upstream {
        let own = ours.get(name).map_or("missing", String::as_str);
        let _ = writeln!(text, "| {name} | {end} | {own} |");
    }
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/parity");
    fs::create_dir_all(&folder).expect("make a folder");
    fs::write(folder.join("critest.md"), text).expect("write the results");
}
