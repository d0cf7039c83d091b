//! cgroup v1: a folder in each controller's hierarchy, and limits in the files there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxPids,
    LinuxResources, LinuxThrottleDevice,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sys::{Context, Error, Kind, Result};

use super::dir::{Dir, is_forbidden};

type Paths = BTreeMap<String, PathBuf>;

/// Makes the folders. Those of cpuset get processors and memory nodes, without which nothing can join.
///
/// What the caller has no right to make, or to join, is left out of `paths` if the folders are `optional`.
pub(super) fn create(paths: &mut Paths, resources: &LinuxResources, optional: bool) -> Result<()> {
    let mut forbidden = Vec::new();
    for (controller, path) in &*paths {
        let made = make_dirs(path, controller == "cpuset").and_then(|()| match optional {
            true => check_joinable(path),
            false => Ok(()),
        });
        match made {
            Err(error) if optional && is_forbidden(&error) => forbidden.push(controller.clone()),
            made => made?,
        }
    }
    paths.retain(|controller, _| !forbidden.contains(controller));
    if let (Some(path), Some(cpu)) = (paths.get("cpu"), resources.cpu()) {
        // A process with a real-time policy can join only a group that has real-time bandwidth.
        set_realtime(&Dir::open(path)?, cpu)?;
    }
    Ok(())
}

/// Sets limits.
pub(super) fn set(paths: &Paths, resources: &LinuxResources) -> Result<()> {
    if resources.unified().is_some() {
        return Err(Error::new(
            Kind::InvalidArgument,
            "invalid configuration: cannot use unified on cgroup v1",
        ));
    }
    if let Some(cpu) = resources.cpu() {
        let cpuset = [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())];
        for (file, value) in cpuset {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                controller(paths, "cpuset")?.write(file, value)?;
            }
        }
    }
    if let Some(memory) = resources.memory() {
        set_memory(paths, memory)?;
    }
    if let Some(cpu) = resources.cpu().as_ref().filter(|cpu| has_cpu(cpu)) {
        set_cpu(&controller(paths, "cpu")?, cpu)?;
    }
    if let Some(pids) = resources.pids() {
        controller(paths, "pids")?.write("pids.max", pids_max(pids))?;
    }
    if let Some(block) = resources.block_io() {
        set_block_io(paths, block)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        set_hugepages(&controller(paths, "hugetlb")?, limit, "limit_in_bytes")?;
    }
    if let Some(network) = resources.network() {
        set_network(paths, network)?;
    }
    if let Some(rdma) = resources.rdma().as_ref().filter(|rdma| !rdma.is_empty()) {
        set_rdma(&controller(paths, "rdma")?, rdma)?;
    }
    Ok(())
}

/// Returns the folder of a controller that a limit is for.
fn controller(paths: &Paths, name: &str) -> Result<Dir> {
    match paths.get(name) {
        Some(path) => Dir::open(path),
        None => Err(Error::new(
            Kind::FailedPrecondition,
            format!("cannot set {name} limit: container could not join or create cgroup"),
        )),
    }
}

/// Makes sure that processes can be moved into a folder, which may have been there before.
fn check_joinable(path: &Path) -> Result<()> {
    let file = Dir::open(path)?.file("cgroup.procs", OFlags::WRONLY);
    file.map(drop)
        .context(|| format!("open \"cgroup.procs\" of {path:?}"))
}

/// Makes a folder and, where they are missing, those above it.
fn make_dirs(path: &Path, cpuset: bool) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let mode = Mode::from_raw_mode(0o755);
    let mut made = rustix::fs::mkdir(path, mode);
    if made == Err(Errno::NOENT) {
        make_dirs(parent, cpuset)?;
        made = rustix::fs::mkdir(path, mode);
    }
    match made {
        Ok(()) if cpuset => inherit_cpuset(path, parent),
        Err(Errno::EXIST) if cpuset => inherit_cpuset(path, parent),
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno).context(|| format!("create control group {path:?}")),
    }
}

/// A new group of cpuset is empty; it gets what the one above it has.
fn inherit_cpuset(path: &Path, parent: &Path) -> Result<()> {
    let group = Dir::open(path)?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let Some(own) = group.read_optional(file)? else {
            continue;
        };
        if !own.trim().is_empty() {
            continue;
        }
        let above = Dir::open(parent)?;
        let Some(mut value) = above.read_optional(file)? else {
            continue;
        };
        if value.trim().is_empty() {
            // One that another program made and left empty.
            inherit_cpuset(parent, parent.parent().unwrap_or(Path::new("/")))?;
            value = above.read(file)?;
        }
        group.write(file, value.trim())?;
    }
    Ok(())
}

