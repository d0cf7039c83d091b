//! `cortend takeover`: what a containerd had is there with cortend, and is still there with that containerd.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use api_protos::containerd::services::containers::v1::{Container, ListContainersRequest};
use api_protos::containerd::services::content::v1::ListContentRequest;
use api_protos::containerd::services::images::v1::ListImagesRequest;
use api_protos::containerd::services::leases::v1::{ListRequest, ListResourcesRequest};
use api_protos::containerd::services::sandbox::v1::store_client::StoreClient;
use api_protos::containerd::services::sandbox::v1::{StoreCreateRequest, StoreListRequest};
use api_protos::containerd::services::snapshots::v1::{
    ListSnapshotsRequest, MountsRequest, UsageRequest,
};
use api_protos::containerd::types::{Sandbox, sandbox};
use serde_json::json;
use tests::{
    Api, Ctr, Daemon, Engine, Finished, Image, Peers, Random, binaries, command, eventually,
};

const IMAGE: &str = "example.org/many:1";
const SOON: Duration = Duration::from_secs(20);
const SNAPSHOTTERS: [&str; 2] = ["overlayfs", "native"];

/// A containerd that has been at work, and a cortend that has not.
struct Fixture {
    old: Daemon,
    new: Daemon,
}

impl Fixture {
    fn new(engine: Engine, peers: &Peers) -> Self {
        let old = Daemon::start(engine, peers);
        let mut new = Daemon::start(Engine::Corten, peers);
        assert_eq!(new.terminate(), Some(0));
        Self { old, new }
    }

    /// Returns a client of the old daemon.
    fn old_ctr(&self) -> Ctr {
        self.old.ctr()
    }

    /// Returns a client of the new daemon in the old one's namespace.
    fn new_ctr(&self) -> Ctr {
        self.new.ctr().in_namespace(&self.old.namespace)
    }

    /// Fills the old daemon with one of everything.
    fn work(&self) {
        let ctr = self.old_ctr();
        let archive = Image::many_layers(3, 50_000).write_archive(self.old.folder(), IMAGE);
        let archive = archive.display().to_string();
        for snapshotter in SNAPSHOTTERS {
            let args = [
                "images",
                "import",
                "--local",
                "--snapshotter",
                snapshotter,
                &archive,
            ];
            ctr.ok(&args);
        }
        ctr.ok(&["namespaces", "label", ctr.namespace(), "purpose=test"]);
        ctr.ok(&["images", "label", IMAGE, "colour=blue"]);
        for (snapshotter, id) in [("overlayfs", "layered"), ("native", "copied")] {
            let script = "echo kept >/data/own; chown 12:34 /data/own; rm /data/0; echo done";
            let args = ["run", "--label", "role=first", "--snapshotter", snapshotter];
            let args = [&args[..], &[IMAGE, id, "/bin/sh", "-c", script]].concat();
            assert_eq!(ctr.ok(&args), "done\n");
        }
        // A container whose file system is committed, and another upon that.
        ctr.ok(&["run", IMAGE, "base", "/bin/sh", "-c", "echo below >/below"]);
        ctr.ok(&["snapshots", "commit", "made-here", "base"]);
        for (verb, key) in [("prepare", "upon"), ("view", "seen")] {
            // A collection may come between the two.
            eventually("the snapshot is kept", SOON, || {
                ctr.run(&["snapshots", verb, key, "made-here"]);
                let kept = ctr.run(&["snapshots", "label", key, "containerd.io/gc.root=now"]);
                (kept.code == Some(0)).then_some(())
            });
        }
        ctr.ok(&["containers", "rm", "base"]);
        ctr.ok(&["leases", "create", "--id", "held", "why=because"]);
        let digest = ctr.ok(&["content", "ls", "-q"]);
        let digest = digest.lines().next().expect("there is content");
        ctr.ok(&["content", "label", digest, "seal=wax"]);
        if self.old.engine == Engine::Containerd2 {
            self.make_sandbox();
        }
    }

