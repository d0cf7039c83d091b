//! Scanning: the objects of the store as a graph, with the edges that labels, leases and records make.

use std::collections::HashMap;
use std::sync::Arc;

use super::mark::Graph;
use crate::error::Result;
use crate::labels::{GC_EXPIRE, GC_FLAT, GC_ROOT, Labels};
use crate::metadata::changes::Written;
use crate::metadata::db::decode;
use crate::metadata::{
    Blob, Container, Image, Ingest, Lease, Read, Sandbox, Snapshot, Table, leases,
};
use crate::time;

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
    Sandbox,
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

/// What a collection found: the objects that nothing holds, and the graph that says so.
#[derive(Debug)]
pub struct Marked {
    scan: Scan,
    /// What is still to be removed, the first last.
    lost: Vec<Node>,
    /// How many of `lost` must go together.
    together: usize,
}

/// Looks at all objects; time is `now`, in seconds after the epoch.
pub fn mark(view: &impl Read, now: i64) -> Result<Marked> {
    let mut scan = Scan {
        graph: Graph::default(),
        collectable: Vec::new(),
        namespace: "".into(),
        now,
    };
    let tables = [
        Table::Leases,
        Table::LeaseResources,
        Table::Images,
        Table::Blobs,
        Table::Ingests,
        Table::Snapshots,
        Table::Containers,
        Table::Sandboxes,
    ];
    for table in tables {
        // Leases are looked at before what they hold, so that it is known which of them still do.
        let mut held = HashMap::new();
        if table == Table::LeaseResources {
            held = scan.leases(view)?;
        }
        view.visit(table, None, "", &mut |namespace, key, bytes| {
            scan.record(table, [namespace, key], bytes, &held)
        })?;
    }
    scan.graph.follow();
    let mut lost = std::mem::take(&mut scan.collectable);
    lost.retain(|node| !scan.holds(node));
    let ordered = scan.graph.order(&mut lost);
    let together = lost.len() - ordered;
    lost.reverse();
    Ok(Marked {
        scan,
        lost,
        together,
    })
}

impl Marked {
    /// Returns whether there is nothing left to remove.
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty()
    }

    /// Keeps what somebody has put into the store since the marking began, and all that it leads to.
    pub fn keep(&mut self, written: &Written) -> Result<()> {
        let place = [written.namespace.as_str(), written.key.as_str()];
        let node = self.scan.written(written.table, place, &written.bytes)?;
        node.into_iter().for_each(|node| self.scan.graph.root(node));
        self.scan.graph.follow();
        Ok(())
    }

    /// Takes about `most` objects that are still lost. What holds others is taken before them, or with them, so that
    /// no object is ever there without what it leads to.
    pub fn take(&mut self, most: usize) -> Vec<Node> {
        let before = self.lost.len() - self.together;
        let count = match before {
            0 => std::mem::take(&mut self.together),
            before => before.min(most),
        };
        let taken = self.lost.split_off(self.lost.len() - count);
        let lost = taken.into_iter().rev();
        lost.filter(|node| !self.scan.holds(node)).collect()
    }
}

/// The leases that have not expired, and whether they hold flatly.
type Held = HashMap<(String, String), bool>;

