//! Cases about what is recorded of snapshots.
#![allow(clippy::unwrap_used, reason = "a case fails by a panic")]

use sys::Kind::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unimplemented};

use super::{Case, empty_layer, labels, names, refused};
use crate::{CommitOptions, Info, Kind, Labels, Snapshotter};

pub(super) const CASES: &[Case] = &[
    ("a_snapshot_goes_from_active_to_committed", lifecycle),
    ("keys_and_names_share_one_space", names_are_unique),
    (
        "only_committed_snapshots_are_parents",
        parents_are_committed,
    ),
    ("what_is_not_there_is_not_found", missing),
    ("a_parent_cannot_be_removed", parents_stay),
    ("several_are_removed_in_their_order", removals_of_many),
    ("labels_are_replaced_or_changed_one_by_one", label_updates),
    ("a_walk_is_in_order_of_names_and_ends_at_an_error", walks),
    ("a_parent_is_not_changed_by_a_commit", parents_are_kept),
    ("mapped_owners_are_refused", mappings),
    ("cleanup_and_close_can_be_repeated", endings),
];

fn none() -> Labels {
    Labels::new()
}

fn commit(snapshotter: &dyn Snapshotter, name: &str, key: &str) -> sys::Result<()> {
    snapshotter.commit(name, key, &CommitOptions::default())
}

fn lifecycle(snapshotter: &dyn Snapshotter) {
    let mounts = snapshotter
        .prepare("key", "", &labels(&[("a", "1"), ("empty", "")]))
        .unwrap();
    assert_eq!(mounts, snapshotter.mounts("key").unwrap());
    let active = snapshotter.stat("key").unwrap();
    assert_eq!((active.kind, active.parent.as_str()), (Kind::Active, ""));
    assert_eq!(active.labels, labels(&[("a", "1")]));
    let options = CommitOptions {
        labels: labels(&[("b", "2")]),
        ..CommitOptions::default()
    };
    snapshotter.commit("name", "key", &options).unwrap();
    refused(snapshotter.stat("key"), NotFound);
    let committed = snapshotter.stat("name").unwrap();
    assert_eq!(committed.kind, Kind::Committed);
    assert_eq!(committed.labels, options.labels);
    assert!(committed.created >= active.created);
    refused(snapshotter.mounts("name"), FailedPrecondition);
    refused(commit(snapshotter, "other", "name"), FailedPrecondition);

    snapshotter.view("view", "name", &none()).unwrap();
    let view = snapshotter.stat("view").unwrap();
    assert_eq!((view.kind, view.parent.as_str()), (Kind::View, "name"));
    refused(commit(snapshotter, "other", "view"), FailedPrecondition);
    snapshotter.remove("view").unwrap();
    snapshotter.remove("name").unwrap();
    assert!(names(snapshotter).is_empty());
}

fn names_are_unique(snapshotter: &dyn Snapshotter) {
    empty_layer(snapshotter, "base", "");
    snapshotter.prepare("a", "base", &none()).unwrap();
    refused(snapshotter.prepare("a", "base", &none()), AlreadyExists);
    refused(snapshotter.view("a", "base", &none()), AlreadyExists);
    refused(snapshotter.prepare("base", "", &none()), AlreadyExists);
    refused(commit(snapshotter, "base", "a"), AlreadyExists);
    refused(commit(snapshotter, "a", "a"), AlreadyExists);
    refused(snapshotter.prepare("", "", &none()), InvalidArgument);
    refused(commit(snapshotter, "", "a"), InvalidArgument);
    commit(snapshotter, "b", "a").unwrap();
    snapshotter.prepare("a", "b", &none()).unwrap();
}

fn parents_are_committed(snapshotter: &dyn Snapshotter) {
    empty_layer(snapshotter, "base", "");
    snapshotter.prepare("active", "base", &none()).unwrap();
    snapshotter.view("view", "base", &none()).unwrap();
    for parent in ["active", "view"] {
        refused(snapshotter.prepare("a", parent, &none()), InvalidArgument);
        refused(snapshotter.view("a", parent, &none()), InvalidArgument);
    }
    refused(snapshotter.stat("a"), NotFound);
}

fn missing(snapshotter: &dyn Snapshotter) {
    refused(snapshotter.stat("a"), NotFound);
    refused(snapshotter.mounts("a"), NotFound);
    refused(snapshotter.usage("a"), NotFound);
    refused(snapshotter.remove("a"), NotFound);
    refused(snapshotter.prepare("a", "b", &none()), NotFound);
    refused(snapshotter.view("a", "b", &none()), NotFound);
    refused(commit(snapshotter, "b", "a"), NotFound);
    let info = Info {
        kind: Kind::Active,
        name: "a".to_owned(),
        parent: String::new(),
        labels: none(),
        created: std::time::SystemTime::now(),
        updated: std::time::SystemTime::now(),
    };
    refused(snapshotter.update(&info, &[]), NotFound);
    assert!(names(snapshotter).is_empty());
}

fn removals_of_many(snapshotter: &dyn Snapshotter) {
    empty_layer(snapshotter, "base", "");
    empty_layer(snapshotter, "held", "base");
    snapshotter.prepare("key", "held", &none()).unwrap();
    snapshotter.view("view", "base", &none()).unwrap();
    let asked = ["view", "held", "missing"].map(str::to_owned);
    assert_eq!(snapshotter.remove_all(&asked).unwrap(), ["held"]);
    let left: Vec<String> = names(snapshotter)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(left, ["base", "held", "key"]);
    // Each may rely on those before it.
    let asked = ["key", "held", "base"].map(str::to_owned);
    assert!(snapshotter.remove_all(&asked).unwrap().is_empty());
    assert!(names(snapshotter).is_empty());
}