    fn make_sandbox(&self) {
        let api = Api::new(&self.old, &self.old.namespace);
        let runtime = sandbox::Runtime {
            name: "io.containerd.runc.v2".into(),
            options: None,
        };
        let sandbox = Sandbox {
            sandbox_id: "pod".into(),
            runtime: Some(runtime),
            sandboxer: "shim".into(),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            ..Sandbox::default()
        };
        let request = StoreCreateRequest {
            sandbox: Some(sandbox),
        };
        let create = async { StoreClient::new(api.service()).create(request).await };
        api.run(create).expect("make a sandbox");
    }

    /// Runs `cortend takeover` with these arguments, and with what `set` adds to the command.
    fn takeover(&self, args: &[&str], set: impl FnOnce(&mut Command)) -> Finished {
        let program = binaries::find("cortend").expect("cortend is built");
        let mut command = Command::new(program);
        command
            .arg("--root")
            .arg(self.new_root())
            .arg("takeover")
            .arg("--from")
            .arg(self.old_root())
            .arg("--from-state")
            .arg(self.old.folder().join("state"))
            .args(args);
        set(&mut command);
        command::run(&mut command)
    }

    fn old_root(&self) -> PathBuf {
        self.old.folder().join("root")
    }

    fn new_root(&self) -> PathBuf {
        self.new.folder().join("root")
    }
}

type Told = BTreeMap<String, Vec<String>>;

/// Fails with what is told in one of two and not in the other.
#[track_caller]
fn assert_same(before: &Told, after: &Told) {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut differ = Vec::new();
    for name in names {
        let [one, other] = [before, after].map(|told| told.get(name).cloned().unwrap_or_default());
        differ.extend(
            one.iter()
                .filter(|text| !other.contains(text))
                .map(|text| format!("- {name}: {text}")),
        );
        differ.extend(
            other
                .iter()
                .filter(|text| !one.contains(text))
                .map(|text| format!("+ {name}: {text}")),
        );
    }
    assert!(differ.is_empty(), "\n{}\n", differ.join("\n"));
}

/// Returns the lines of what is told of an item in their order: those of maps come in any.
fn text(item: impl Debug) -> String {
    let text = format!("{item:#?}");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort();
    lines.join("\n")
}

fn texts<T: Debug>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    let mut texts: Vec<String> = items.into_iter().map(text).collect();
    texts.sort();
    texts
}

/// Returns all that a daemon tells of the namespace of `old`, down to the nanosecond.
fn listings(daemon: &Daemon, old: &Daemon) -> Told {
    let namespace = old.namespace.as_str();
    let api = Api::new(daemon, namespace);
    let mut told = BTreeMap::new();
    let mut note = |what: &str, texts: Vec<String>| {
        assert!(!texts.is_empty(), "no {what}");
        told.insert(what.to_owned(), texts);
    };
    let ctr = daemon.ctr().in_namespace(namespace);
    let spaces = ctr.ok(&["namespaces", "ls"]);
    let own = spaces.lines().filter(|line| line.starts_with(namespace));
    note(
        "namespaces",
        texts(own.map(|line| line.split_whitespace().collect::<Vec<_>>())),
    );
    for list in [
        &["images", "ls"][..],
        &["containers", "ls"],
        &["images", "check"],
    ] {
        note(&list.join(" "), vec![ctr.ok(list)]);
    }
    let sandboxes = api.run(async {
        let images = api.images().list(ListImagesRequest::default()).await;
        note(
            "images",
            texts(images.expect("list images").into_inner().images),
        );
        let containers = api
            .containers()
            .list(ListContainersRequest::default())
            .await;
        let containers = containers.expect("list containers").into_inner().containers;
        note("containers", texts(containers.into_iter().map(readable)));
        let mut blobs = Vec::new();
        let content = api.content().list(ListContentRequest::default()).await;
        let mut content = content.expect("list content").into_inner();
        while let Some(some) = content.message().await.expect("list content") {
            blobs.extend(some.info);
        }
        if old.engine == Engine::Containerd1 {
            // It writes down when a blob was changed, and does not tell.
            blobs.iter_mut().for_each(|info| info.updated_at = None);
        }
        note("content", texts(blobs));
        for snapshotter in SNAPSHOTTERS {
            let snapshots = snapshots(&api, snapshotter, daemon.folder()).await;
            note(snapshotter, snapshots);
        }
        let leases = api.leases().list(ListRequest::default()).await;
        for lease in leases.expect("list leases").into_inner().leases {
            let request = ListResourcesRequest {
                id: lease.id.clone(),
            };
            let held = api.leases().list_resources(request).await;
            let held = texts(held.expect("list resources").into_inner().resources);
            note(
                &format!("lease {}", lease.id),
                [texts([lease]), held].concat(),
            );
        }
        let mut store = StoreClient::new(api.service());
        store.list(StoreListRequest::default()).await
    });
    // containerd 1 has no such service.
    if let Ok(list) = sandboxes {
        told.insert("sandboxes".to_owned(), texts(list.into_inner().list));
    }
    told
}

