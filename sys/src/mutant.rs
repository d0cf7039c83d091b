//! Weakenings: each leaves one defence out, so that the test of the defence can be seen to fail without it.
//!
//! There are none in any build but one with the feature `mutants`, which `make mutants` makes and throws away.

/// A defence that can be left out, by its name among those in `CORTEN_MUTANT`, which commas separate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Paths in a root file system are resolved as if they were the host's.
    FollowSymlinks,
    /// A symlink is taken for the folder where procfs or sysfs is mounted.
    NoTargetCheck,
    /// Whatever is at `/dev/null` covers masked paths.
    NoNullCheck,
    /// Descriptors of the caller stay open.
    LeakFds,
    /// A working folder outside the container is fine.
    NoCwdCheck,
    /// The program enters the container as the host's file.
    NoSeal,
    /// Permitted capabilities are inheritable too.
    KeepInheritable,
    /// No device rule is set.
    AllowAllDevices,
    /// The null device is given to the user like any stdio.
    GiveNull,
    /// A user that is no number is root.
    LenientUser,
    /// Kernel parameters are written wherever `/proc` leads to.
    AnyProc,
    /// The control groups are writable, whatever the mount says.
    WritableCgroups,
}

/// Tells whether this program is to do without a defence.
#[cfg(feature = "mutants")]
pub fn is(mutant: Mutant) -> bool {
    let name = format!("{mutant:?}");
    std::env::var("CORTEN_MUTANT").is_ok_and(|wanted| wanted.split(',').any(|one| one == name))
}

/// Tells whether this program is to do without a defence: never.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is(_: Mutant) -> bool {
    false
}
