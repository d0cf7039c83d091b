//! What a group uses, in the terms of the kernel's interface that counts it.

pub mod v1;
pub mod v2;

use std::path::Path;

use sys::Result;

use super::dir::{Dir, parse_number};
use super::{Cgroup, UNIFIED, Version};

/// What a group uses.
#[derive(Clone, Debug, PartialEq)]
pub enum Stats {
    /// As cgroup v1 counts it.
    V1(Box<v1::Metrics>),
    /// As cgroup v2 counts it.
    V2(Box<v2::Metrics>),
}

/// The processes, or on v1 the threads too, of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pids {
    /// How many there are.
    pub current: u64,
    /// How many there may be, 0 for any number.
    pub limit: u64,
}

/// What a group may use, or uses, of an RDMA device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaEntry {
    pub device: String,
    pub hca_handles: u32,
    pub hca_objects: u32,
}

/// Use and limits of RDMA devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rdma {
    pub current: Vec<RdmaEntry>,
    pub limit: Vec<RdmaEntry>,
}

pub(super) fn read(cgroup: &Cgroup) -> Result<Stats> {
    match cgroup.version {
        Version::V1 => v1::read(&cgroup.paths).map(|metrics| Stats::V1(Box::new(metrics))),
        Version::V2 => {
            let dir = Dir::open(cgroup.folder(UNIFIED)?)?;
            v2::read(&dir).map(|metrics| Stats::V2(Box::new(metrics)))
        }
    }
}

/// Returns the count of processes, None without that controller.
fn pids(dir: &Dir) -> Result<Option<Pids>> {
    let Some(current) = dir.number_optional("pids.current")? else {
        return Ok(None);
    };
    let limit = dir.number("pids.max")?;
    Ok(Some(Pids {
        current,
        limit: if limit == u64::MAX { 0 } else { limit },
    }))
}

fn rdma(dir: &Dir) -> Result<Option<Rdma>> {
    let (Some(current), Some(limit)) = (
        dir.read_optional("rdma.current")?,
        dir.read_optional("rdma.max")?,
    ) else {
        return Ok(None);
    };
    Ok(Some(Rdma {
        current: rdma_entries(&current),
        limit: rdma_entries(&limit),
    }))
}

fn rdma_entries(text: &str) -> Vec<RdmaEntry> {
    let entry = |line: &str| {
        let mut fields = line.split_whitespace();
        let mut entry = RdmaEntry {
            device: fields.next()?.to_owned(),
            ..RdmaEntry::default()
        };
        for field in fields {
            let (name, value) = field.split_once('=')?;
            let value = u32::try_from(parse_number(value)?).unwrap_or(u32::MAX);
            match name {
                "hca_handle" => entry.hca_handles = value,
                "hca_object" => entry.hca_objects = value,
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

/// Returns the sizes of huge pages that the kernel offers, in the form that file names have.
fn huge_page_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(Path::new("/sys/kernel/mm/hugepages")) else {
        return Vec::new();
    };
    let mut sizes: Vec<u64> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let size = name.to_str()?.strip_prefix("hugepages-")?;
            size.strip_suffix("kB")?.parse().ok()
        })
        .collect();
    sizes.sort_unstable();
    sizes.into_iter().map(page_size).collect()
}

fn page_size(kibibytes: u64) -> String {
    match kibibytes {
        0..1024 => format!("{kibibytes}KB"),
        1024..1_048_576 => format!("{}MB", kibibytes >> 10),
        _ => format!("{}GB", kibibytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rdma_files_are_read_with_and_without_limits() {
        let entries = rdma_entries(
            "mlx4_0 hca_handle=2 hca_object=2000\nocrdma1 hca_handle=3 hca_object=max\n",
        );
        let entry = |device: &str, hca_handles, hca_objects| RdmaEntry {
            device: device.to_owned(),
            hca_handles,
            hca_objects,
        };
        assert_eq!(
            entries,
            [entry("mlx4_0", 2, 2000), entry("ocrdma1", 3, u32::MAX)]
        );
    }

    #[test]
    fn page_sizes_are_named_as_the_kernel_names_files() {
        let sizes = [64, 2048, 32_768, 1_048_576].map(page_size);
        assert_eq!(sizes, ["64KB", "2MB", "32MB", "1GB"]);
    }
}
