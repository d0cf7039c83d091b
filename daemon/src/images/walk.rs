//! What manifests say: the children of a descriptor, those that a platform needs, and the labels that keep them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::platform::Platform;
use crate::content::{Content, Digest};
use crate::context::Context;
use crate::error::{Context as _, Error, Kind, Result, invalid};
use crate::labels::Labels;
use crate::media;
use crate::metadata;
use crate::registry::resolver::MAX_MANIFEST;

/// A descriptor as manifests have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: Labels,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// A manifest: configuration and layers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Manifest {
    pub schema_version: u32,
    pub media_type: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// A list of manifests.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Index {
    pub schema_version: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    pub manifests: Vec<Descriptor>,
}

/// What an image's configuration says of its file system.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    #[serde(flatten)]
    pub platform: Platform,
    pub rootfs: RootFs,
}

/// The layers of a configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RootFs {
    pub diff_ids: Vec<String>,
}

/// A manifest or an index; few exist at a time, so that their size is no matter.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum Node {
    Index(Index),
    Manifest(Manifest),
}

impl Descriptor {
    /// Returns the digest, if it is one.
    pub fn digest(&self) -> Result<Digest> {
        Digest::parse(&self.digest).context(|| format!("descriptor {:?}", self.digest))
    }

    /// Returns the descriptor as the metadata has it.
    pub fn record(&self) -> metadata::Descriptor {
        metadata::Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.clone(),
            size: self.size,
            annotations: self.annotations.clone(),
        }
    }

    /// Returns the name under which its bytes are ingested.
    pub fn reference(&self) -> String {
        let media_type = self.media_type.as_str();
        let kind = match () {
            () if media::is_manifest(media_type) => "manifest",
            () if media::is_index(media_type) => "index",
            () if media::is_layer(media_type) => "layer",
            () if media::is_config(media_type) => "config",
            () => "unknown",
        };
        format!("{kind}-{}", self.digest)
    }
}

impl From<metadata::Descriptor> for Descriptor {
    fn from(record: metadata::Descriptor) -> Self {
        Self {
            media_type: record.media_type,
            digest: record.digest,
            size: record.size,
            annotations: record.annotations,
            ..Self::default()
        }
    }
}

impl Node {
    /// Parses what a descriptor of a manifest or an index stands for; nothing if it is of another type.
    ///
    /// A document that could be read as both is refused, since then nobody can say what was signed or scanned.
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Option<Self>> {
        Self::parse_type(media_type)?;
        let (index, manifest) = (media::is_index(media_type), media::is_manifest(media_type));
        if !index && !manifest {
            return Ok(None);
        }
        let broken = |error: serde_json::Error| invalid(format!("decode {media_type}: {error}"));
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(broken)?;
        let has = |key: &str| value.get(key).is_some_and(|value| !value.is_null());
        let ambiguous = if index {
            has("config") || has("layers")
        } else {
            has("manifests")
        };
        if ambiguous || has("fsLayers") {
            return Err(invalid(format!(
                "media-type: expected {}",
                if index {
                    "index but found manifest"
                } else {
                    "manifest but found index"
                }
            )));
        }
        let told = value.get("mediaType").and_then(|told| told.as_str());
        if let Some(told) = told.filter(|told| !told.is_empty())
            && (media::is_index(told), media::is_manifest(told)) != (index, manifest)
        {
            return Err(invalid(format!("a {media_type} that calls itself {told}")));
        }
        let node = match index {
            true => Self::Index(serde_json::from_value(value).map_err(broken)?),
            false => Self::Manifest(serde_json::from_value(value).map_err(broken)?),
        };
        for child in node.children() {
            child.digest()?;
            if child.size < 0 {
                return Err(invalid(format!(
                    "descriptor {} has a negative size",
                    child.digest
                )));
            }
        }
        Ok(Some(node))
    }

    /// Fails if a media type is one that nobody should use any more.
    pub fn parse_type(media_type: &str) -> Result<()> {
        if media_type == media::DOCKER_SCHEMA1 {
            return Err(invalid("schema 1 image manifests are no longer supported"));
        }
        Ok(())
    }

    /// Reads what `descriptor` stands for.
    pub fn read(
        content: &Content,
        context: &Context,
        descriptor: &Descriptor,
    ) -> Result<Option<Self>> {
        let media_type = &descriptor.media_type;
        if !media::is_index(media_type) && !media::is_manifest(media_type) {
            return Self::parse(media_type, b"");
        }
        let bytes = content.read_all(context, &descriptor.digest()?, MAX_MANIFEST)?;
        Self::parse(media_type, &bytes).context(|| format!("manifest {}", descriptor.digest))
    }

    /// Returns what it refers to, in order.
    pub fn children(&self) -> Vec<&Descriptor> {
        match self {
            Self::Index(index) => index.manifests.iter().collect(),
            Self::Manifest(manifest) => {
                let mut children = vec![&manifest.config];
                children.extend(&manifest.layers);
                children
            }
        }
    }

