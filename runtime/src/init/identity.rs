//! Who the process is to the kernel: user, groups, capabilities, limits.

use std::os::fd::BorrowedFd;

use oci_spec::runtime::{Capabilities, Capability, PosixRlimitType, Process};
use rustix::fs::{FileType, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use sys::mutant::{self, Mutant};
use sys::{Context, Result};

use crate::wording;

/// The number of the last capability this knows; the kernel refuses those it does not have.
const LAST_CAPABILITY: u32 = 63;

/// A process's user, groups and capabilities.
#[derive(Debug)]
pub(crate) struct Identity {
    pub uid: u32,
    gid: u32,
    groups: Vec<Gid>,
    umask: Option<u32>,
    bounding: CapabilitySet,
    sets: CapabilitySets,
    ambient: CapabilitySet,
    limits: Vec<(Resource, Rlimit)>,
    no_new_privs: bool,
}

impl Identity {
    /// Takes from a process who it is to be; capabilities it does not name it does not have.
    pub fn new(process: &Process) -> Self {
        let user = process.user();
        let groups = user.additional_gids().iter().flatten();
        let capabilities = process.capabilities().as_ref();
        let set = |set: Option<&Option<Capabilities>>| set.map_or(CapabilitySet::empty(), bits);
        let limits = process.rlimits().iter().flatten().map(|limit| {
            let limit_of = |value: u64| (value != u64::MAX).then_some(value);
            let (current, maximum) = (limit_of(limit.soft()), limit_of(limit.hard()));
            (resource(limit.typ()), Rlimit { current, maximum })
        });
        Self {
            uid: user.uid(),
            gid: user.gid(),
            groups: groups.map(|gid| Gid::from_raw(*gid)).collect(),
            umask: user.umask(),
            bounding: set(capabilities.map(|all| all.bounding())),
            sets: CapabilitySets {
                effective: set(capabilities.map(|all| all.effective())),
                permitted: set(capabilities.map(|all| all.permitted())),
                inheritable: set(capabilities.map(|all| {
                    match mutant::is(Mutant::KeepInheritable) {
                        true => all.permitted(),
                        false => all.inheritable(),
                    }
                })),
            },
            ambient: set(capabilities.map(|all| all.ambient())),
            limits: limits.collect(),
            no_new_privs: process.no_new_privileges().unwrap_or(false),
        }
    }

    /// Tells whether the process can gain no privileges by executing a program.
    pub fn no_new_privs(&self) -> bool {
        self.no_new_privs
    }

    /// Sets the limits, while the process may still raise them.
    pub fn limit(&self) -> Result<()> {
        for (resource, limit) in &self.limits {
            rustix::process::setrlimit(*resource, *limit)
                .context(|| format!("set limit {resource:?} to {limit:?}"))?;
        }
        Ok(())
    }

    /// Gives stdin, stdout and stderr to the user, who may have to open them again by `/proc/self/fd`.
    pub fn own_stdio(&self) -> Result<()> {
        if self.uid == 0 {
            return Ok(());
        }
        for fd in [
            rustix::stdio::stdin(),
            rustix::stdio::stdout(),
            rustix::stdio::stderr(),
        ] {
            self.own(fd)?;
        }
        Ok(())
    }

    fn own(&self, fd: BorrowedFd<'_>) -> Result<()> {
        let stat = match rustix::fs::fstat(fd) {
            Err(Errno::BADF) => return Ok(()),
            stat => stat.context(|| "stat stdio")?,
        };
        let is_char = FileType::from_raw_mode(stat.st_mode).is_char_device();
        let number = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        // The null device may be the host's: its owner is not ours to change.
        let is_null = is_char && number == (1, 3) && !mutant::is(Mutant::GiveNull);
        if stat.st_uid == self.uid || is_null {
            return Ok(());
        }
        match rustix::fs::fchown(fd, Some(Uid::from_raw(self.uid)), None) {
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS | Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno).context(|| "give stdio to the user"),
        }
    }

    /// Becomes the user, with only the capabilities it is to have.
    pub fn assume(&self) -> Result<()> {
        for number in 0..=LAST_CAPABILITY {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if self.bounding.contains(capability) {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // Past the last one the kernel has.
                Err(Errno::INVAL) => break,
                Err(errno) => {
                    return Err(errno).context(|| "drop capability from the bounding set");
                }
            }
        }
        if let Some(umask) = self.umask {
            rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
        }
        if self.uid != 0 {
            rustix::thread::set_keep_capabilities(true).context(|| "keep capabilities")?;
        }
        self.become_user()?;
        if self.uid != 0 {
            rustix::thread::set_keep_capabilities(false).context(|| "keep capabilities no more")?;
        }
        rustix::thread::set_capabilities(None, self.sets)
            .context(|| format!("set capabilities {:?}", self.sets))?;
        self.raise_ambient()
    }

    fn become_user(&self) -> Result<()> {
        match rustix::thread::set_thread_groups(&self.groups) {
            Ok(()) => {}
            // A user namespace that may not change groups has none to drop that it could name.
            Err(Errno::PERM) if self.groups.is_empty() => {}
            Err(errno) => return Err(errno).context(|| format!("set groups {:?}", self.groups)),
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::thread::set_thread_res_gid(gid, gid, gid)
            .map_err(|errno| wording::cannot_become("gid", self.gid, errno))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)
            .map_err(|errno| wording::cannot_become("uid", self.uid, errno))
    }

    fn raise_ambient(&self) -> Result<()> {
        if self.ambient.is_empty() {
            return Ok(());
        }
        for capability in self.ambient {
            match rustix::thread::configure_capability_in_ambient_set(capability, true) {
                Ok(()) => {}
                // As for runc, one that is not permitted and inheritable too is left out.
                Err(Errno::PERM) => {}
                Err(errno) => {
                    return Err(errno).context(|| format!("raise ambient {capability:?}"));
                }
            }
        }
        Ok(())
    }
}

fn bits(capabilities: &Option<Capabilities>) -> CapabilitySet {
    let all = capabilities.iter().flatten();
    all.fold(CapabilitySet::empty(), |set, capability| {
        set | bit(*capability)
    })
}

fn resource(typ: PosixRlimitType) -> Resource {
    match typ {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

/// Returns the kernel's bit; the specification's enum is in no order that could be counted on.
fn bit(capability: Capability) -> CapabilitySet {
    let name = sys::capability::full_name(&capability.to_string());
    let number = sys::capability::number(&name);
    number.map_or(CapabilitySet::empty(), |number| {
        CapabilitySet::from_bits_retain(1 << number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_has_the_kernels_number() {
        for (number, name) in sys::capability::NAMES.iter().enumerate() {
            let capability = serde_json::from_value((*name).into()).unwrap();
            assert_eq!(bit(capability).bits(), 1 << number, "{name}");
        }
    }
}
