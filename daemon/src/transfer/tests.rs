//! Pulls from a registry that does everything that registries have been seen to do wrong.

mod registry;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use snapshotter::Snapshotter;
use snapshotter::native::Native;
use snapshotter::overlay::{Options as OverlayOptions, Overlay};

use super::store::Unpack;
use super::*;
use crate::images::platform::Platform;
use crate::media;
use crate::metadata::Store;
use crate::registry::hosts::Patience;
use crate::registry::{Credentials, Options, Secret};
use registry::{Fault, Image, Registry, TOKEN, blob};
use sys::mount::{Mount, TempMount};

struct Fixture {
    _root: tempfile::TempDir,
    transfer: Transfer,
    context: Context,
    registry: Registry,
}

impl Fixture {
    async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let disk = root.path().to_owned();
        Self::on(root, &disk).await
    }

    /// Keeps blobs and snapshots below `disk`.
    async fn on(root: tempfile::TempDir, disk: &Path) -> Self {
        let store = Arc::new(Store::open(&root.path().join("meta")).unwrap());
        let content = Content::open(&disk.join("content"), true, store.clone(), Arc::default());
        let content = content.unwrap();
        let overlay = Overlay::open(disk.join("overlay"), OverlayOptions::default());
        let native = Native::open(disk.join("native")).unwrap();
        let backends: BTreeMap<String, Arc<dyn Snapshotter>> = BTreeMap::from([
            ("overlayfs".to_owned(), Arc::new(overlay.unwrap()) as _),
            ("native".to_owned(), Arc::new(native) as _),
        ]);
        let snapshots = Snapshots::new(store.clone(), Arc::default(), backends, BTreeMap::new());
        let collector = Collector::new(
            store.clone(),
            Arc::default(),
            content.clone(),
            snapshots.clone(),
        );
        let transfer = Transfer::new(Parts {
            images: Images::new(store.clone(), Arc::default()),
            leases: Leases::new(store),
            diff: Diff::new(content.clone()),
            content,
            snapshots,
            collector,
            locks: Locks::default(),
            config: Config::default(),
        });
        Self {
            _root: root,
            transfer,
            context: Context::new("ns").unwrap(),
            registry: Registry::start().await,
        }
    }

    fn remote(&self, credentials: Option<Credentials>) -> Remote {
        let patience = Patience {
            answer: Duration::from_secs(5),
            stall: Duration::from_millis(300),
            floor: 1,
            tries: 2,
            backoff: Duration::from_millis(10),
        };
        Remote {
            reference: format!("{}/a/b:1", self.registry.address),
            options: Options {
                default_scheme: Some("http".into()),
                credentials,
                patience,
                ..Options::default()
            },
        }
    }

    async fn pull_with(
        &self,
        snapshotter: &str,
        platforms: Vec<Platform>,
        credentials: Option<Credentials>,
    ) -> Result<()> {
        let remote = self.remote(credentials);
        let store = ImageStore {
            name: remote.reference.clone(),
            platforms,
            unpacks: vec![Unpack {
                platform: Platform::host(),
                snapshotter: snapshotter.to_owned(),
            }],
            ..ImageStore::default()
        };
        let (source, destination) = (Side::Registry(remote), Side::Store(store));
        let transfer = self.transfer.transfer(
            self.context.clone(),
            source,
            destination,
            Progress::default(),
        );
        tokio::time::timeout(Duration::from_secs(30), transfer)
            .await
            .expect("a pull ends")
    }

    async fn pull(&self) -> Result<()> {
        self.pull_with("overlayfs", Vec::new(), None).await
    }

    /// Returns how many images, blobs, ingests, snapshots and leases there are.
    fn count(&self) -> [usize; 5] {
        let (parts, context) = (&self.transfer.parts, &self.context);
        let none: [&str; 0] = [];
        [
            parts.images.list(context, &none).unwrap().len(),
            parts.content.list(context, &none).unwrap().len(),
            parts.content.statuses(context, &none).unwrap().len(),
            parts
                .snapshots
                .list(context, "overlayfs", &none)
                .unwrap()
                .len(),
            parts.leases.list(context, &none).unwrap().len(),
        ]
    }
}

