//! What containerd's metadata says, as our records. Its layout is that of schema version 1, which is all there has been.
//!
//! ```text
//! v1/<namespace>/labels                       key = value
//!               /images/<name>                target/{digest, mediatype, size}, annotations, labels, times
//!               /containers/<id>              spec, image, snapshotter, snapshotKey, sandboxid, runtime/{name, options},
//!                                             extensions, labels, times
//!               /content/blob/<digest>        size, labels, times
//!               /content/ingests/<ref>        ...
//!               /snapshots/<snapshotter>/<key>  name (the snapshotter's), parent, labels, times
//!               /leases/<id>                  labels, createdat, content, images, ingests, snapshots/<snapshotter>
//!               /sandboxes/<id>               spec, sandboxer, runtime, extensions, labels, times
//! ```

use std::collections::BTreeMap;

use prost::Message;
use prost_types::{Any, Timestamp};

use super::bolt::{Bucket, Database, Item};
use crate::error::{Context, Error, Kind, Result};
use crate::labels::Labels;
use crate::metadata::leases::{self, Resource};
use crate::metadata::{Blob, Container, Descriptor, Image, Lease, Sandbox, Snapshot};

/// Seconds from the first day of year 1, from which Go counts, to that of 1970.
const EPOCH: i64 = 62_135_596_800;

/// What one namespace has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Namespace {
    pub labels: Labels,
    pub images: Vec<Image>,
    pub containers: Vec<Container>,
    pub blobs: BTreeMap<String, Blob>,
    /// The records of snapshots by snapshotter and key.
    pub snapshots: BTreeMap<(String, String), Snapshot>,
    pub leases: Vec<(Lease, Vec<Resource>)>,
    pub sandboxes: Vec<Sandbox>,
    /// How many blobs were being written.
    pub ingests: usize,
}

/// Returns what a database of metadata has, by namespace.
pub fn namespaces(database: &Database) -> Result<BTreeMap<String, Namespace>> {
    let mut namespaces = BTreeMap::new();
    let Some(all) = database.root().bucket("v1")? else {
        return Ok(namespaces);
    };
    for (name, bucket) in buckets(&all)? {
        let found = namespace(&bucket).context(|| format!("namespace {name:?}"))?;
        namespaces.insert(name, found);
    }
    Ok(namespaces)
}

fn namespace(bucket: &Bucket<'_>) -> Result<Namespace> {
    let mut found = Namespace {
        labels: map(bucket.bucket("labels")?)?,
        ..Namespace::default()
    };
    for (name, image) in inside(bucket, "images")? {
        let image = self::image(&name, &image).context(|| format!("image {name:?}"))?;
        found.images.push(image);
    }
    for (id, container) in inside(bucket, "containers")? {
        let container = self::container(&id, &container);
        found
            .containers
            .push(container.context(|| format!("container {id:?}"))?);
    }
    if let Some(content) = bucket.bucket("content")? {
        for (digest, blob) in inside(&content, "blob")? {
            let blob = self::blob(&blob).context(|| format!("content {digest}"))?;
            found.blobs.insert(digest, blob);
        }
        found.ingests = inside(&content, "ingests")?.len();
    }
    for (snapshotter, snapshots) in inside(bucket, "snapshots")? {
        for (key, snapshot) in buckets(&snapshots)? {
            let record = self::snapshot(&snapshot).context(|| format!("snapshot {key:?}"))?;
            found.snapshots.insert((snapshotter.clone(), key), record);
        }
    }
    for (id, lease) in inside(bucket, "leases")? {
        let lease = self::lease(&id, &lease).context(|| format!("lease {id:?}"))?;
        found.leases.push(lease);
    }
    for (id, sandbox) in inside(bucket, "sandboxes")? {
        let sandbox = self::sandbox(&id, &sandbox).context(|| format!("sandbox {id:?}"))?;
        found.sandboxes.push(sandbox);
    }
    Ok(found)
}

fn image(name: &str, bucket: &Bucket<'_>) -> Result<Image> {
    let target = bucket.bucket("target")?;
    let target = Fields::of(&target.ok_or_else(|| damaged("no target"))?)?;
    let fields = Fields::of(bucket)?;
    Ok(Image {
        name: name.to_owned(),
        labels: map(bucket.bucket("labels")?)?,
        target: Some(Descriptor {
            media_type: target.text("mediatype")?,
            digest: target.text("digest")?,
            size: target.varint("size")?,
            annotations: map(bucket.bucket("annotations")?)?,
        }),
        created_at: fields.time("createdat")?,
        updated_at: fields.time("updatedat")?,
    })
}

