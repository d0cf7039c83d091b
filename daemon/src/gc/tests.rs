use std::collections::BTreeSet;

use super::*;
use crate::labels::{GC_EXPIRE, GC_FLAT, GC_ROOT, Labels};
use crate::metadata::{Blob, Container, Descriptor, Image, Ingest, Lease, Snapshot};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

/// A store in which each test sets up objects; `lost` says what a collection at time 1000 would remove.
struct Objects {
    _root: tempfile::TempDir,
    store: Store,
}

impl Objects {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("meta")).unwrap();
        Self { _root: root, store }
    }

    fn put<R: prost::Message + 'static>(&self, table: Table, key: &str, record: R) -> &Self {
        let key = key.to_owned();
        self.store
            .write(move |tx| tx.put(table, "ns", &key, &record))
            .unwrap();
        self
    }

    fn blob(&self, key: &str, pairs: &[(&str, &str)]) -> &Self {
        let labels = labels(pairs);
        let blob = Blob {
            labels,
            ..Default::default()
        };
        self.put(Table::Blobs, key, blob)
    }

    fn image(&self, key: &str, digest: &str, pairs: &[(&str, &str)]) -> &Self {
        let target = Descriptor {
            digest: digest.to_owned(),
            ..Default::default()
        };
        let image = Image {
            target: Some(target),
            labels: labels(pairs),
            ..Default::default()
        };
        self.put(Table::Images, key, image)
    }

    fn snapshot(&self, key: &str, parent: &str, pairs: &[(&str, &str)]) -> &Self {
        let snapshot = Snapshot {
            parent: parent.to_owned(),
            labels: labels(pairs),
            ..Default::default()
        };
        self.put(Table::Snapshots, &format!("o/{key}"), snapshot)
    }

    fn lease(&self, key: &str, pairs: &[(&str, &str)], resources: &[(&str, &str)]) -> &Self {
        let lease = Lease {
            labels: labels(pairs),
            ..Default::default()
        };
        self.put(Table::Leases, key, lease);
        for (kind, id) in resources {
            self.put(Table::LeaseResources, &format!("{key}\0{kind}\0{id}"), ());
        }
        self
    }

    fn lost(&self) -> BTreeSet<String> {
        let marked = self.store.read(|view| scan::mark(view, 1000));
        let mut marked = marked.unwrap();
        let mut lost = BTreeSet::new();
        while !marked.is_empty() {
            lost.extend(marked.take(2).into_iter().map(|node| node.key));
        }
        lost
    }
}

