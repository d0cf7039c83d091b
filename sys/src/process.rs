//! Processes: made by clone3(2) with a descriptor of their own, told apart from everything the maker has open.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::mutant::{self, Mutant};
use crate::{Context, Error, Kind, Result};

// libc's own are too narrow for their values.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child of the calling process.
#[derive(Debug)]
pub struct Child {
    /// Its number in the caller's pid namespace.
    pub pid: i32,
    /// A descriptor of it.
    pub pidfd: OwnedFd,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// Returns the exit code a shell would show: 128 and the signal's number for a process that a signal ended.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Runs `child` in a new process, which exits with what it returns, with namespaces by `flags` (`CLONE_NEW*`), inside the v2 control group `cgroup`.
///
/// The child has copies of all memory and descriptors, and its signal handlers are the default ones. Of a caller's
/// threads only the calling one goes on in the child: a lock that another thread holds stays locked there, the
/// allocator's too, so that callers should have one thread.
pub fn spawn(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> i32,
) -> Result<Child> {
    let (into, cgroup) = match cgroup {
        Some(cgroup) => (CLONE_INTO_CGROUP, cgroup.as_raw_fd() as u64),
        None => (0, 0),
    };
    clone(flags | into, libc::SIGCHLD as u64, cgroup, child)
}

/// Like [`spawn`], but the new process is the child of the caller's own maker, who is the one to reap it.
pub fn spawn_sibling(flags: u64, child: impl FnOnce() -> i32) -> Result<Child> {
    // The maker hears of its end as of the caller's: the kernel refuses another signal.
    clone(flags | libc::CLONE_PARENT as u64, 0, 0, child)
}

fn clone(flags: u64, exit_signal: u64, cgroup: u64, child: impl FnOnce() -> i32) -> Result<Child> {
    let mut pidfd: RawFd = -1;
    let mut args = libc::clone_args {
        flags: flags | libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup,
    };
    // SAFETY: without CLONE_VM and CLONE_FILES the child shares nothing with the caller, so that both may go on from
    // here as after fork(2); args and pidfd outlive the call, and the size is that of args.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    match pid {
        0 => exit(child()),
        1.. => Ok(Child {
            pid: pid as i32,
            // SAFETY: the kernel stored a new descriptor there, which nothing else knows of.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
        _ => Err(last_errno()).context(|| "clone3"),
    }
}

/// Ends the calling process at once, without running destructors or what is registered for its exit.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit(2) has no precondition; nothing runs after it.
    unsafe { libc::_exit(code) }
}

/// Waits until a child has ended, reaps it, and returns how it ended.
pub fn wait(pidfd: BorrowedFd<'_>) -> Result<Exit> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                return Ok(match status.exit_status() {
                    Some(code) => Exit::Code(code),
                    None => Exit::Signal(status.terminating_signal().unwrap_or_default()),
                });
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context(|| "wait for child"),
        }
    }
}

/// Waits until a process has ended, whosever child it is, for at most `limit`.
pub fn wait_exit(pidfd: impl AsFd, limit: Duration) -> Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let limit = Timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: limit.subsec_nanos().into(),
    };
    loop {
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)) {
            Ok(0) => {
                return Err(Error::new(
                    Kind::DeadlineExceeded,
                    "the process does not end",
                ));
            }
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context(|| "wait for the end of a process"),
        }
    }
}

/// Returns a descriptor of the process `pid`, which must not be a thread's number.
pub fn open(pid: i32) -> Result<OwnedFd, Errno> {
    let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
}

/// Sends a signal by its number, which may be a real-time one.
pub fn signal(pidfd: impl AsFd, signal: i32) -> Result<(), Errno> {
    let pidfd = pidfd.as_fd().as_raw_fd();
    // SAFETY: the kernel reads no memory of ours, for the siginfo pointer is null.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd,
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// What `/proc/<pid>/stat` tells of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// One letter: `Z` and `X` are dead.
    pub state: u8,
    /// When it started, in ticks since boot: with the number it is unique.
    pub start_time: u64,
}