/// The two limits depend on each other: memory may never be above memory and swap together, so which is written first
/// depends on whether they grow or shrink.
fn set_memory(paths: &Paths, memory: &LinuxMemory) -> Result<()> {
    const LIMIT: &str = "memory.limit_in_bytes";
    const SWAP: &str = "memory.memsw.limit_in_bytes";
    let limit = memory.limit().filter(|limit| *limit != 0);
    let mut swap = memory.swap().filter(|swap| *swap != 0);
    let reservation = memory.reservation().filter(|bytes| *bytes != 0);
    let swappiness = memory.swappiness().filter(|value| *value as i64 != -1);
    let keep_running = memory.disable_oom_killer() == Some(true);
    if limit.is_none()
        && swap.is_none()
        && reservation.is_none()
        && swappiness.is_none()
        && !keep_running
    {
        return Ok(());
    }
    let dir = controller(paths, "memory")?;
    // No limit of memory would be one of memory and swap.
    if limit == Some(-1) && swap.is_none() && dir.has(SWAP) {
        swap = Some(-1);
    }
    let write_swap = || swap.map_or(Ok(()), |swap| dir.write(SWAP, swap.to_string()));
    let grows = match (limit, swap) {
        (Some(_), Some(-1)) => true,
        (Some(_), Some(swap)) => dir.number(LIMIT)? < swap as u64,
        _ => false,
    };
    if grows {
        write_swap()?;
    }
    if let Some(limit) = limit {
        dir.write(LIMIT, limit.to_string())
            .map_err(|error| in_use(&dir, limit, error))?;
    }
    if !grows {
        write_swap()?;
    }
    if let Some(reservation) = reservation {
        dir.write("memory.soft_limit_in_bytes", reservation.to_string())?;
    }
    if keep_running {
        dir.write("memory.oom_control", "1")?;
    }
    match swappiness {
        Some(value @ 0..=100) => dir.write("memory.swappiness", value.to_string()),
        Some(value) => Err(Error::new(
            Kind::InvalidArgument,
            format!("invalid memory swappiness value: {value} (valid range is 0-100)"),
        )),
        None => Ok(()),
    }
}

/// Says how much is in use where that is why a limit is refused.
fn in_use(dir: &Dir, limit: i64, error: Error) -> Error {
    if error.errno() != Some(Errno::BUSY) {
        return error;
    }
    let read = |file| dir.number(file).unwrap_or_default();
    let (usage, peak) = (
        read("memory.usage_in_bytes"),
        read("memory.max_usage_in_bytes"),
    );
    error.context(format!(
        "unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})"
    ))
}

fn has_cpu(cpu: &LinuxCpu) -> bool {
    cpu.shares().is_some_and(|shares| shares != 0)
        || cpu.quota().is_some_and(|quota| quota != 0)
        || cpu.period().is_some_and(|period| period != 0)
        || cpu.burst().is_some()
        || cpu.idle().is_some()
        || cpu.realtime_runtime().is_some_and(|runtime| runtime != 0)
        || cpu.realtime_period().is_some_and(|period| period != 0)
}

fn set_cpu(dir: &Dir, cpu: &LinuxCpu) -> Result<()> {
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        dir.write("cpu.shares", shares.to_string())?;
        // The kernel clamps in silence.
        let set = dir.number("cpu.shares")?;
        if set != shares {
            let bound = if shares > set { "maximum" } else { "minimum" };
            return Err(Error::new(
                Kind::InvalidArgument,
                format!("the {bound} allowed cpu-shares is {set}"),
            ));
        }
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    let burst = cpu.burst();
    // A period or a burst may fit only the quota that is about to be set.
    let early = |file: &str, value: Option<u64>| match value.map(|value| value.to_string()) {
        None => Ok(None),
        Some(value) => match dir.try_write(file, &value) {
            Ok(()) => Ok(None),
            Err(Errno::INVAL) if quota.is_some() => Ok(Some(value)),
            Err(Errno::NOENT) if file == "cpu.cfs_burst_us" => Ok(None),
            Err(errno) => {
                Err(errno).context(|| format!("write {value:?} to {:?}", dir.path().join(file)))
            }
        },
    };
    let period = early("cpu.cfs_period_us", period)?;
    let burst = early("cpu.cfs_burst_us", burst)?;
    if let Some(quota) = quota {
        dir.write("cpu.cfs_quota_us", quota.to_string())?;
        if let Some(period) = period {
            dir.write("cpu.cfs_period_us", period)?;
        }
        if let Some(burst) = burst {
            dir.write("cpu.cfs_burst_us", burst)?;
        }
    }
    if let Some(idle) = cpu.idle() {
        dir.write("cpu.idle", idle.to_string())?;
    }
    set_realtime(dir, cpu)
}