fn set(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

const PAST: &str = "1970-01-01T00:10:00Z";
const FUTURE: &str = "1970-01-01T00:20:00Z";

#[test]
fn what_an_image_leads_to_is_kept() {
    let objects = Objects::new();
    objects
        .image("i", "index", &[])
        .blob("index", &[("containerd.io/gc.ref.content.m.0", "manifest")])
        .blob(
            "manifest",
            &[
                ("containerd.io/gc.ref.content.config", "config"),
                ("containerd.io/gc.ref.content/0", "layer"),
                ("containerd.io/gc.ref.contentious", "other"),
            ],
        )
        .blob("config", &[("containerd.io/gc.ref.snapshot.o", "chain")])
        .blob("layer", &[])
        .blob("other", &[])
        .snapshot("chain", "base", &[])
        .snapshot("base", "", &[])
        .snapshot("stray", "base", &[]);
    assert_eq!(objects.lost(), set(&["other", "o/stray"]));
}

#[test]
fn expired_images_and_leases_go_and_so_does_what_only_they_hold() {
    let objects = Objects::new();
    objects
        .image("old", "a", &[(GC_EXPIRE, PAST)])
        .image("new", "b", &[(GC_EXPIRE, FUTURE)])
        .image("odd", "c", &[(GC_EXPIRE, "tomorrow")])
        .image("leased", "d", &[(GC_EXPIRE, PAST)])
        .lease("over", &[(GC_EXPIRE, PAST)], &[("content", "e")])
        .lease(
            "on",
            &[(GC_EXPIRE, FUTURE)],
            &[("content", "f"), ("images", "leased")],
        );
    for digest in ["a", "b", "c", "d", "e", "f"] {
        objects.blob(digest, &[]);
    }
    assert_eq!(objects.lost(), set(&["old", "a", "over", "e"]));
}

#[test]
fn a_flat_lease_holds_its_objects_only() {
    let objects = Objects::new();
    objects
        .lease(
            "flat",
            &[(GC_FLAT, "1")],
            &[("content", "m"), ("snapshots/o", "top"), ("images", "i")],
        )
        .blob("m", &[("containerd.io/gc.ref.content.0", "layer")])
        .blob("layer", &[])
        .image("i", "target", &[(GC_EXPIRE, PAST)])
        .blob("target", &[("containerd.io/gc.ref.content.0", "layer")])
        .snapshot(
            "top",
            "bottom",
            &[("containerd.io/gc.ref.content", "layer")],
        )
        .snapshot("bottom", "", &[]);
    assert_eq!(objects.lost(), set(&["layer"]));
}

#[test]
fn containers_roots_and_back_references_keep_objects() {
    let container = Container {
        snapshotter: "o".into(),
        snapshot_key: "c1".into(),
        labels: labels(&[("containerd.io/gc.ref.content.x", "spec")]),
        ..Default::default()
    };
    let objects = Objects::new();
    objects
        .put(Table::Containers, "c1", container)
        .snapshot("c1", "chain", &[])
        .snapshot("chain", "", &[])
        .blob("spec", &[])
        .blob("root", &[(GC_ROOT, "now")])
        .snapshot("root", "", &[(GC_ROOT, "now")])
        .blob("referrer", &[("containerd.io/gc.bref.content.x", "root")])
        .blob("child", &[("containerd.io/gc.bref.container", "c1")])
        .snapshot("back", "", &[("containerd.io/gc.bref.snapshot.o/x", "c1")])
        .blob("orphan", &[("containerd.io/gc.bref.container", "c2")]);
    assert_eq!(objects.lost(), set(&["orphan"]));
}

#[test]
fn ingests_are_kept_until_they_expire_or_while_they_are_leased() {
    let ingest = |seconds: Option<i64>, shared: &str| Ingest {
        shared: shared.to_owned(),
        expire_at: seconds.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
        ..Default::default()
    };
    let objects = Objects::new();
    objects
        .put(Table::Ingests, "old", ingest(Some(10), ""))
        .put(Table::Ingests, "new", ingest(Some(2000), "blob"))
        .put(Table::Ingests, "held", ingest(None, ""))
        .put(Table::Ingests, "left", ingest(None, ""))
        .blob("blob", &[])
        .lease("l", &[], &[("ingests", "held")]);
    assert_eq!(objects.lost(), set(&["old", "left"]));
}

#[test]
fn collecting_takes_no_more_than_its_share_of_the_time() {
    let pause_after = |millis| pause(Duration::from_millis(millis), 0.02).as_millis();
    assert_eq!([pause_after(0), pause_after(200)], [245, 9800]);
    assert!(pause(Duration::from_secs(1), 0.0) < Duration::from_secs(1000));
}

#[test]
fn what_is_written_during_a_collection_keeps_what_it_leads_to() {
    let objects = Objects::new();
    objects
        .blob("m", &[("containerd.io/gc.ref.content.l.0", "layer")])
        .blob("layer", &[])
        .blob("other", &[])
        .snapshot("base", "", &[])
        .snapshot("top", "base", &[]);
    let watch = objects.store.watch();
    let mut marked = objects.store.read(|view| scan::mark(view, 1000)).unwrap();
    assert!(watch.take().is_empty());
    objects
        .lease("new", &[], &[("content", "m")])
        .snapshot("newer", "top", &[])
        .image("i", "other", &[]);
    let written = watch.take();
    written.iter().for_each(|new| marked.keep(new).unwrap());
    while !marked.is_empty() {
        assert_eq!(marked.take(1), []);
    }
}

#[test]
fn holders_go_before_what_they_hold_and_rings_together() {
    let objects = Objects::new();
    objects
        .snapshot("a", "", &[])
        .snapshot("b", "a", &[])
        .snapshot("c", "b", &[])
        .blob("x", &[("containerd.io/gc.ref.content.0", "y")])
        .blob("y", &[("containerd.io/gc.ref.content.0", "x")]);
    let mut marked = objects.store.read(|view| scan::mark(view, 1000)).unwrap();
    let mut taken = Vec::new();
    while !marked.is_empty() {
        let keys = marked.take(1).into_iter().map(|node| node.key);
        taken.push(keys.collect::<BTreeSet<_>>());
    }
    let expected = ["o/c", "o/b", "o/a"].map(|key| set(&[key]));
    assert_eq!(taken[..3], expected);
    assert_eq!(taken[3], set(&["x", "y"]));
}
