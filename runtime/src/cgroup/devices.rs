//! Which devices a container may open and make: the rules of its configuration and those that all containers have, as
//! entries of v1's lists or as a program of v2.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fs::OFlags;
use sys::bpf::{DeviceProgram, Instruction};
use sys::mutant::{self, Mutant};
use sys::{Context, Error, Kind, Result};

use super::dir::{Dir, write_all};

const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// What every container may do, whatever its configuration says: make any node, and use those of a usual `/dev`.
const DEFAULT: [Entry; 11] = [
    Entry::new(Type::Char, None, None, MKNOD),
    Entry::new(Type::Block, None, None, MKNOD),
    Entry::new(Type::Char, Some(1), Some(3), ALL),
    Entry::new(Type::Char, Some(1), Some(8), ALL),
    Entry::new(Type::Char, Some(1), Some(7), ALL),
    Entry::new(Type::Char, Some(5), Some(0), ALL),
    Entry::new(Type::Char, Some(1), Some(5), ALL),
    Entry::new(Type::Char, Some(1), Some(9), ALL),
    Entry::new(Type::Char, Some(136), None, ALL),
    Entry::new(Type::Char, Some(5), Some(2), ALL),
    Entry::new(Type::Char, Some(10), Some(200), ALL),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Block,
    Char,
}

/// Some accesses to some devices; a number that is None stands for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    kind: Type,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

/// All devices, or none, and the exceptions from that.
#[derive(Debug, Default, PartialEq, Eq)]
struct Policy {
    allow: bool,
    exceptions: Vec<Entry>,
}

/// Replaces the rules of a v1 group.
pub(super) fn apply_v1(dir: &Dir, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    if mutant::is(Mutant::AllowAllDevices) {
        return Ok(());
    }
    let policy = Policy::new(rules)?;
    let (base, exceptions) = if policy.allow {
        ("devices.allow", "devices.deny")
    } else {
        ("devices.deny", "devices.allow")
    };
    dir.write(base, "a")?;
    if policy.exceptions.is_empty() {
        return Ok(());
    }
    let file = dir
        .file(exceptions, OFlags::WRONLY)
        .context(|| format!("open {exceptions} of {:?}", dir.path()))?;
    for entry in &policy.exceptions {
        let entry = entry.to_string();
        write_all(&file, &entry)
            .context(|| format!("write {entry:?} to {:?}", dir.path().join(exceptions)))?;
    }
    Ok(())
}

/// Replaces the program of a v2 group. The new one is there before the old ones go: access is never wider than one of
/// the two allows.
pub(super) fn apply_v2(dir: &Dir, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    if mutant::is(Mutant::AllowAllDevices) {
        return Ok(());
    }
    let program = Policy::new(rules)?.program();
    // The kernel wants a descriptor that was opened for reading.
    let group = dir
        .file(".", OFlags::RDONLY | OFlags::DIRECTORY)
        .context(|| format!("open {:?}", dir.path()))?;
    let old = DeviceProgram::attached(&group)
        .context(|| format!("list device programs of {:?}", dir.path()))?;
    DeviceProgram::load(&program)
        .and_then(|program| program.attach(&group))
        .context(|| format!("attach device program to {:?}", dir.path()))?;
    old.iter()
        .try_for_each(|program| program.detach(&group))
        .context(|| format!("detach old device program from {:?}", dir.path()))
}

