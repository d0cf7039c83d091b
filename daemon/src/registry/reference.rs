//! References: `host/path[:tag][@digest]`.

use std::fmt;

use crate::content::Digest;
use crate::error::{Context, Result, invalid};

/// Where an image is: a host, a repository there, and a tag or digest in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub host: String,
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl Reference {
    /// Parses a reference, which must name its host.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| invalid(format!("invalid reference {text:?}: {why}"));
        if text.contains("://") {
            return Err(wrong("it has a scheme"));
        }
        let (host, rest) = text
            .split_once('/')
            .ok_or_else(|| wrong("hostname required"))?;
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => {
                let digest = Digest::parse(digest).context(|| format!("reference {text:?}"))?;
                (rest, Some(digest))
            }
            None => (rest, None),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_host) {
            return Err(wrong("hostname required"));
        }
        let is_path = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/".contains(&byte)
        };
        let names = |name: &str| !name.is_empty() && !name.starts_with('.');
        if !repository.bytes().all(is_path) || !repository.split('/').all(names) {
            return Err(wrong("the repository is no path of lower-case names"));
        }
        let is_tag = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if tag.is_some_and(|tag| tag.is_empty() || tag.len() > 128 || !tag.bytes().all(is_tag)) {
            return Err(wrong("the tag has characters that no tag may have"));
        }
        Ok(Self {
            host: host.to_owned(),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// Returns the host without its port.
    pub fn hostname(&self) -> &str {
        match self.host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.host.split(':').next().unwrap_or_default(),
        }
    }

    /// Returns what a registry is asked for: the digest, or else the tag.
    pub fn object(&self) -> Result<&str> {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => Ok(digest.as_str()),
            (None, Some(tag)) => Ok(tag),
            (None, None) => Err(invalid(format!("object required in reference \"{self}\""))),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_taken_apart_and_put_together() {
        let digest = Digest::of(b"");
        for (text, host, repository, object) in [
            ("docker.io/library/a:1", "docker.io", "library/a", "1"),
            ("127.0.0.1:5000/b/c:x.y", "127.0.0.1:5000", "b/c", "x.y"),
            (
                &format!("[::1]:5/b@{digest}"),
                "[::1]:5",
                "b",
                digest.as_str(),
            ),
            (&format!("h/b:t@{digest}"), "h", "b", digest.as_str()),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(
                (reference.host.as_str(), reference.repository.as_str()),
                (host, repository)
            );
            assert_eq!(reference.object().unwrap(), object);
            assert_eq!(reference.to_string(), text);
        }
        let hostname = |text: &str| Reference::parse(text).unwrap().hostname().to_owned();
        assert_eq!(hostname("127.0.0.1:5000/b:1"), "127.0.0.1");
        assert_eq!(hostname("[::1]:5/b:1"), "::1");
        assert!(Reference::parse("h/b").unwrap().object().is_err());
    }

    #[test]
    fn what_could_mean_another_place_is_refused() {
        for text in [
            "",
            "a",
            "/a:1",
            "h/",
            "h/A:1",
            "h/a:",
            "h/../a:1",
            "h/a//b:1",
            "h/a b:1",
            "h/a:1?x",
            "h/a@sha256:00",
            "http://h/a:1",
            "h#/a:1",
            "u@h/a:1",
            "h/a:1/../../b",
        ] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }
}
