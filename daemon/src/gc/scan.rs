//! Scanning: the objects of the store as a graph, with the edges that labels, leases and records make.

use std::sync::Arc;

use super::mark::Graph;
use super::time;
use crate::error::Result;
use crate::labels::{GC_EXPIRE, GC_FLAT, GC_ROOT, Labels};
use crate::metadata::{
    Blob, Container, Image, Ingest, Lease, Read, Snapshot, Table, db::decode, leases,
};

const REF: &str = "containerd.io/gc.ref.";
const BACK_REF: &str = "containerd.io/gc.bref.";

/// What an object is; the flat kinds hold their object without what its labels refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Content,
    FlatContent,
    Image,
    FlatImage,
    /// The key is `snapshotter/key`.
    Snapshot,
    FlatSnapshot,
    Container,
    Ingest,
    Lease,
}

/// An object of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub kind: Kind,
    pub namespace: Arc<str>,
    pub key: String,
}

/// Returns the objects that nothing holds at `now`, in seconds after the epoch.
pub fn unreachable(view: &impl Read, now: i64) -> Result<Vec<Node>> {
    let mut scan = Scan {
        graph: Graph::default(),
        collectable: Vec::new(),
        namespace: "".into(),
        now,
    };
    scan.leases(view)?;
    scan.images(view)?;
    scan.content(view)?;
    scan.snapshots(view)?;
    scan.containers(view)?;
    let reached = scan.graph.reachable();
    let flat = |node: &Node| {
        let kind = match node.kind {
            Kind::Content => Kind::FlatContent,
            Kind::Image => Kind::FlatImage,
            Kind::Snapshot => Kind::FlatSnapshot,
            other => other,
        };
        Node {
            kind,
            ..node.clone()
        }
    };
    let lost = |node: &Node| !reached.contains(node) && !reached.contains(&flat(node));
    Ok(scan.collectable.into_iter().filter(lost).collect())
}

struct Scan {
    graph: Graph<Node>,
    collectable: Vec<Node>,
    namespace: Arc<str>,
    now: i64,
}

impl Scan {
    /// Returns a node of `namespace`, whose name is kept once for all nodes that follow each other.
    fn node(&mut self, kind: Kind, namespace: &str, key: impl Into<String>) -> Node {
        if *self.namespace != *namespace {
            self.namespace = namespace.into();
        }
        Node {
            kind,
            namespace: self.namespace.clone(),
            key: key.into(),
        }
    }

    /// Returns whether labels say that an object's time is over; a time that is none says nothing.
    fn expired(&self, labels: &Labels) -> bool {
        let time = labels.get(GC_EXPIRE).and_then(|text| time::parse(text));
        time.is_some_and(|time| time < self.now)
    }

    fn leases(&mut self, view: &impl Read) -> Result<()> {
        let mut held = Vec::new();
        view.visit(Table::Leases, None, "", &mut |namespace, id, bytes| {
            let lease: Lease = decode(bytes)?;
            let node = self.node(Kind::Lease, namespace, id);
            self.collectable.push(node.clone());
            if !self.expired(&lease.labels) {
                held.push((node.clone(), lease.labels.contains_key(GC_FLAT)));
                self.graph.root(node);
            }
            Ok(())
        })?;
        for (lease, flat) in held {
            for resource in leases::resources(view, &lease.namespace, &lease.key)? {
                let (kind, key) = match resource.kind.as_str() {
                    leases::CONTENT if flat => (Kind::FlatContent, resource.id),
                    leases::CONTENT => (Kind::Content, resource.id),
                    leases::IMAGES if flat => (Kind::FlatImage, resource.id),
                    leases::IMAGES => (Kind::Image, resource.id),
                    leases::INGESTS => (Kind::Ingest, resource.id),
                    kind => {
                        let snapshotter = kind.strip_prefix(leases::SNAPSHOTS).unwrap_or(kind);
                        let key = format!("{snapshotter}/{}", resource.id);
                        let flat_or_not = [Kind::Snapshot, Kind::FlatSnapshot];
                        (flat_or_not[usize::from(flat)], key)
                    }
                };
                let node = self.node(kind, &lease.namespace.clone(), key);
                self.graph.root(node);
            }
        }
        Ok(())
    }

    fn images(&mut self, view: &impl Read) -> Result<()> {
        view.visit(Table::Images, None, "", &mut |namespace, name, bytes| {
            let image: Image = decode(bytes)?;
            let node = self.node(Kind::Image, namespace, name);
            let flat = self.node(Kind::FlatImage, namespace, name);
            let digest = image.target.unwrap_or_default().digest;
            let target = self.node(Kind::Content, namespace, digest.clone());
            let flat_target = self.node(Kind::FlatContent, namespace, digest);
            self.graph.edge(node.clone(), target);
            self.graph.edge(flat, flat_target);
            self.labels(&node, &image.labels);
            if !self.expired(&image.labels) {
                self.graph.root(node.clone());
            }
            self.collectable.push(node);
            Ok(())
        })
    }

