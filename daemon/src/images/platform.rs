//! Platforms, and which of them run where.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an image is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

impl Platform {
    /// Returns the platform of this machine.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, "")
    }

    fn new(os: &str, architecture: &str, variant: &str) -> Self {
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            ..Self::default()
        }
        .normalized()
    }

    /// Returns the same platform under the names that images use.
    pub fn normalized(mut self) -> Self {
        self.os = match self.os.to_ascii_lowercase().as_str() {
            "" => "linux".to_owned(),
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let architecture = self.architecture.to_ascii_lowercase();
        let variant = self.variant.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("", "") => (std::env::consts::ARCH, ""),
            (architecture, variant) => (architecture, variant),
        };
        let (architecture, variant) = match (architecture, variant) {
            ("i386" | "i686" | "x86", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            other => other,
        };
        (self.architecture, self.variant) = (architecture.to_owned(), variant.to_owned());
        self
    }

    /// Returns how well an image for `image` runs here: 0 is best, nothing is not at all.
    pub fn rank(&self, image: &Self) -> Option<usize> {
        let (host, image) = (self.clone().normalized(), image.clone().normalized());
        let features = image.os_features.iter();
        if host.os != image.os || !features.clone().all(|name| host.os_features.contains(name)) {
            return None;
        }
        let runs = host.runs();
        let found = runs.iter().position(|(architecture, variant)| {
            *architecture == image.architecture && *variant == image.variant
        })?;
        // Of two that run alike, the one that makes use of more is meant.
        Some(found * 64 + 63 - features.count().min(63))
    }

    /// Returns the architectures and variants that this platform runs, the best first.
    fn runs(&self) -> Vec<(String, String)> {
        let own = (self.architecture.clone(), self.variant.clone());
        let level = |prefix: &str| self.variant.strip_prefix(prefix)?.parse::<u32>().ok();
        let mut runs = vec![own];
        let older = |architecture: &str, from: u32, to: u32| {
            let versions = (to..from).rev();
            let named = move |version| (architecture.to_owned(), format!("v{version}"));
            versions.map(named).collect::<Vec<_>>()
        };
        match self.architecture.as_str() {
            "amd64" => {
                runs.extend(older("amd64", level("v").unwrap_or(1), 2));
                if !self.variant.is_empty() {
                    runs.push(("amd64".into(), String::new()));
                }
                runs.push(("386".into(), String::new()));
            }
            "arm" => runs.extend(older("arm", level("v").unwrap_or(7), 5)),
            "arm64" => {
                if !self.variant.is_empty() {
                    runs.push(("arm64".into(), String::new()));
                }
                runs.extend(older("arm", 9, 5));
            }
            _ => {}
        }
        runs
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_variants_come_first_and_foreign_ones_not_at_all() {
        let rank = |host: (&str, &str), image: (&str, &str)| {
            Platform::new("linux", host.0, host.1).rank(&Platform::new("linux", image.0, image.1))
        };
        let arm = |variant| rank(("arm", "v7"), ("arm", variant));
        assert!(arm("v7") < arm("v6") && arm("v6") < arm("v5"));
        assert_eq!(arm("v8"), None);
        assert!(rank(("aarch64", ""), ("arm64", "v8")).is_some());
        assert!(rank(("arm64", ""), ("arm64", "")) < rank(("arm64", ""), ("arm", "v7")));
        assert!(rank(("x86_64", ""), ("amd64", "")) < rank(("amd64", ""), ("386", "")));
        assert_eq!(rank(("amd64", ""), ("amd64", "v3")), None);
        assert!(rank(("amd64", "v3"), ("amd64", "v2")) < rank(("amd64", "v3"), ("amd64", "")));
        assert_eq!(rank(("amd64", ""), ("arm64", "")), None);
        let windows = Platform::new("windows", "amd64", "");
        assert_eq!(Platform::new("linux", "amd64", "").rank(&windows), None);
    }

    #[test]
    fn features_that_are_not_there_rule_an_image_out() {
        let mut image = Platform::new("linux", "amd64", "");
        let mut host = image.clone();
        let plain = host.rank(&image);
        image.os_features = vec!["erofs".into()];
        assert_eq!(host.rank(&image), None);
        host.os_features = vec!["erofs".into()];
        assert!(host.rank(&image) < plain.map(|_| usize::MAX));
    }
}