#[derive(Debug)]
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

    /// Returns whether an object is reached, be it flatly.
    fn holds(&self, node: &Node) -> bool {
        let kind = match node.kind {
            Kind::Content => Kind::FlatContent,
            Kind::Image => Kind::FlatImage,
            Kind::Snapshot => Kind::FlatSnapshot,
            other => other,
        };
        let flat = Node {
            kind,
            ..node.clone()
        };
        self.graph.reaches(node) || self.graph.reaches(&flat)
    }

    /// Returns whether labels say that an object's time is over; a time that is none says nothing.
    fn expired(&self, labels: &Labels) -> bool {
        let time = labels.get(GC_EXPIRE).and_then(|text| time::parse(text));
        time.is_some_and(|time| time < self.now)
    }

    fn leases(&self, view: &impl Read) -> Result<Held> {
        let mut held = Held::new();
        view.visit(Table::Leases, None, "", &mut |namespace, id, bytes| {
            let lease: Lease = decode(bytes)?;
            if !self.expired(&lease.labels) {
                let flat = lease.labels.contains_key(GC_FLAT);
                held.insert((namespace.to_owned(), id.to_owned()), flat);
            }
            Ok(())
        })?;
        Ok(held)
    }

    /// Adds a record to the graph, as a root if it is one.
    fn record(
        &mut self,
        table: Table,
        [namespace, key]: [&str; 2],
        bytes: &[u8],
        held: &Held,
    ) -> Result<()> {
        let (node, rooted) = match table {
            Table::Leases => {
                let lease: Lease = decode(bytes)?;
                let node = self.node(Kind::Lease, namespace, key);
                (node, !self.expired(&lease.labels))
            }
            Table::LeaseResources => {
                let lease = key.split('\0').next().unwrap_or_default();
                let flat = held.get(&(namespace.to_owned(), lease.to_owned()));
                if let Some(flat) = flat
                    && let Some(node) = self.resource([namespace, key], *flat)
                {
                    self.graph.root(node);
                }
                return Ok(());
            }
            Table::Images => self.image([namespace, key], &decode(bytes)?),
            Table::Blobs => self.blob([namespace, key], &decode(bytes)?),
            Table::Ingests => self.ingest([namespace, key], decode(bytes)?),
            Table::Snapshots => self.snapshot([namespace, key], &decode(bytes)?),
            Table::Containers => self.container([namespace, key], &decode(bytes)?),
            Table::Sandboxes => self.sandbox([namespace, key], &decode(bytes)?),
            Table::Meta | Table::Namespaces | Table::SnapshotChildren => return Ok(()),
        };
        let collectable = !matches!(node.kind, Kind::Container | Kind::Sandbox);
        match (rooted, collectable) {
            (true, true) => {
                self.graph.root(node.clone());
                self.collectable.push(node);
            }
            (true, false) => self.graph.root(node),
            (false, _) => self.collectable.push(node),
        }
        Ok(())
    }

    /// Adds a record that has just been written and returns its node, or that of what a lease was made to hold.
    fn written(
        &mut self,
        table: Table,
        [namespace, key]: [&str; 2],
        bytes: &[u8],
    ) -> Result<Option<Node>> {
        let place = [namespace, key];
        if table == Table::LeaseResources {
            return Ok(self.resource(place, false));
        }
        // A lease that is new holds what is written after it; its expiry is none of this collection's business.
        self.record(table, place, bytes, &Held::new())?;
        Ok(self.collectable.pop())
    }

    /// Returns what a lease holds by the key of its record.
    fn resource(&mut self, [namespace, key]: [&str; 2], flat: bool) -> Option<Node> {
        let (_, resource) = key.split_once('\0')?;
        let (kind, id) = resource.split_once('\0')?;
        let (kind, key) = match kind {
            leases::CONTENT if flat => (Kind::FlatContent, id.to_owned()),
            leases::CONTENT => (Kind::Content, id.to_owned()),
            leases::IMAGES if flat => (Kind::FlatImage, id.to_owned()),
            leases::IMAGES => (Kind::Image, id.to_owned()),
            leases::INGESTS => (Kind::Ingest, id.to_owned()),
            kind => {
                let snapshotter = kind.strip_prefix(leases::SNAPSHOTS).unwrap_or(kind);
                let flat_or_not = [Kind::Snapshot, Kind::FlatSnapshot];
                (
                    flat_or_not[usize::from(flat)],
                    format!("{snapshotter}/{id}"),
                )
            }
        };
        Some(self.node(kind, namespace, key))
    }

    fn image(&mut self, [namespace, name]: [&str; 2], image: &Image) -> (Node, bool) {
        let node = self.node(Kind::Image, namespace, name);
        let flat = self.node(Kind::FlatImage, namespace, name);
        let digest = image.target.as_ref().map(|target| target.digest.clone());
        let digest = digest.unwrap_or_default();
        let target = self.node(Kind::Content, namespace, digest.clone());
        let flat_target = self.node(Kind::FlatContent, namespace, digest);
        self.graph.edge(node.clone(), target);
        self.graph.edge(flat, flat_target);
        self.labels(&node, &image.labels);
        (node, !self.expired(&image.labels))
    }

    fn blob(&mut self, [namespace, digest]: [&str; 2], blob: &Blob) -> (Node, bool) {
        let node = self.node(Kind::Content, namespace, digest);
        self.labels(&node, &blob.labels);
        (node, rooted(&blob.labels))
    }

    fn ingest(&mut self, [namespace, key]: [&str; 2], ingest: Ingest) -> (Node, bool) {
        let node = self.node(Kind::Ingest, namespace, key);
        if !ingest.shared.is_empty() {
            let shared = self.node(Kind::Content, namespace, ingest.shared);
            self.graph.edge(node.clone(), shared);
        }
        let expires = ingest.expire_at.map(|time| time.seconds);
        (node, expires.is_some_and(|time| time >= self.now))
    }

    fn snapshot(&mut self, [namespace, key]: [&str; 2], snapshot: &Snapshot) -> (Node, bool) {
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
        (node, rooted(&snapshot.labels))
    }

    /// Containers are roots, and deleted by nobody but their clients.
    fn container(&mut self, [namespace, id]: [&str; 2], container: &Container) -> (Node, bool) {
        let node = self.node(Kind::Container, namespace, id);
        if !container.snapshotter.is_empty() {
            let key = format!("{}/{}", container.snapshotter, container.snapshot_key);
            let snapshot = self.node(Kind::Snapshot, namespace, key);
            self.graph.edge(node.clone(), snapshot);
        }
        self.labels(&node, &container.labels);
        (node, true)
    }

    /// Sandboxes are roots as containers are.
    fn sandbox(&mut self, [namespace, id]: [&str; 2], sandbox: &Sandbox) -> (Node, bool) {
        let node = self.node(Kind::Sandbox, namespace, id);
        self.labels(&node, &sandbox.labels);
        (node, true)
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

fn rooted(labels: &Labels) -> bool {
    labels.keys().any(|key| key.starts_with(GC_ROOT))
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
