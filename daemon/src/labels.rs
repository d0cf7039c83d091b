//! Labels and identifiers: what containerd allows as either, and how a field mask changes labels.

use std::collections::BTreeMap;

use crate::error::{Context, Result, invalid};

/// The labels of an object, in a stable order.
pub type Labels = BTreeMap<String, String>;

/// Keeps an object from garbage collection.
pub const GC_ROOT: &str = "containerd.io/gc.root";
/// The time, in RFC 3339, from which an object may be collected.
pub const GC_EXPIRE: &str = "containerd.io/gc.expire";
/// Makes a lease hold its objects only, not what they refer to.
pub const GC_FLAT: &str = "containerd.io/gc.flat";
/// Names the committed snapshot that a snapshot being prepared is to become.
pub const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";
/// Prefix of the labels that a snapshotter sees.
pub const SNAPSHOT_PREFIX: &str = "containerd.io/snapshot/";
/// Lets other namespaces use this namespace's content under the policy `isolated`.
pub const NAMESPACE_SHAREABLE: &str = "containerd.io/namespace.shareable";

const MAX_LABEL: usize = 4096;
const MAX_LABEL_KEY_SHOWN: usize = 64;
const MAX_IDENTIFIER: usize = 76;
const IDENTIFIER: &str = "^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$";

/// Returns an error unless `name` may name a namespace, a container or a snapshotter.
pub fn validate_identifier(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(invalid("identifier must not be empty"));
    }
    if name.len() > MAX_IDENTIFIER {
        return Err(invalid(format!(
            "identifier {name:?} greater than maximum length ({MAX_IDENTIFIER} characters)"
        )));
    }
    let parts_are_words = name
        .split(['.', '_', '-'])
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    if !parts_are_words {
        return Err(invalid(format!(
            "identifier {name:?} must match {IDENTIFIER}"
        )));
    }
    Ok(())
}

/// Returns an error if a label of `labels` is too long; `object` says whose they are.
pub fn validate(object: &str, labels: &Labels) -> Result<()> {
    for (key, value) in labels {
        let total = key.len() + value.len();
        if total > MAX_LABEL {
            let shown: String = key.chars().take(MAX_LABEL_KEY_SHOWN).collect();
            return Err(invalid(format!(
                "label key and value length ({total} bytes) greater than maximum size ({MAX_LABEL} bytes), key: {shown}"
            )))
            .context(|| format!("{object}.Labels"));
        }
    }
    Ok(())
}

/// Applies one path of a field mask to labels and returns whether the path was about labels.
///
/// `labels` replaces them all; `labels.KEY` sets one, whose key is all that follows, dots included.
pub fn apply_mask(current: &mut Labels, update: &Labels, path: &str) -> bool {
    if path == "labels" {
        *current = update.clone();
    } else if let Some(key) = path.strip_prefix("labels.") {
        let value = update.get(key).cloned().unwrap_or_default();
        current.insert(key.to_owned(), value);
    } else {
        return false;
    }
    drop_empty(current);
    true
}

/// Removes the labels whose value is empty: setting a label to nothing deletes it.
pub fn drop_empty(labels: &mut Labels) {
    labels.retain(|_, value| !value.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn identifiers_are_words_joined_by_single_separators() {
        for good in ["default", "k8s.io", "a-b_c.d", &"0".repeat(76)] {
            validate_identifier(good).unwrap();
        }
        for bad in ["", "-a", "a-", "a--b", "a/b", "ä", "a b", &"0".repeat(77)] {
            let error = validate_identifier(bad).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn a_label_may_fill_four_kilobytes() {
        let mut labels = Labels::from([("k".to_owned(), "v".repeat(4095))]);
        validate("image", &labels).unwrap();
        labels.insert("kk".to_owned(), "v".repeat(4095));
        let error = validate("image", &labels).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(format!("{error:#}").starts_with("image.Labels: label key and value length (4097"));
    }

    #[test]
    fn a_mask_names_a_label_by_all_that_follows() {
        let key = "containerd.io/gc.ref.content.m.0";
        let mut labels = Labels::from([("keep".to_owned(), "1".to_owned())]);
        let update = Labels::from([(key.to_owned(), "sha256:a".to_owned())]);
        assert!(apply_mask(&mut labels, &update, &format!("labels.{key}")));
        assert_eq!(labels.len(), 2);
        assert!(apply_mask(
            &mut labels,
            &Labels::new(),
            &format!("labels.{key}")
        ));
        assert_eq!(labels.len(), 1);
        assert!(!apply_mask(&mut labels, &update, "target"));
    }
}
