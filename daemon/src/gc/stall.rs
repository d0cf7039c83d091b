//! How long others wait while very much is collected. By hand: it takes minutes.
//!
//! `cargo test --release -p daemon gc::stall -- --ignored --nocapture`; `STALL_SCALE=10` takes a tenth of everything.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use snapshotter::Snapshotter;
use snapshotter::overlay::{Options, Overlay};

use super::*;
use crate::content::{Digest, WriterOptions};
use crate::context::Context;
use crate::labels::Labels;
use crate::metadata::{Blob, Containers, Leases, Snapshot};

const SN: &str = "overlayfs";
const SNAPSHOTS: usize = 10_000;
const BLOBS: usize = 100_000;

struct Fixture {
    root: tempfile::TempDir,
    backend: Arc<dyn Snapshotter>,
    store: Arc<Store>,
    content: Content,
    snapshots: Snapshots,
    collector: Collector,
}

fn fixture() -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&root.path().join("meta")).unwrap());
    let events: Arc<Exchange> = Arc::default();
    let content = root.path().join("content");
    let content = Content::open(&content, true, store.clone(), events.clone()).unwrap();
    let backend: Arc<dyn Snapshotter> =
        Arc::new(Overlay::open(root.path().join("overlay"), Options::default()).unwrap());
    let backends = BTreeMap::from([(SN.to_owned(), backend.clone())]);
    let snapshots = Snapshots::new(store.clone(), events.clone(), backends, BTreeMap::new());
    let collector = Collector::new(store.clone(), events, content.clone(), snapshots.clone());
    Fixture {
        root,
        backend,
        store,
        content,
        snapshots,
        collector,
    }
}

impl Fixture {
    /// Makes blobs and snapshots that nothing holds, past the calls that would make each durable alone.
    fn litter(&self, blobs: usize, snapshots: usize) {
        let folder = self.root.path().join("content/blobs/sha256");
        let digests: Vec<Digest> = (0..blobs)
            .map(|number| Digest::of(&number.to_le_bytes()))
            .collect();
        for digest in &digests {
            std::fs::write(folder.join(digest.hex()), b"x").unwrap();
        }
        for some in digests.chunks(10_000) {
            let some = some.to_vec();
            let put = move |tx: &mut Tx<'_, '_>| {
                let blob = Blob {
                    size: 1,
                    ..Default::default()
                };
                some.iter()
                    .try_for_each(|digest| tx.put(Table::Blobs, "old", digest.as_str(), &blob))
            };
            self.store.write(put).unwrap();
        }
        let names: Vec<String> = (0..snapshots).map(|n| format!("old/{n}/s{n}")).collect();
        for name in &names {
            self.backend.prepare(name, "", &Labels::new()).unwrap();
        }
        let put = move |tx: &mut Tx<'_, '_>| {
            names.iter().enumerate().try_for_each(|(n, backend)| {
                let snapshot = Snapshot {
                    backend: backend.clone(),
                    ..Default::default()
                };
                tx.put(Table::Snapshots, "old", &format!("{SN}/s{n}"), &snapshot)
            })
        };
        self.store.write(put).unwrap();
    }

    /// Does what the start of a container does to the stores, and returns how long its slowest step took.
    fn create(&self, number: usize) -> Duration {
        let context = Context::new("new").unwrap();
        let leases = Leases::new(self.store.clone());
        let mut slowest = Duration::ZERO;
        let mut timed = |step: &mut dyn FnMut()| {
            let start = Instant::now();
            step();
            slowest = slowest.max(start.elapsed());
        };
        let id = format!("c{number}");
        timed(&mut || drop(leases.create(&context, &id, Labels::new()).unwrap()));
        let context = context.clone().with_lease(id.clone());
        timed(&mut || {
            let made = self.snapshots.prepare(&context, SN, &id, "", Labels::new());
            drop(made.unwrap());
        });
        timed(&mut || {
            let options = WriterOptions {
                reference: id.clone(),
                ..Default::default()
            };
            let mut writer = self.content.writer(&context, options).unwrap();
            writer.write(id.as_bytes()).unwrap();
            drop(writer.commit(0, None, Labels::new()).unwrap());
        });
        timed(&mut || {
            let containers = Containers::new(self.store.clone(), Arc::default());
            let container = crate::metadata::Container {
                id: id.clone(),
                runtime: "r".into(),
                spec: Some(Default::default()),
                snapshotter: SN.into(),
                snapshot_key: id.clone(),
                ..Default::default()
            };
            drop(containers.create(&context, container).unwrap());
        });
        slowest
    }
}

fn report(name: &str, slowest: &mut [Duration]) {
    slowest.sort();
    let at = |share: usize| slowest[(slowest.len() - 1) * share / 100];
    eprintln!(
        "{name}: {} creates, slowest step: median {:?}, 99 % {:?}, longest {:?}",
        slowest.len(),
        at(50),
        at(99),
        at(100)
    );
}

#[test]
#[ignore = "takes minutes; measures"]
fn creates_while_much_is_collected() {
    let scale: usize = std::env::var("STALL_SCALE").map_or(1, |scale| scale.parse().unwrap());
    let fixture = fixture();
    fixture.litter(BLOBS / scale, SNAPSHOTS / scale);
    let mut calm: Vec<Duration> = (0..200).map(|number| fixture.create(number)).collect();
    report("calm", &mut calm);
    let done = AtomicBool::new(false);
    let mut during = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            fixture.collector.inner.collect().unwrap();
            eprintln!("collected in {:?}", start.elapsed());
            done.store(true, Ordering::Release);
        });
        let mut number = 1000;
        while !done.load(Ordering::Acquire) {
            during.push(fixture.create(number));
            number += 1;
        }
    });
    report("during the collection", &mut during);
    let context = Context::new("old").unwrap();
    assert!(
        fixture
            .content
            .list::<&str>(&context, &[])
            .unwrap()
            .is_empty()
    );
    let new = Context::new("new").unwrap();
    let kept = fixture.snapshots.list::<&str>(&new, SN, &[]).unwrap();
    assert_eq!(kept.len(), 200 + during.len());
}
