use snapshotter::overlay::{Options, Overlay};

use super::*;
use crate::metadata::Leases;

struct Fixture {
    _root: tempfile::TempDir,
    backend: Arc<dyn Snapshotter>,
    store: Arc<Store>,
    snapshots: Snapshots,
    context: Context,
}

const SN: &str = "overlayfs";

fn fixture() -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&root.path().join("meta")).unwrap());
    let backend: Arc<dyn Snapshotter> =
        Arc::new(Overlay::open(root.path().join("overlay"), Options::default()).unwrap());
    let backends = BTreeMap::from([(SN.to_owned(), backend.clone())]);
    let snapshots = Snapshots::new(store.clone(), Arc::default(), backends, BTreeMap::new());
    Fixture {
        _root: root,
        backend,
        store,
        snapshots,
        context: Context::new("ns").unwrap(),
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

impl Fixture {
    fn prepare(&self, key: &str, parent: &str, pairs: &[(&str, &str)]) -> Result<Vec<Mount>> {
        self.snapshots
            .prepare(&self.context, SN, key, parent, labels(pairs))
    }

    fn commit(&self, name: &str, key: &str) -> Result<()> {
        let context = &self.context;
        self.snapshots
            .commit(context, SN, [name, key], Labels::new(), "")
    }

    fn in_backend(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut add = |info: BackendInfo| {
            names.push(info.name);
            Ok(())
        };
        self.backend.walk(&mut add).unwrap();
        names
    }
}

#[test]
fn namespaces_have_names_of_their_own() {
    let fixture = fixture();
    let other = Context::new("other").unwrap();
    fixture.prepare("a", "", &[]).unwrap();
    fixture.commit("base", "a").unwrap();
    let snapshots = &fixture.snapshots;
    assert_eq!(
        snapshots.stat(&other, SN, "base").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let upon = snapshots.prepare(&other, SN, "b", "base", Labels::new());
    assert_eq!(upon.unwrap_err().kind(), ErrorKind::NotFound);
    snapshots
        .prepare(&other, SN, "a", "", Labels::new())
        .unwrap();
    assert_eq!(
        snapshots
            .list::<&str>(&fixture.context, SN, &[])
            .unwrap()
            .len(),
        1
    );
    let error = snapshots.stat(&other, "zfs", "a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(error.to_string(), "snapshotter not loaded: zfs");
}

#[test]
fn the_snapshotter_sees_only_the_labels_that_are_for_it() {
    let fixture = fixture();
    let given = [
        ("containerd.io/snapshot.ref", "target"),
        ("containerd.io/snapshot/x", "1"),
        ("mine", "2"),
    ];
    fixture.prepare("a", "", &given).unwrap();
    let info = fixture.snapshots.stat(&fixture.context, SN, "a").unwrap();
    assert_eq!(info.labels, labels(&given));
    let name = fixture.in_backend().remove(0);
    let seen = fixture.backend.stat(&name).unwrap().labels;
    assert_eq!(seen, labels(&given[..2]));
    let update = labels(&[("containerd.io/snapshot/x", "")]);
    let paths = vec!["labels.containerd.io/snapshot/x".to_owned()];
    let (snapshots, context) = (&fixture.snapshots, &fixture.context);
    let updated = snapshots.update(context, SN, "a", update, paths).unwrap();
    assert_eq!(updated.labels.len(), 2);
    assert_eq!(fixture.backend.stat(&name).unwrap().labels.len(), 1);
}

#[test]
fn what_is_there_is_leased_rather_than_made_again() {
    let fixture = fixture();
    fixture.prepare("a", "", &[]).unwrap();
    fixture.commit("target", "a").unwrap();
    let leases = Leases::new(fixture.store.clone());
    let lease = leases.create(&fixture.context, "l", Labels::new()).unwrap();
    let leased = fixture.context.clone().with_lease(lease.id);
    let wanted = labels(&[(SNAPSHOT_REF, "target")]);
    let error = fixture
        .snapshots
        .prepare(&leased, SN, "b", "", wanted)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let held = leases.resources(&fixture.context, "l").unwrap();
    assert_eq!(
        (held[0].kind.as_str(), held[0].id.as_str()),
        ("snapshots/overlayfs", "target")
    );
    let again = fixture.prepare("target", "", &[]).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    fixture.prepare("c", "target", &[]).unwrap();
    let again = fixture.commit("target", "c").unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
}

#[test]
fn parents_stay_until_their_children_are_gone() {
    let fixture = fixture();
    fixture.prepare("a", "", &[]).unwrap();
    fixture.commit("base", "a").unwrap();
    fixture.prepare("child", "base", &[]).unwrap();
    let (snapshots, context) = (&fixture.snapshots, &fixture.context);
    let error = snapshots.remove(context, SN, "base").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    snapshots.sweep();
    assert_eq!(fixture.in_backend().len(), 2);
    snapshots.remove(context, SN, "child").unwrap();
    snapshots.remove(context, SN, "base").unwrap();
    assert_eq!(fixture.in_backend().len(), 2, "the files go later");
    snapshots.sweep();
    assert_eq!(fixture.in_backend().len(), 0);
}

#[test]
fn a_commit_cut_short_is_finished_by_the_next() {
    let fixture = fixture();
    let (snapshots, context) = (&fixture.snapshots, &fixture.context);
    fixture.prepare("a", "", &[]).unwrap();
    // What a daemon leaves that dies after the snapshotter's commit: the intention, and the new name.
    let mut record = snapshots.record(context, SN, "a").unwrap();
    record.committing = "ns/99/base".into();
    fixture
        .backend
        .commit("ns/99/base", &record.backend, &Default::default())
        .unwrap();
    fixture
        .store
        .write(move |tx| tx.put(Table::Snapshots, "ns", &at(SN, "a"), &record))
        .unwrap();
    snapshots.sweep();
    fixture.commit("base", "a").unwrap();
    let info = snapshots.stat(context, SN, "base").unwrap();
    assert_eq!(info.kind, Kind::Committed);
    assert_eq!(snapshots.list::<&str>(context, SN, &[]).unwrap().len(), 1);
}

#[test]
fn a_snapshot_that_is_being_made_is_not_swept() {
    let fixture = fixture();
    let making = Making::new(&fixture.snapshots, "ns/7/a");
    let none = Labels::new();
    fixture.backend.prepare("ns/7/a", "", &none).unwrap();
    fixture.snapshots.sweep();
    assert_eq!(fixture.in_backend(), ["ns/7/a"]);
    drop(making);
    fixture.snapshots.sweep();
    assert!(fixture.in_backend().is_empty());
}
