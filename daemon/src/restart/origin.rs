//! Whose labels those of a new container are: the client's, or an image's that the client copied without a thought.
//!
//! Clients of many versions put all labels of an image on its containers. One that asks for restarts must not come
//! from there: `containerd.io/restart.loguri` names a program that is run on the host, as root (CVE-2026-53488).

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::policy::PREFIX;
use crate::content::Content;
use crate::context::Context;
use crate::error::{Context as _, Kind, Result, invalid};
use crate::images::walk::{Descriptor, Node};
use crate::labels::Labels;
use crate::metadata::{Container, Images};

/// The longest configuration of an image that is read.
const MAX_CONFIG: u64 = 8 << 20;

/// Tells labels of clients from labels of images; clones share what they look at.
#[derive(Clone, Debug)]
pub struct Origin {
    images: Images,
    content: Content,
}

/// Pairs of a reserved key and its value.
type Pairs = HashSet<(String, String)>;

impl Origin {
    /// Returns what looks at these images.
    pub fn new(images: Images, content: Content) -> Self {
        Self { images, content }
    }

    /// Takes those labels about restarts off a new container that a configuration of its image has too.
    pub fn drop_labels_of_image(&self, context: &Context, container: &mut Container) -> Result<()> {
        let asks = container.labels.keys().any(|key| key.starts_with(PREFIX));
        if !asks || container.image.is_empty() {
            return Ok(());
        }
        let image = match self.images.get(context, &container.image) {
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            image => image?,
        };
        let target = Descriptor::from(image.target.unwrap_or_default());
        let of_image = self
            .reserved(context, target)
            .context(|| format!("read the labels of image {:?}", container.image))?;
        keep_others(&mut container.labels, &of_image, &container.id);
        Ok(())
    }

    /// Returns what the image has under reserved keys, for whichever platform.
    fn reserved(&self, context: &Context, target: Descriptor) -> Result<Pairs> {
        let (mut found, mut seen, mut waiting) = (Pairs::new(), HashSet::new(), vec![target]);
        while let Some(descriptor) = waiting.pop() {
            if !seen.insert(descriptor.digest.clone()) {
                continue;
            }
            let node = match Node::read(&self.content, context, &descriptor) {
                // Other platforms need not be here.
                Err(error) if error.kind() == Kind::NotFound => continue,
                node => node?,
            };
            match node {
                Some(Node::Index(index)) => waiting.extend(index.manifests),
                Some(Node::Manifest(manifest)) => {
                    let digest = manifest.config.digest()?;
                    match self.content.read_all(context, &digest, MAX_CONFIG) {
                        Err(error) if error.kind() == Kind::NotFound => continue,
                        config => collect(&config?, &mut found)?,
                    }
                }
                None => {}
            }
        }
        Ok(found)
    }
}

fn keep_others(labels: &mut Labels, of_image: &Pairs, id: &str) {
    labels.retain(|key, value| {
        let copied = of_image.contains(&(key.clone(), value.clone()));
        if copied {
            tracing::warn!(
                id,
                key,
                value,
                "not honoured: the label comes from the image"
            );
        }
        !copied
    });
}

/// Adds what a configuration has under reserved keys, wherever that is in it.
///
/// Parsers differ on keys that are there twice or in other letters: this one need not know what each of them reads.
fn collect(config: &[u8], found: &mut Pairs) -> Result<()> {
    let mut json = serde_json::Deserializer::from_slice(config);
    let scan = Scan { key: None, found };
    scan.deserialize(&mut json)
        .map_err(|error| invalid(format!("decode config: {error}")))
}

/// Looks at one value, which stands under `key` if it is in a map.
struct Scan<'a> {
    key: Option<&'a str>,
    found: &'a mut Pairs,
}

impl<'de> DeserializeSeed<'de> for Scan<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        if let Some(key) = self.key.filter(|key| key.starts_with(PREFIX)) {
            self.found.insert((key.to_owned(), value.to_owned()));
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(Scan {
                key: Some(&key),
                found: self.found,
            })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { found, .. } = self;
        while seq.next_element_seed(Scan { key: None, found })?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_keys_are_found_however_they_are_written() {
        for config in [
            r#"{"config":{"Labels":{"containerd.io/restart.status":"running"}}}"#,
            r#"{"Config":{"labels":{"containerd.io/restart.status":"running"}},"n":[1,null,-2,0.5,true]}"#,
            r#"{"config":{"Labels":{"containerd.io/\u0072estart.status":"running"},"Labels":{}}}"#,
            r#"{"config":{"Labels":{"containerd.io/restart.status":"running","a":"b"}},"config":{}}"#,
            r#"{"a":[{"containerd.io/restart.status":"running"}]}"#,
        ] {
            let mut found = Pairs::new();
            collect(config.as_bytes(), &mut found).unwrap();
            let wanted = [("containerd.io/restart.status".into(), "running".into())];
            assert_eq!(found, Pairs::from(wanted), "{config}");
        }
        assert!(collect(b"{\"config\":", &mut Pairs::new()).is_err());
    }

    #[test]
    fn only_what_the_image_says_in_the_same_words_is_dropped() {
        let labels = [
            ("containerd.io/restart.status", "running"),
            ("containerd.io/restart.policy", "always"),
            ("maintainer", "m"),
        ];
        let own = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let mut labels = Labels::from(labels.map(own));
        let of_image = [
            ("containerd.io/restart.status", "running"),
            ("containerd.io/restart.policy", "no"),
        ];
        keep_others(&mut labels, &Pairs::from(of_image.map(own)), "c1");
        let left: Vec<&str> = labels.keys().map(String::as_str).collect();
        assert_eq!(left, ["containerd.io/restart.policy", "maintainer"]);
    }
}
