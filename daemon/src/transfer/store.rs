//! The image store as a side of a transfer: which manifests are wanted, and under which names they are kept.

use crate::context::Context;
use crate::error::{Error, Kind, Result, not_found};
use crate::images::platform::Platform;
use crate::images::walk::Descriptor;
use crate::labels::Labels;
use crate::metadata::{Image, Images};

/// The annotation with an image's whole name.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// The annotation with an image's tag, or another part of its name.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The image store as a source or destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageStore {
    pub name: String,
    pub labels: Labels,
    /// The platforms that are wanted; all if none is named.
    pub platforms: Vec<Platform>,
    /// Whether the manifests and configurations of other platforms are wanted too.
    pub all_metadata: bool,
    /// How many manifests of an index are wanted at most; 0 is no limit.
    pub limit: usize,
    pub references: Vec<Reference>,
    pub unpacks: Vec<Unpack>,
}

/// Another name, or how to make one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    pub name: String,
    /// The name is only the beginning of one.
    pub is_prefix: bool,
    /// Names that begin otherwise are good too.
    pub allow_overwrite: bool,
    /// A name made of the prefix and the digest is wanted.
    pub add_digest: bool,
    /// But not if there is a name without a digest.
    pub skip_named_digest: bool,
}

/// Where an image is to be unpacked to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpack {
    pub platform: Platform,
    /// Empty for the default.
    pub snapshotter: String,
}

impl ImageStore {
    /// Keeps an image under its own name and the other names.
    pub fn keep(
        &self,
        images: &Images,
        context: &Context,
        target: &Descriptor,
    ) -> Result<Vec<Image>> {
        let mut names = Vec::new();
        if !self.name.is_empty() {
            names.push(self.name.clone());
        }
        for reference in &self.references {
            match (reference.is_prefix, reference.add_digest) {
                (true, false) => {}
                (_, true) => names.push(format!("{}@{}", reference.name, target.digest)),
                (false, false) => names.push(reference.name.clone()),
            }
        }
        self.keep_as(images, context, target, names)
    }

    /// Keeps an image of an archive under the names that its annotations tell.
    pub fn keep_imported(
        &self,
        images: &Images,
        context: &Context,
        target: &Descriptor,
    ) -> Result<Vec<Image>> {
        let mut names = Vec::new();
        for reference in self.references.iter().filter(|one| one.is_prefix) {
            let named = reference.named(&target.annotations);
            let by_digest =
                reference.add_digest && !(named.is_some() && reference.skip_named_digest);
            names.extend(named);
            if by_digest {
                names.push(format!("{}@{}", reference.name, target.digest));
            }
        }
        self.keep_as(images, context, target, names)
    }

    fn keep_as(
        &self,
        images: &Images,
        context: &Context,
        target: &Descriptor,
        names: Vec<String>,
    ) -> Result<Vec<Image>> {
        if names.is_empty() {
            return Err(Error::new(Kind::NotFound, "no image name found"));
        }
        let keep = |name: String| {
            let image = Image {
                name,
                labels: self.labels.clone(),
                target: Some(target.record()),
                ..Image::default()
            };
            images.create_or_update(context, image)
        };
        names.into_iter().map(keep).collect()
    }

    /// Returns the image that has the store's own name.
    pub fn get(&self, images: &Images, context: &Context) -> Result<Image> {
        images.get(context, &self.name)
    }

    /// Returns the images that the store's name and the other names stand for.
    pub fn lookup(&self, images: &Images, context: &Context) -> Result<Vec<Image>> {
        let prefix = self.references.iter().find(|one| one.is_prefix);
        if let Some(prefix) = prefix {
            let message = format!("images whose names begin with {:?}", prefix.name);
            return Err(Error::new(Kind::Unimplemented, message));
        }
        let own = Some(&self.name).filter(|name| !name.is_empty());
        let others = self.references.iter().map(|reference| &reference.name);
        let names: Vec<&String> = own.into_iter().chain(others).collect();
        if names.is_empty() {
            return Err(not_found("image", ""));
        }
        let found = names.into_iter().map(|name| images.get(context, name));
        found.collect()
    }
}

impl Reference {
    /// Returns the name that annotations tell, if this reference takes it.
    fn named(&self, annotations: &Labels) -> Option<String> {
        let told = |key: &str| annotations.get(key).filter(|name| !name.is_empty());
        if let Some(name) = told(IMAGE_NAME) {
            // A whole name is taken as it is or not at all.
            return self.taken(name).filter(|taken| taken == name);
        }
        self.taken(told(REF_NAME)?)
    }

    fn taken(&self, name: &str) -> Option<String> {
        if self.name.is_empty() {
            return None;
        }
        if !name.contains(['/', ':', '@']) {
            return Some(format!("{}:{name}", self.name));
        }
        let fits = match name.strip_prefix(&self.name) {
            Some(rest) => rest.is_empty() || rest.starts_with(['/', ':', '@']),
            None => false,
        };
        (fits || self.allow_overwrite).then(|| name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(pairs: &[(&str, &str)]) -> Labels {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn names_are_taken_from_annotations_if_they_fit_the_prefix() {
        let strict = Reference {
            name: "example.org/a".into(),
            is_prefix: true,
            ..Reference::default()
        };
        let lenient = Reference {
            allow_overwrite: true,
            ..strict.clone()
        };
        for (key, told, by_strict, by_lenient) in [
            (
                REF_NAME,
                "1",
                Some("example.org/a:1"),
                Some("example.org/a:1"),
            ),
            (
                REF_NAME,
                "example.org/a:2",
                Some("example.org/a:2"),
                Some("example.org/a:2"),
            ),
            (REF_NAME, "example.org/ab:2", None, Some("example.org/ab:2")),
            (
                IMAGE_NAME,
                "example.org/a/b:1",
                Some("example.org/a/b:1"),
                Some("example.org/a/b:1"),
            ),
            (IMAGE_NAME, "other.org/b:1", None, Some("other.org/b:1")),
            (IMAGE_NAME, "1", None, None),
        ] {
            let annotations = annotated(&[(key, told)]);
            assert_eq!(strict.named(&annotations).as_deref(), by_strict, "{told}");
            assert_eq!(lenient.named(&annotations).as_deref(), by_lenient, "{told}");
        }
        assert_eq!(
            Reference::default().named(&annotated(&[(REF_NAME, "1")])),
            None
        );
    }
}
