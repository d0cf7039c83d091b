//! eBPF programs that decide about a control group's access to devices.

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 1 << 1;

/// How many programs one control group can have.
const MAX_ATTACHED: usize = 64;

/// One instruction of eBPF, laid out as the kernel's `bpf_insn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// The operation.
    pub code: u8,
    /// The destination register in the lower half, the source register in the upper one.
    pub registers: u8,
    /// How many instructions to skip, or where in memory to read.
    pub offset: i16,
    /// The constant operand.
    pub immediate: i32,
}

/// A loaded program.
#[derive(Debug)]
pub struct DeviceProgram(OwnedFd);

impl DeviceProgram {
    /// Has the kernel verify and load a program that returns 1 to allow an access and 0 to refuse it.
    pub fn load(instructions: &[Instruction]) -> Result<Self, Errno> {
        #[repr(C)]
        struct Attributes {
            kind: u32,
            count: u32,
            instructions: u64,
            license: u64,
            log_level: u32,
            log_size: u32,
            log: u64,
            kernel_version: u32,
            flags: u32,
        }
        let license = c"Apache-2.0";
        let mut attributes = Attributes {
            kind: PROG_TYPE_CGROUP_DEVICE,
            count: u32::try_from(instructions.len()).map_err(|_| Errno::TOOBIG)?,
            instructions: instructions.as_ptr() as u64,
            license: license.as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
        };
        // SAFETY: the attributes are those of PROG_LOAD; the instructions, of which there are `count`, and the
        // NUL-terminated licence outlive the call, which only reads them.
        let fd = unsafe { bpf(PROG_LOAD, &mut attributes) }?;
        // SAFETY: PROG_LOAD returns a new descriptor, which nothing else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Attaches the program to a control group of v2, beside those that are attached.
    pub fn attach(&self, cgroup: impl AsFd) -> Result<(), Errno> {
        let mut attributes = Attach::new(&cgroup, &self.0, ALLOW_MULTI);
        // SAFETY: the attributes are those of PROG_ATTACH and hold no pointer.
        unsafe { bpf(PROG_ATTACH, &mut attributes) }.map(drop)
    }

    /// Detaches the program from a control group.
    pub fn detach(&self, cgroup: impl AsFd) -> Result<(), Errno> {
        let mut attributes = Attach::new(&cgroup, &self.0, 0);
        // SAFETY: the attributes are those of PROG_DETACH and hold no pointer.
        unsafe { bpf(PROG_DETACH, &mut attributes) }.map(drop)
    }

    /// Returns the programs that are attached to a control group itself.
    pub fn attached(cgroup: impl AsFd) -> Result<Vec<Self>, Errno> {
        #[repr(C)]
        struct Query {
            target: u32,
            kind: u32,
            query_flags: u32,
            attach_flags: u32,
            ids: u64,
            count: u32,
            padding: u32,
        }
        let mut ids = [0u32; MAX_ATTACHED];
        let mut attributes = Query {
            target: cgroup.as_fd().as_raw_fd() as u32,
            kind: ATTACH_CGROUP_DEVICE,
            query_flags: 0,
            attach_flags: 0,
            ids: ids.as_mut_ptr() as u64,
            count: MAX_ATTACHED as u32,
            padding: 0,
        };
        // SAFETY: the attributes are those of PROG_QUERY; `ids` has room for `count` numbers and outlives the call.
        unsafe { bpf(PROG_QUERY, &mut attributes) }?;
        let ids = &ids[..attributes.count as usize];
        ids.iter().map(|id| Self::by_id(*id)).collect()
    }

    fn by_id(id: u32) -> Result<Self, Errno> {
        #[repr(C)]
        struct ById {
            id: u32,
            next: u32,
            flags: u32,
        }
        let mut attributes = ById {
            id,
            next: 0,
            flags: 0,
        };
        // SAFETY: the attributes are those of PROG_GET_FD_BY_ID and hold no pointer.
        let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &mut attributes) }?;
        // SAFETY: PROG_GET_FD_BY_ID returns a new descriptor, which nothing else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

/// The attributes of PROG_ATTACH and PROG_DETACH.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

impl Attach {
    fn new(cgroup: &impl AsFd, program: &OwnedFd, flags: u32) -> Self {
        Self {
            target: cgroup.as_fd().as_raw_fd() as u32,
            program: program.as_raw_fd() as u32,
            kind: ATTACH_CGROUP_DEVICE,
            flags,
        }
    }
}

/// Makes a bpf system call.
///
/// # Safety
///
/// `attributes` is laid out as the command's part of the kernel's `bpf_attr`, has no padding that is not set, and what
/// it points to is valid for what the command does with it.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> Result<RawFd, Errno> {
    // SAFETY: the caller promises that the attributes are the command's; the size is theirs, and the kernel takes what
    // a shorter structure does not have as zero.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if returned < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL));
    }
    Ok(returned as RawFd)
}
