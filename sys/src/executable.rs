//! The running program's own file, in a form in which nobody can write it through `/proc/<pid>/exe`.
//!
//! A process that enters a container can be looked at from in there, and its program can even be run there again, as
//! `/proc/self/exe`. So what that link leads to has to be beyond writing, whatever rights the container has. A view of
//! the file through an overlay without an upper layer is that: the super block is read-only for ever, and the pages
//! are those of the file itself. Making it takes one mount, that nobody sees, and no copy. Where it cannot be made, as
//! by an ordinary user, a copy in sealed memory serves.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;

use crate::mount::{Mount, open_detached};
use crate::mutant::{self, Mutant};
use crate::{Context, Error, Kind, Result, process};

/// Tells the program that it has been executed by [`seal`] already. Who can set it is who runs the program, and could
/// run any other.
const MARK: &str = "_CORTEN_SEALED";

/// A lower layer has to have a second one below it; this one is on every host and hides nothing of the first.
const BELOW: &str = "/sys";

const OVERLAYFS_SUPER_MAGIC: u64 = 0x794c_7630;

/// Executes the calling program again from a sealed view of its file; returns once it runs from one.
///
/// Descriptors, arguments and environment stay as they are. It has to be called before there is a second thread.
pub fn seal() -> Result<()> {
    if mutant::is(Mutant::NoSeal) {
        return Ok(());
    }
    if std::env::var_os(MARK).is_some() && is_sealed()? {
        // Before Linux 6.14 a program that was executed by descriptor had the descriptor's number as its name.
        let name = std::env::args_os().next().unwrap_or_default();
        let name = Path::new(&name).file_name().unwrap_or_default();
        let name = CString::new(name.as_encoded_bytes()).unwrap_or_default();
        return rustix::thread::set_name(&name).context(|| "set the name of the process");
    }
    let file = sealed()?;
    let args = strings(std::env::args_os())?;
    let mark = [OsString::from(format!("{MARK}=1"))];
    let env = std::env::vars_os().filter(|(name, _)| name != MARK);
    let env = env.map(|(mut variable, value)| {
        variable.push("=");
        variable.push(value);
        variable
    });
    let env = strings(env.chain(mark))?;
    Err(process::execute_fd(file.as_fd(), &args, &env)).context(|| "execute the sealed program")
}

/// Returns the calling program's file, open only to be executed, in a form that cannot be written.
pub fn sealed() -> Result<OwnedFd> {
    let path = std::fs::read_link("/proc/self/exe").context(|| "read \"/proc/self/exe\"")?;
    match view(&path) {
        Ok(view) => Ok(view),
        Err(_) => copy().context(|| format!("seal a copy of {path:?}")),
    }
}

/// Opens the file at `path` through a read-only overlay, and makes sure that it is the running one.
fn view(path: &Path) -> Result<OwnedFd> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(Kind::Internal, format!("{path:?} is no file")));
    };
    let tree = open_detached(&Mount {
        fstype: "overlay".to_string(),
        source: "corten-sealed".to_string(),
        options: vec![format!("lowerdir={}:{BELOW}", escape(folder)?)],
        ..Mount::default()
    })?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&tree, name, flags, Mode::empty())
        .context(|| format!("open {name:?} in the sealed view"))?;
    let running = rustix::fs::openat(CWD, "/proc/self/exe", OFlags::PATH, Mode::empty())
        .context(|| "open \"/proc/self/exe\"")?;
    let same = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_ino, stat.st_size));
    match same(&file).and_then(|view| Ok(view == same(&running)?)) {
        Ok(true) => Ok(file),
        // Another file has taken its place, as in an upgrade.
        _ => Err(Error::new(
            Kind::FailedPrecondition,
            "the program's file is another one",
        )),
    }
}

fn escape(folder: &Path) -> Result<String> {
    let folder = folder
        .to_str()
        .filter(|text| !text.contains([':', '\\', ',']));
    let odd = || {
        Error::new(
            Kind::InvalidArgument,
            "the program's folder has an odd name",
        )
    };
    folder.map(str::to_string).ok_or_else(odd)
}

/// Returns a copy of the running program in memory that can be neither written nor resized any more.
fn copy() -> Result<OwnedFd> {
    let make = || {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = match rustix::fs::memfd_create("corten-sealed", flags | MemfdFlags::EXEC) {
            // Before Linux 6.3 all memory was executable.
            Err(Errno::INVAL) => rustix::fs::memfd_create("corten-sealed", flags)?,
            made => made?,
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let running = rustix::fs::openat(CWD, "/proc/self/exe", flags, Mode::empty())?;
        while rustix::fs::sendfile(&memory, &running, None, 1 << 24)? > 0 {}
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&memory, seals)?;
        Ok::<_, Errno>(memory)
    };
    make().context(|| "copy the program to sealed memory")
}

/// Tells whether the program runs from something that [`sealed`] has returned.
fn is_sealed() -> Result<bool> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let check = || {
        let running = rustix::fs::openat(CWD, "/proc/self/exe", flags, Mode::empty())?;
        if let Ok(seals) = rustix::fs::fcntl_get_seals(&running) {
            return Ok(seals.contains(SealFlags::WRITE));
        }
        let kind = rustix::fs::fstatfs(&running)?.f_type as u64;
        let writable = rustix::fs::openat(CWD, "/proc/self/exe", OFlags::WRONLY, Mode::empty());
        Ok::<_, Errno>(kind == OVERLAYFS_SUPER_MAGIC && writable.is_err())
    };
    check().context(|| "look at \"/proc/self/exe\"")
}

fn strings(strings: impl Iterator<Item = OsString>) -> Result<Vec<CString>> {
    let strings = strings.map(|string| CString::new(string.into_vec()));
    strings.collect::<std::result::Result<_, _>>().map_err(|_| {
        Error::new(
            Kind::InvalidArgument,
            "an argument or variable has a NUL byte",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_form_of_the_program_can_be_written() {
        let running = std::fs::read("/proc/self/exe").unwrap();
        let path = std::fs::read_link("/proc/self/exe").unwrap();
        for file in [view(&path), copy()] {
            let file = match file {
                Ok(file) => file,
                Err(error) if !rustix::process::geteuid().is_root() => {
                    eprintln!("SKIP: only root can mount: {error}");
                    continue;
                }
                Err(error) => panic!("{error:?}"),
            };
            let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::WRONLY | OFlags::TRUNC] {
                let opened = rustix::fs::openat(CWD, &*again, flags, Mode::empty());
                let written = opened.and_then(|file| rustix::io::write(&file, b"x"));
                assert!(written.is_err(), "{flags:?}: {written:?}");
            }
            assert!(std::fs::read(again).unwrap() == running);
        }
    }
}
