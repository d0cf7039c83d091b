//! Programs of our compiler against libseccomp's for the same profile, and in the kernel.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator as Operator, LinuxSyscall, LinuxSyscallBuilder,
};
use proptest::prelude::*;
use runtime::seccomp::compile;
use rustix::io::Errno;
use sys::seccomp::Instruction;

const DOCKER: &str = include_str!("fixtures/docker-seccomp.json");

const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;
const ENOSYS: u32 = 0x0005_0026;

/// What a filter is asked about.
#[derive(Clone, Copy, Debug)]
struct Call {
    number: u32,
    machine: u32,
    arguments: [u64; 6],
}

impl Call {
    /// Returns the word at an offset of the kernel's seccomp_data.
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.machine,
            8 | 12 => 0,
            _ => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) {
                    argument as u32
                } else {
                    (argument >> 32) as u32
                }
            }
        }
    }
}

/// Runs a program as the kernel does, with its rules: jumps go forward and the end is a return.
///
/// None if it compares the machine with what is no machine: libseccomp 2.5 forgets to load the number of a call where
/// it thinks that it is loaded.
fn run(program: &[Instruction], call: &Call) -> Option<u32> {
    let mut accumulator = 0;
    let mut loaded = 0;
    let mut at = 0;
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        if code == 0x15 && loaded == 4 && ![X86_64, X86].contains(&k) {
            return None;
        }
        let holds = match code {
            0x20 => {
                accumulator = call.word(k);
                loaded = k;
                true
            }
            0x54 => {
                accumulator &= k;
                true
            }
            0x05 => {
                at += k as usize;
                true
            }
            0x06 => return Some(k),
            0x15 => accumulator == k,
            0x25 => accumulator > k,
            0x35 => accumulator >= k,
            0x45 => accumulator & k != 0,
            _ => panic!("instruction {code:#x} at {at}"),
        };
        at += 1;
        if [0x15, 0x25, 0x35, 0x45].contains(&code) {
            at += usize::from(if holds { jt } else { jf });
        }
    }
}

/// libseccomp in a process of its own, built on the spot from a few lines of C.
struct Libseccomp {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Libseccomp {
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("peer");
        let source = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/libseccomp-peer.c"
        );
        let built = Command::new("cc")
            .args(["-O1", "-o"])
            .arg(&binary)
            .args([source, "-lseccomp"])
            .stderr(Stdio::null())
            .status();
        if !built.is_ok_and(|status| status.success()) {
            return None;
        }
        let child = Command::new(binary)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Some(Self {
            child,
            _folder: folder,
        })
    }

    /// Returns libseccomp's program for the rules that runc hands it.
    fn compile(&mut self, profile: &LinuxSeccomp) -> Vec<Instruction> {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(runc_calls(profile).as_bytes()).unwrap();
        input.flush().unwrap();
        let output = self.child.stdout.as_mut().unwrap();
        let mut count = [0; 4];
        output.read_exact(&mut count).expect("a refused profile");
        let mut bytes = vec![0; u32::from_ne_bytes(count) as usize * 8];
        output.read_exact(&mut bytes).unwrap();
        bytes
            .chunks(8)
            .map(|bytes| Instruction {
                code: u16::from_ne_bytes([bytes[0], bytes[1]]),
                jt: bytes[2],
                jf: bytes[3],
                k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            })
            .collect()
    }
}

impl Drop for Libseccomp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns libseccomp, or None after saying that it is missing.
fn libseccomp() -> Option<&'static Mutex<Libseccomp>> {
    static PEER: OnceLock<Option<Mutex<Libseccomp>>> = OnceLock::new();
    let peer = PEER.get_or_init(|| Libseccomp::start().map(Mutex::new));
    if peer.is_none() {
        eprintln!("SKIP: no C compiler with libseccomp's headers");
    }
    peer.as_ref()
}

/// Returns the calls that runc makes for a profile: one for each name, and one for each condition where an argument
/// has several; rules that change nothing are left out.
fn runc_calls(profile: &LinuxSeccomp) -> String {
    let default = encode(profile.default_action(), profile.default_errno_ret());
    let mut text = format!("default {default}\n");
    for arch in profile.architectures().iter().flatten() {
        text += &format!("arch {}\n", *arch as u32);
    }
    for syscall in profile.syscalls().iter().flatten() {
        let action = encode(syscall.action(), syscall.errno_ret());
        if action == default {
            continue;
        }
        let arguments: Vec<&LinuxSeccompArg> = syscall.args().iter().flatten().collect();
        let repeated = |index| {
            let same = |argument: &&&LinuxSeccompArg| argument.index() == index;
            arguments.iter().filter(same).count() > 1
        };
        let rules: Vec<Vec<&LinuxSeccompArg>> = if (0..6).any(repeated) {
            arguments.iter().map(|argument| vec![*argument]).collect()
        } else {
            vec![arguments]
        };
        for name in syscall.names() {
            for rule in &rules {
                text += &format!("rule {action} {name} {}", rule.len());
                for argument in rule {
                    text += &format!(
                        " {} {} {} {}",
                        argument.index(),
                        argument.op() as u32,
                        argument.value(),
                        argument.value_two().unwrap_or_default()
                    );
                }
                text.push('\n');
            }
        }
    }
    text + "end\n"
}

