//! cgroup v2: one folder with the files of all controllers, and limits in the forms that it has for those of v1.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sys::{Context, Error, Kind, Result};

use super::dir::{Dir, write_all};
use super::v1;

/// Makes the folder and those above it, and gives each of them the controllers that the host has.
pub(super) fn create(path: &Path, mount: &Path) -> Result<()> {
    let Ok(below) = path.strip_prefix(mount) else {
        return Err(Error::new(
            Kind::InvalidArgument,
            format!("invalid cgroup path {path:?}"),
        ));
    };
    let available = Dir::open(mount)?.read("cgroup.controllers")?;
    let mut current = PathBuf::from(mount);
    let mut made = Vec::new();
    for name in below {
        let step = enable_controllers(&Dir::open(&current)?, &available).and_then(|()| {
            current.push(name);
            let created = make_dir(&current)?;
            if created {
                made.push(current.clone());
            }
            join_threaded(&current)
        });
        if let Err(error) = step {
            // Folders above the container's are nobody's else to remove.
            for path in made.iter().rev() {
                let _ = rustix::fs::rmdir(path);
            }
            return Err(error);
        }
    }
    Ok(())
}

fn make_dir(path: &Path) -> Result<bool> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno).context(|| format!("create control group {path:?}")),
    }
}

/// Lets groups below use all controllers. Some of them may be refused, which matters only if a limit needs them: then
/// their files are missing.
fn enable_controllers(dir: &Dir, available: &str) -> Result<()> {
    let enabled = dir.read("cgroup.subtree_control")?;
    let enabled: Vec<&str> = enabled.split_whitespace().collect();
    let missing: Vec<String> = available
        .split_whitespace()
        .filter(|controller| !enabled.contains(controller))
        .map(|controller| format!("+{controller}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if dir
        .try_write("cgroup.subtree_control", &missing.join(" "))
        .is_err()
    {
        for controller in missing {
            let _ = dir.try_write("cgroup.subtree_control", &controller);
        }
    }
    Ok(())
}

/// Below a group with processes only a threaded group can have some, which does without memory and I/O control.
fn join_threaded(path: &Path) -> Result<()> {
    let dir = Dir::open(path)?;
    let kind = dir.read_optional("cgroup.type")?.unwrap_or_default();
    if kind.trim() == "domain invalid" {
        dir.write("cgroup.type", "threaded")?;
    }
    Ok(())
}

/// Returns `error`, for which there is no group, if one is needed for limits.
pub(super) fn refuse_limits(resources: &LinuxResources, error: Error) -> Result<()> {
    let hugepages = resources.hugepage_limits().as_deref().unwrap_or_default();
    let limits = resources.memory().is_some()
        || resources.cpu().is_some()
        || resources.pids().is_some()
        || resources.block_io().is_some()
        || resources.rdma().is_some()
        || resources.unified().is_some()
        || !hugepages.is_empty();
    match limits {
        true => Err(error.context(
            "rootless needs no limits + no cgrouppath when no permission is granted for cgroups",
        )),
        false => Ok(()),
    }
}

/// Sets limits.
pub(super) fn set(path: &Path, resources: &LinuxResources) -> Result<()> {
    let dir = Dir::open(path)?;
    if let Some(pids) = resources.pids() {
        dir.write("pids.max", v1::pids_max(pids))?;
    }
    if let Some(memory) = resources.memory() {
        set_memory(&dir, memory)?;
    }
    if let Some(block) = resources.block_io() {
        set_block_io(&dir, block)?;
    }
    if let Some(cpu) = resources.cpu() {
        set_cpu(&dir, cpu)?;
    }
    if let Some(cpu) = resources.cpu() {
        for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                dir.write(file, value)?;
            }
        }
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        v1::set_hugepages(&dir, limit, "max")?;
    }
    if let Some(rdma) = resources.rdma() {
        v1::set_rdma(&dir, rdma)?;
    }
    if let Some(unified) = resources.unified() {
        set_unified(&dir, unified)?;
    }
    Ok(())
}