/// Returns the devices that systemd is to allow, each with its accesses (`DeviceAllow` of systemd.resource-control(5));
/// None if that is all of them, or all but some, which systemd can not say.
pub(super) fn for_systemd(rules: &[LinuxDeviceCgroup]) -> Result<Option<Vec<(String, String)>>> {
    let policy = Policy::new(rules)?;
    if policy.allow {
        return Ok(None);
    }
    let groups = std::fs::read_to_string("/proc/devices").context(|| "read \"/proc/devices\"")?;
    let allowed = policy.exceptions.iter().filter_map(|entry| {
        let kind = match entry.kind {
            Type::Block => "block",
            Type::Char => "char",
        };
        let path = match (entry.major, entry.minor) {
            (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
            // A driver that is not there has no devices to open.
            (Some(major), None) => format!("{kind}-{}", group(&groups, entry.kind, major)?),
            (None, _) => format!("{kind}-*"),
        };
        let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
        let letters = letters
            .iter()
            .filter(|(access, _)| entry.access & access != 0);
        Some((path, letters.map(|(_, letter)| letter).collect()))
    });
    Ok(Some(allowed.collect()))
}

/// Returns the name that `/proc/devices` has for the devices of a major number.
fn group(groups: &str, kind: Type, major: u32) -> Option<&str> {
    let (chars, blocks) = groups.split_once("Block devices:")?;
    let section = match kind {
        Type::Char => chars,
        Type::Block => blocks,
    };
    let mut entries = section
        .lines()
        .filter_map(|line| line.trim().split_once(' '));
    let found = entries.find(|(number, _)| number.parse() == Ok(major))?;
    Some(found.1.trim())
}

impl Policy {
    /// Merges rules in their order, then those of every container. Without any rule nothing else is allowed.
    fn new(rules: &[LinuxDeviceCgroup]) -> Result<Self> {
        let mut policy = Self::default();
        for (index, rule) in rules.iter().enumerate() {
            let access = parse_access(rule.access().as_deref().unwrap_or_default(), index)?;
            let kind = match rule.typ() {
                // A rule for all types is one for all devices and accesses: the kernel never looked at the rest.
                None | Some(LinuxDeviceType::A) => {
                    policy = Self {
                        allow: rule.allow(),
                        exceptions: Vec::new(),
                    };
                    continue;
                }
                Some(LinuxDeviceType::B) => Type::Block,
                Some(LinuxDeviceType::C | LinuxDeviceType::U) => Type::Char,
                Some(LinuxDeviceType::P) => {
                    return Err(invalid(format!(
                        "device rule {index}: a pipe is not a device"
                    )));
                }
            };
            let entry = Entry {
                kind,
                major: number(rule.major())?,
                minor: number(rule.minor())?,
                access,
            };
            policy.merge(rule.allow(), entry)?;
        }
        for entry in DEFAULT {
            policy.merge(true, entry)?;
        }
        Ok(policy)
    }

    fn merge(&mut self, allow: bool, entry: Entry) -> Result<()> {
        let same = |other: &&mut Entry| other.same_devices(&entry);
        if allow != self.allow {
            match self.exceptions.iter_mut().find(same) {
                Some(other) => other.access |= entry.access,
                None => self.exceptions.push(entry),
            }
            return Ok(());
        }
        if let Some(other) = self.exceptions.iter_mut().find(same) {
            other.access &= !entry.access;
        }
        self.exceptions.retain(|other| other.access != 0);
        // What is left that covers some of the same devices would survive the rule, which v1's lists can not say.
        let overlap = |other: &Entry| other.overlaps(&entry);
        if !allow && self.exceptions.iter().any(overlap) {
            return Err(invalid(format!(
                "device rule \"deny {entry}\" is only a part of one that allows"
            )));
        }
        if allow {
            self.exceptions.retain(|other| !entry.covers(other));
        }
        Ok(())
    }

    /// Returns the policy as a program. An exception that allows has to cover all of the access, one that denies any
    /// of it.
    fn program(&self) -> Vec<Instruction> {
        let mut program = vec![
            load(TYPE, CONTEXT, 0),
            and(TYPE, 0xffff),
            load(ACCESS, CONTEXT, 0),
            shift_right(ACCESS, 16),
            load(MAJOR, CONTEXT, 4),
            load(MINOR, CONTEXT, 8),
        ];
        for entry in &self.exceptions {
            program.extend(self.test(entry));
        }
        program.extend(exit(self.allow));
        program
    }

    fn test(&self, entry: &Entry) -> Vec<Instruction> {
        let kind = match entry.kind {
            Type::Block => 1,
            Type::Char => 2,
        };
        let mut tests = vec![unless_equal(TYPE, kind)];
        if entry.access != ALL {
            tests.push(copy(MATCHED, ACCESS));
            tests.push(and(MATCHED, i32::from(entry.access)));
            tests.push(if self.allow {
                if_equal(MATCHED, 0)
            } else {
                unless_same(MATCHED, ACCESS)
            });
        }
        if let Some(major) = entry.major {
            tests.push(unless_equal(MAJOR, major as i32));
        }
        if let Some(minor) = entry.minor {
            tests.push(unless_equal(MINOR, minor as i32));
        }
        tests.extend(exit(!self.allow));
        // Each test that fails skips the rest of the entry.
        let length = tests.len();
        for (index, test) in tests.iter_mut().enumerate() {
            if test.code & CLASS == JUMP_CLASS && test.code != EXIT {
                test.offset = (length - index - 1) as i16;
            }
        }
        tests
    }
}

impl Entry {
    const fn new(kind: Type, major: Option<u32>, minor: Option<u32>, access: u8) -> Self {
        Self {
            kind,
            major,
            minor,
            access,
        }
    }

    fn same_devices(&self, other: &Self) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }

    fn covers(&self, other: &Self) -> bool {
        let within = |outer: Option<u32>, inner| outer.is_none() || outer == inner;
        self.kind == other.kind
            && within(self.major, other.major)
            && within(self.minor, other.minor)
            && self.access & other.access == other.access
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind
            && meet(self.major, other.major)
            && meet(self.minor, other.minor)
            && self.access & other.access != 0
    }
}