fn encode(action: Action, errno: Option<u32>) -> u32 {
    let data = errno.unwrap_or(1) & 0xffff;
    match action {
        Action::ScmpActErrno => 0x0005_0000 | data,
        Action::ScmpActTrace => 0x7ff0_0000 | data,
        Action::ScmpActKill | Action::ScmpActKillThread => 0,
        Action::ScmpActKillProcess => 0x8000_0000,
        Action::ScmpActTrap => 0x0003_0000,
        Action::ScmpActNotify => 0x7fc0_0000,
        Action::ScmpActLog => 0x7ffc_0000,
        Action::ScmpActAllow => 0x7fff_0000,
    }
}

/// Calls that differ between the architectures, are multiplexed on some, or exist on one only.
const NAMES: [&str; 40] = [
    "read",
    "write",
    "open",
    "close",
    "mmap",
    "ioctl",
    "readv",
    "execve",
    "clone",
    "clone3",
    "personality",
    "socket",
    "connect",
    "accept",
    "accept4",
    "send",
    "recv",
    "recvmsg",
    "sendmmsg",
    "setsockopt",
    "semget",
    "semop",
    "semtimedop",
    "shmat",
    "msgctl",
    "socketcall",
    "ipc",
    "arch_prctl",
    "modify_ldt",
    "_llseek",
    "chown32",
    "clock_gettime64",
    "stat64",
    "waitid",
    "waitpid",
    "rt_sigaction",
    "preadv2",
    "futex_waitv",
    "process_mrelease",
    "no_such_call",
];

fn values() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..6u64,
        Just(0xffff_ffff),
        Just(0x1_0000_0000),
        Just(0x1_0000_0003),
        Just(0x7e02_0000),
        Just(u64::MAX),
        Just(1 << 63),
        any::<u64>(),
    ]
}

/// Returns conditions with values of up to `bits`: for 32-bit programs libseccomp takes larger ones to pieces.
fn arguments(bits: u64) -> impl Strategy<Value = Vec<LinuxSeccompArg>> {
    let operator = prop_oneof![
        Just(Operator::ScmpCmpEq),
        Just(Operator::ScmpCmpNe),
        Just(Operator::ScmpCmpLt),
        Just(Operator::ScmpCmpLe),
        Just(Operator::ScmpCmpGt),
        Just(Operator::ScmpCmpGe),
        Just(Operator::ScmpCmpMaskedEq),
    ];
    let argument = (0..6usize, operator, values(), values()).prop_map(move |(index, op, a, b)| {
        LinuxSeccompArgBuilder::default()
            .index(index)
            .op(op)
            .value(a & bits)
            .value_two(b & bits)
            .build()
            .unwrap()
    });
    proptest::collection::vec(argument, 0..3)
}

/// One action for each call: which of two rules that overlap wins is libseccomp's accident.
fn action_of(name: usize) -> (Action, Option<u32>) {
    match name % 4 {
        0 => (Action::ScmpActAllow, None),
        1 => (Action::ScmpActErrno, Some(38)),
        2 => (Action::ScmpActErrno, None),
        _ => (Action::ScmpActLog, None),
    }
}

fn syscall(bits: u64) -> impl Strategy<Value = LinuxSyscall> {
    (0..NAMES.len(), arguments(bits)).prop_map(|(name, arguments)| {
        let (action, errno) = action_of(name);
        let multiplexer = ["socketcall", "ipc"].contains(&NAMES[name]);
        let mut rule = LinuxSyscallBuilder::default()
            .names(vec![NAMES[name].to_owned()])
            .action(action)
            .args(if multiplexer { vec![] } else { arguments });
        if let Some(errno) = errno {
            rule = rule.errno_ret(errno);
        }
        rule.build().unwrap()
    })
}

