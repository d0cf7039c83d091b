//! Leases: they hold objects that nothing else refers to yet.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Lease, Read, Store, Table, Tx};
use crate::context::Context;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, already_exists, invalid, not_found};
use crate::filter::{self, Fields, Filter};
use crate::labels::{self, Labels};
use crate::time::now;

/// The resource type of blobs.
pub const CONTENT: &str = "content";
/// The resource type of blobs being written.
pub const INGESTS: &str = "ingests";
/// The resource type of images.
pub const IMAGES: &str = "images";
/// The resource type of a snapshotter's snapshots begins with this; the snapshotter's name follows.
pub const SNAPSHOTS: &str = "snapshots/";

/// Something that a lease holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// `content`, `ingests`, `images` or `snapshots/SNAPSHOTTER`.
    pub kind: String,
    /// The digest, reference, name or key.
    pub id: String,
}

/// The leases of the store.
#[derive(Clone, Debug)]
pub struct Leases {
    store: Arc<Store>,
}

impl Leases {
    /// Returns the leases of `store`.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// Creates a lease; without an id it gets one that nobody else has.
    pub fn create(&self, context: &Context, id: &str, mut labels: Labels) -> Result<Lease> {
        labels::validate("lease", &labels)?;
        labels::drop_empty(&mut labels);
        check_text("lease id", id)?;
        let created_at = now();
        let mut lease = Lease {
            id: id.to_owned(),
            created_at: Some(created_at),
            labels,
        };
        let namespace = context.namespace().to_owned();
        self.store.write(move |tx| {
            if lease.id.is_empty() {
                lease.id = format!(
                    "{}-{}",
                    created_at.nanos,
                    random_suffix(tx.next_sequence()?)
                );
            }
            if tx.bytes(Table::Leases, &namespace, &lease.id)?.is_some() {
                return Err(already_exists("lease", &lease.id));
            }
            tx.put(Table::Leases, &namespace, &lease.id, &lease)?;
            Ok(lease)
        })
    }

    /// Deletes a lease; what only it held is collected later.
    pub fn delete(&self, context: &Context, id: &str) -> Result<()> {
        let (namespace, id) = (context.namespace().to_owned(), id.to_owned());
        self.store.write(move |tx| delete(tx, &namespace, &id))
    }

    /// Returns the leases that one of `filters` asks for.
    pub fn list<S: AsRef<str>>(&self, context: &Context, filters: &[S]) -> Result<Vec<Lease>> {
        let filter = Filter::parse(filters)?;
        let leases = self
            .store
            .read(|view| view.list::<Lease>(Table::Leases, context.namespace(), ""))?;
        Ok(leases
            .into_iter()
            .map(|(_, lease)| lease)
            .filter(|lease| filter.matches(lease))
            .collect())
    }

    /// Makes a lease hold `resource`.
    pub fn add(&self, context: &Context, id: &str, resource: Resource) -> Result<()> {
        let context = context.clone().with_lease(id);
        let id = id.to_owned();
        self.store.write(move |tx| {
            expect(tx, context.namespace(), &id)?;
            resource.validate()?;
            attach(tx, &context, &resource.kind, &resource.id)?;
            Ok(())
        })
    }

    /// Makes a lease let go of `resource`.
    pub fn remove(&self, context: &Context, id: &str, resource: Resource) -> Result<()> {
        let context = context.clone().with_lease(id);
        let id = id.to_owned();
        self.store.write(move |tx| {
            expect(tx, context.namespace(), &id)?;
            resource.validate()?;
            detach(tx, &context, &resource.kind, &resource.id);
            Ok(())
        })
    }

    /// Returns what a lease holds.
    pub fn resources(&self, context: &Context, id: &str) -> Result<Vec<Resource>> {
        self.store.read(|view| {
            expect(view, context.namespace(), id)?;
            resources(view, context.namespace(), id)
        })
    }

    /// Runs `work` in a context whose lease is new and is deleted when the work is done.
    ///
    /// In a context that has a lease already, that one is used.
    pub fn with<T>(
        &self,
        context: &Context,
        work: impl FnOnce(&Context) -> Result<T>,
    ) -> Result<T> {
        if context.lease().is_some() {
            return work(context);
        }
        let guard = self.guard(context)?;
        work(guard.context())
    }

    /// Returns a context with a new lease that is deleted when the guard is dropped, after a day at the latest.
    pub fn guard(&self, context: &Context) -> Result<Guard> {
        let expire = crate::time::format(now().seconds + 24 * 60 * 60);
        let labels = Labels::from([(labels::GC_EXPIRE.to_owned(), expire)]);
        let lease = self.create(context, "", labels)?;
        Ok(Guard {
            leases: self.clone(),
            context: context.clone().with_lease(lease.id),
        })
    }
}