/// The form of an entry in v1's lists.
impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
        f.write_str(match self.kind {
            Type::Block => "b",
            Type::Char => "c",
        })?;
        write!(f, " {}:{} ", number(self.major), number(self.minor))?;
        for (bit, letter) in [(READ, "r"), (WRITE, "w"), (MKNOD, "m")] {
            if self.access & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

fn parse_access(letters: &str, index: usize) -> Result<u8> {
    if letters.is_empty() {
        return Err(invalid(format!(
            "device access at {index} field cannot be empty"
        )));
    }
    // As runc does: what is none of these is passed over.
    let access = letters.chars().fold(0, |access, letter| match letter {
        'r' => access | READ,
        'w' => access | WRITE,
        'm' => access | MKNOD,
        _ => access,
    });
    match access {
        0 => Err(invalid(format!(
            "device access {letters:?} at {index} has none of r, w and m"
        ))),
        access => Ok(access),
    }
}

/// Returns a device number; -1 stands for all.
fn number(number: Option<i64>) -> Result<Option<u32>> {
    match number {
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number)
            .map(Some)
            .map_err(|_| invalid(format!("device number {number} is out of range"))),
    }
}

fn invalid(message: String) -> Error {
    Error::new(Kind::InvalidArgument, message)
}

// Registers: the verdict, the context (overwritten once it is read), and what is read from it.
const VERDICT: u8 = 0;
const CONTEXT: u8 = 1;
const MATCHED: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const CLASS: u8 = 0x07;
const JUMP_CLASS: u8 = 0x05;
const EXIT: u8 = 0x95;

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    }
}

/// `to = *(u32 *)(from + offset)`
const fn load(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x61, to, from, offset, 0)
}

/// `to &= value`
const fn and(to: u8, value: i32) -> Instruction {
    instruction(0x54, to, 0, 0, value)
}

/// `to >>= bits`
const fn shift_right(to: u8, bits: i32) -> Instruction {
    instruction(0x74, to, 0, 0, bits)
}

/// `to = from`
const fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbc, to, from, 0, 0)
}

/// Skips if the register has not this value. Numbers are compared as 64 bits, of which loads clear the upper half, so
/// a value of more than 31 bits would never match: no device has one.
const fn unless_equal(register: u8, value: i32) -> Instruction {
    instruction(0x55, register, 0, 0, value)
}

/// Skips if the register has this value.
const fn if_equal(register: u8, value: i32) -> Instruction {
    instruction(0x15, register, 0, 0, value)
}

/// Skips if two registers differ.
const fn unless_same(register: u8, other: u8) -> Instruction {
    instruction(0x5d, register, other, 0, 0)
}

/// Ends the program.
fn exit(allow: bool) -> [Instruction; 2] {
    [
        instruction(0xb7, VERDICT, 0, 0, i32::from(allow)),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}