fn set_memory(dir: &Dir, memory: &LinuxMemory) -> Result<()> {
    let limit = memory.limit().unwrap_or_default();
    let swap = memory.swap().unwrap_or_default();
    if memory.check_before_update() == Some(true) {
        check_usage(dir, limit, swap)?;
    }
    if let Some(value) = swap_max(limit, swap)? {
        match dir.try_write("memory.swap.max", &value) {
            Ok(()) => {}
            // Where there is no swap there is none to limit.
            Err(Errno::NOENT) if value == "max" || value == "0" => {}
            Err(errno) => {
                return Err(errno).context(|| format!("write {value:?} to memory.swap.max"));
            }
        }
    }
    if limit != 0 {
        dir.write("memory.max", max_or(limit))?;
    }
    if let Some(reservation) = memory.reservation().filter(|bytes| *bytes != 0) {
        dir.write("memory.low", max_or(reservation))?;
    }
    Ok(())
}

/// A limit below what is in use would make the kernel kill.
fn check_usage(dir: &Dir, limit: i64, swap: i64) -> Result<()> {
    let Ok(usage) = dir.number("memory.current") else {
        return Ok(());
    };
    let swap_used = dir.number("memory.swap.current").unwrap_or_default();
    for (limit, used) in [(swap, usage + swap_used), (limit, usage)] {
        if limit > 0 && used >= limit as u64 {
            return Err(Error::new(
                Kind::FailedPrecondition,
                format!("rejecting memory limit {limit}: {used} bytes are in use"),
            ));
        }
    }
    Ok(())
}

/// Returns the limit of swap alone, from that of memory and swap together; None leaves it as it is.
pub(super) fn swap_max(limit: i64, swap: i64) -> Result<Option<String>> {
    let refuse = |message: &str| Err(Error::new(Kind::InvalidArgument, message));
    match (limit, swap) {
        (-1, 0) | (_, -1) => Ok(Some("max".to_owned())),
        (_, 0) => Ok(None),
        (-1, swap) => Ok(Some(swap.to_string())),
        (0, _) => refuse("unable to set swap limit without memory limit"),
        (limit, _) if limit < 0 => refuse("invalid memory value"),
        (limit, swap) if swap < limit => refuse("memory+swap limit should be >= memory limit"),
        (limit, swap) => Ok(Some((swap - limit).to_string())),
    }
}