    /// Returns the labels that make its blob keep what it refers to.
    pub fn labels(&self) -> Labels {
        let mut labels = Labels::new();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for child in self.children() {
            let media_type = child.media_type.as_str();
            let key = match () {
                () if media::is_config(media_type) => "config",
                () if media::is_manifest(media_type) || media::is_index(media_type) => "m.",
                () if media::is_layer(media_type) => "l.",
                () => "",
            };
            let count = counts.entry(key).or_default();
            let number = match key {
                "config" if *count == 0 => String::new(),
                _ => count.to_string(),
            };
            *count += 1;
            let label = format!("containerd.io/gc.ref.content.{key}{number}");
            labels.insert(label, child.digest.clone());
        }
        labels
    }
}

/// Returns the manifests of an index that `platforms` ask for, the best first, at most `limit` of them if that is not 0.
pub fn select(index: &Index, platforms: &[Platform], limit: usize) -> Result<Vec<Descriptor>> {
    if platforms.is_empty() {
        return Ok(index.manifests.clone());
    }
    let rank = |descriptor: &Descriptor| match &descriptor.platform {
        None => Some((usize::MAX, 0)),
        Some(image) => {
            let mut wanted = platforms.iter().enumerate();
            wanted.find_map(|(at, wanted)| Some((at, wanted.rank(image)?)))
        }
    };
    let ranked = index.manifests.iter();
    let mut ranked: Vec<_> = ranked
        .filter_map(|descriptor| Some((rank(descriptor)?, descriptor)))
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    // Of those that one platform could run, it gets the best.
    let mut seen = Vec::new();
    ranked.retain(|((at, _), _)| {
        let first = *at == usize::MAX || !seen.contains(at);
        seen.push(*at);
        first
    });
    if limit > 0 {
        ranked.truncate(limit);
    }
    if ranked.is_empty() && !index.manifests.is_empty() {
        let wanted: Vec<String> = platforms.iter().map(ToString::to_string).collect();
        let message = format!("{}: no match for platform in manifest", wanted.join(", "));
        return Err(Error::new(Kind::NotFound, message));
    }
    Ok(ranked.into_iter().map(|(_, found)| found.clone()).collect())
}

/// Returns the names of the snapshots that layers with these digests make one upon the other.
pub fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(last) => {
                let hash = Sha256::digest(format!("{last} {diff_id}"));
                format!(
                    "sha256:{}",
                    hash.iter()
                        .map(|byte| format!("{byte:02x}"))
                        .collect::<String>()
                )
            }
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_is_both_index_and_manifest_is_refused() {
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        let manifest = r#"{"schemaVersion":2,"config":{"digest":"sha256:0","size":1},"layers":[]}"#;
        let both = r#"{"manifests":[],"layers":[]}"#;
        for (media_type, text) in [
            (media::OCI_INDEX, both),
            (media::OCI_MANIFEST, both),
            (media::DOCKER_INDEX, manifest),
            (media::DOCKER_MANIFEST, index),
            (media::OCI_MANIFEST, manifest),
            (media::DOCKER_SCHEMA1, "{}"),
            (media::OCI_INDEX, "[]]"),
        ] {
            let error = Node::parse(media_type, text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{media_type} {text}");
        }
        assert!(
            Node::parse(media::OCI_INDEX, index.as_bytes())
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn labels_name_what_a_manifest_needs() {
        let digest = Digest::of(b"").to_string();
        let descriptor = |media_type: &str| Descriptor {
            media_type: media_type.into(),
            digest: digest.clone(),
            ..Descriptor::default()
        };
        let manifest = Node::Manifest(Manifest {
            config: descriptor(media::DOCKER_CONFIG),
            layers: vec![
                descriptor(media::OCI_LAYER),
                descriptor(media::DOCKER_LAYER_GZIP),
            ],
            ..Manifest::default()
        });
        let keys: Vec<String> = manifest.labels().into_keys().collect();
        let prefix = "containerd.io/gc.ref.content.";
        assert_eq!(
            keys,
            ["config", "l.0", "l.1"].map(|key| format!("{prefix}{key}"))
        );
    }

    #[test]
    fn the_best_manifest_of_a_platform_is_taken() {
        let host = Platform::host();
        let named = |digest: &str, platform: Platform| Descriptor {
            digest: digest.into(),
            platform: Some(platform),
            ..Descriptor::default()
        };
        let mut old = host.clone();
        old.architecture = "386".into();
        let mut foreign = host.clone();
        foreign.architecture = "s390x".into();
        let index = Index {
            manifests: vec![
                named("f", foreign.clone()),
                named("o", old),
                named("h", host.clone()),
            ],
            ..Index::default()
        };
        let found = select(&index, std::slice::from_ref(&host), 0).unwrap();
        assert_eq!(
            found
                .iter()
                .map(|found| found.digest.as_str())
                .collect::<Vec<_>>(),
            ["h"]
        );
        let only_foreign = Index {
            manifests: vec![named("f", foreign)],
            ..Index::default()
        };
        let error = select(&only_foreign, &[host], 0).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
    }

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let ids = ["sha256:a".to_owned(), "sha256:b".to_owned()];
        let chain = chain_ids(&ids);
        assert_eq!(chain[0], "sha256:a");
        assert_eq!(chain[1], Digest::of(b"sha256:a sha256:b").to_string());
    }
}
