//! Names of images as people write them, made whole: `busybox` is `docker.io/library/busybox:latest`.

use crate::error::{Result, invalid};
use crate::registry::Reference;

const HUB: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";

/// Returns the whole name that `text` stands for; of tag and digest the digest counts.
pub fn normalize(text: &str) -> Result<String> {
    if is_whole_id(text) {
        return Err(invalid(format!(
            "invalid reference {text:?}: it is the id of an image"
        )));
    }
    let (host, rest) = match text.split_once('/') {
        Some((first, rest)) if is_host(first) => (first, rest.to_owned()),
        Some(_) => (HUB, text.to_owned()),
        None => (HUB, format!("library/{text}")),
    };
    let host = match host {
        "index.docker.io" => HUB,
        host => host,
    };
    let rest = match (host, rest.contains('/')) {
        (HUB, false) => format!("library/{rest}"),
        _ => rest,
    };
    let reference = Reference::parse(&format!("{host}/{rest}"))?;
    let repository = repository(&reference);
    Ok(match (&reference.digest, &reference.tag) {
        (Some(digest), _) => format!("{repository}@{digest}"),
        (None, Some(tag)) => format!("{repository}:{tag}"),
        (None, None) => format!("{repository}:{DEFAULT_TAG}"),
    })
}

/// Returns host and repository of a whole name.
pub fn repository(reference: &Reference) -> String {
    format!("{}/{}", reference.host, reference.repository)
}

/// Returns whether `text` may be the beginning of an image's id.
pub fn is_id(text: &str) -> bool {
    let text = text.strip_prefix("sha256:").unwrap_or(text);
    text.len() <= 64 && !text.is_empty() && text.bytes().all(is_hex)
}

fn is_whole_id(text: &str) -> bool {
    text.strip_prefix("sha256:").unwrap_or(text).len() == 64 && is_id(text)
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

fn is_host(text: &str) -> bool {
    text.contains(['.', ':']) || text == "localhost"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_whole() {
        let hex = "a".repeat(64);
        let digest = format!("sha256:{hex}");
        for (text, whole) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1", "docker.io/library/busybox:1".into()),
            ("a/b", "docker.io/a/b:latest".into()),
            ("index.docker.io/a", "docker.io/library/a:latest".into()),
            ("localhost/a", "localhost/a:latest".into()),
            ("localhost:5000/a:t", "localhost:5000/a:t".into()),
            ("r.io/a/b", "r.io/a/b:latest".into()),
            (&format!("r.io/a@{digest}"), format!("r.io/a@{digest}")),
            (&format!("r.io/a:t@{digest}"), format!("r.io/a@{digest}")),
        ] {
            assert_eq!(normalize(text).unwrap(), whole, "{text}");
        }
        for bad in ["", "r.io/A", "r.io/", &digest, &hex, "r.io/a:"] {
            assert!(normalize(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_may_be_shortened() {
        assert!(is_id("sha256:ab") && is_id("0af"));
        assert!(!is_id("") && !is_id("busybox") && !is_id(&"a".repeat(65)));
    }
}
