use std::sync::Arc;

use snapshotter::native::Native;
use snapshotter::{CommitOptions, Info, Labels, Usage};
use sys::mount::Mount;

use super::*;
use crate::context::Context;
use crate::metadata::Store;

const SN: &str = "remote";

/// Has every snapshot that a client names, without anybody unpacking it.
struct Remote(Native);

impl Snapshotter for Remote {
    fn prepare(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        let mounts = self.0.prepare(key, parent, labels)?;
        let Some(target) = labels.get(SNAPSHOT_REF) else {
            return Ok(mounts);
        };
        let options = CommitOptions {
            labels: labels.clone(),
            parent: String::new(),
        };
        match self.0.commit(target, key, &options) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => self.0.remove(key)?,
            other => other?,
        }
        Err(already_exists("snapshot", target))
    }

    fn stat(&self, key: &str) -> Result<Info> {
        self.0.stat(key)
    }

    fn update(&self, info: &Info, fieldpaths: &[String]) -> Result<Info> {
        self.0.update(info, fieldpaths)
    }

    fn usage(&self, key: &str) -> Result<Usage> {
        self.0.usage(key)
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.0.mounts(key)
    }

    fn view(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        self.0.view(key, parent, labels)
    }

    fn commit(&self, name: &str, key: &str, options: &CommitOptions) -> Result<()> {
        self.0.commit(name, key, options)
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.0.remove(key)
    }

    fn walk(&self, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()> {
        self.0.walk(visit)
    }

    fn cleanup(&self) -> Result<()> {
        self.0.cleanup()
    }

    fn close(&self) -> Result<()> {
        self.0.close()
    }
}

#[test]
fn what_a_remote_snapshotter_has_already_is_recorded_and_kept() {
    let root = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&root.path().join("meta")).unwrap());
    let backend = Arc::new(Remote(Native::open(root.path().join("native")).unwrap()));
    let backends = [(SN.to_owned(), backend.clone() as Arc<dyn Snapshotter>)];
    let snapshots = Snapshots::new(store, Arc::default(), backends.into(), Default::default());
    let prepare = |namespace: &str, key: &str, parent: &str, target: &str| {
        let context = Context::new(namespace).unwrap();
        let labels = Labels::from([(SNAPSHOT_REF.to_owned(), target.to_owned())]);
        snapshots.prepare(&context, SN, key, parent, labels)
    };
    for namespace in ["one", "two"] {
        for (key, parent, target) in [
            ("extract-1", "", "chain1"),
            ("extract-2", "chain1", "chain2"),
        ] {
            let error = prepare(namespace, key, parent, target).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:#}");
        }
        let context = Context::new(namespace).unwrap();
        let found = snapshots.stat(&context, SN, "chain2").unwrap();
        assert_eq!(
            (found.kind, found.parent.as_str()),
            (Kind::Committed, "chain1")
        );
        snapshots.sweep();
        snapshots
            .prepare(&context, SN, "container", "chain2", Labels::new())
            .unwrap();
    }
    // What one namespace lets go of, the other still has.
    let context = Context::new("one").unwrap();
    for key in ["container", "chain2", "chain1"] {
        snapshots.remove(&context, SN, key).unwrap();
    }
    snapshots.sweep();
    assert_eq!(backend.stat("chain2").unwrap().parent, "chain1");
    let context = Context::new("two").unwrap();
    for key in ["container", "chain2", "chain1"] {
        snapshots.remove(&context, SN, key).unwrap();
    }
    snapshots.sweep();
    let error = backend.stat("chain1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
