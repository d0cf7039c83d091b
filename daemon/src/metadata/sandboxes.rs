//! Sandboxes: what is written down of them; running them is the controllers' business.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Read, Sandbox, Store, Table};
use crate::context::Context;
use crate::error::{Context as _, Result, already_exists, invalid, not_found};
use crate::filter::{self, Fields, Filter};
use crate::labels;
use crate::time::now;

/// The fields that an update without field paths replaces.
const MUTABLE: [&str; 4] = ["labels", "extensions", "spec", "runtime"];

/// The sandboxes of the store.
#[derive(Clone, Debug)]
pub struct Sandboxes {
    store: Arc<Store>,
}

impl Sandboxes {
    /// Returns the sandboxes of `store`.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// Returns one sandbox.
    pub fn get(&self, context: &Context, id: &str) -> Result<Sandbox> {
        self.store
            .read(|view| view.get(Table::Sandboxes, context.namespace(), id))?
            .ok_or_else(|| not_found("sandbox", id))
    }

    /// Returns the sandboxes that one of `filters` asks for.
    pub fn list<S: AsRef<str>>(&self, context: &Context, filters: &[S]) -> Result<Vec<Sandbox>> {
        let filter = Filter::parse(filters)?;
        let sandboxes = self
            .store
            .read(|view| view.list::<Sandbox>(Table::Sandboxes, context.namespace(), ""))?;
        let sandboxes = sandboxes.into_iter().map(|(_, sandbox)| sandbox);
        Ok(sandboxes
            .filter(|sandbox| filter.matches(sandbox))
            .collect())
    }

    /// Writes down a sandbox.
    pub fn create(&self, context: &Context, mut sandbox: Sandbox) -> Result<Sandbox> {
        labels::drop_empty(&mut sandbox.labels);
        validate(&sandbox).context(|| "create sandbox failed validation")?;
        sandbox.created_at = Some(now());
        sandbox.updated_at = sandbox.created_at;
        let namespace = context.namespace().to_owned();
        self.store.write(move |tx| {
            let existing = tx.bytes(Table::Sandboxes, &namespace, &sandbox.id)?;
            if existing.is_some() {
                return Err(already_exists("sandbox", &sandbox.id));
            }
            tx.put(Table::Sandboxes, &namespace, &sandbox.id, &sandbox)?;
            Ok(sandbox)
        })
    }

    /// Replaces what `paths` name of a sandbox, or, without paths, all that may change.
    pub fn update(
        &self,
        context: &Context,
        sandbox: Sandbox,
        mut paths: Vec<String>,
    ) -> Result<Sandbox> {
        if paths.is_empty() {
            paths = MUTABLE.map(str::to_owned).to_vec();
        }
        let namespace = context.namespace().to_owned();
        self.store.write(move |tx| {
            let mut updated: Sandbox = tx
                .get(Table::Sandboxes, &namespace, &sandbox.id)?
                .ok_or_else(|| not_found("sandbox", &sandbox.id))?;
            for path in &paths {
                apply(&mut updated, &sandbox, path)?;
            }
            labels::drop_empty(&mut updated.labels);
            validate(&updated).context(|| "update sandbox failed validation")?;
            updated.updated_at = Some(now());
            tx.put(Table::Sandboxes, &namespace, &updated.id, &updated)?;
            Ok(updated)
        })
    }

    /// Forgets a sandbox.
    pub fn delete(&self, context: &Context, id: &str) -> Result<()> {
        let (namespace, id) = (context.namespace().to_owned(), id.to_owned());
        self.store.write(move |tx| {
            if tx.bytes(Table::Sandboxes, &namespace, &id)?.is_none() {
                return Err(not_found("sandbox", &id));
            }
            tx.remove(Table::Sandboxes, &namespace, &id);
            Ok(())
        })
    }
}

impl Fields for Sandbox {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path.first()?.as_str() {
            "id" => filter::text(&self.id),
            "sandboxer" => filter::text(&self.sandboxer),
            "runtime" if path.get(1)? == "name" => filter::text(&self.runtime),
            "labels" => filter::label(&self.labels, &path[1..]),
            _ => None,
        }
    }
}

fn apply(updated: &mut Sandbox, given: &Sandbox, path: &str) -> Result<()> {
    if labels::apply_mask(&mut updated.labels, &given.labels, path) {
        return Ok(());
    }
    if let Some(key) = path.strip_prefix("extensions.") {
        match given.extensions.get(key) {
            Some(extension) => updated.extensions.insert(key.to_owned(), extension.clone()),
            None => updated.extensions.remove(key),
        };
        return Ok(());
    }
    match path {
        "extensions" => updated.extensions.clone_from(&given.extensions),
        "spec" => updated.spec.clone_from(&given.spec),
        "runtime" => {
            updated.runtime.clone_from(&given.runtime);
            updated.runtime_options.clone_from(&given.runtime_options);
        }
        _ => {
            return Err(invalid(format!(
                "cannot update {path:?} field on sandbox {:?}",
                given.id
            )));
        }
    }
    Ok(())
}

fn validate(sandbox: &Sandbox) -> Result<()> {
    labels::validate_identifier(&sandbox.id).context(|| "sandbox.ID")?;
    if sandbox.extensions.contains_key("") {
        return Err(invalid("sandbox.Extension keys must not be zero-length"));
    }
    labels::validate("sandbox", &sandbox.labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::labels::Labels;

    fn sandbox(id: &str) -> Sandbox {
        Sandbox {
            id: id.into(),
            labels: Labels::from([("a".into(), "1".into())]),
            runtime: "io.containerd.kata.v2".into(),
            ..Sandbox::default()
        }
    }

    #[test]
    fn sandboxes_are_kept_by_name() {
        let root = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&root.path().join("meta")).unwrap());
        let sandboxes = Sandboxes::new(store);
        let context = Context::new("ns").unwrap();
        let kind = |result: Result<Sandbox>| result.unwrap_err().kind();
        assert_eq!(kind(sandboxes.get(&context, "s")), Kind::NotFound);
        let created = sandboxes.create(&context, sandbox("s")).unwrap();
        assert_eq!(sandboxes.get(&context, "s").unwrap(), created);
        let again = sandboxes.create(&context, sandbox("s"));
        assert_eq!(kind(again), Kind::AlreadyExists);
        let bad = sandboxes.create(&context, sandbox("a/b"));
        assert_eq!(kind(bad), Kind::InvalidArgument);

        let mut change = sandbox("s");
        change.labels = Labels::from([("b".into(), "2".into())]);
        change.sandboxer = "shim".into();
        let paths = vec!["labels.b".to_owned()];
        let updated = sandboxes.update(&context, change.clone(), paths).unwrap();
        assert_eq!(updated.labels.len(), 2);
        assert_eq!(updated.sandboxer, "");
        let odd = sandboxes.update(&context, change.clone(), vec!["sandboxer".into()]);
        assert_eq!(kind(odd), Kind::InvalidArgument);
        let updated = sandboxes.update(&context, change, Vec::new()).unwrap();
        assert_eq!(updated.labels.len(), 1);

        sandboxes.create(&context, sandbox("t")).unwrap();
        let filtered = sandboxes.list(&context, &["labels.b==2"]).unwrap();
        assert_eq!(filtered.len(), 1);
        assert_eq!(filtered[0].id, "s");
        sandboxes.delete(&context, "s").unwrap();
        let error = sandboxes.delete(&context, "s").unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(sandboxes.list::<&str>(&context, &[]).unwrap().len(), 1);
    }
}
