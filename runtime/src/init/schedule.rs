//! How a process's programs are scheduled, and which kernel they see.

use oci_spec::runtime::{
    IOPriorityClass, LinuxMemoryPolicy, LinuxPersonalityDomain, LinuxSchedulerFlag as Flag,
    LinuxSchedulerPolicy as Policy, MemoryPolicyFlagType as MemoryFlag,
    MemoryPolicyModeType as MemoryMode, Process, Scheduler, Spec,
};
use rustix::io::Errno;
use sys::schedule::{self, Attributes};
use sys::{Error, Kind, Result};

use crate::spec::{NUMBER_MAX, memory_nodes, numbers};

/// The kernel's number of the personality of 32 bits.
const PER_LINUX32: u32 = 8;

/// Sets scheduler, I/O priority and personality, while the process still has the rights that these may need.
pub(super) fn apply(process: &Process, spec: &Spec) -> Result<()> {
    if let Some(scheduler) = process.scheduler() {
        schedule::set_scheduler(&attributes(scheduler)?).map_err(|error| {
            match error.errno() == Some(Errno::PERM) && has_processors(spec) {
                // The kernel guarantees deadlines only to who may run everywhere.
                true => error.context("process scheduler can't be used together with AllowedCPUs"),
                false => error,
            }
        })?;
    }
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = u32::try_from(priority.priority()).ok();
        let Some(level) = level.filter(|level| *level <= 7) else {
            let message = format!("invalid ioPriority.Priority: {}", priority.priority());
            return Err(Error::new(Kind::InvalidArgument, message));
        };
        schedule::set_io_priority(class, level)?;
    }
    let linux = spec.linux().as_ref();
    if let Some(policy) = linux.and_then(|linux| linux.memory_policy().as_ref()) {
        set_memory_policy(policy)?;
    }
    match linux.and_then(|linux| linux.personality().as_ref()) {
        Some(persona) => match persona.domain() {
            LinuxPersonalityDomain::PerLinux => schedule::set_personality(0),
            LinuxPersonalityDomain::PerLinux32 => schedule::set_personality(PER_LINUX32),
        },
        None => Ok(()),
    }
}

/// Sets from which nodes the process gets memory.
fn set_memory_policy(policy: &LinuxMemoryPolicy) -> Result<()> {
    let mode = match policy.mode() {
        MemoryMode::MpolDefault => 0,
        MemoryMode::MpolPreferred => 1,
        MemoryMode::MpolBind => 2,
        MemoryMode::MpolInterleave => 3,
        MemoryMode::MpolLocal => 4,
        MemoryMode::MpolPreferredMany => 5,
        MemoryMode::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().map(|flag| match flag {
        MemoryFlag::MpolFStaticNodes => 1 << 15,
        MemoryFlag::MpolFRelativeNodes => 1 << 14,
        MemoryFlag::MpolFNumaBalancing => 1 << 13,
    });
    let mode = flags.fold(mode, |all, flag| all | flag);
    schedule::set_memory_policy(mode, &memory_nodes(policy)?)
}

/// Tells whether the container may run on some processors only.
fn has_processors(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    cpu.is_some_and(|cpu| cpu.cpus().as_ref().is_some_and(|cpus| !cpus.is_empty()))
}

/// Lets a further process run only on processors of a list such as `0-3,7`.
pub(super) fn set_affinity(list: Option<&str>) -> Result<()> {
    match list {
        Some(list) if !list.is_empty() => {
            let processors = numbers(list).ok_or_else(|| {
                let message = format!("invalid CPU list {list:?}");
                Error::new(Kind::InvalidArgument, message)
            })?;
            schedule::set_affinity(&processors)
        }
        _ => Ok(()),
    }
}

/// Lets a process run on all processors that its control group has, whatever those of its maker are.
pub(super) fn use_all_processors() -> Result<()> {
    schedule::set_affinity(&(0..=NUMBER_MAX).collect::<Vec<_>>())
}

fn attributes(scheduler: &Scheduler) -> Result<Attributes> {
    let policy = match scheduler.policy() {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => 4,
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().map(|flag| match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    });
    let priority = scheduler.priority().unwrap_or(0);
    let priority = u32::try_from(priority).map_err(|_| {
        let message = format!("invalid scheduler.Priority: {priority}");
        Error::new(Kind::InvalidArgument, message)
    })?;
    Ok(Attributes {
        policy,
        flags: flags.fold(0, |all, flag| all | flag),
        nice: scheduler.nice().unwrap_or(0),
        priority,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    })
}
