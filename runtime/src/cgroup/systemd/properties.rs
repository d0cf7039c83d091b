//! What systemd is told of a container's unit (systemd.resource-control(5), org.freedesktop.systemd1(5)).

use std::borrow::Cow;
use std::collections::HashMap;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};
use sys::{Error, Kind, Result};

use super::message::{Property, Value};
use super::unit::Unit;
use crate::cgroup::{Version, devices, v2};

/// Annotations that name properties start so.
const ANNOTATION: &str = "org.systemd.property.";

/// The properties that an annotation may set. A client passes annotations of images and pods on, so that only those are
/// taken with which nothing can be run, reached or kept that the container could not anyway.
const ALLOWED: [&str; 4] = [
    "CollectMode",
    "Description",
    "RuntimeMaxUSec",
    "TimeoutStopUSec",
];

/// systemd's way to say that there is no limit.
const INFINITY: u64 = u64::MAX;

fn property(name: &'static str, value: Value) -> Property {
    (Cow::Borrowed(name), value)
}

/// Returns what makes the unit that of a container.
pub(super) fn of_unit(unit: &Unit, id: &str, pid: i32, version: Version) -> Vec<Property> {
    let description = format!("libcontainer container {id}");
    let blocks = match version {
        Version::V1 => "BlockIOAccounting",
        Version::V2 => "IOAccounting",
    };
    let mut properties = vec![property("Description", Value::Text(description))];
    if unit.is_slice() {
        properties.push(property("Wants", Value::Texts(vec![unit.slice.clone()])));
    } else {
        properties.push(property("Slice", Value::Text(unit.slice.clone())));
        // What is below the group is the container's, and its controllers are for us to enable.
        properties.push(property("Delegate", Value::Flag(true)));
        properties.push(property("PIDs", Value::Numbers32(vec![pid as u32])));
    }
    for name in [
        "MemoryAccounting",
        "CPUAccounting",
        "TasksAccounting",
        blocks,
    ] {
        properties.push(property(name, Value::Flag(true)));
    }
    // It is not to be ended before the daemon that has to end it, as units usually are at shutdown.
    properties.push(property("DefaultDependencies", Value::Flag(false)));
    properties
}

/// Returns the limits that systemd knows of.
pub(super) fn of_resources(resources: &LinuxResources, version: Version) -> Result<Vec<Property>> {
    let mut properties = Vec::new();
    if let Some(memory) = resources.memory() {
        set_memory(&mut properties, memory, version)?;
    }
    if let Some(cpu) = resources.cpu() {
        set_cpu(&mut properties, cpu, version)?;
    }
    if let Some(pids) = resources.pids() {
        let most = u64::try_from(pids.limit()).unwrap_or(INFINITY);
        properties.push(property("TasksMax", Value::Number64(most)));
    }
    if let Some(rules) = resources.devices() {
        // systemd sets its own rules anew when it reloads: it has to have the same as we.
        let (policy, allowed) = match devices::for_systemd(rules)? {
            Some(allowed) => ("strict", allowed),
            None => ("auto", Vec::new()),
        };
        properties.push(property("DevicePolicy", Value::Text(policy.to_owned())));
        properties.push(property("DeviceAllow", Value::Pairs(allowed)));
    }
    Ok(properties)
}

fn set_memory(
    properties: &mut Vec<Property>,
    memory: &LinuxMemory,
    version: Version,
) -> Result<()> {
    let bytes = |limit: i64| Value::Number64(u64::try_from(limit).unwrap_or(INFINITY));
    let limit = memory.limit().filter(|limit| *limit != 0);
    match version {
        Version::V1 => {
            properties.extend(limit.map(|limit| property("MemoryLimit", bytes(limit))));
        }
        Version::V2 => {
            properties.extend(limit.map(|limit| property("MemoryMax", bytes(limit))));
            let low = memory.reservation().filter(|low| *low != 0);
            properties.extend(low.map(|low| property("MemoryLow", bytes(low))));
            if let Some(swap) = memory.swap()
                && let Some(most) = v2::swap_max(limit.unwrap_or_default(), swap)?
            {
                let most = most.parse().unwrap_or(INFINITY);
                properties.push(property("MemorySwapMax", Value::Number64(most)));
            }
        }
    }
    Ok(())
}