/// Leaves one rule for each call, and two conditions on one argument only if both ask for equality: what libseccomp 2.5
/// merges beyond that may come out as programs that let through what no rule does.
fn drop_peers_mistakes(syscalls: &mut Vec<LinuxSyscall>) {
    use std::collections::HashSet;
    let mut seen = HashSet::new();
    syscalls.retain(|syscall| {
        let arguments = syscall.args().as_deref().unwrap_or_default();
        let indices: HashSet<usize> = arguments.iter().map(LinuxSeccompArg::index).collect();
        let equal = |argument: &LinuxSeccompArg| argument.op() == Operator::ScmpCmpEq;
        (indices.len() == arguments.len() || arguments.iter().all(equal))
            && seen.insert(syscall.names()[0].clone())
    });
}

fn profiles() -> impl Strategy<Value = LinuxSeccomp> {
    let architectures = prop_oneof![
        Just(vec![]),
        Just(vec![
            Arch::ScmpArchX86_64,
            Arch::ScmpArchX86,
            Arch::ScmpArchX32
        ]),
        Just(vec![Arch::ScmpArchX32]),
        Just(vec![Arch::ScmpArchX86]),
    ];
    // Permissive defaults, so that no stub for new calls is in the way of comparing; that has its own test.
    let default = prop_oneof![Just(Action::ScmpActAllow), Just(Action::ScmpActLog)];
    (default, architectures).prop_flat_map(|(default, architectures)| {
        let bits = if architectures.is_empty() {
            u64::MAX
        } else {
            0xffff_ffff
        };
        proptest::collection::vec(syscall(bits), 0..40).prop_map(move |mut syscalls| {
            drop_peers_mistakes(&mut syscalls);
            LinuxSeccompBuilder::default()
                .default_action(default)
                .architectures(architectures.clone())
                .syscalls(syscalls)
                .build()
                .unwrap()
        })
    })
}

/// Returns calls that matter for a profile: each number near one that either program knows, with values near those
/// that they compare with.
fn calls(programs: [&[Instruction]; 2], seed: u64) -> Vec<Call> {
    let constants: Vec<u32> = programs.concat().iter().map(|insn| insn.k).collect();
    let mut random = seed;
    let mut next = move || {
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut calls = Vec::new();
    let numbers = (0..560).chain([4096, 0x8000_0000, X32_BIT - 1, u32::MAX]);
    for number in numbers {
        for (machine, bit) in [(X86_64, 0), (X86_64, X32_BIT), (X86, 0), (0xc000_00b7, 0)] {
            for _ in 0..3 {
                let mut arguments = [0; 6];
                for argument in &mut arguments {
                    let mut half = || match next() % 4 {
                        0 => u64::from(constants[next() as usize % constants.len()]),
                        1 => {
                            u64::from(constants[next() as usize % constants.len()].wrapping_add(1))
                        }
                        2 => next() % 8,
                        _ => 0,
                    };
                    *argument = half() | half() << 32;
                }
                calls.push(Call {
                    number: number | bit,
                    machine,
                    arguments,
                });
            }
        }
    }
    calls
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_profile_means_what_it_means_to_libseccomp(profile in profiles(), seed in 1..u64::MAX) {
        let Some(peer) = libseccomp() else { return Ok(()) };
        let theirs = peer.lock().unwrap().compile(&profile);
        let ours = compile(&profile).unwrap();
        for call in calls([&theirs, ours.instructions()], seed) {
            // A 32-bit program has no more than 32 bits to pass.
            let mut call = call;
            if call.machine == X86 {
                call.arguments = call.arguments.map(|value| value & 0xffff_ffff);
            }
            let Some(expected) = run(&theirs, &call) else { continue };
            prop_assert_eq!(
                run(ours.instructions(), &call),
                Some(expected),
                "{:x?} in {}", call, runc_calls(&profile)
            );
        }
    }
}

fn docker() -> LinuxSeccomp {
    serde_json::from_str(DOCKER).unwrap()
}

#[test]
fn dockers_profile_means_what_it_means_to_libseccomp_up_to_its_newest_call() {
    let Some(peer) = libseccomp() else { return };
    // Names that are newer than the libseccomp at hand are unknown to it.
    let theirs = peer.lock().unwrap().compile(&docker());
    let ours = compile(&docker()).unwrap();
    for call in calls([&theirs, ours.instructions()], 7) {
        let number = call.number & !X32_BIT;
        if [335, 336].contains(&number) || (450..512).contains(&number) {
            continue;
        }
        let ours = run(ours.instructions(), &call);
        // What is newer than the profile is libseccomp's default action before runc adds to its program.
        if ours != Some(ENOSYS) || number < 512 {
            assert_eq!(ours, run(&theirs, &call), "{call:x?}");
        }
    }
}

#[test]
fn calls_newer_than_the_profile_are_not_there() {
    let profile = |action, name: &str| {
        let rule = LinuxSyscallBuilder::default()
            .names(vec![name.to_owned()])
            .action(Action::ScmpActAllow)
            .build()
            .unwrap();
        LinuxSeccompBuilder::default()
            .default_action(action)
            .architectures(vec![
                Arch::ScmpArchX86_64,
                Arch::ScmpArchX86,
                Arch::ScmpArchX32,
            ])
            .syscalls(vec![rule])
            .build()
            .unwrap()
    };
    let ask = |profile: &LinuxSeccomp, machine, number| {
        let call = Call {
            number,
            machine,
            arguments: [0; 6],
        };
        run(compile(profile).unwrap().instructions(), &call).unwrap()
    };
    const EPERM: u32 = 0x0005_0001;
    const ALLOW: u32 = 0x7fff_0000;
    let strict = profile(Action::ScmpActErrno, "openat2");
    for (machine, bit) in [(X86_64, 0), (X86_64, X32_BIT), (X86, 0)] {
        assert_eq!(ask(&strict, machine, 437 | bit), ALLOW);
        assert_eq!(ask(&strict, machine, 436 | bit), EPERM);
        assert_eq!(ask(&strict, machine, 438 | bit), ENOSYS);
        assert_eq!(ask(&strict, machine, 0x0fff_ffff | bit), ENOSYS);
    }
    // A profile that allows by default has no newest call, nor has one that knows of none.
    assert_eq!(
        ask(&profile(Action::ScmpActAllow, "openat2"), X86_64, 438),
        ALLOW
    );
    assert_eq!(
        ask(&profile(Action::ScmpActErrno, "no_such_call"), X86_64, 438),
        EPERM
    );
}

#[test]
fn dockers_profile_is_small_and_quick_to_compile() {
    let profile = docker();
    let mut best = Duration::MAX;
    let mut length = 0;
    for _ in 0..20 {
        let start = Instant::now();
        length = compile(&profile).unwrap().instructions().len();
        best = best.min(start.elapsed());
    }
    println!("{length} instructions in {best:?}");
    assert!(length < 1000, "{length} instructions");
    // Without optimisation; a release build needs a fraction.
    assert!(best < Duration::from_millis(50), "{best:?}");
}

/// Runs `body` in a thread that is confined to `profile`.
fn confined<T: Send + 'static>(
    profile: &LinuxSeccomp,
    body: impl FnOnce() -> T + Send + 'static,
) -> T {
    let program = compile(profile).unwrap();
    std::thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        assert!(program.install().unwrap().is_none());
        body()
    })
    .join()
    .unwrap()
}

