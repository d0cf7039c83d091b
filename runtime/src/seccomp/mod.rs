//! seccomp: compiles a profile to a program of classic BPF, and loads it.
//!
//! The meaning of a profile is runc's with libseccomp: unknown calls are skipped, rules with the default action change
//! nothing, a rule without conditions wins over those with, and calls newer than all that the profile names fail with
//! `ENOSYS`, so that a C library falls back to older ones.

mod abi;
mod assembler;
mod rules;

use std::os::fd::OwnedFd;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompFilterFlag as FilterFlag,
};
use rustix::io::Errno;
use sys::seccomp::{Flags, Instruction};
use sys::{Error, Kind, Result};

use abi::Abi;
use assembler::{Assembler, Label};
use rules::{Outcome, Rules};

/// What the kernel takes at most (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_NOTIFY: u32 = 0x7fc0_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

/// A profile in the kernel's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
    flags: Flags,
}

impl Program {
    /// Confines the calling thread; returns the listener of a profile that notifies.
    ///
    /// The caller either has CAP_SYS_ADMIN or has set no-new-privileges. Makes one system call and allocates nothing,
    /// so it may be called between fork and exec.
    pub fn install(&self) -> Result<Option<OwnedFd>, Errno> {
        sys::seccomp::set_filter(&self.instructions, self.flags)
    }

    /// Reports whether [`Program::install`] returns a listener.
    pub fn notifies(&self) -> bool {
        self.flags.contains(Flags::NEW_LISTENER)
    }

    /// Returns the program's instructions.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }
}

/// Compiles a profile for processes of this machine's architecture and those it is compatible with.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program> {
    compile_for(Abi::NATIVE, profile)
}

/// Compiles a profile for a kernel whose own architecture is `native`.
fn compile_for(native: Abi, profile: &LinuxSeccomp) -> Result<Program> {
    check(profile)?;
    let default = encode(profile.default_action(), profile.default_errno_ret());
    let mut assembler = Assembler::default();
    let otherwise = assembler.ret(RET_KILL_THREAD);
    let entry = machines(native, profile)
        .into_iter()
        .try_rfold(otherwise, |otherwise, machine| {
            machine.emit(&mut assembler, profile, default, otherwise)
        })?;
    let instructions = assembler.finish(entry);
    if instructions.len() > MAX_INSTRUCTIONS {
        return Err(invalid(format!(
            "seccomp profile needs {} instructions, the kernel takes {MAX_INSTRUCTIONS}",
            instructions.len()
        )));
    }
    Ok(Program {
        instructions,
        flags: flags(profile),
    })
}

/// The call conventions that the kernel reports under one audit number.
struct Machine {
    audit: u32,
    abis: Vec<Abi>,
}

/// Returns the machines that a profile covers: always the kernel's own, and of the others those that the kernel can
/// run at all. Code for an architecture that no process here can have would never be reached.
fn machines(native: Abi, profile: &LinuxSeccomp) -> Vec<Machine> {
    let mut machines: Vec<Machine> = Vec::new();
    let named = profile.architectures().as_deref().unwrap_or_default();
    for &abi in native.family() {
        if abi != native && !named.iter().any(|&arch| abi.is(arch)) {
            continue;
        }
        match machines
            .iter_mut()
            .find(|machine| machine.audit == abi.audit())
        {
            Some(machine) => machine.abis.push(abi),
            None => machines.push(Machine {
                audit: abi.audit(),
                abis: vec![abi],
            }),
        }
    }
    machines
}

impl Machine {
    /// Emits the test for this machine in front of `otherwise`, and what follows if it holds.
    fn emit(
        &self,
        assembler: &mut Assembler,
        profile: &LinuxSeccomp,
        default: u32,
        otherwise: Label,
    ) -> Result<Label> {
        let mut outcomes = Vec::new();
        for &abi in &self.abis {
            outcomes.extend(Rules::new(abi, profile, default)?.into_outcomes());
        }
        if self.abis.contains(&Abi::X86_64) && !self.abis.contains(&Abi::X32) {
            outcomes.extend(without_x32(default));
        }
        let body = assembler.number_tree(outcomes, default);
        let matched = assembler.load_number(body);
        Ok(assembler.machine_test(self.audit, matched, otherwise))
    }
}

/// A profile without x32 treats its calls as those of an unknown machine, except -1: by that number a tracer skips a
/// call, and the filter is asked again after the tracer.
fn without_x32(default: u32) -> [(u32, Outcome); 2] {
    [
        (abi::X32_BIT, Outcome::Return(RET_KILL_THREAD)),
        (u32::MAX, Outcome::Return(default)),
    ]
}

/// Refuses what would stop the runtime itself: it has to write, to hand over the listener.
fn check(profile: &LinuxSeccomp) -> Result<()> {
    if profile.default_action() == Action::ScmpActNotify {
        return Err(invalid("SCMP_ACT_NOTIFY cannot be used as default action"));
    }
    for rule in profile.syscalls().iter().flatten() {
        if rule.names().iter().any(String::is_empty) {
            return Err(invalid("empty string is not a valid syscall"));
        }
        let notify = rule.action() == Action::ScmpActNotify;
        if notify && rule.names().iter().any(|name| name == "write") {
            return Err(invalid(
                "SCMP_ACT_NOTIFY cannot be used for the write syscall",
            ));
        }
    }
    Ok(())
}

/// TSYNC changes nothing: the filter is loaded by the only thread there is.
fn flags(profile: &LinuxSeccomp) -> Flags {
    let mut flags = Flags::default();
    for flag in profile.flags().iter().flatten() {
        flags = flags
            | match flag {
                FilterFlag::SeccompFilterFlagTsync => Flags::default(),
                FilterFlag::SeccompFilterFlagLog => Flags::LOG,
                FilterFlag::SeccompFilterFlagSpecAllow => Flags::SPEC_ALLOW,
                FilterFlag::SeccompFilterFlagWaitKillableRecv => Flags::WAIT_KILLABLE_RECV,
            };
    }
    let mut rules = profile.syscalls().iter().flatten();
    if rules.any(|rule| rule.action() == Action::ScmpActNotify) {
        flags = flags | Flags::NEW_LISTENER;
    }
    flags
}

/// Returns an action as the number that a filter returns.
fn encode(action: Action, errno: Option<u32>) -> u32 {
    const EPERM: u32 = 1;
    let data = errno.unwrap_or(EPERM) & 0xffff;
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => RET_KILL_THREAD,
        Action::ScmpActKillProcess => RET_KILL_PROCESS,
        Action::ScmpActTrap => RET_TRAP,
        Action::ScmpActErrno => RET_ERRNO | data,
        Action::ScmpActTrace => RET_TRACE | data,
        Action::ScmpActNotify => RET_NOTIFY,
        Action::ScmpActLog => RET_LOG,
        Action::ScmpActAllow => RET_ALLOW,
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, message)
}