fn set_cpu(properties: &mut Vec<Property>, cpu: &LinuxCpu, version: Version) -> Result<()> {
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        properties.push(match version {
            Version::V1 => property("CPUShares", Value::Number64(shares)),
            Version::V2 => {
                let weight = v2::weight_of_shares(shares);
                property("CPUWeight", Value::Number64(weight))
            }
        });
    }
    let period = cpu.period().filter(|period| *period != 0);
    if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
        let second = match u64::try_from(quota) {
            Ok(quota) => per_second(quota, period.unwrap_or(100_000)),
            Err(_) => INFINITY,
        };
        properties.push(property("CPUQuotaPerSecUSec", Value::Number64(second)));
        if let Some(period) = period {
            properties.push(property("CPUQuotaPeriodUSec", Value::Number64(period)));
        }
    }
    for (name, list) in [
        ("AllowedCPUs", cpu.cpus()),
        ("AllowedMemoryNodes", cpu.mems()),
    ] {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty())
            && version == Version::V2
        {
            properties.push(property(name, Value::Bytes(bits(list)?)));
        }
    }
    Ok(())
}

/// Returns how much of a second a quota is; systemd keeps hundredths, and rounding down would take from the container.
fn per_second(quota: u64, period: u64) -> u64 {
    let second = quota.saturating_mul(1_000_000) / period.max(1);
    second.next_multiple_of(10_000)
}

/// Returns a list such as `0-2,5` as bits, the first processor in the first byte's lowest one.
fn bits(list: &str) -> Result<Vec<u8>> {
    const MOST: usize = 1 << 16;
    let invalid = || Error::new(Kind::InvalidArgument, format!("invalid list {list:?}"));
    let mut bytes = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let first: usize = first.trim().parse().map_err(|_| invalid())?;
        let last: usize = last.trim().parse().map_err(|_| invalid())?;
        if first > last || last >= MOST {
            return Err(invalid());
        }
        for bit in first..=last {
            if bytes.len() <= bit / 8 {
                bytes.resize(bit / 8 + 1, 0);
            }
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
    Ok(bytes)
}

/// Returns the properties that annotations set, in the text form of D-Bus tools: `'text'`, `uint64 5`.
pub(super) fn of_annotations(annotations: &HashMap<String, String>) -> Result<Vec<Property>> {
    let mut properties = Vec::new();
    for (annotation, text) in annotations {
        let Some(name) = annotation.strip_prefix(ANNOTATION) else {
            continue;
        };
        // Times may be given in seconds, as in unit files.
        let (name, unit) = match name.strip_suffix("Sec") {
            Some(stem) if !stem.ends_with('U') => (format!("{stem}USec"), 1_000_000),
            _ => (name.to_owned(), 1),
        };
        if !ALLOWED.contains(&name.as_str()) {
            let message = format!(
                "annotation {annotation:?}: property {name} may not be set; those that may are {}",
                ALLOWED.join(", ")
            );
            return Err(Error::new(Kind::PermissionDenied, message));
        }
        let value = match name.ends_with("USec") {
            true => number(text).map(|number| Value::Number64(number.saturating_mul(unit))),
            false => quoted(text).map(Value::Text),
        };
        let value = value.ok_or_else(|| {
            let message = format!("annotation {annotation:?}: invalid value {text:?}");
            Error::new(Kind::InvalidArgument, message)
        })?;
        properties.push((Cow::Owned(name), value));
    }
    Ok(properties)
}

fn number(text: &str) -> Option<u64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        [number] | ["uint64" | "uint32" | "int64" | "int32", number] => number.parse().ok(),
        _ => None,
    }
}