fn set_realtime(dir: &Dir, cpu: &LinuxCpu) -> Result<()> {
    let runtime = cpu.realtime_runtime().filter(|runtime| *runtime != 0);
    let mut again = None;
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        match dir.try_write("cpu.rt_period_us", &period.to_string()) {
            Ok(()) => {}
            Err(Errno::INVAL) if runtime.is_some() => again = Some(period),
            Err(errno) => {
                return Err(errno).context(|| format!("set real-time period of {:?}", dir.path()));
            }
        }
    }
    if let Some(runtime) = runtime {
        dir.write("cpu.rt_runtime_us", runtime.to_string())?;
        if let Some(period) = again {
            dir.write("cpu.rt_period_us", period.to_string())?;
        }
    }
    Ok(())
}

/// Returns a limit of processes as the kernel has it; 0 is taken for 1, as systemd does.
pub(super) fn pids_max(pids: &LinuxPids) -> String {
    match pids.limit() {
        0 => "1".to_owned(),
        limit if limit > 0 => limit.to_string(),
        _ => "max".to_owned(),
    }
}

fn set_block_io(paths: &Paths, block: &LinuxBlockIo) -> Result<()> {
    let dir = || controller(paths, "blkio");
    let weight = block.weight().filter(|weight| *weight != 0);
    let devices = block.weight_device().as_deref().unwrap_or_default();
    if weight.is_some() || !devices.is_empty() {
        let dir = dir()?;
        // The file's name is the scheduler's choice.
        let file = if dir.has("blkio.weight") {
            "blkio.weight"
        } else {
            "blkio.bfq.weight"
        };
        if let Some(weight) = weight {
            dir.write(file, weight.to_string())?;
        }
        for device in devices {
            let entry = |weight| format!("{}:{} {weight}", device.major(), device.minor());
            if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
                dir.write(&format!("{file}_device"), entry(weight))?;
            }
            if let Some(weight) = device.leaf_weight().filter(|weight| *weight != 0) {
                dir.write("blkio.leaf_weight_device", entry(weight))?;
            }
        }
    }
    if let Some(weight) = block.leaf_weight().filter(|weight| *weight != 0) {
        dir()?.write("blkio.leaf_weight", weight.to_string())?;
    }
    for (file, devices) in [
        ("read_bps", block.throttle_read_bps_device()),
        ("write_bps", block.throttle_write_bps_device()),
        ("read_iops", block.throttle_read_iops_device()),
        ("write_iops", block.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            let file = format!("blkio.throttle.{file}_device");
            dir()?.write(&file, throttle(device, ""))?;
        }
    }
    Ok(())
}

/// Returns an entry of a throttle file: `key` names the kind of limit where one file has several.
pub(super) fn throttle(device: &LinuxThrottleDevice, key: &str) -> String {
    let (major, minor, rate) = (device.major(), device.minor(), device.rate());
    format!("{major}:{minor} {key}{rate}")
}

/// Limits what is used and, where the kernel knows it, what is reserved.
pub(super) fn set_hugepages(dir: &Dir, limit: &LinuxHugepageLimit, file: &str) -> Result<()> {
    let prefix = format!("hugetlb.{}", limit.page_size());
    let value = limit.limit().to_string();
    dir.write(&format!("{prefix}.{file}"), &value)?;
    let reserved = format!("{prefix}.rsvd.{file}");
    match dir.try_write(&reserved, &value) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => {
            Err(errno).context(|| format!("write {value:?} to {:?}", dir.path().join(reserved)))
        }
    }
}

fn set_network(paths: &Paths, network: &LinuxNetwork) -> Result<()> {
    if let Some(class) = network.class_id().filter(|class| *class != 0) {
        controller(paths, "net_cls")?.write("net_cls.classid", class.to_string())?;
    }
    for priority in network.priorities().iter().flatten() {
        let entry = format!("{} {}", priority.name(), priority.priority());
        controller(paths, "net_prio")?.write("net_prio.ifpriomap", entry)?;
    }
    Ok(())
}

/// Limits RDMA resources of each device.
pub(super) fn set_rdma(
    dir: &Dir,
    limits: &std::collections::HashMap<String, oci_spec::runtime::LinuxRdma>,
) -> Result<()> {
    let max = |limit: Option<u32>| limit.map_or("max".to_owned(), |limit| limit.to_string());
    for (device, limit) in limits {
        let (handles, objects) = (max(limit.hca_handles()), max(limit.hca_objects()));
        dir.write(
            "rdma.max",
            format!("{device} hca_handle={handles} hca_object={objects}"),
        )?;
    }
    Ok(())
}
