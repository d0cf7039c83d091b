//! Images in the daemon's store: the manifest for a platform, its configuration, and the snapshot it unpacks to.

use anyhow::{Context as _, Result, anyhow, bail};
use api_protos::containerd::services::content::v1::ReadContentRequest;
use api_protos::containerd::services::images::v1::{GetImageRequest, Image};
use api_protos::containerd::types::{Descriptor, Platform};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::client::{Client, Doing as _};
use crate::platform;

/// What containerd's clients read of a manifest or configuration at most.
const JSON_MAX: i64 = 8 << 20;

/// An image for one platform.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The manifest.
    pub manifest: Value,
    /// The configuration of the image.
    pub config: Value,
    /// The bytes of manifest, configuration and layers.
    pub size: u64,
    /// The layers as descriptors, lowest first.
    pub layers: Vec<Descriptor>,
    /// The digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<String>,
}

impl Resolved {
    /// Returns the names of the snapshots of the first layer, of the first two, and so on.
    pub fn chain_ids(&self) -> Vec<String> {
        chain_ids(&self.diff_ids)
    }
}

/// Returns the image of this name.
pub async fn get(client: &Client, name: &str) -> Result<Image> {
    let request = GetImageRequest {
        name: name.to_owned(),
    };
    let answer = client
        .images()
        .get(request)
        .await
        .doing(|| format!("get image {name}"))?;
    answer
        .into_inner()
        .image
        .ok_or_else(|| anyhow!("the daemon answered without an image"))
}

/// Finds the manifest of an image for `wanted` and reads its configuration.
pub async fn resolve(client: &Client, target: &Descriptor, wanted: &Platform) -> Result<Resolved> {
    let mut descriptor = target.clone();
    let mut size = 0;
    // An index may hold indexes; a chain of them is a mistake or worse.
    for _ in 0..4 {
        let value = read_json(client, &descriptor).await?;
        size += u64::try_from(descriptor.size).unwrap_or(0);
        let (manifests, layers) = (value.get("manifests"), value.get("layers"));
        match (
            manifests.and_then(Value::as_array),
            layers.and_then(Value::as_array),
        ) {
            (Some(_), Some(_)) => bail!("{} is a manifest and an index at once", descriptor.digest),
            (None, None) => bail!("{} is neither a manifest nor an index", descriptor.digest),
            (Some(manifests), None) => descriptor = choose(manifests, wanted)?,
            (None, Some(layers)) => {
                let layers: Vec<Descriptor> =
                    layers.iter().map(descriptor_of).collect::<Result<_>>()?;
                let config = descriptor_of(value.get("config").unwrap_or(&Value::Null))?;
                size += layers
                    .iter()
                    .chain([&config])
                    .map(|part| u64::try_from(part.size).unwrap_or(0))
                    .sum::<u64>();
                let config = read_json(client, &config).await?;
                let diff_ids = config.pointer("/rootfs/diff_ids").and_then(Value::as_array);
                let diff_ids: Vec<String> = diff_ids
                    .into_iter()
                    .flatten()
                    .filter_map(|id| id.as_str().map(str::to_owned))
                    .collect();
                if diff_ids.len() != layers.len() {
                    bail!(
                        "the image has {} layers, its configuration names {}",
                        layers.len(),
                        diff_ids.len()
                    );
                }
                return Ok(Resolved {
                    manifest: value,
                    config,
                    size,
                    layers,
                    diff_ids,
                });
            }
        }
    }
    bail!("{} is an index of indexes of indexes", target.digest)
}

/// Returns the platforms that an image has, as its index or its configuration says.
pub async fn platforms(client: &Client, target: &Descriptor) -> Result<Vec<Platform>> {
    let value = read_json(client, target).await?;
    if let Some(manifests) = value.get("manifests").and_then(Value::as_array) {
        let known = manifests
            .iter()
            .filter_map(|entry| platform::from_json(entry.get("platform")?));
        return Ok(known.filter(|platform| platform.os != "unknown").collect());
    }
    let config = descriptor_of(value.get("config").unwrap_or(&Value::Null))?;
    let config = read_json(client, &config).await?;
    Ok(platform::from_json(&config).into_iter().collect())
}

/// Reads a blob whole.
pub async fn read(client: &Client, digest: &str, limit: i64) -> Result<Vec<u8>> {
    let what = || format!("read content {digest}");
    let request = ReadContentRequest {
        digest: digest.to_owned(),
        offset: 0,
        size: 0,
    };
    let mut stream = client
        .content()
        .read(request)
        .await
        .doing(what)?
        .into_inner();
    let mut bytes = Vec::new();
    while let Some(part) = stream.message().await.doing(what)? {
        bytes.extend_from_slice(&part.data);
        if bytes.len() as i64 > limit {
            bail!("content {digest} is larger than {limit} bytes");
        }
    }
    Ok(bytes)
}

async fn read_json(client: &Client, descriptor: &Descriptor) -> Result<Value> {
    let bytes = read(client, &descriptor.digest, JSON_MAX).await?;
    serde_json::from_slice(&bytes).with_context(|| format!("parse content {}", descriptor.digest))
}

fn descriptor_of(value: &Value) -> Result<Descriptor> {
    let text = |key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let digest = text("digest");
    if digest.is_empty() {
        bail!("a descriptor without a digest");
    }
    let size = value.get("size").and_then(Value::as_i64).unwrap_or(0);
    Ok(Descriptor {
        media_type: text("mediaType"),
        digest,
        size,
        ..Default::default()
    })
}

fn choose(manifests: &[Value], wanted: &Platform) -> Result<Descriptor> {
    let ranked = manifests.iter().filter_map(|entry| {
        // An entry without a platform is taken if there is nothing better, as a registry's lists of one are.
        let rank = match entry.get("platform").and_then(platform::from_json) {
            Some(has) => platform::rank(wanted, &has)?,
            None => 1000,
        };
        Some((rank, entry))
    });
    let best = ranked.min_by_key(|(rank, _)| *rank);
    let (_, entry) =
        best.ok_or_else(|| anyhow!("the image has no manifest for {}", platform::format(wanted)))?;
    descriptor_of(entry)
}

fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => {
                let hash = Sha256::digest(format!("{below} {diff_id}").as_bytes());
                let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("sha256:{hex}")
            }
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_chain_id_hashes_the_chain_below_and_the_layer() {
        let ids = chain_ids(&["sha256:a".into(), "sha256:b".into()]);
        assert_eq!(ids[0], "sha256:a");
        let hash = Sha256::digest(b"sha256:a sha256:b");
        assert_eq!(
            ids[1],
            format!(
                "sha256:{}",
                hash.iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<String>()
            )
        );
        assert!(chain_ids(&[]).is_empty());
    }

    #[test]
    fn the_manifest_of_the_platform_is_chosen() {
        let entry = |digest: &str, architecture: &str| json!({"digest": digest, "size": 1, "platform": {"os": "linux", "architecture": architecture}});
        let entries = [entry("sha256:1", "arm64"), entry("sha256:2", "amd64")];
        let wanted = platform::parse("linux/amd64").unwrap();
        assert_eq!(choose(&entries, &wanted).unwrap().digest, "sha256:2");
        let other = platform::parse("linux/s390x").unwrap();
        assert!(
            choose(&entries, &other)
                .unwrap_err()
                .to_string()
                .contains("linux/s390x")
        );
        assert_eq!(
            choose(&[json!({"digest": "sha256:3"})], &wanted)
                .unwrap()
                .digest,
            "sha256:3"
        );
    }
}