fn quoted(text: &str) -> Option<String> {
    let text = text.trim();
    let inside = ['\'', '"']
        .iter()
        .find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))?;
    let plain = !inside.contains(['\'', '"', '\\']) && !inside.chars().any(char::is_control);
    plain.then(|| inside.to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    fn named(properties: Vec<Property>) -> HashMap<String, Value> {
        properties
            .into_iter()
            .map(|(name, value)| (name.into_owned(), value))
            .collect()
    }

    #[test]
    fn limits_are_told_in_the_units_of_systemd() {
        let limits = resources(
            r#"{"memory": {"limit": 1048576, "swap": 3145728, "reservation": 4096},
                "cpu": {"shares": 1024, "quota": 15555, "period": 100000, "cpus": "0-1,9"},
                "pids": {"limit": -1}}"#,
        );
        let told = named(of_resources(&limits, Version::V2).unwrap());
        let expected = [
            ("MemoryMax", Value::Number64(1_048_576)),
            ("MemorySwapMax", Value::Number64(2_097_152)),
            ("MemoryLow", Value::Number64(4096)),
            ("CPUWeight", Value::Number64(100)),
            ("CPUQuotaPerSecUSec", Value::Number64(160_000)),
            ("CPUQuotaPeriodUSec", Value::Number64(100_000)),
            ("AllowedCPUs", Value::Bytes(vec![0b11, 0b10])),
            ("TasksMax", Value::Number64(INFINITY)),
        ];
        for (name, value) in &expected {
            assert_eq!(told.get(*name), Some(value), "{name}");
        }
        assert_eq!(told.len(), expected.len());
        let told = named(of_resources(&limits, Version::V1).unwrap());
        assert_eq!(told["MemoryLimit"], Value::Number64(1_048_576));
        assert_eq!(told["CPUShares"], Value::Number64(1024));
        assert!(!told.contains_key("AllowedCPUs") && !told.contains_key("MemoryMax"));
    }

    #[test]
    fn a_scope_has_the_process_and_a_slice_none() {
        let of = |path| {
            let unit = Unit::parse(Some(Path::new(path)), "c1").unwrap();
            named(of_unit(&unit, "c1", 7, Version::V2))
        };
        let scope = of("a.slice:p:n");
        assert_eq!(scope["PIDs"], Value::Numbers32(vec![7]));
        assert_eq!(scope["Slice"], Value::Text("a.slice".into()));
        let slice = of("a.slice:p:a-b.slice");
        assert!(!slice.contains_key("PIDs") && !slice.contains_key("Slice"));
    }

    #[test]
    fn devices_are_told_as_they_are_allowed() {
        let limits = resources(
            r#"{"devices": [{"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]}"#,
        );
        let told = named(of_resources(&limits, Version::V2).unwrap());
        assert_eq!(told["DevicePolicy"], Value::Text("strict".into()));
        let Value::Pairs(allowed) = &told["DeviceAllow"] else {
            panic!("no pairs");
        };
        for pair in [
            ("/dev/char/10:229", "rw"),
            ("/dev/char/1:3", "rwm"),
            ("char-*", "m"),
            ("char-pts", "rwm"),
        ] {
            let (path, access) = (pair.0.to_owned(), pair.1.to_owned());
            assert!(allowed.contains(&(path, access)), "{pair:?}");
        }
        let all = resources(r#"{"devices": [{"allow": true, "access": "rwm"}]}"#);
        let told = named(of_resources(&all, Version::V2).unwrap());
        assert_eq!(told["DevicePolicy"], Value::Text("auto".into()));
    }

    #[test]
    fn annotations_set_what_is_harmless_and_nothing_else() {
        let of = |name: &str, text: &str| {
            let annotation = (format!("{ANNOTATION}{name}"), text.to_owned());
            of_annotations(&HashMap::from([annotation])).map(named)
        };
        let told = of("TimeoutStopSec", "uint64 5").unwrap();
        assert_eq!(told["TimeoutStopUSec"], Value::Number64(5_000_000));
        let told = of("CollectMode", "'inactive-or-failed'").unwrap();
        assert_eq!(
            told["CollectMode"],
            Value::Text("inactive-or-failed".into())
        );
        for (name, text) in [
            ("ExecStop", "'/bin/sh'"),
            ("Slice", "'-.slice'"),
            ("Delegate", "true"),
            ("DeviceAllow", "''"),
            ("USec", "1"),
            ("TimeoutStopUSec", "soon"),
            ("Description", "bare"),
            ("Description", "'a'; 'b'"),
        ] {
            assert!(of(name, text).is_err(), "{name} {text}");
        }
        let other = HashMap::from([("org.example".to_owned(), "x".to_owned())]);
        assert!(of_annotations(&other).unwrap().is_empty());
    }
}