/// Returns a container with its specification as text.
fn readable(mut container: Container) -> (Container, Option<String>) {
    let spec = container.spec.take();
    let text =
        spec.map(|spec| format!("{} {}", spec.type_url, String::from_utf8_lossy(&spec.value)));
    (container, text)
}

/// Returns what is told of the snapshots of a snapshotter, and where below `folder` their layers are.
async fn snapshots(api: &Api, snapshotter: &str, folder: &Path) -> Vec<String> {
    let request = ListSnapshotsRequest {
        snapshotter: snapshotter.into(),
        ..ListSnapshotsRequest::default()
    };
    let list = api.snapshots().list(request).await;
    let mut list = list.expect("list snapshots").into_inner();
    let mut infos = Vec::new();
    while let Some(some) = list.message().await.expect("list snapshots") {
        infos.extend(some.info);
    }
    let mut told = Vec::new();
    for info in infos {
        let key = info.name.clone();
        let mut text = text(info);
        let request = UsageRequest {
            snapshotter: snapshotter.into(),
            key: key.clone(),
        };
        let usage = api.snapshots().usage(request).await;
        text += &format!("{:?}", usage.expect("measure a snapshot").into_inner());
        let request = MountsRequest {
            snapshotter: snapshotter.into(),
            key,
        };
        if let Ok(mounts) = api.snapshots().mounts(request).await {
            for mount in mounts.into_inner().mounts {
                let mut layers: Vec<String> = mount.options;
                layers.retain(|option| option.contains("dir="));
                text += &format!("{} {} {layers:?}", mount.r#type, mount.source);
            }
        }
        told.push(text.replace(&*folder.to_string_lossy(), ""));
    }
    told.sort();
    told
}

/// Fails unless a container of `ctr` starts.
#[track_caller]
fn assert_starts(ctr: &Ctr, id: &str) {
    // With containerd 1 the output of what ends at once may be lost: the exit code is what counts.
    ctr.ok(&["tasks", "start", id]);
    // Upstream's client has deleted it by now.
    ctr.run(&["tasks", "delete", id]);
}

/// Fails unless the files that containers have written are below `root` with owners, and what they removed is hidden.
#[track_caller]
fn assert_own_files(root: &Path) {
    for (snapshotter, fs_root) in [("overlayfs", "fs/data"), ("native", "data")] {
        let folder = root.join(format!(
            "io.containerd.snapshotter.v1.{snapshotter}/snapshots"
        ));
        let folders = fs::read_dir(&folder).expect("list the snapshots");
        let mut folders = folders.map(|entry| entry.expect("list the snapshots").path());
        let own = folders.find(|entry| entry.join(fs_root).join("own").exists());
        let data = own
            .expect("there is a snapshot with the file")
            .join(fs_root);
        let own = data.join("own").metadata().expect("stat");
        assert_eq!((own.uid(), own.gid(), own.nlink()), (12, 34, 1));
        let hidden = data
            .join("0")
            .symlink_metadata()
            .map(|stat| stat.file_type());
        match snapshotter {
            "overlayfs" => assert!(hidden.expect("a whiteout").is_char_device()),
            _ => assert!(hidden.is_err()),
        }
    }
}

/// Returns a folder's paths with sizes and times of change, and the bytes of databases.
fn fingerprint(folder: &Path) -> BTreeMap<PathBuf, (u64, i64, Option<Vec<u8>>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("list a folder") {
            let path = entry.expect("list a folder").path();
            let stat = path.symlink_metadata().expect("stat");
            let database = path.extension().is_some_and(|end| end == "db");
            let bytes = database.then(|| fs::read(&path).expect("read a database"));
            if stat.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path, (stat.len(), stat.mtime_nsec(), bytes));
        }
    }
    found
}

