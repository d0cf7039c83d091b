//! How a process's programs are scheduled, and which kernel they see.

use oci_spec::runtime::{
    IOPriorityClass, LinuxPersonalityDomain, LinuxSchedulerFlag as Flag,
    LinuxSchedulerPolicy as Policy, Process, Scheduler, Spec,
};
use sys::schedule::{self, Attributes};
use sys::{Error, Kind, Result};

/// The kernel's number of the personality of 32 bits.
const PER_LINUX32: u32 = 8;

/// The highest processor number that is looked at.
const PROCESSORS_MAX: usize = 1024;

/// Sets scheduler, I/O priority and personality, while the process still has the rights that these may need.
pub(super) fn apply(process: &Process, spec: &Spec) -> Result<()> {
    if let Some(scheduler) = process.scheduler() {
        schedule::set_scheduler(&attributes(scheduler)?)?;
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
    match linux.and_then(|linux| linux.personality().as_ref()) {
        Some(persona) => match persona.domain() {
            LinuxPersonalityDomain::PerLinux => schedule::set_personality(0),
            LinuxPersonalityDomain::PerLinux32 => schedule::set_personality(PER_LINUX32),
        },
        None => Ok(()),
    }
}

/// Lets a further process run only on processors of a list such as `0-3,7`.
pub(super) fn set_affinity(list: Option<&str>) -> Result<()> {
    match list {
        Some(list) if !list.is_empty() => schedule::set_affinity(&processors(list)?),
        _ => Ok(()),
    }
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

fn processors(list: &str) -> Result<Vec<usize>> {
    let parse = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last && last < PROCESSORS_MAX).then_some(first..=last)
    };
    let mut all = Vec::new();
    for part in list.split(',').map(str::trim) {
        let range = parse(part).ok_or_else(|| {
            let message = format!("invalid CPU list {list:?}");
            Error::new(Kind::InvalidArgument, message)
        })?;
        all.extend(range);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_ranges_and_numbers() {
        assert_eq!(processors("0-2,7").unwrap(), [0, 1, 2, 7]);
        for list in ["", "a", "3-1", "1-", "0-99999999", "-1"] {
            assert!(processors(list).is_err(), "{list:?}");
        }
    }
}
