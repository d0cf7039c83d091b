//! Programs: executed in a child with exactly the descriptors it is given, without a thread or a runtime behind it.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::process::{self, Child};
use crate::{Context, Error, Kind, Result};

/// Where descriptors are kept while others take their numbers.
const ABOVE: i32 = 64;

/// What is executed, and with what.
#[derive(Debug)]
pub struct Program<'a> {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    fds: Vec<(BorrowedFd<'a>, RawFd)>,
}

impl<'a> Program<'a> {
    /// Returns the program at `path`, with its path as the only argument, no environment, and no descriptor but the null
    /// device as stdin, stdout and stderr.
    pub fn new(path: &Path) -> Result<Self> {
        let path = c_string(path.as_os_str().as_bytes())?;
        Ok(Self {
            args: vec![path.clone()],
            path,
            env: Vec::new(),
            fds: Vec::new(),
        })
    }

    /// Adds an argument.
    pub fn arg(&mut self, arg: impl AsRef<[u8]>) -> Result<&mut Self> {
        self.args.push(c_string(arg.as_ref())?);
        Ok(self)
    }

    /// Adds a variable of the environment.
    pub fn env(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<&mut Self> {
        let mut pair = format!("{name}=").into_bytes();
        pair.extend_from_slice(value.as_ref());
        self.env.push(c_string(&pair)?);
        Ok(self)
    }

    /// Gives the program `fd` as its descriptor `number`.
    pub fn fd(&mut self, fd: BorrowedFd<'a>, number: RawFd) -> &mut Self {
        self.fds.push((fd, number));
        self
    }

    /// Executes the program in a new process and returns once it runs; signals are as a fresh session has them.
    pub fn start(&self) -> Result<Child> {
        let describe = || format!("execute {:?}", self.path);
        let (heard, first) = pipe_with(PipeFlags::CLOEXEC).context(describe)?;
        // Out of the way of the numbers that the program's descriptors get.
        let said = rustix::io::fcntl_dupfd_cloexec(&first, ABOVE).context(describe)?;
        drop(first);
        let child = process::spawn(0, None, || {
            let errno = match self.prepare(&said) {
                Ok(()) => process::execute(&self.path, &self.args, &self.env),
                Err(errno) => errno,
            };
            let _ = rustix::io::write(&said, &errno.raw_os_error().to_ne_bytes());
            127
        })?;
        drop(said);
        let mut number = [0; 4];
        loop {
            match rustix::io::read(&heard, &mut number) {
                Ok(4) => {
                    let _ = process::wait(child.pidfd.as_fd());
                    let errno = Errno::from_raw_os_error(i32::from_ne_bytes(number));
                    return Err(errno).context(describe);
                }
                Err(Errno::INTR) => {}
                // The pipe closed when the program was executed.
                _ => return Ok(child),
            }
        }
    }

    /// Puts each descriptor where it belongs and closes all others.
    fn prepare(&self, said: &OwnedFd) -> Result<(), Errno> {
        process::reset_signals();
        let mut keep = vec![said.as_raw_fd()];
        let mut moved = Vec::new();
        for (fd, number) in &self.fds {
            // Each is moved out of the way first: one of them may be where another has to go.
            // What is closed below in one go must not be closed again by its owner.
            let copy = rustix::io::fcntl_dupfd_cloexec(fd, ABOVE)?.into_raw_fd();
            moved.push((copy, *number));
            keep.push(*number);
        }
        if self
            .fds
            .iter()
            .any(|(_, number)| *number == said.as_raw_fd())
        {
            return Err(Errno::BADF);
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let null = rustix::fs::open("/dev/null", flags, Mode::empty())
            .and_then(|null| rustix::io::fcntl_dupfd_cloexec(null, 64))?
            .into_raw_fd();
        // Not closed: what the program opens first would become one of them.
        let missing: Vec<RawFd> = (0..3).filter(|number| !keep.contains(number)).collect();
        moved.extend(missing.into_iter().map(|number| (null, number)));
        for (fd, number) in &moved {
            // SAFETY: this process is a copy whose only task is to execute the program, so that no owner of the
            // replaced descriptor ever runs again.
            if unsafe { libc::dup2(*fd, *number) } < 0 {
                return Err(process::last_errno());
            }
        }
        process::close_all_except(&mut keep).map_err(|error| error.errno().unwrap_or(Errno::IO))
    }
}

fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| {
        let text = String::from_utf8_lossy(bytes);
        Error::new(Kind::InvalidArgument, format!("{text:?} has a null byte"))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::process::{Exit, alone};

    #[test]
    fn a_program_has_the_descriptors_it_is_given_and_no_other() {
        alone(|| {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            let null = std::fs::File::open("/dev/null").unwrap();
            let leaked = rustix::io::fcntl_dupfd_cloexec(&null, 50).unwrap();
            rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
            let mut program = Program::new(Path::new("/bin/sh")).unwrap();
            let script = "echo $GREETING; readlink /proc/self/fd/0 /proc/self/fd/2; \
                cd /proc/self/fd; for fd in *; do echo $fd; done";
            program.arg("-c").unwrap().arg(script).unwrap();
            program.env("GREETING", "hello").unwrap();
            program.env("PATH", "/usr/bin:/bin").unwrap();
            program.fd(write.as_fd(), 1).fd(write.as_fd(), 7);
            let child = program.start().unwrap();
            drop(write);
            let mut text = String::new();
            std::fs::File::from(read).read_to_string(&mut text).unwrap();
            assert_eq!(process::wait(child.pidfd.as_fd()).unwrap(), Exit::Code(0));
            let mut words = text.split_whitespace();
            assert_eq!(words.next(), Some("hello"));
            assert_eq!(words.next(), Some("/dev/null"));
            assert_eq!(words.next(), Some("/dev/null"));
            // Beside the usual three it may have the folder that the shell lists.
            let mut open: Vec<i32> = words.map(|word| word.parse().unwrap()).collect();
            open.retain(|fd| *fd > 3);
            assert_eq!(open, [7], "not {}", leaked.as_raw_fd());
        });
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        alone(|| {
            let error = Program::new(Path::new("/no/such")).unwrap().start();
            assert_eq!(error.unwrap_err().errno(), Some(Errno::NOENT));
        });
    }
}