fn takes_over_from(engine: Engine) {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let mut fixture = Fixture::new(engine, &peers);
    fixture.work();
    let namespace = fixture.old.namespace.clone();
    let before = listings(&fixture.old, &fixture.old);

    let refused = fixture.takeover(&["--dry-run"], |_| {}).refused();
    assert!(refused.contains("containerd runs"), "{refused}");
    fixture.old.terminate();

    let roots = [fixture.old_root(), fixture.new_root()];
    let untouched = roots.clone().map(|root| fingerprint(&root));
    let plan = fixture.takeover(&["--dry-run"], |_| {}).ok();
    let row = plan.lines().find(|line| line.starts_with(&namespace));
    let row: Vec<&str> = row.unwrap_or_default().split_whitespace().collect();
    let sandboxes = if engine == Engine::Containerd2 {
        "1"
    } else {
        "0"
    };
    assert_eq!(row[1], "1", "{plan}");
    assert_eq!(row[4..], ["2", sandboxes, "1"], "{plan}");
    assert!(plan.contains("shared by links"), "{plan}");
    assert!(
        !plan.contains("Left behind") && !plan.contains("In the way"),
        "{plan}"
    );
    assert_eq!(roots.clone().map(|root| fingerprint(&root)), untouched);

    fixture.takeover(&[], |_| {}).ok();
    assert_own_files(&fixture.new_root());
    assert_eq!(fingerprint(&fixture.old_root()), untouched[0]);
    let again = fixture.takeover(&[], |_| {}).refused();
    assert!(again.contains("has images already"), "{again}");

    fixture.new.restart();
    let mut after = listings(&fixture.new, &fixture.old);
    if engine == Engine::Containerd1 {
        // It has no service for them.
        assert_eq!(after.remove("sandboxes"), Some(Vec::new()));
    }
    assert_same(&before, &after);
    let ctr = fixture.new_ctr();
    for id in ["layered", "copied"] {
        assert_starts(&ctr, id);
    }
    let script = "cat /data/last; test ! -e /data/gone-0 && echo hidden";
    let told = ctr.ok(&["run", "--rm", IMAGE, "fresh", "/bin/sh", "-c", script]);
    assert_eq!(told, "2\nhidden\n");
    fixture.new.assert_nothing_left();

    // What one of them removes is no loss to the other.
    ctr.ok(&["images", "rm", "--sync", IMAGE]);
    assert_eq!(fixture.new.terminate(), Some(0));
    fixture.old.restart();
    assert_same(&before, &listings(&fixture.old, &fixture.old));
    let ctr = fixture.old_ctr();
    for id in ["layered", "copied"] {
        assert_starts(&ctr, id);
    }
    let told = ctr.ok(&["run", "--rm", IMAGE, "fresh", "/bin/sh", "-c", script]);
    assert_eq!(told, "2\nhidden\n");
    fixture.old.assert_nothing_left();
}

#[test]
fn all_of_containerd_2_is_taken_over_and_nothing_taken_away() {
    takes_over_from(Engine::Containerd2);
}

#[test]
fn all_of_containerd_1_is_taken_over_and_nothing_taken_away() {
    takes_over_from(Engine::Containerd1);
}

#[test]
fn a_takeover_that_is_killed_leaves_nothing_half_made_and_is_finished_by_another() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let mut fixture = Fixture::new(Engine::Containerd2, &peers);
    fixture.work();
    let before = listings(&fixture.old, &fixture.old);
    fixture.old.terminate();
    let points = fixture.new.folder().join("points");
    fs::create_dir(&points).expect("make a folder");
    for (point, action) in [
        ("content", "kill"),
        ("snapshots", "kill"),
        ("snapshots", "2 kill"),
        ("staged", "kill"),
        ("staged", "error"),
    ] {
        fs::write(points.join(format!("takeover.{point}")), action).expect("arm a failpoint");
        let ended = fixture.takeover(&[], |command| {
            command.env("CORTEN_FAILPOINTS", &points);
        });
        assert_ne!(ended.code, Some(0), "{ended}");
        assert_eq!(fs::read_dir(&points).expect("list").count(), 0, "{point}");
    }
    // To a daemon that is started now it is as if nothing had been: what lies there is collected.
    fixture.new.restart();
    let ctr = fixture.new_ctr();
    for list in [
        &["images", "ls", "-q"][..],
        &["content", "ls", "-q"],
        &["containers", "ls", "-q"],
    ] {
        assert_eq!(ctr.ok(list), "", "{list:?}");
    }
    assert_eq!(fixture.new.terminate(), Some(0));
    fs::write(points.join("takeover.done"), "kill").expect("arm a failpoint");
    let ended = fixture.takeover(&[], |command| {
        command.env("CORTEN_FAILPOINTS", &points);
    });
    assert_eq!(ended.code, Some(128 + 9), "{ended}");
    fixture.new.restart();
    assert_same(&before, &listings(&fixture.new, &fixture.old));
    assert_starts(&fixture.new_ctr(), "layered");
}

