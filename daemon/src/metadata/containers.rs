//! Containers: what tasks are made from.

use std::borrow::Cow;
use std::sync::Arc;

use api_protos::containerd::events::{
    ContainerCreate, ContainerDelete, ContainerUpdate, container_create,
};

use super::{Container, Read, Store, Table};
use crate::context::Context;
use crate::error::{Context as _, Error, Kind, Result, already_exists, invalid, not_found};
use crate::events::Exchange;
use crate::filter::{self, Fields, Filter};
use crate::labels;
use crate::time::now;

/// The fields that an update without a field mask replaces.
const MUTABLE: [&str; 5] = ["labels", "spec", "extensions", "image", "snapshotkey"];

/// The containers of the store.
#[derive(Clone, Debug)]
pub struct Containers {
    store: Arc<Store>,
    events: Arc<Exchange>,
}

impl Containers {
    /// Returns the containers of `store`.
    pub fn new(store: Arc<Store>, events: Arc<Exchange>) -> Self {
        Self { store, events }
    }

    /// Returns one container.
    pub fn get(&self, context: &Context, id: &str) -> Result<Container> {
        let namespace = context.namespace();
        self.store
            .read(|view| view.get(Table::Containers, namespace, id))?
            .ok_or_else(|| {
                Error::new(
                    Kind::NotFound,
                    format!("container {id:?} in namespace {namespace:?}"),
                )
            })
    }

    /// Returns the containers that one of `filters` asks for.
    pub fn list<S: AsRef<str>>(&self, context: &Context, filters: &[S]) -> Result<Vec<Container>> {
        let filter = Filter::parse(filters)?;
        let containers = self
            .store
            .read(|view| view.list::<Container>(Table::Containers, context.namespace(), ""))?;
        Ok(containers
            .into_iter()
            .map(|(_, container)| container)
            .filter(|container| filter.matches(container))
            .collect())
    }

    /// Creates a container.
    pub fn create(&self, context: &Context, mut container: Container) -> Result<Container> {
        labels::drop_empty(&mut container.labels);
        validate(&container).context(|| "create container failed validation")?;
        container.created_at = Some(now());
        container.updated_at = container.created_at;
        let (namespace, record) = (context.namespace().to_owned(), container.clone());
        self.store.write(move |tx| {
            let existing = tx.bytes(Table::Containers, &namespace, &record.id)?;
            if existing.is_some() {
                return Err(already_exists("container", &record.id));
            }
            tx.put(Table::Containers, &namespace, &record.id, &record)
        })?;
        let event = ContainerCreate {
            id: container.id.clone(),
            image: container.image.clone(),
            runtime: Some(container_create::Runtime {
                name: container.runtime.clone(),
                options: container.runtime_options.clone(),
            }),
        };
        self.events
            .publish(context.namespace(), "/containers/create", &event)?;
        Ok(container)
    }

    /// Replaces what `paths` name of a container, or, without paths, all that may change.
    pub fn update(
        &self,
        context: &Context,
        container: Container,
        paths: Vec<String>,
    ) -> Result<Container> {
        if container.id.is_empty() {
            return Err(invalid("must specify a container id"));
        }
        let namespace = context.namespace().to_owned();
        let updated = self.store.write(move |tx| {
            let current: Container = tx
                .get(Table::Containers, &namespace, &container.id)?
                .ok_or_else(|| not_found("container", &container.id))?;
            let mut updated = apply(current, container, paths)?;
            labels::drop_empty(&mut updated.labels);
            validate(&updated).context(|| "update failed validation")?;
            updated.updated_at = Some(now());
            tx.put(Table::Containers, &namespace, &updated.id, &updated)?;
            Ok(updated)
        })?;
        let event = ContainerUpdate {
            id: updated.id.clone(),
            image: updated.image.clone(),
            labels: updated.labels.clone().into_iter().collect(),
            snapshot_key: updated.snapshot_key.clone(),
        };
        self.events
            .publish(context.namespace(), "/containers/update", &event)?;
        Ok(updated)
    }

    /// Deletes a container, whether or not it has a task.
    pub fn delete(&self, context: &Context, id: &str) -> Result<()> {
        let (namespace, key) = (context.namespace().to_owned(), id.to_owned());
        self.store.write(move |tx| {
            if tx.bytes(Table::Containers, &namespace, &key)?.is_none() {
                return Err(not_found("container", &key));
            }
            tx.remove(Table::Containers, &namespace, &key);
            Ok(())
        })?;
        let event = ContainerDelete { id: id.to_owned() };
        self.events
            .publish(context.namespace(), "/containers/delete", &event)
    }
}

impl Fields for Container {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path.first()?.as_str() {
            "id" => filter::text(&self.id),
            "runtime" if path.get(1)? == "name" => filter::text(&self.runtime),
            "image" => filter::text(&self.image),
            "labels" => filter::label(&self.labels, &path[1..]),
            _ => None,
        }
    }
}

fn apply(mut updated: Container, given: Container, mut paths: Vec<String>) -> Result<Container> {
    if paths.is_empty() {
        if updated.snapshotter != given.snapshotter {
            return Err(invalid("container.Snapshotter field is immutable"));
        }
        if updated.runtime != given.runtime {
            return Err(invalid("container.Runtime.Name field is immutable"));
        }
        paths = MUTABLE.map(str::to_owned).to_vec();
    }
    for path in &paths {
        if labels::apply_mask(&mut updated.labels, &given.labels, path) {
            continue;
        }
        if let Some(key) = path.strip_prefix("extensions.") {
            match given.extensions.get(key) {
                Some(extension) => updated.extensions.insert(key.to_owned(), extension.clone()),
                None => updated.extensions.remove(key),
            };
            continue;
        }
        match path.as_str() {
            "spec" => updated.spec.clone_from(&given.spec),
            "extensions" => updated.extensions.clone_from(&given.extensions),
            "image" => updated.image.clone_from(&given.image),
            "snapshotkey" => updated.snapshot_key.clone_from(&given.snapshot_key),
            _ => {
                return Err(invalid(format!(
                    "cannot update {path:?} field on {:?}",
                    given.id
                )));
            }
        }
    }
    Ok(updated)
}

fn validate(container: &Container) -> Result<()> {
    labels::validate_identifier(&container.id).context(|| "container.ID")?;
    if container.extensions.contains_key("") {
        return Err(invalid("container.Extension keys must not be zero-length"));
    }
    labels::validate("containers", &container.labels)?;
    if container.runtime.is_empty() {
        return Err(invalid("container.Runtime.Name must be set"));
    }
    if container.spec.is_none() {
        return Err(invalid("container.Spec must be set"));
    }
    if !container.snapshot_key.is_empty() && container.snapshotter.is_empty() {
        return Err(invalid(
            "container.Snapshotter must be set if container.SnapshotKey is set",
        ));
    }
    Ok(())
}