    fn content(&mut self, view: &impl Read) -> Result<()> {
        view.visit(Table::Blobs, None, "", &mut |namespace, digest, bytes| {
            let blob: Blob = decode(bytes)?;
            let node = self.node(Kind::Content, namespace, digest);
            self.labels(&node, &blob.labels);
            self.rooted(&node, &blob.labels);
            self.collectable.push(node);
            Ok(())
        })?;
        view.visit(Table::Ingests, None, "", &mut |namespace, key, bytes| {
            let ingest: Ingest = decode(bytes)?;
            let node = self.node(Kind::Ingest, namespace, key);
            if !ingest.shared.is_empty() {
                let shared = self.node(Kind::Content, namespace, ingest.shared);
                self.graph.edge(node.clone(), shared);
            }
            let expires = ingest.expire_at.map(|time| time.seconds);
            if expires.is_some_and(|time| time >= self.now) {
                self.graph.root(node.clone());
            }
            self.collectable.push(node);
            Ok(())
        })
    }

    fn snapshots(&mut self, view: &impl Read) -> Result<()> {
        view.visit(Table::Snapshots, None, "", &mut |namespace, key, bytes| {
            let snapshot: Snapshot = decode(bytes)?;
            let node = self.node(Kind::Snapshot, namespace, key);
            let flat = self.node(Kind::FlatSnapshot, namespace, key);
            let snapshotter = key.split('/').next().unwrap_or_default();
            if !snapshot.parent.is_empty() {
                let parent = format!("{snapshotter}/{}", snapshot.parent);
                let flat_parent = self.node(Kind::FlatSnapshot, namespace, parent.clone());
                let parent = self.node(Kind::Snapshot, namespace, parent);
                self.graph.edge(node.clone(), parent);
                self.graph.edge(flat, flat_parent);
            }
            self.labels(&node, &snapshot.labels);
            self.rooted(&node, &snapshot.labels);
            self.collectable.push(node);
            Ok(())
        })
    }

    /// Containers are roots, and deleted by nobody but their clients.
    fn containers(&mut self, view: &impl Read) -> Result<()> {
        view.visit(Table::Containers, None, "", &mut |namespace, id, bytes| {
            let container: Container = decode(bytes)?;
            let node = self.node(Kind::Container, namespace, id);
            if !container.snapshotter.is_empty() {
                let key = format!("{}/{}", container.snapshotter, container.snapshot_key);
                let snapshot = self.node(Kind::Snapshot, namespace, key);
                self.graph.edge(node.clone(), snapshot);
            }
            self.labels(&node, &container.labels);
            self.graph.root(node);
            Ok(())
        })
    }

    fn rooted(&mut self, node: &Node, labels: &Labels) {
        if labels.keys().any(|key| key.starts_with(GC_ROOT)) {
            self.graph.root(node.clone());
        }
    }

    /// Adds the edges that the labels of `node` make.
    fn labels(&mut self, node: &Node, labels: &Labels) {
        for (label, value) in labels {
            if let Some(rest) = label.strip_prefix(REF)
                && let Some((kind, key)) = referred(rest, value)
                && kind != Kind::Container
            {
                let to = self.node(kind, &node.namespace, key);
                self.graph.edge(node.clone(), to);
            } else if let Some(rest) = label.strip_prefix(BACK_REF)
                && let Some((kind, key)) = referred(rest, value)
            {
                let from = self.node(kind, &node.namespace, key);
                self.graph.edge(from, node.clone());
            }
        }
    }
}

/// Returns what a label refers to; `rest` is what follows the prefix: `content.l.0`, `snapshot.overlayfs/name`.
fn referred(rest: &str, value: &str) -> Option<(Kind, String)> {
    let named = |name: &str| {
        let suffix = rest.strip_prefix(name)?;
        (suffix.is_empty() || suffix.starts_with(['.', '/'])).then(|| value.to_owned())
    };
    if let Some(snapshotter) = rest.strip_prefix("snapshot.") {
        let snapshotter = snapshotter.split('/').next().unwrap_or_default();
        return Some((Kind::Snapshot, format!("{snapshotter}/{value}")));
    }
    let kinds = [
        ("content", Kind::Content),
        ("image", Kind::Image),
        ("container", Kind::Container),
    ];
    kinds
        .into_iter()
        .find_map(|(name, kind)| Some((kind, named(name)?)))
}
