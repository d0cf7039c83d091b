//! The call conventions of the kernel's architectures: their audit numbers and their tables of system calls.

use std::collections::HashMap;

use oci_spec::runtime::Arch;

/// The bit that x32 calls have in their number.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// A call convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Abi {
    X86_64,
    X32,
    X86,
    Aarch64,
    Arm,
    Riscv64,
}

/// A table of system calls: numbers by name.
pub(super) type Table = HashMap<&'static str, u32>;

impl Abi {
    /// The convention of this machine's own programs.
    pub(super) const NATIVE: Self = if cfg!(target_arch = "x86_64") {
        Self::X86_64
    } else if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else if cfg!(target_arch = "riscv64") {
        Self::Riscv64
    } else {
        panic!("seccomp has no table of system calls for this architecture")
    };

    /// Returns the conventions that a kernel of this one offers, itself first.
    pub(super) fn family(self) -> &'static [Self] {
        match self {
            Self::X86_64 | Self::X32 => &[Self::X86_64, Self::X32, Self::X86],
            Self::X86 => &[Self::X86],
            Self::Aarch64 => &[Self::Aarch64, Self::Arm],
            Self::Arm => &[Self::Arm],
            Self::Riscv64 => &[Self::Riscv64],
        }
    }

    /// Reports whether a profile means this convention by `arch`.
    pub(super) fn is(self, arch: Arch) -> bool {
        arch == match self {
            Self::X86_64 => Arch::ScmpArchX86_64,
            Self::X32 => Arch::ScmpArchX32,
            Self::X86 => Arch::ScmpArchX86,
            Self::Aarch64 => Arch::ScmpArchAarch64,
            Self::Arm => Arch::ScmpArchArm,
            Self::Riscv64 => Arch::ScmpArchRiscv64,
        }
    }

    /// Returns the number under which a filter sees the machine (`AUDIT_ARCH_*`).
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
            Self::Riscv64 => 0xc000_00f3,
        }
    }

    /// Reports whether conditions compare 64 bits; libseccomp compares 32 on x32, and so do we.
    pub(super) fn is_wide(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64 | Self::Riscv64)
    }

    /// Returns the numbers that belong to the convention, as a range.
    pub(super) fn numbers(self) -> (u32, u32) {
        match self {
            Self::X86_64 => (0, X32_BIT - 1),
            Self::X32 => (X32_BIT, u32::MAX),
            _ => (0, u32::MAX),
        }
    }

    /// Returns the numbers of all calls that are known.
    pub(super) fn table(self) -> Table {
        match self {
            Self::X86_64 => syscalls::x86_64::Sysno::iter()
                .map(|call| (call.name(), call.id() as u32))
                .collect(),
            Self::X86 => syscalls::x86::Sysno::iter()
                .map(|call| (call.name(), call.id() as u32))
                .collect(),
            Self::Aarch64 => syscalls::aarch64::Sysno::iter()
                .map(|call| (call.name(), call.id() as u32))
                .collect(),
            Self::Riscv64 => syscalls::riscv64::Sysno::iter()
                .map(|call| (call.name(), call.id() as u32))
                .collect(),
            Self::Arm => syscalls::arm::Sysno::iter()
                .map(|call| (call.name(), call.id() as u32))
                .chain(ARM_PRIVATE)
                .collect(),
            Self::X32 => x32_table(),
        }
    }

    /// Returns by which call, and which value of its first argument, old programs ask for `name`.
    pub(super) fn multiplexed(self, name: &str) -> Option<(&'static str, u64)> {
        if self != Self::X86 {
            return None;
        }
        let position = |names: &[&str]| names.iter().position(|other| *other == name);
        if let Some(index) = position(&SOCKETCALL) {
            return Some(("socketcall", index as u64 + 1));
        }
        let (_, number) = IPC.iter().find(|(other, _)| *other == name)?;
        Some(("ipc", *number))
    }
}

fn x32_table() -> Table {
    let mut table: Table = syscalls::x86_64::Sysno::iter()
        .map(|call| (call.name(), call.id() as u32 | X32_BIT))
        .collect();
    for name in X32_ABSENT {
        table.remove(name);
    }
    table.extend(X32_OWN.map(|(name, number)| (name, number | X32_BIT)));
    table
}

/// Calls of 64-bit programs that x32 does without.
const X32_ABSENT: [&str; 12] = [
    "_sysctl",
    "create_module",
    "epoll_ctl_old",
    "epoll_wait_old",
    "get_kernel_syms",
    "get_thread_area",
    "nfsservctl",
    "query_module",
    "set_thread_area",
    "uselib",
    "uretprobe",
    "vserver",
];

/// Calls whose arguments x32 lays out in its own way, and which therefore have other numbers there.
const X32_OWN: [(&str, u32); 36] = [
    ("rt_sigaction", 512),
    ("rt_sigreturn", 513),
    ("ioctl", 514),
    ("readv", 515),
    ("writev", 516),
    ("recvfrom", 517),
    ("sendmsg", 518),
    ("recvmsg", 519),
    ("execve", 520),
    ("ptrace", 521),
    ("rt_sigpending", 522),
    ("rt_sigtimedwait", 523),
    ("rt_sigqueueinfo", 524),
    ("sigaltstack", 525),
    ("timer_create", 526),
    ("mq_notify", 527),
    ("kexec_load", 528),
    ("waitid", 529),
    ("set_robust_list", 530),
    ("get_robust_list", 531),
    ("vmsplice", 532),
    ("move_pages", 533),
    ("preadv", 534),
    ("pwritev", 535),
    ("rt_tgsigqueueinfo", 536),
    ("recvmmsg", 537),
    ("sendmmsg", 538),
    ("process_vm_readv", 539),
    ("process_vm_writev", 540),
    ("setsockopt", 541),
    ("getsockopt", 542),
    ("io_setup", 543),
    ("io_submit", 544),
    ("execveat", 545),
    ("preadv2", 546),
    ("pwritev2", 547),
];

/// Calls outside ARM's table, and names that profiles use for calls inside it.
const ARM_PRIVATE: [(&str, u32); 8] = [
    ("breakpoint", 0x000f_0001),
    ("cacheflush", 0x000f_0002),
    ("usr26", 0x000f_0003),
    ("usr32", 0x000f_0004),
    ("set_tls", 0x000f_0005),
    ("get_tls", 0x000f_0006),
    ("sync_file_range2", 341),
    ("fadvise64_64", 270),
];

/// What `socketcall` does by its first argument, from 1.
const SOCKETCALL: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];

/// What `ipc` does by its first argument.
const IPC: [(&str, u64); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];