fn parents_stay(snapshotter: &dyn Snapshotter) {
    empty_layer(snapshotter, "a", "");
    // A name that another begins with must not be taken for its parent.
    empty_layer(snapshotter, "ab", "");
    empty_layer(snapshotter, "b", "ab");
    snapshotter.remove("a").unwrap();
    refused(snapshotter.remove("ab"), FailedPrecondition);
    snapshotter.view("v", "b", &none()).unwrap();
    refused(snapshotter.remove("b"), FailedPrecondition);
    snapshotter.remove("v").unwrap();
    snapshotter.prepare("k", "b", &none()).unwrap();
    refused(snapshotter.remove("b"), FailedPrecondition);
    commit(snapshotter, "c", "k").unwrap();
    refused(snapshotter.remove("b"), FailedPrecondition);
    for name in ["c", "b", "ab"] {
        snapshotter.remove(name).unwrap();
    }
}

fn label_updates(snapshotter: &dyn Snapshotter) {
    let before = labels(&[("a", "1"), ("b.c/d", "2")]);
    snapshotter.prepare("key", "", &before).unwrap();
    let mut info = snapshotter.stat("key").unwrap();
    let created = info.created;

    info.labels = labels(&[("b.c/d", "3"), ("ignored", "x")]);
    let one = ["labels.b.c/d".to_string()];
    let after = snapshotter.update(&info, &one).unwrap();
    assert_eq!(after.labels, labels(&[("a", "1"), ("b.c/d", "3")]));
    assert_eq!(after.created, created);
    assert!(after.updated > created);

    info.labels = none();
    let after = snapshotter.update(&info, &one).unwrap();
    assert_eq!(after.labels, labels(&[("a", "1")]));

    info.labels = labels(&[("new", "1"), ("gone", "")]);
    for paths in [vec![], vec!["labels".to_string()]] {
        let after = snapshotter.update(&info, &paths).unwrap();
        assert_eq!(after.labels, labels(&[("new", "1")]));
        assert_eq!(snapshotter.stat("key").unwrap(), after);
    }
    for path in ["parent", "kind", "name", "label"] {
        refused(
            snapshotter.update(&info, &[path.to_string()]),
            InvalidArgument,
        );
    }
}

fn walks(snapshotter: &dyn Snapshotter) {
    empty_layer(snapshotter, "m", "");
    snapshotter.prepare("z", "m", &none()).unwrap();
    snapshotter.view("a", "m", &none()).unwrap();
    let expected = [
        ("a".to_string(), Kind::View),
        ("m".to_string(), Kind::Committed),
        ("z".to_string(), Kind::Active),
    ];
    assert_eq!(names(snapshotter), expected);
    let mut seen = 0;
    let mut visit = |_| {
        seen += 1;
        Err(sys::Error::new(sys::Kind::Canceled, "enough"))
    };
    refused(snapshotter.walk(&mut visit), sys::Kind::Canceled);
    assert_eq!(seen, 1);
    // The visitor may use the snapshotter.
    let mut remove = |info: Info| match info.kind {
        Kind::Committed => Ok(()),
        _ => snapshotter.remove(&info.name),
    };
    snapshotter.walk(&mut remove).unwrap();
    assert_eq!(names(snapshotter).len(), 1);
}

fn parents_are_kept(snapshotter: &dyn Snapshotter) {
    empty_layer(snapshotter, "a", "");
    empty_layer(snapshotter, "b", "");
    snapshotter.prepare("k", "a", &none()).unwrap();
    let upon = |parent: &str| CommitOptions {
        parent: parent.to_owned(),
        ..CommitOptions::default()
    };
    refused(snapshotter.commit("c", "k", &upon("b")), InvalidArgument);
    snapshotter.commit("c", "k", &upon("a")).unwrap();
    assert_eq!(snapshotter.stat("c").unwrap().parent, "a");

    snapshotter.prepare("loose", "", &none()).unwrap();
    if !snapshotter.capabilities().contains(&"rebase") {
        refused(snapshotter.commit("d", "loose", &upon("a")), Unimplemented);
        return;
    }
    refused(snapshotter.commit("d", "loose", &upon("none")), NotFound);
    snapshotter.prepare("active", "", &none()).unwrap();
    refused(
        snapshotter.commit("d", "loose", &upon("active")),
        FailedPrecondition,
    );
    snapshotter.commit("d", "loose", &upon("c")).unwrap();
    assert_eq!(snapshotter.stat("d").unwrap().parent, "c");
    refused(snapshotter.remove("c"), FailedPrecondition);
}

fn mappings(snapshotter: &dyn Snapshotter) {
    let half = labels(&[("containerd.io/snapshot/uidmapping", "0:1000:1")]);
    refused(snapshotter.prepare("a", "", &half), InvalidArgument);
    refused(snapshotter.stat("a"), NotFound);
    let mapped = labels(&[
        ("containerd.io/snapshot/uidmapping", "0:1000:1"),
        ("containerd.io/snapshot/gidmapping", "0:1000:1"),
    ]);
    match snapshotter.capabilities().contains(&"remap-ids") {
        true => drop(snapshotter.prepare("a", "", &mapped).unwrap()),
        false => refused(snapshotter.prepare("a", "", &mapped), Unimplemented),
    }
}

fn endings(snapshotter: &dyn Snapshotter) {
    empty_layer(snapshotter, "a", "");
    snapshotter.cleanup().unwrap();
    snapshotter.cleanup().unwrap();
    snapshotter.stat("a").unwrap();
    snapshotter.close().unwrap();
    snapshotter.close().unwrap();
    refused(snapshotter.stat("a"), sys::Kind::Unavailable);
    refused(snapshotter.remove("a"), sys::Kind::Unavailable);
}