/// A lease that ends with the work it was made for.
#[derive(Debug)]
pub struct Guard {
    leases: Leases,
    context: Context,
}

impl Guard {
    /// Returns the context that holds the lease.
    pub fn context(&self) -> &Context {
        &self.context
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let id = self.context.lease().unwrap_or_default();
        match self.leases.delete(&self.context, id) {
            Err(error) if error.kind() != Kind::NotFound => {
                tracing::warn!("delete lease {id:?}: {error:#}");
            }
            _ => {}
        }
    }
}

impl Resource {
    fn validate(&self) -> Result<()> {
        check_text("lease resource", &self.id)?;
        let unknown = || {
            Error::new(
                Kind::Unimplemented,
                format!("resource type {:?} not supported yet", self.kind),
            )
        };
        if self.id.is_empty() {
            return Err(invalid("lease resource id must not be empty"));
        }
        match self.kind.as_str() {
            CONTENT => Digest::parse(&self.id).map(|_| ()).map_err(|error| {
                invalid(format!("invalid content resource id {}: {error}", self.id))
            }),
            INGESTS | IMAGES => Ok(()),
            kind => match kind.strip_prefix(SNAPSHOTS) {
                Some(name) if !name.is_empty() && !name.contains('/') => Ok(()),
                Some(_) => Err(invalid(format!("invalid snapshot resource type: {kind}"))),
                None => Err(unknown()),
            },
        }
    }
}

impl Fields for Lease {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path.first()?.as_str() {
            "id" => filter::text(&self.id),
            "labels" => filter::label(&self.labels, &path[1..]),
            _ => None,
        }
    }
}

/// Adds an object to the lease of `context`, if it has one, and returns whether it has.
pub fn attach(tx: &mut Tx<'_, '_>, context: &Context, kind: &str, id: &str) -> Result<bool> {
    let Some(lease) = context.lease() else {
        return Ok(false);
    };
    let namespace = context.namespace();
    if tx.bytes(Table::Leases, namespace, lease)?.is_none() {
        return Err(Error::new(Kind::NotFound, "lease does not exist"));
    }
    tx.put_key(Table::LeaseResources, namespace, &key(lease, kind, id))?;
    Ok(true)
}

/// Removes an object from the lease of `context`, if it has one.
pub fn detach(tx: &mut Tx<'_, '_>, context: &Context, kind: &str, id: &str) {
    if let Some(lease) = context.lease() {
        tx.remove(
            Table::LeaseResources,
            context.namespace(),
            &key(lease, kind, id),
        );
    }
}

/// Deletes a lease and its list of resources.
pub fn delete(tx: &mut Tx<'_, '_>, namespace: &str, id: &str) -> Result<()> {
    expect(tx, namespace, id)?;
    for resource in resources(tx, namespace, id)? {
        let key = key(id, &resource.kind, &resource.id);
        tx.remove(Table::LeaseResources, namespace, &key);
    }
    tx.remove(Table::Leases, namespace, id);
    Ok(())
}

/// Returns what a lease holds.
pub fn resources(view: &impl Read, namespace: &str, id: &str) -> Result<Vec<Resource>> {
    let prefix = format!("{id}\0");
    let mut resources = Vec::new();
    view.visit(
        Table::LeaseResources,
        Some(namespace),
        &prefix,
        &mut |_, key, _| {
            if let Some((kind, id)) = key[prefix.len()..].split_once('\0') {
                resources.push(Resource {
                    kind: kind.to_owned(),
                    id: id.to_owned(),
                });
            }
            Ok(())
        },
    )?;
    Ok(resources)
}

fn expect(view: &impl Read, namespace: &str, id: &str) -> Result<()> {
    match view.bytes(Table::Leases, namespace, id)? {
        Some(_) => Ok(()),
        None => Err(not_found("lease", id)),
    }
}

fn key(lease: &str, kind: &str, id: &str) -> String {
    format!("{lease}\0{kind}\0{id}")
}

/// Null bytes separate the parts of keys.
pub fn check_text(what: &str, text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(invalid(format!("{what} must not contain a null byte")));
    }
    Ok(())
}

/// Spreads a number over four letters, so that ids made in one nanosecond still differ.
fn random_suffix(sequence: u64) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEF0123456789GHIJKLMNOPQRSTUVWXYZxy";
    let mixed = sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..4)
        .map(|part| char::from(LETTERS[(mixed >> (40 + part * 6)) as usize % LETTERS.len()]))
        .collect()
}
