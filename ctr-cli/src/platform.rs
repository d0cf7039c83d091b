//! Platforms: this machine's, one that was asked for, and which manifest of a list serves it.

use anyhow::{Result, bail};
use api_protos::containerd::types::Platform;
use serde_json::Value;

/// Returns this machine's platform.
pub fn own() -> Platform {
    let (architecture, variant) = normalise(std::env::consts::ARCH, "");
    Platform {
        os: "linux".into(),
        architecture,
        variant,
        ..Default::default()
    }
}

/// Reads `OS`, `ARCH`, `OS/ARCH` or `OS/ARCH/VARIANT`.
pub fn parse(text: &str) -> Result<Platform> {
    let parts: Vec<&str> = text.split('/').collect();
    if parts.len() > 3 || parts.iter().any(|part| part.is_empty()) {
        bail!("platform {text:?} is not OS/ARCH or OS/ARCH/VARIANT");
    }
    let own = own();
    let (os, architecture, variant) = match parts[..] {
        ["linux"] => ("linux", own.architecture.as_str(), own.variant.as_str()),
        [architecture] => ("linux", architecture, ""),
        [os, architecture] => (os, architecture, ""),
        [os, architecture, variant, ..] => (os, architecture, variant),
        [] => bail!("no platform"),
    };
    let (architecture, variant) = normalise(architecture, variant);
    Ok(Platform {
        os: os.to_lowercase(),
        architecture,
        variant,
        ..Default::default()
    })
}

/// Returns the platform named by an option, or this machine's.
pub fn chosen(option: Option<&str>) -> Result<Platform> {
    option.map_or_else(|| Ok(own()), parse)
}

/// Returns a platform as `OS/ARCH[/VARIANT]`.
pub fn format(platform: &Platform) -> String {
    let parts = [&platform.os, &platform.architecture, &platform.variant];
    let parts = parts.iter().filter(|part| !part.is_empty());
    parts
        .map(|part| part.as_str())
        .collect::<Vec<_>>()
        .join("/")
}

/// Reads the platform in a descriptor or an image configuration.
pub fn from_json(value: &Value) -> Option<Platform> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let (architecture, variant) = normalise(text("architecture"), text("variant"));
    (!architecture.is_empty()).then(|| Platform {
        os: text("os").to_lowercase(),
        architecture,
        variant,
        os_version: text("os.version").to_owned(),
        ..Default::default()
    })
}

/// Returns how well an image of platform `has` serves `wanted`, the lower the better; nothing if it cannot.
pub fn rank(wanted: &Platform, has: &Platform) -> Option<u32> {
    if wanted.os != has.os {
        return None;
    }
    let level = |platform: &Platform| match platform.variant.trim_start_matches('v') {
        "" if platform.architecture == "arm" => Some(7),
        "" if platform.architecture == "arm64" => Some(8),
        "" if platform.architecture == "amd64" => Some(1),
        variant => variant.parse::<u32>().ok(),
    };
    if wanted.architecture == has.architecture {
        if wanted.variant == has.variant {
            return Some(0);
        }
        let (most, needed) = (level(wanted)?, level(has)?);
        return (needed <= most).then(|| most - needed);
    }
    // A 64-bit ARM runs 32-bit ARM's images, if there is nothing better.
    (wanted.architecture == "arm64" && has.architecture == "arm")
        .then(|| 100 - level(has).unwrap_or(0))
}

fn normalise(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_lowercase();
    let mut variant = variant.to_lowercase();
    let architecture = match architecture.as_str() {
        "x86_64" | "x86-64" => "amd64",
        "i386" | "i486" | "i686" | "x86" => "386",
        "aarch64" => "arm64",
        "riscv64gc" => "riscv64",
        other => other,
    }
    .to_owned();
    match (architecture.as_str(), variant.as_str()) {
        ("arm64", "v8" | "8") | ("amd64", "v1") => variant.clear(),
        ("arm", "") => variant = "v7".into(),
        (_, "5" | "6" | "7" | "8") => variant = format!("v{variant}"),
        _ => {}
    }
    (architecture, variant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_written_in_one_way() {
        for (text, same) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
        ] {
            assert_eq!(format(&parse(text).unwrap()), same);
        }
        assert!(parse("a/b/c/d").is_err());
        assert!(parse("linux//").is_err());
    }

    #[test]
    fn the_nearest_variant_that_runs_is_taken() {
        let wanted = parse("linux/arm/v7").unwrap();
        assert_eq!(rank(&wanted, &parse("linux/arm/v7").unwrap()), Some(0));
        assert_eq!(rank(&wanted, &parse("linux/arm/v6").unwrap()), Some(1));
        assert_eq!(rank(&wanted, &parse("linux/arm64").unwrap()), None);
        let wide = parse("linux/arm64").unwrap();
        assert!(rank(&wide, &wanted) > rank(&wide, &wide));
        assert_eq!(
            rank(
                &parse("linux/amd64").unwrap(),
                &parse("linux/amd64/v3").unwrap()
            ),
            None
        );
    }
}