fn root_only() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    eprintln!("SKIP: needs root");
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_unpacks_every_layer_and_a_second_one_fetches_nothing() {
    if !root_only() {
        return;
    }
    let f = Fixture::new().await;
    let image = f.registry.image(5, 50_000);
    f.pull().await.unwrap();
    assert_eq!(f.count(), [1, 7, 0, 5, 0]);
    f.pull().await.unwrap();
    for digest in image.layers.iter().chain([&image.config]) {
        assert_eq!(f.registry.gets(&blob(digest)), 1, "{digest}");
    }
    f.pull_with("native", Vec::new(), None).await.unwrap();
    let none: [&str; 0] = [];
    let snapshots = &f.transfer.parts.snapshots;
    let native = snapshots.list(&f.context, "native", &none).unwrap();
    assert_eq!(native.len(), 5);
    for digest in &image.layers {
        assert_eq!(f.registry.gets(&blob(digest)), 1, "{digest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_at_the_same_time_share_what_is_on_its_way() {
    if !root_only() {
        return;
    }
    let f = Fixture::new().await;
    let image = f.registry.image(3, 300_000);
    let (one, other, third) = tokio::join!(f.pull(), f.pull(), f.pull());
    for pull in [one, other, third] {
        pull.unwrap();
    }
    assert_eq!(f.count(), [1, 5, 0, 3, 0]);
    for digest in &image.layers {
        assert_eq!(f.registry.gets(&blob(digest)), 1, "{digest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_is_resumed_from_where_it_was() {
    if !root_only() {
        return;
    }
    let f = Fixture::new().await;
    let image = f.registry.image(2, 200_000);
    let stops = Fault {
        stops_after: Some(100_000),
        times: 1,
        ..Fault::default()
    };
    let closes = Fault {
        closes_after: Some(50_000),
        times: 1,
        ..Fault::default()
    };
    f.registry.fault(&blob(&image.layers[0]), stops);
    f.registry.fault(&blob(&image.layers[1]), closes);
    f.pull().await.unwrap();
    assert_eq!(f.count(), [1, 4, 0, 2, 0]);
    let seen = f.registry.seen();
    let ranges: Vec<_> = seen
        .iter()
        .filter_map(|seen| seen.headers.get("range"))
        .collect();
    assert_eq!(ranges.len(), 2, "{ranges:?}");
}

/// What a registry does wrong with the second layer, what comes of it, and whether what came is kept for another try.
fn lies() -> Vec<(&'static str, Fault, Kind, bool)> {
    let gibberish = Fault {
        body: Some(vec![7; 1000]),
        ..Fault::default()
    };
    vec![
        (
            "stops for good",
            Fault {
                stops_after: Some(100_000),
                ..Fault::default()
            },
            Kind::Unavailable,
            true,
        ),
        (
            "tells a length that is too short",
            Fault {
                length: Some(100),
                ..Fault::default()
            },
            Kind::FailedPrecondition,
            false,
        ),
        (
            "tells a length that is too long",
            Fault {
                length: Some(10_000_000),
                ..Fault::default()
            },
            Kind::FailedPrecondition,
            false,
        ),
        (
            "sends something else",
            gibberish,
            Kind::FailedPrecondition,
            false,
        ),
        (
            "has it not",
            Fault {
                status: Some(404),
                ..Fault::default()
            },
            Kind::NotFound,
            true,
        ),
        (
            "refuses it",
            Fault {
                status: Some(403),
                ..Fault::default()
            },
            Kind::PermissionDenied,
            true,
        ),
        (
            "redirects to itself for ever",
            Fault {
                status: Some(307),
                location: Some("/v2/".to_owned() + "loop"),
                ..Fault::default()
            },
            Kind::NotFound,
            true,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_registry_gets_a_clear_error_and_leaves_nothing_half_made() {
    if !root_only() {
        return;
    }
    for (what, fault, kind, resumable) in lies() {
        let f = Fixture::new().await;
        let image = f.registry.image(3, 200_000);
        f.registry.fault(&blob(&image.layers[1]), fault);
        let error = f.pull().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error:#}");
        let [images, blobs, ingests, snapshots, leases] = f.count();
        assert_eq!([images, blobs, snapshots, leases], [0; 4], "{what}");
        assert_eq!(ingests, usize::from(resumable), "{what}: {error:#}");
        // Once it is honest, all is well.
        f.registry.fault(&blob(&image.layers[1]), Fault::default());
        f.pull().await.unwrap();
        assert_eq!(f.count(), [1, 5, 0, 3, 0], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_bytes_that_are_no_layer_are_refused() {
    if !root_only() {
        return;
    }
    let f = Fixture::new().await;
    let Image {
        manifest, layers, ..
    } = f.registry.image(2, 1000);
    drop(manifest);
    // The configuration says that the layers are the other way round.
    let seen = f.registry.clone();
    let config = json!({
        "architecture": Platform::host().architecture, "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "0".repeat(64)), format!("sha256:{}", "1".repeat(64))]},
    });
    let config = config.to_string().into_bytes();
    let digest = crate::content::Digest::of(&config).to_string();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media::OCI_MANIFEST,
        "config": {"mediaType": media::OCI_CONFIG, "digest": digest, "size": config.len()},
        "layers": layers.iter().map(|layer| json!({
            "mediaType": media::OCI_LAYER_GZIP, "digest": layer, "size": f.registry.size(&blob(layer)),
        })).collect::<Vec<_>>(),
    });
    seen.put(&blob(&digest), "application/octet-stream", config);
    seen.manifest("1", media::OCI_MANIFEST, &manifest);
    let error = f.pull().await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition, "{error:#}");
    assert!(format!("{error:#}").contains("wrong diff id"), "{error:#}");
    assert_eq!(f.count(), [0; 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_without_this_platform_and_documents_of_two_minds_are_refused() {
    let f = Fixture::new().await;
    let image = f.registry.image(1, 1000);
    let size = f
        .registry
        .size(&format!("/v2/a/b/manifests/{}", image.manifest));
    let index = |platform: serde_json::Value| {
        json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": [
            {"mediaType": media::OCI_MANIFEST, "digest": image.manifest, "size": size, "platform": platform},
        ]})
    };
    let foreign = index(json!({"os": "plan9", "architecture": "mips"}));
    f.registry.manifest("1", media::OCI_INDEX, &foreign);
    let pull = || f.pull_with("overlayfs", vec![Platform::host()], None);
    let error = pull().await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(
        format!("{error:#}").contains("no match for platform in manifest"),
        "{error:#}"
    );
    let mut both = index(json!({"os": "linux", "architecture": "amd64"}));
    both["layers"] = json!([]);
    f.registry.manifest("1", media::OCI_INDEX, &both);
    let error = pull().await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument, "{error:#}");
    let huge = json!({"schemaVersion": 2, "manifests": [], "x": "x".repeat(5 << 20)});
    f.registry.manifest("1", media::OCI_INDEX, &huge);
    let error = pull().await.unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted, "{error:#}");
    assert_eq!(f.count(), [0; 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_go_to_the_registry_and_to_nobody_else() {
    if !root_only() {
        return;
    }
    let f = Fixture::new().await;
    let image = f.registry.image(2, 1000);
    f.registry.wants("Basic realm=\"x\"", "Basic bWU6aGlkZGVu");
    // The second layer is elsewhere, by an address of its own; there somebody asks for the password too.
    let elsewhere = Registry::start().await;
    elsewhere.wants("Basic realm=\"x\"", "Basic never");
    let mut manifest = f
        .registry
        .json(&format!("/v2/a/b/manifests/{}", image.manifest));
    let url = format!("http://{}/layer", elsewhere.address);
    manifest["layers"][1]["urls"] = json!([url]);
    f.registry.manifest("1", media::OCI_MANIFEST, &manifest);
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let credentials: Credentials = Arc::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Box::pin(async {
            Ok(Some(Secret {
                username: "me".into(),
                secret: "hidden".into(),
                ..Secret::default()
            }))
        })
    });
    let pull = f.pull_with("overlayfs", Vec::new(), Some(credentials));
    pull.await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let seen = elsewhere.seen();
    assert!(!seen.is_empty());
    for request in seen {
        assert_eq!(request.headers.get("authorization"), None, "{request:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_once_from_where_the_registry_says() {
    if !root_only() {
        return;
    }
    let f = Fixture::new().await;
    f.registry.image(2, 1000);
    let realm = format!("http://{}{TOKEN}", f.registry.address);
    let challenge = format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:a/b:pull\"");
    f.registry.wants(&challenge, "Bearer secret");
    let token = br#"{"token":"secret"}"#.to_vec();
    f.registry.put(TOKEN, "application/json", token);
    f.pull().await.unwrap();
    assert_eq!(f.registry.gets(TOKEN), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_in_their_order_and_the_registry_last() {
    if !root_only() {
        return;
    }
    let f = Fixture::new().await;
    let (empty, mirror) = (Registry::start().await, Registry::start().await);
    mirror.image(2, 1000);
    let registry = f.registry.address;
    let hosts = format!(
        "server = \"http://{registry}\"\n[host.\"http://{}\"]\n[host.\"http://{}\"]\n",
        empty.address, mirror.address
    );
    let folder = tempfile::tempdir().unwrap();
    let own = folder
        .path()
        .join(format!("127.0.0.1_{}_", registry.port()));
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("hosts.toml"), hosts).unwrap();
    let mut remote = f.remote(None);
    remote.options.host_dir = Some(folder.path().to_owned());
    let registry = remote.open().await.unwrap();
    let target = registry.resolve().await.unwrap();
    assert_eq!(target.media_type, media::OCI_MANIFEST);
    assert!(!empty.seen().is_empty() && !mirror.seen().is_empty());
    assert!(f.registry.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_leaves_nothing() {
    if !root_only() {
        return;
    }
    let tmpfs = Mount {
        fstype: "tmpfs".into(),
        source: "tmpfs".into(),
        options: vec!["size=512k".into()],
        ..Mount::default()
    };
    let disk = TempMount::new(&[tmpfs]).unwrap();
    let f = Fixture::on(tempfile::tempdir().unwrap(), disk.path()).await;
    f.registry.image(2, 400_000);
    let error = f.pull().await.unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted, "{error:#}");
    let [images, blobs, _, snapshots, leases] = f.count();
    assert_eq!([images, blobs, snapshots, leases], [0; 4]);
    // What was kept for another try goes as any ingest does.
    drop(f);
    disk.close().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_ends_the_pull_and_leaves_nothing() {
    if !root_only() {
        return;
    }
    let f = Fixture::new().await;
    let image = f.registry.image(2, 200_000);
    let stops = Fault {
        stops_after: Some(100_000),
        ..Fault::default()
    };
    f.registry.fault(&blob(&image.layers[1]), stops);
    let mut remote = f.remote(None);
    remote.options.patience.stall = Duration::from_secs(60);
    let store = ImageStore {
        name: remote.reference.clone(),
        unpacks: vec![Unpack::default()],
        ..ImageStore::default()
    };
    let transfer = f.transfer.transfer(
        f.context.clone(),
        Side::Registry(remote),
        Side::Store(store),
        Progress::default(),
    );
    let gone = tokio::time::timeout(Duration::from_millis(700), transfer).await;
    assert!(gone.is_err());
    for _ in 0..200 {
        if f.count() == [0; 5] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("left: {:?}", f.count());
}