#[test]
fn labels_about_restarts_that_are_an_images_are_left_behind() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let mut fixture = Fixture::new(Engine::Containerd2, &peers);
    let ctr = fixture.old_ctr();
    let (log, policy) = (
        "containerd.io/restart.loguri",
        "containerd.io/restart.policy",
    );
    let image = Image::busybox_recipe().config("Labels", json!({log: "binary:///bin/false"}));
    let archive = image.build().write_archive(fixture.old.folder(), IMAGE);
    ctr.ok(&[
        "images",
        "import",
        "--local",
        &archive.display().to_string(),
    ]);
    let (copied, own) = (format!("{log}=binary:///bin/false"), format!("{policy}=no"));
    let labels = ["--label", &copied, "--label", &own];
    ctr.ok(&[&["containers", "create"], &labels[..], &[IMAGE, "asks"]].concat());
    assert!(ctr.ok(&["containers", "info", "asks"]).contains(log));
    fixture.old.terminate();
    fixture.takeover(&[], |_| {}).ok();
    fixture.new.restart();
    let info = fixture.new_ctr().ok(&["containers", "info", "asks"]);
    // The specification has what the image says as annotations, which ask for nothing.
    let labels = info.split("\"Spec\"").next().unwrap_or_default();
    assert!(labels.contains(policy) && !labels.contains(log), "{labels}");
}

#[test]
fn what_runs_is_named_and_refused() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let mut fixture = Fixture::new(Engine::Containerd2, &peers);
    let ctr = fixture.old_ctr();
    let archive = Image::busybox().write_archive(fixture.old.folder(), IMAGE);
    ctr.ok(&[
        "images",
        "import",
        "--local",
        &archive.display().to_string(),
    ]);
    ctr.ok(&["run", "-d", IMAGE, "busy", "/bin/sleep", "1000"]);
    fixture.old.kill();
    let refused = fixture.takeover(&[], |_| {}).refused();
    let namespace = &fixture.old.namespace;
    let task = format!("task busy in namespace {namespace} has process");
    assert!(refused.contains(&task), "{refused}");
    assert!(refused.contains("is mounted: unmount it"), "{refused}");
    assert!(!refused.contains("containerd runs"), "{refused}");

    fixture.old.restart();
    let ctr = fixture.old_ctr();
    ctr.ok(&["tasks", "delete", "--force", "busy"]);
    fixture.old.terminate();
    fixture.takeover(&[], |_| {}).ok();
}

#[test]
fn damage_to_the_databases_of_containerd_is_an_error_and_never_a_panic() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let mut fixture = Fixture::new(Engine::Containerd2, &peers);
    fixture.work();
    fixture.old.terminate();
    let root = fixture.old_root();
    let databases = [
        root.join("io.containerd.metadata.v1.bolt/meta.db"),
        root.join("io.containerd.snapshotter.v1.overlayfs/metadata.db"),
    ];
    let mut random = Random(4);
    for database in databases {
        let whole = fs::read(&database).expect("read a database");
        for _ in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.below(40) {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            if random.below(4) == 0 {
                bytes.truncate(random.below(whole.len()));
            }
            fs::write(&database, bytes).expect("write a database");
            let ended = fixture.takeover(&["--dry-run"], |_| {});
            assert!(matches!(ended.code, Some(0 | 1)), "{ended}");
        }
        fs::write(&database, whole).expect("write a database");
    }
}
