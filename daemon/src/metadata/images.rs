//! Images: names for descriptors.

use std::borrow::Cow;
use std::sync::Arc;

use api_protos::containerd::services::images::v1::{ImageCreate, ImageDelete, ImageUpdate};
use prost_types::Timestamp;

use super::{Image, Read, Store, Table, leases};
use crate::context::Context;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, already_exists, invalid, not_found};
use crate::events::Exchange;
use crate::filter::{self, Fields, Filter};
use crate::labels;
use crate::time::now;

/// The images of the store.
#[derive(Clone, Debug)]
pub struct Images {
    store: Arc<Store>,
    events: Arc<Exchange>,
}

impl Images {
    /// Returns the images of `store`.
    pub fn new(store: Arc<Store>, events: Arc<Exchange>) -> Self {
        Self { store, events }
    }

    /// Returns one image.
    pub fn get(&self, context: &Context, name: &str) -> Result<Image> {
        self.store
            .read(|view| view.get(Table::Images, context.namespace(), name))?
            .ok_or_else(|| not_found("image", name))
    }

    /// Returns the images that one of `filters` asks for.
    pub fn list<S: AsRef<str>>(&self, context: &Context, filters: &[S]) -> Result<Vec<Image>> {
        let filter = Filter::parse(filters)?;
        let images = self
            .store
            .read(|view| view.list::<Image>(Table::Images, context.namespace(), ""))?;
        Ok(images
            .into_iter()
            .map(|(_, image)| image)
            .filter(|image| filter.matches(image))
            .collect())
    }

    /// Creates an image; `at` stands for the present time where builds are reproducible.
    pub fn create(
        &self,
        context: &Context,
        mut image: Image,
        at: Option<Timestamp>,
    ) -> Result<Image> {
        labels::drop_empty(&mut image.labels);
        validate(&image)?;
        let created_at = at.unwrap_or_else(now);
        image.created_at = Some(created_at);
        image.updated_at = Some(created_at);
        let (owner, record) = (context.clone(), image.clone());
        self.store.write(move |tx| {
            let namespace = owner.namespace();
            lease(tx, &owner, &record)?;
            if tx.bytes(Table::Images, namespace, &record.name)?.is_some() {
                return Err(already_exists("image", &record.name));
            }
            tx.put(Table::Images, namespace, &record.name, &record)
        })?;
        let event = ImageCreate {
            name: image.name.clone(),
            labels: image.labels.clone().into_iter().collect(),
        };
        self.events
            .publish(context.namespace(), "/images/create", &event)?;
        Ok(image)
    }

    /// Replaces what `paths` name of an image, or, without paths, all of it.
    pub fn update(
        &self,
        context: &Context,
        image: Image,
        paths: Vec<String>,
        at: Option<Timestamp>,
    ) -> Result<Image> {
        if image.name.is_empty() {
            return Err(invalid("image name is required for update"));
        }
        let owner = context.clone();
        let updated = self.store.write(move |tx| {
            let namespace = owner.namespace();
            let mut updated: Image = tx
                .get(Table::Images, namespace, &image.name)?
                .ok_or_else(|| not_found("image", &image.name))?;
            if paths.is_empty() {
                let created_at = updated.created_at;
                updated = image;
                updated.created_at = created_at;
            } else {
                apply_mask(&mut updated, &image, &paths)?;
            }
            labels::drop_empty(&mut updated.labels);
            validate(&updated)?;
            lease(tx, &owner, &updated)?;
            updated.updated_at = Some(at.unwrap_or_else(now));
            tx.put(Table::Images, namespace, &updated.name, &updated)?;
            Ok(updated)
        })?;
        let event = ImageUpdate {
            name: updated.name.clone(),
            labels: updated.labels.clone().into_iter().collect(),
        };
        self.events
            .publish(context.namespace(), "/images/update", &event)?;
        Ok(updated)
    }

    /// Creates an image, or points the one that has its name at the new target and labels.
    pub fn create_or_update(&self, context: &Context, image: Image) -> Result<Image> {
        match self.create(context, image.clone(), None) {
            Err(error) if error.kind() == Kind::AlreadyExists => {
                self.update(context, image, Vec::new(), None)
            }
            other => other,
        }
    }

    /// Deletes an image, if `target` is given only if that is the digest it points at.
    pub fn delete(&self, context: &Context, name: &str, target: Option<&str>) -> Result<()> {
        let owner = context.clone();
        let key = name.to_owned();
        let wanted = target.map(str::to_owned);
        self.store.write(move |tx| {
            let image: Image = tx
                .get(Table::Images, owner.namespace(), &key)?
                .ok_or_else(|| not_found("image", &key))?;
            let digest = image.target.unwrap_or_default().digest;
            if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty() && *wanted != digest) {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("image {key:?} has target {digest}, not {wanted}"),
                ));
            }
            leases::detach(tx, &owner, leases::IMAGES, &key);
            tx.remove(Table::Images, owner.namespace(), &key);
            Ok(())
        })?;
        let event = ImageDelete {
            name: name.to_owned(),
        };
        self.events
            .publish(context.namespace(), "/images/delete", &event)
    }
}

impl Fields for Image {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        let target = self.target.as_ref();
        match path.first()?.as_str() {
            "name" => filter::text(&self.name),
            "target" => match path.get(1)?.as_str() {
                "digest" => filter::text(&target?.digest),
                "mediatype" => filter::text(&target?.media_type),
                _ => None,
            },
            "labels" => filter::label(&self.labels, &path[1..]),
            "annotations" => filter::label(&target?.annotations, &path[1..]),
            _ => None,
        }
    }
}

fn apply_mask(updated: &mut Image, image: &Image, paths: &[String]) -> Result<()> {
    for path in paths {
        let target = updated.target.get_or_insert_default();
        let given = image.target.clone().unwrap_or_default();
        if labels::apply_mask(&mut updated.labels, &image.labels, path) {
        } else if path == "target" {
            *target = given;
        } else if path == "annotations" {
            target.annotations = given.annotations;
        } else if let Some(key) = path.strip_prefix("annotations.") {
            let value = given.annotations.get(key).cloned().unwrap_or_default();
            target.annotations.insert(key.to_owned(), value);
        } else {
            return Err(invalid(format!(
                "cannot update {path:?} field on image {:?}",
                image.name
            )));
        }
    }
    Ok(())
}

/// An image that may be collected is held by the lease; any other image needs none.
fn lease(tx: &mut super::Tx<'_, '_>, context: &Context, image: &Image) -> Result<()> {
    if image.labels.contains_key(labels::GC_EXPIRE) {
        leases::attach(tx, context, leases::IMAGES, &image.name)?;
    }
    Ok(())
}

fn validate(image: &Image) -> Result<()> {
    if image.name.is_empty() {
        return Err(invalid("image name must not be empty"));
    }
    if image.name.contains('\0') {
        return Err(invalid("image name must not contain a null byte"));
    }
    labels::validate("image", &image.labels)?;
    let target = image.target.clone().unwrap_or_default();
    if let Err(error) = Digest::parse(&target.digest) {
        return Err(invalid(format!(
            "target.Digest {:?} invalid: {error}",
            target.digest
        )));
    }
    if target.size <= 0 {
        return Err(invalid("target.Size must be greater than zero"));
    }
    if target.media_type.is_empty() {
        return Err(invalid("target.MediaType must be set"));
    }
    Ok(())
}