#[test]
fn the_kernel_takes_dockers_profile_and_refuses_what_it_refuses() {
    use rustix::mount::{MountFlags, mount};
    use rustix::net::{AddressFamily, SocketType, socket};
    let (vsock, unix, mounted) = confined(&docker(), || {
        (
            socket(AddressFamily::from_raw(40), SocketType::STREAM, None).map(drop),
            socket(AddressFamily::UNIX, SocketType::STREAM, None).map(drop),
            mount("none", "/nowhere", "tmpfs", MountFlags::empty(), None),
        )
    });
    assert_eq!(vsock, Err(Errno::PERM));
    assert_eq!(unix, Ok(()));
    assert_eq!(mounted, Err(Errno::PERM));
}

#[test]
fn a_profile_that_notifies_returns_a_listener() {
    use rustix::event::{PollFd, PollFlags, poll};
    let profile: LinuxSeccomp = serde_json::from_str(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"],
            "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_NOTIFY"}]}"#,
    )
    .unwrap();
    let program = compile(&profile).unwrap();
    assert!(program.notifies());
    let (sender, receiver) = std::sync::mpsc::channel();
    let confined = std::thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        sender.send(program.install().unwrap().unwrap()).unwrap();
        rustix::system::sethostname(b"never-set")
    });
    let listener = receiver.recv().unwrap();
    let mut fds = [PollFd::new(&listener, PollFlags::IN)];
    let timeout = rustix::event::Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    assert_eq!(poll(&mut fds, Some(&timeout)), Ok(1));
    // Without anyone to answer the call fails.
    drop(listener);
    assert_eq!(confined.join().unwrap(), Err(Errno::NOSYS));
}

#[test]
fn profiles_that_make_no_sense_are_refused() {
    for (profile, message) in [
        (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "default action"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]}"#,
            "write syscall",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [""], "action": "SCMP_ACT_ERRNO"}]}"#,
            "empty string",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
            "index 6",
        ),
    ] {
        let error = compile(&serde_json::from_str(profile).unwrap()).unwrap_err();
        assert!(format!("{error:#}").contains(message), "{error:#}");
    }
}
