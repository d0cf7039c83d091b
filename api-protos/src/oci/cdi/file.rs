//! What a vendor writes down: the form of the files, JSON or YAML, and what of it is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _};
use sys::{Context as _, Error, Kind, Result};

use super::edits::Edits;
use super::name;

/// The versions of the specification.
const VERSIONS: [&str; 10] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];
/// The most bytes that the annotations of a file, or of a device, may have.
const ANNOTATIONS: usize = 256 << 10;

/// A file that follows the specification.
#[derive(Debug)]
pub(super) struct File {
    pub kind: String,
    pub edits: Edits,
    /// The edits of each device.
    pub devices: BTreeMap<String, Edits>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    cdi_version: String,
    kind: String,
    #[serde(default, deserialize_with = "nullable")]
    annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    devices: Vec<Device>,
    #[serde(default, deserialize_with = "nullable")]
    container_edits: Edits,
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Device {
    name: String,
    #[serde(default, deserialize_with = "nullable")]
    annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    container_edits: Edits,
}

impl File {
    /// Reads a file. JSON is read as the YAML that it is.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).context(|| "failed to read CDI Spec")?;
        Self::parse(&text)
    }

    /// Parses the text of a file.
    pub fn parse(text: &str) -> Result<Self> {
        let written: Written = serde_yaml_ng::from_str(text)
            .map_err(|error| invalid(format!("failed to parse CDI Spec: {error}")))?;
        written.check().context(|| "invalid CDI Spec")?;
        let mut devices = BTreeMap::new();
        for device in written.devices {
            devices.insert(device.name, device.container_edits);
        }
        Ok(Self {
            kind: written.kind,
            edits: written.container_edits,
            devices,
        })
    }
}

impl Written {
    fn check(&self) -> Result<()> {
        self.check_version()?;
        let parts = name::split_kind(&self.kind);
        if !parts.is_some_and(|(vendor, class)| name::is_kind(vendor) && name::is_kind(class)) {
            return Err(invalid(format!("invalid kind {:?}", self.kind)));
        }
        check_size(&self.annotations)?;
        self.container_edits.check()?;
        if self.devices.is_empty() {
            return Err(invalid("no devices"));
        }
        let mut names = BTreeSet::new();
        for device in &self.devices {
            device
                .check()
                .context(|| format!("invalid device {:?}", device.name))?;
            if !names.insert(&device.name) {
                return Err(invalid(format!("multiple device {:?}", device.name)));
            }
        }
        Ok(())
    }

    /// Refuses a version that is none, or that is older than what the file makes use of.
    fn check_version(&self) -> Result<()> {
        let place = |version: &str| VERSIONS.iter().position(|known| *known == version);
        let version = self.cdi_version.trim_start_matches('v');
        let given = place(version)
            .ok_or_else(|| invalid(format!("invalid version {:?}", self.cdi_version)))?;
        let needed = self.needed_version();
        match place(needed) {
            Some(needed) if given >= needed => Ok(()),
            _ => Err(invalid(format!(
                "the spec version must be at least v{needed}, and not {version}"
            ))),
        }
    }

    fn needed_version(&self) -> &'static str {
        let edits = || {
            let of_devices = self.devices.iter().map(|device| &device.container_edits);
            of_devices.chain([&self.container_edits])
        };
        let annotated = |device: &Device| !device.annotations.is_empty();
        let digit = |device: &Device| {
            device
                .name
                .starts_with(|first: char| first.is_ascii_digit())
        };
        let class = self.kind.split_once('/').map_or("", |(_, class)| class);
        if edits().any(Edits::needs_1_1) {
            "1.1.0"
        } else if edits().any(Edits::needs_0_7) {
            "0.7.0"
        } else if !self.annotations.is_empty()
            || self.devices.iter().any(annotated)
            || class.contains('.')
        {
            "0.6.0"
        } else if self.devices.iter().any(digit) || edits().any(Edits::needs_0_5) {
            "0.5.0"
        } else if edits().any(Edits::needs_0_4) {
            "0.4.0"
        } else {
            VERSIONS[2]
        }
    }
}

impl Device {
    fn check(&self) -> Result<()> {
        if !name::is_device(&self.name) {
            return Err(invalid("invalid name"));
        }
        check_size(&self.annotations)?;
        if self.container_edits.is_empty() {
            return Err(invalid("empty device edits"));
        }
        self.container_edits.check()
    }
}

fn check_size(annotations: &BTreeMap<String, String>) -> Result<()> {
    let size = |(key, value): (&String, &String)| key.len() + value.len();
    let size: usize = annotations.iter().map(size).sum();
    match size > ANNOTATIONS {
        true => Err(invalid(format!("{size} bytes of annotations are too many"))),
        false => Ok(()),
    }
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, message)
}

/// Takes a field that is there without a value for one that is not there.
pub(super) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads the permissions of a file, which YAML's older version has in octal where a zero leads.
pub(super) fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Mode {
        Number(u32),
        Text(String),
    }
    match Option::deserialize(deserializer)? {
        None => Ok(None),
        Some(Mode::Number(mode)) => Ok(Some(mode)),
        Some(Mode::Text(text)) if text.starts_with('0') => u32::from_str_radix(&text, 8)
            .map(Some)
            .map_err(|_| D::Error::custom(format!("fileMode {text:?} is no number"))),
        Some(Mode::Text(text)) => Err(D::Error::custom(format!("fileMode {text:?} is no number"))),
    }
}