fn container(id: &str, bucket: &Bucket<'_>) -> Result<Container> {
    let fields = Fields::of(bucket)?;
    let (runtime, runtime_options) = runtime(bucket)?;
    Ok(Container {
        id: id.to_owned(),
        labels: map(bucket.bucket("labels")?)?,
        image: fields.text("image")?,
        runtime,
        runtime_options,
        spec: fields.any("spec")?,
        snapshotter: fields.text("snapshotter")?,
        snapshot_key: fields.text("snapshotKey")?,
        created_at: fields.time("createdat")?,
        updated_at: fields.time("updatedat")?,
        extensions: extensions(bucket)?,
        sandbox: fields.text("sandboxid")?,
    })
}

fn sandbox(id: &str, bucket: &Bucket<'_>) -> Result<Sandbox> {
    let fields = Fields::of(bucket)?;
    let (runtime, runtime_options) = runtime(bucket)?;
    Ok(Sandbox {
        id: id.to_owned(),
        labels: map(bucket.bucket("labels")?)?,
        runtime,
        runtime_options,
        spec: fields.any("spec")?,
        created_at: fields.time("createdat")?,
        updated_at: fields.time("updatedat")?,
        extensions: extensions(bucket)?,
        sandboxer: fields.text("sandboxer")?,
    })
}

fn blob(bucket: &Bucket<'_>) -> Result<Blob> {
    let fields = Fields::of(bucket)?;
    Ok(Blob {
        size: fields.varint("size")?,
        created_at: fields.time("createdat")?,
        updated_at: fields.time("updatedat")?,
        labels: map(bucket.bucket("labels")?)?,
    })
}

fn snapshot(bucket: &Bucket<'_>) -> Result<Snapshot> {
    let fields = Fields::of(bucket)?;
    Ok(Snapshot {
        backend: fields.text("name")?,
        parent: fields.text("parent")?,
        created_at: fields.time("createdat")?,
        updated_at: fields.time("updatedat")?,
        labels: map(bucket.bucket("labels")?)?,
        committing: String::new(),
    })
}

fn lease(id: &str, bucket: &Bucket<'_>) -> Result<(Lease, Vec<Resource>)> {
    let mut resources = Vec::new();
    let mut hold = |kind: &str, held: Option<Bucket<'_>>| -> Result<()> {
        let held = held.map(|held| held.entries()).transpose()?;
        for (key, _) in held.unwrap_or_default() {
            resources.push(Resource {
                kind: kind.to_owned(),
                id: string(key)?,
            });
        }
        Ok(())
    };
    for kind in [leases::CONTENT, leases::IMAGES] {
        hold(kind, bucket.bucket(kind)?)?;
    }
    for (snapshotter, held) in inside(bucket, "snapshots")? {
        hold(&format!("{}{snapshotter}", leases::SNAPSHOTS), Some(held))?;
    }
    let lease = Lease {
        id: id.to_owned(),
        created_at: Fields::of(bucket)?.time("createdat")?,
        labels: map(bucket.bucket("labels")?)?,
    };
    Ok((lease, resources))
}

fn runtime(bucket: &Bucket<'_>) -> Result<(String, Option<Any>)> {
    let Some(runtime) = bucket.bucket("runtime")? else {
        return Ok((String::new(), None));
    };
    let fields = Fields::of(&runtime)?;
    Ok((fields.text("name")?, fields.any("options")?))
}

fn extensions(bucket: &Bucket<'_>) -> Result<BTreeMap<String, Any>> {
    let Some(extensions) = bucket.bucket("extensions")? else {
        return Ok(BTreeMap::new());
    };
    let fields = Fields::of(&extensions)?;
    let mut found = BTreeMap::new();
    for name in fields.0.keys() {
        if let Some(any) = fields.any(name)? {
            found.insert((*name).to_owned(), any);
        }
    }
    Ok(found)
}

/// The values of a bucket that has few, by key.
pub(super) struct Fields<'a>(BTreeMap<&'a str, &'a [u8]>);

impl<'a> Fields<'a> {
    pub fn of(bucket: &Bucket<'a>) -> Result<Self> {
        let mut fields = BTreeMap::new();
        for (key, item) in bucket.entries()? {
            if let (Ok(key), Item::Value(value)) = (std::str::from_utf8(key), item) {
                fields.insert(key, value);
            }
        }
        Ok(Self(fields))
    }

