//! Tests of the content store as its users see it.

use super::*;
use crate::metadata::{Leases, Namespaces};

struct Fixture {
    root: tempfile::TempDir,
    store: Arc<Store>,
    content: Content,
    context: Context,
}

fn fixture(shared: bool) -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&root.path().join("meta.db")).unwrap());
    let content = Content::open(root.path(), shared, store.clone(), Arc::default()).unwrap();
    Fixture {
        root,
        store,
        content,
        context: Context::new("default").unwrap(),
    }
}

fn options(reference: &str, expected: Option<&Digest>) -> WriterOptions {
    WriterOptions {
        reference: reference.to_owned(),
        total: 0,
        expected: expected.cloned(),
    }
}

#[test]
fn an_interrupted_ingest_is_resumed_and_verified() {
    let f = fixture(true);
    let digest = Digest::of(b"hello world");
    let mut writer = f
        .content
        .writer(&f.context, options("r", Some(&digest)))
        .unwrap();
    writer.write(b"hello").unwrap();
    let busy = f
        .content
        .writer(&f.context, options("r", None))
        .unwrap_err();
    assert_eq!(busy.kind(), Kind::Unavailable);
    drop(writer);
    assert_eq!(f.content.status(&f.context, "r").unwrap().offset, 5);
    let mut writer = f
        .content
        .writer(&f.context, options("r", Some(&digest)))
        .unwrap();
    assert_eq!(writer.status().offset, 5);
    writer.write(b" world").unwrap();
    assert_eq!(
        writer.commit(11, Some(&digest), Labels::new()).unwrap(),
        digest
    );
    assert_eq!(
        f.content.read_all(&f.context, &digest, 100).unwrap(),
        b"hello world"
    );
    let gone = f.content.status(&f.context, "r").unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound);
    let again = f
        .content
        .writer(&f.context, options("r2", Some(&digest)))
        .unwrap_err();
    assert_eq!(again.kind(), Kind::AlreadyExists);
}

#[test]
fn an_ingest_of_another_size_begins_anew() {
    let f = fixture(true);
    let sized = |total| WriterOptions {
        total,
        ..options("r", None)
    };
    for total in [11, 3] {
        let mut writer = f.content.writer(&f.context, sized(total)).unwrap();
        assert_eq!(writer.status().offset, 0);
        assert_eq!(writer.status().total, total);
        writer.write(b"he").unwrap();
    }
    let unknown = f.content.writer(&f.context, sized(0)).unwrap().status();
    assert_eq!((unknown.offset, unknown.total), (2, 3));
    let files = std::fs::read_dir(f.root.path().join("ingest")).unwrap();
    assert_eq!(files.count(), 1);
}

#[test]
fn a_wrong_size_or_digest_is_refused_and_leaves_no_blob() {
    let f = fixture(true);
    let wrong = Digest::of(b"other");
    for (size, expected) in [(4, None), (5, Some(&wrong))] {
        let mut writer = f.content.writer(&f.context, options("r", None)).unwrap();
        writer.truncate(0).unwrap();
        writer.write(b"hello").unwrap();
        let error = writer.commit(size, expected, Labels::new()).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
    }
    assert!(f.content.list::<&str>(&f.context, &[]).unwrap().is_empty());
    assert!(f.content.inner.blobs.digests().unwrap().is_empty());
    f.content.abort(&f.context, "r").unwrap();
    let gone = f.content.abort(&f.context, "r").unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound);
}

#[test]
fn other_algorithms_are_verified_too() {
    let f = fixture(true);
    let mut hasher = Hasher::new(crate::digest::Algorithm::Sha512);
    hasher.update(b"hello");
    let digest = hasher.finish();
    f.content
        .put(&f.context, "r", b"hello", Some(&digest), Labels::new())
        .unwrap();
    let mut writer = f.content.writer(&f.context, options("r2", None)).unwrap();
    writer.write(b"hello").unwrap();
    let error = writer.commit(5, Some(&digest), Labels::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists);
}

#[test]
fn a_namespace_gets_the_blob_of_another_by_policy() {
    for shared in [true, false] {
        let f = fixture(shared);
        let other = Context::new("other").unwrap();
        let digest = f
            .content
            .put(&f.context, "r", b"hello", None, Labels::new())
            .unwrap();
        assert_eq!(
            f.content.info(&other, &digest).unwrap_err().kind(),
            Kind::NotFound
        );
        let writer = f
            .content
            .writer(&other, options("r", Some(&digest)))
            .unwrap();
        assert_eq!(writer.status().offset, if shared { 5 } else { 0 });
        drop(writer);
        f.content.abort(&other, "r").unwrap();
        let offer = Labels::from([(labels::NAMESPACE_SHAREABLE.into(), "true".into())]);
        Namespaces::new(f.store.clone(), Arc::default())
            .update("default", offer, Vec::new())
            .unwrap();
        let writer = f
            .content
            .writer(&other, options("r", Some(&digest)))
            .unwrap();
        assert_eq!(writer.status().offset, 5);
        writer.commit(5, Some(&digest), Labels::new()).unwrap();
        f.content.info(&other, &digest).unwrap();
    }
}

#[test]
fn a_shared_ingest_can_be_written_over() {
    let f = fixture(true);
    let other = Context::new("other").unwrap();
    let digest = f
        .content
        .put(&f.context, "r", b"hello", None, Labels::new())
        .unwrap();
    let mut writer = f
        .content
        .writer(&other, options("r", Some(&digest)))
        .unwrap();
    writer.write(b" world").unwrap();
    let digest = writer.commit(11, None, Labels::new()).unwrap();
    assert_eq!(digest, Digest::of(b"hello world"));
}

#[test]
fn the_lease_of_a_request_holds_what_it_made() {
    let f = fixture(true);
    let leases = Leases::new(f.store.clone());
    leases.create(&f.context, "l", Labels::new()).unwrap();
    let leased = f.context.clone().with_lease("l");
    let mut writer = f.content.writer(&leased, options("r", None)).unwrap();
    writer.write(b"hello").unwrap();
    let ids = || -> Vec<String> {
        let resources = leases.resources(&f.context, "l").unwrap();
        resources
            .into_iter()
            .map(|r| format!("{} {}", r.kind, r.id))
            .collect()
    };
    assert_eq!(ids(), ["ingests r"]);
    let digest = writer.commit(5, None, Labels::new()).unwrap();
    assert_eq!(ids(), [format!("content {digest}")]);
    let unknown = f.context.clone().with_lease("nope");
    let error = f.content.writer(&unknown, options("r", None)).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

#[test]
fn the_sweep_keeps_what_a_namespace_has() {
    let f = fixture(true);
    let kept = f
        .content
        .put(&f.context, "a", b"kept", None, Labels::new())
        .unwrap();
    let gone = f
        .content
        .put(&f.context, "b", b"gone", None, Labels::new())
        .unwrap();
    let mut writer = f.content.writer(&f.context, options("open", None)).unwrap();
    writer.write(b"part").unwrap();
    f.content.inner.blobs.open_ingest("999").unwrap();
    f.content.delete(&f.context, &gone).unwrap();
    assert_eq!(f.content.sweep().unwrap(), 1);
    assert_eq!(f.content.inner.blobs.digests().unwrap(), [kept]);
    assert_eq!(f.content.inner.blobs.ingests().unwrap().len(), 1);
    writer.write(b"s").unwrap();
    writer.commit(5, None, Labels::new()).unwrap();
}