impl Stat {
    /// Reads about the process `pid`; `None` if there is none.
    pub fn read(pid: i32) -> Option<Self> {
        let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in brackets, which may hold blanks and brackets itself.
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(text.get(end + 2..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let start_time = fields.nth(18)?.parse().ok()?;
        Some(Self { state, start_time })
    }

    /// Tells whether the process has not ended.
    pub fn is_alive(self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Kills a child and reaps it.
pub fn kill_and_wait(child: &Child) -> Result<Exit> {
    match signal(&child.pidfd, Signal::KILL.as_raw()) {
        Ok(()) | Err(Errno::SRCH) => wait(child.pidfd.as_fd()),
        Err(errno) => Err(errno).context(|| format!("kill process {}", child.pid)),
    }
}

/// Unblocks all signals and stops ignoring any, as a program expects that starts in a fresh session.
pub fn reset_signals() {
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset only writes to the set it is given.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the set was initialised by the line above, and no old set is asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) };
    // SAFETY: setting the default disposition installs no handler. Rust's own start code has it ignored.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Has the usual signals to end end the process, which the first one of a pid namespace ignores without a handler.
pub fn end_on_signals() {
    extern "C" fn end(_: libc::c_int) {
        // SAFETY: _exit(2) takes a number only, and may be called by a handler.
        unsafe { libc::_exit(2) }
    }
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        let handler = end as extern "C" fn(libc::c_int);
        // SAFETY: the handler does nothing that a handler may not, and goes when a program is executed.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Closes every descriptor from 3 up that is not in `keep`.
pub fn close_all_except(keep: &mut [RawFd]) -> Result<()> {
    if mutant::is(Mutant::LeakFds) {
        return Ok(());
    }
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.iter().copied().filter(|fd| *fd >= 3) {
        if fd > first {
            close_range(first as u32, fd as u32 - 1, 0)?;
        }
        first = fd + 1;
    }
    close_range(first as u32, u32::MAX, 0)
}

/// Closes descriptors that a new process has as copies of its maker's, and needs no more.
pub fn close_copies(fds: impl IntoIterator<Item = RawFd>) -> Result<()> {
    for fd in fds.into_iter().filter(|fd| *fd >= 3) {
        close_range(fd as u32, fd as u32, 0)?;
    }
    Ok(())
}

/// Returns a copy of a descriptor that the calling process has from who executed it.
pub fn inherited(number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: the kernel refuses a number that is not open; the copy is made of one that is, and neither of them is
    // used otherwise here.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    match copy {
        // SAFETY: the kernel has just made this descriptor, which nothing else knows of.
        0.. => Ok(unsafe { OwnedFd::from_raw_fd(copy) }),
        _ => Err(last_errno()),
    }
}

/// Keeps who has not every right over the calling process from looking into it, until it executes a program.
pub fn hide() -> Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context(|| "hide the new process")
}

/// Makes the kernel close every descriptor from `first` up when the process executes a program.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    if mutant::is(Mutant::LeakFds) {
        return Ok(());
    }
    close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> Result<()> {
    // SAFETY: the callers own what they close: a new process's copies, of which it keeps what it still uses.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    match result {
        0 => Ok(()),
        _ => Err(last_errno()).context(|| format!("close descriptors from {first} to {last}")),
    }
}

/// Executes a program in place of the calling process; returns only why it could not.
pub fn execute(path: &CStr, args: &[CString], env: &[CString]) -> Errno {
    let args = pointers(args);
    let env = pointers(env);
    // SAFETY: both arrays end with a null pointer, and their strings live until the call returns.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    last_errno()
}