    /// Returns the bytes of a value; none if it is missing.
    pub fn bytes(&self, key: &str) -> &'a [u8] {
        self.0.get(key).copied().unwrap_or_default()
    }

    pub fn text(&self, key: &str) -> Result<String> {
        string(self.bytes(key)).context(|| format!("field {key:?}"))
    }

    /// Returns a number as Go's `PutVarint` writes it; 0 if it is missing.
    pub fn varint(&self, key: &str) -> Result<i64> {
        let folded = self.uvarint(key)?;
        Ok((folded >> 1) as i64 ^ -((folded & 1) as i64))
    }

    /// Returns a number as Go's `PutUvarint` writes it, which is as protobuf does; 0 if it is missing.
    pub fn uvarint(&self, key: &str) -> Result<u64> {
        match self.bytes(key) {
            [] => Ok(0),
            mut bytes => prost::encoding::decode_varint(&mut bytes)
                .map_err(|error| damaged(format!("field {key:?}: {error}"))),
        }
    }

    /// Returns a time as Go's `MarshalBinary` writes it: version, seconds, nanoseconds, and an offset that is of no
    /// matter.
    pub fn time(&self, key: &str) -> Result<Option<Timestamp>> {
        let bytes = self.bytes(key);
        let parse = || {
            let (&version, rest) = bytes.split_first()?;
            let (seconds, rest) = rest.split_first_chunk()?;
            let nanos = i32::from_be_bytes(*rest.first_chunk()?);
            let seconds = i64::from_be_bytes(*seconds).checked_sub(EPOCH)?;
            let valid = (1..=2).contains(&version) && (0..1_000_000_000).contains(&nanos);
            valid.then_some(Timestamp { seconds, nanos })
        };
        match bytes {
            [] => Ok(None),
            _ => parse()
                .map(Some)
                .ok_or_else(|| damaged(format!("field {key:?}: no time"))),
        }
    }

    fn any(&self, key: &str) -> Result<Option<Any>> {
        let bytes = self.0.get(key);
        let any = bytes.map(|bytes| Any::decode(*bytes)).transpose();
        any.map_err(|error| damaged(format!("field {key:?}: {error}")))
    }
}

/// Returns the texts of a bucket of labels; no bucket is no labels.
pub(super) fn map(bucket: Option<Bucket<'_>>) -> Result<Labels> {
    let entries = bucket.map(|bucket| bucket.entries()).transpose()?;
    let mut labels = Labels::new();
    for (key, item) in entries.unwrap_or_default() {
        if let Item::Value(value) = item {
            labels.insert(string(key)?, string(value)?);
        }
    }
    Ok(labels)
}

/// Returns the buckets in the bucket `name` of `bucket`; none if there is no such bucket.
fn inside<'a>(bucket: &Bucket<'a>, name: &str) -> Result<Vec<(String, Bucket<'a>)>> {
    match bucket.bucket(name)? {
        Some(inner) => buckets(&inner).context(|| name),
        None => Ok(Vec::new()),
    }
}

/// Returns the buckets in a bucket.
pub(super) fn buckets<'a>(bucket: &Bucket<'a>) -> Result<Vec<(String, Bucket<'a>)>> {
    let mut buckets = Vec::new();
    for (key, item) in bucket.entries()? {
        if let Item::Bucket(inner) = item {
            buckets.push((string(key)?, inner));
        }
    }
    Ok(buckets)
}

fn string(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| damaged("not UTF-8"))
}

pub(super) fn damaged(what: impl Into<String>) -> Error {
    Error::new(Kind::DataLoss, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields<'a>(key: &'a str, value: &'a [u8]) -> Fields<'a> {
        Fields(BTreeMap::from([(key, value)]))
    }

    #[test]
    fn times_are_read_as_go_writes_them() {
        // time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC).MarshalBinary()
        let bytes = [1, 0, 0, 0, 14, 224, 233, 44, 165, 0, 0, 0, 6, 255, 255];
        let time = fields("t", &bytes).time("t").unwrap().unwrap();
        let expected = crate::time::parse("2026-01-02T03:04:05Z").unwrap();
        assert_eq!((time.seconds, time.nanos), (expected, 6));
        assert_eq!(fields("t", &bytes).time("other").unwrap(), None);
        for bad in [&bytes[..12], &[9; 15], &[1]] {
            let error = fields("t", bad).time("t").unwrap_err();
            assert_eq!(error.kind(), Kind::DataLoss);
        }
    }

    #[test]
    fn numbers_are_read_as_go_writes_them() {
        for (bytes, signed, unsigned) in [
            (&[][..], 0, 0),
            (&[0x01], -1, 1),
            (&[0x02], 1, 2),
            (&[0x80, 0x01], 64, 128),
            (
                &[0xfe, 0xff, 0xff, 0xff, 0x1f],
                i64::from(i32::MAX) * 2 + 1,
                (1 << 33) - 2,
            ),
        ] {
            assert_eq!(fields("n", bytes).varint("n").unwrap(), signed);
            assert_eq!(fields("n", bytes).uvarint("n").unwrap(), unsigned);
        }
        assert!(fields("n", &[0x80]).varint("n").is_err());
    }
}
