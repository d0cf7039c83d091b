//! How the kernel schedules the calling thread: processor time, disk time, processors, and which kernel it pretends to be.

use crate::process::last_errno;
use crate::{Context, Result};

/// Attributes of the scheduler, as sched_setattr(2) has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The policy's number (`SCHED_*`).
    pub policy: u32,
    /// Flags (`SCHED_FLAG_*`).
    pub flags: u64,
    /// The nice value.
    pub nice: i32,
    /// The priority of the real-time policies.
    pub priority: u32,
    /// Of the deadline policy, in nanoseconds.
    pub runtime: u64,
    /// Of the deadline policy, in nanoseconds.
    pub deadline: u64,
    /// Of the deadline policy, in nanoseconds.
    pub period: u64,
}

/// The kernel's `struct sched_attr` in its first version.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets how the calling thread gets processor time.
pub fn set_scheduler(attributes: &Attributes) -> Result<()> {
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: attributes.policy,
        flags: attributes.flags,
        nice: attributes.nice,
        priority: attributes.priority,
        runtime: attributes.runtime,
        deadline: attributes.deadline,
        period: attributes.period,
    };
    // SAFETY: the kernel reads as much of the struct as its size field says, and it outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    match result {
        0 => Ok(()),
        _ => Err(last_errno()).context(|| format!("set scheduler {attributes:?}")),
    }
}

/// Sets how the calling thread gets disk time: the class's number and the priority in it.
pub fn set_io_priority(class: u32, priority: u32) -> Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_SHIFT: u32 = 13;
    let value = class << CLASS_SHIFT | priority;
    // SAFETY: ioprio_set(2) takes numbers only.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) };
    match result {
        0 => Ok(()),
        _ => Err(last_errno()).context(|| format!("set I/O class {class}, priority {priority}")),
    }
}

/// Sets from which nodes the calling thread gets memory: the policy's number with its flags (`MPOL_*`).
pub fn set_memory_policy(mode: u32, nodes: &[usize]) -> Result<()> {
    const WORD: usize = usize::BITS as usize;
    let mut mask = vec![0_usize; nodes.iter().max().map_or(0, |last| last / WORD + 1)];
    for node in nodes {
        mask[node / WORD] |= 1 << (node % WORD);
    }
    // The kernel takes one bit less than it is told of, and a null pointer for no nodes.
    let (mask_at, bits) = match mask.is_empty() {
        true => (std::ptr::null(), 0),
        false => (mask.as_ptr(), mask.len() * WORD + 1),
    };
    // SAFETY: the kernel reads as many bits of the mask as it is told of, less one, and the mask outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask_at, bits) };
    match result {
        0 => Ok(()),
        _ => {
            Err(last_errno()).context(|| format!("set memory policy {mode:#x} of nodes {nodes:?}"))
        }
    }
}

/// Sets which kernel the calling process's programs believe to run on (`PER_*`).
pub fn set_personality(persona: u32) -> Result<()> {
    // SAFETY: personality(2) takes a number only.
    match unsafe { libc::personality(persona.into()) } {
        0.. => Ok(()),
        _ => Err(last_errno()).context(|| format!("set personality {persona:#x}")),
    }
}

/// Lets the calling thread run on these processors only.
pub fn set_affinity(processors: &[usize]) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    for processor in processors {
        if *processor < rustix::thread::CpuSet::MAX_CPU {
            set.set(*processor);
        }
    }
    rustix::thread::sched_setaffinity(None, &set)
        .context(|| format!("run on processors {processors:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_policy_is_of_nodes_or_of_none() {
        if !std::path::Path::new("/proc/self/numa_maps").exists() {
            eprintln!("SKIP: the kernel knows no memory nodes");
            return;
        }
        set_memory_policy(2, &[0]).unwrap();
        set_memory_policy(0, &[0]).unwrap_err();
        set_memory_policy(0, &[]).unwrap();
    }

    #[test]
    fn what_is_set_is_what_the_kernel_has() {
        crate::process::alone(|| {
            let batch = Attributes {
                policy: 3,
                nice: 5,
                ..Attributes::default()
            };
            set_scheduler(&batch).unwrap();
            set_io_priority(2, 3).unwrap();
            set_affinity(&[0]).unwrap();
            set_personality(8).unwrap();
            let persona = std::fs::read_to_string("/proc/self/personality").unwrap();
            assert_eq!(persona, "00000008\n");
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            assert!(status.contains("\nCpus_allowed_list:\t0\n"), "{status}");
        });
    }
}