/// Executes the open file in place of the calling process; returns only why it could not.
pub fn execute_fd(file: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> Errno {
    let args = pointers(args);
    let env = pointers(env);
    // SAFETY: both arrays end with a null pointer, and their strings live until the call returns.
    unsafe {
        libc::execveat(
            file.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr().cast(),
            env.as_ptr().cast(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_errno()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    let pointers = strings.iter().map(|string| string.as_ptr());
    pointers.chain([ptr::null()]).collect()
}

pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Calls `test` in a process of its own with one thread, as [`spawn`] wants its caller to be: the harness has many.
#[cfg(test)]
pub(crate) fn alone(test: impl FnOnce() + std::panic::UnwindSafe) {
    // SAFETY: unlike the bare system call, fork(3) leaves the C library's allocator unlocked in the child.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "{}", std::io::Error::last_os_error());
    if pid == 0 {
        // The harness keeps what is printed in the memory of its own process.
        std::panic::set_hook(Box::new(|told| {
            let _ = rustix::io::write(rustix::stdio::stderr(), format!("{told}\n").as_bytes());
        }));
        exit(i32::from(std::panic::catch_unwind(test).is_err()));
    }
    let mut status = 0;
    // SAFETY: the kernel writes to `status`, which outlives the call.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!((waited, status), (pid, 0), "what failed is told above");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_waited_for_by_its_descriptor() {
        let child = spawn(0, None, || 7).unwrap();
        assert_eq!(wait(child.pidfd.as_fd()).unwrap(), Exit::Code(7));
        assert_eq!(signal(&child.pidfd, 9), Err(Errno::SRCH));
    }

    #[test]
    fn a_sibling_is_its_makers_child() {
        alone(|| {
            let (here, there) = crate::fdpass::pair().unwrap();
            let between = spawn(0, None, || {
                let Ok(sibling) = spawn_sibling(0, || 5) else {
                    return 1;
                };
                let number = sibling.pid.to_ne_bytes();
                crate::fdpass::send(&there, &number, Some(sibling.pidfd.as_fd())).map_or(2, |()| 0)
            })
            .unwrap();
            assert_eq!(wait(between.pidfd.as_fd()).unwrap(), Exit::Code(0));
            let (_, pidfd) = crate::fdpass::receive(&here, &mut [0; 4]).unwrap();
            assert_eq!(wait(pidfd.unwrap().as_fd()).unwrap(), Exit::Code(5));
        });
    }

    #[test]
    fn a_process_is_known_by_its_start_and_a_zombie_is_dead() {
        let own = Stat::read(std::process::id() as i32).unwrap();
        assert!(own.is_alive() && own.start_time > 0);
        let child = spawn(0, None, || 0).unwrap();
        let exited = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        rustix::process::waitid(WaitId::PidFd(child.pidfd.as_fd()), exited).unwrap();
        assert!(!Stat::read(child.pid).unwrap().is_alive());
        wait(child.pidfd.as_fd()).unwrap();
        assert_eq!(Stat::read(child.pid), None);
    }

    #[test]
    fn a_killed_child_shows_the_signal() {
        let child = spawn(0, None, || {
            loop {
                std::thread::park();
            }
        })
        .unwrap();
        let exit = kill_and_wait(&child).unwrap();
        assert_eq!(exit, Exit::Signal(9));
        assert_eq!(exit.code(), 137);
    }

    #[test]
    fn a_child_keeps_only_the_descriptors_it_names() {
        let kept = std::fs::File::open("/dev/null").unwrap();
        let closed = std::fs::File::open("/dev/null").unwrap();
        let child = spawn(0, None, || {
            if close_all_except(&mut [kept.as_raw_fd()]).is_err() {
                return 1;
            }
            let open = rustix::io::fcntl_getfd(&kept).is_ok();
            let gone = rustix::io::fcntl_getfd(&closed) == Err(Errno::BADF);
            if open && gone { 0 } else { 2 }
        })
        .unwrap();
        assert_eq!(wait(child.pidfd.as_fd()).unwrap(), Exit::Code(0));
    }
}