fn max_or(value: i64) -> String {
    if value == -1 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

fn set_cpu(dir: &Dir, cpu: &LinuxCpu) -> Result<()> {
    if let Some(idle) = cpu.idle() {
        dir.write("cpu.idle", idle.to_string())?;
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        dir.write("cpu.weight", weight_of_shares(shares).to_string())?;
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    let mut burst = cpu.burst().map(|burst| burst.to_string());
    if let Some(value) = &burst {
        match dir.try_write("cpu.max.burst", value) {
            Ok(()) => burst = None,
            // It may fit only the quota that is about to be set.
            Err(Errno::INVAL) if quota.is_some() => {}
            Err(errno) => {
                return Err(errno).context(|| format!("write {value:?} to cpu.max.burst"));
            }
        }
    }
    if quota.is_some() || period.is_some() {
        const DEFAULT_PERIOD: u64 = 100_000;
        let quota = quota.filter(|quota| *quota > 0);
        let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
        let period = period.unwrap_or(DEFAULT_PERIOD);
        dir.write("cpu.max", format!("{quota} {period}"))?;
        if let Some(burst) = burst {
            dir.write("cpu.max.burst", burst)?;
        }
    }
    Ok(())
}

/// Returns the weight (1 to 10000, default 100) for shares (2 to 262144, default 1024): the curve through the three
/// pairs that runc and crun agreed on.
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

fn set_block_io(dir: &Dir, block: &LinuxBlockIo) -> Result<()> {
    let weight = block.weight().filter(|weight| *weight != 0);
    let devices = block.weight_device().as_deref().unwrap_or_default();
    if weight.is_some() || !devices.is_empty() {
        let entries = devices.iter().filter_map(|device| {
            let weight = device.weight().filter(|weight| *weight != 0)?;
            Some(format!("{}:{} {weight}", device.major(), device.minor()))
        });
        match dir.file("io.bfq.weight", OFlags::RDWR) {
            Ok(bfq) => {
                for value in weight
                    .map(|weight| weight.to_string())
                    .into_iter()
                    .chain(entries)
                {
                    write_all(&bfq, &value)
                        .context(|| format!("write {value:?} to io.bfq.weight"))?;
                }
            }
            Err(Errno::NOENT) => {
                if let Some(weight) = weight {
                    let weight = 1 + u64::from(weight).saturating_sub(10) * 9999 / 990;
                    dir.write("io.weight", weight.to_string())?;
                }
            }
            Err(errno) => return Err(errno).context(|| "open io.bfq.weight"),
        }
    }
    for (key, devices) in [
        ("rbps=", block.throttle_read_bps_device()),
        ("wbps=", block.throttle_write_bps_device()),
        ("riops=", block.throttle_read_iops_device()),
        ("wiops=", block.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            dir.write("io.max", v1::throttle(device, key))?;
        }
    }
    Ok(())
}

/// Writes files of the group as they are asked for, each line by itself.
fn set_unified(dir: &Dir, unified: &HashMap<String, String>) -> Result<()> {
    for (file, value) in unified {
        if file.contains('/') {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!("unified resource {file:?} must be a file name (no slashes)"),
            ));
        }
        for line in value.lines().filter(|line| !line.is_empty()) {
            dir.write(file, line)
                .map_err(|error| explain_unified(dir, file, error))?;
        }
    }
    Ok(())
}

fn explain_unified(dir: &Dir, file: &str, error: Error) -> Error {
    if !matches!(
        error.errno(),
        Some(Errno::NOENT | Errno::PERM | Errno::ACCESS)
    ) {
        return error.context(format!("set unified resource {file:?}"));
    }
    let Some((controller, _)) = file.split_once('.') else {
        return error.context(format!(
            "unified resource {file:?} must be in the form CONTROLLER.PARAMETER"
        ));
    };
    let controllers = dir.read("cgroup.controllers").unwrap_or_default();
    if controller != "cgroup"
        && !controllers
            .split_whitespace()
            .any(|name| name == controller)
    {
        return error.context(format!(
            "unified resource {file:?} can't be set: controller {controller:?} not available"
        ));
    }
    error.context(format!("set unified resource {file:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_weights_agree_at_the_ends_and_the_default() {
        for (shares, weight) in [
            (1, 1),
            (2, 1),
            (1024, 100),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight_of_shares(shares), weight, "{shares} shares");
        }
        assert!(
            (3..262_144)
                .step_by(97)
                .all(|shares| weight_of_shares(shares) <= weight_of_shares(shares + 97))
        );
    }

    #[test]
    fn swap_is_what_is_left_of_memory_and_swap() {
        for (limit, swap, expected) in [
            (0, 0, Some(None)),
            (100, 0, Some(None)),
            (100, 100, Some(Some("0"))),
            (100, 250, Some(Some("150"))),
            (100, -1, Some(Some("max"))),
            (-1, 0, Some(Some("max"))),
            (-1, 250, Some(Some("250"))),
            (0, 250, None),
            (100, 50, None),
        ] {
            let found = swap_max(limit, swap).ok();
            let expected = expected.map(|value: Option<&str>| value.map(str::to_owned));
            assert_eq!(found, expected, "limit {limit}, swap {swap}");
        }
    }
}
