//! The user's program: found as execvp(3) finds it, and executed with exactly the environment it was given.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use oci_spec::runtime::Process;
use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;
use sys::{Error, Kind, Result};

use crate::wording;

/// Where programs are searched for when the environment has no `PATH`: nowhere, as runc does.
const NO_PATH: &str = "";

/// The longest passwd file that is read for a home folder.
const PASSWD_MAX: u64 = 1 << 20;

/// A program with its arguments and environment.
#[derive(Debug)]
pub(crate) struct Command {
    args: Vec<CString>,
    env: Vec<CString>,
    program: String,
    path: String,
    has_home: bool,
}

/// A program that was found.
#[derive(Debug)]
pub(crate) struct Found {
    path: CString,
    env: Vec<CString>,
}

impl Found {
    /// Returns the environment that the program gets.
    pub fn env(&self) -> &[CString] {
        &self.env
    }
}

impl Command {
    /// Takes arguments and environment from a process; of a variable that is there twice the last value counts.
    pub fn new(process: &Process, listen_fds: u32) -> Result<Self> {
        let args = process.args().as_deref().unwrap_or_default();
        let mut env: Vec<String> = Vec::new();
        for variable in process.env().iter().flatten() {
            let name = variable
                .split_once('=')
                .map_or(&**variable, |(name, _)| name);
            let same = |other: &String| {
                other
                    .split_once('=')
                    .is_some_and(|(other, _)| other == name)
            };
            match env.iter_mut().find(|other| same(other)) {
                Some(earlier) => variable.clone_into(earlier),
                None => env.push(variable.clone()),
            }
        }
        if listen_fds > 0 {
            env.push(format!("LISTEN_FDS={listen_fds}"));
            env.push("LISTEN_PID=1".to_string());
        }
        let value = |name: &str| env.iter().find_map(|variable| variable.strip_prefix(name));
        Ok(Self {
            program: args.first().cloned().unwrap_or_default(),
            path: value("PATH=").unwrap_or(NO_PATH).to_string(),
            has_home: value("HOME=").is_some_and(|home| !home.is_empty()),
            args: strings(args)?,
            env: strings(&env)?,
        })
    }

    /// Finds the program, with the rights and in the root that the process has now.
    pub fn find(&self, uid: u32) -> Result<Found> {
        let path = match self.program.contains('/') {
            true => self
                .check(&self.program)
                .map_err(|errno| wording::cannot_execute(&self.program, errno))?,
            false => self.search()?,
        };
        let mut env = self.env.clone();
        if !self.has_home {
            env.retain(|variable| !variable.as_bytes().starts_with(b"HOME="));
            env.push(c_string(&format!("HOME={}", home(uid)))?);
        }
        Ok(Found { path, env })
    }

    fn search(&self) -> Result<CString> {
        for folder in self.path.split(':') {
            // An empty entry is the working folder.
            let folder = if folder.is_empty() { "." } else { folder };
            if let Ok(path) = self.check(&format!("{folder}/{}", self.program)) {
                return Ok(path);
            }
        }
        Err(wording::not_in_path(&self.program))
    }

    fn check(&self, path: &str) -> Result<CString, Errno> {
        let path = CString::new(path).map_err(|_| Errno::INVAL)?;
        let stat = rustix::fs::stat(&path)?;
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            return Err(Errno::ISDIR);
        }
        // With the rights that the kernel will look at: those of the effective user and its capabilities.
        rustix::fs::accessat(CWD, &path, Access::EXEC_OK, AtFlags::EACCESS)?;
        Ok(path)
    }

    /// Executes the program in place of this process; returns only why it could not.
    pub fn execute(&self, found: &Found) -> Error {
        let errno = sys::process::execute(&found.path, &self.args, &found.env);
        let path = found.path.to_string_lossy();
        let reason = wording::reason(errno);
        Error::new(Kind::Unknown, format!("exec {path}: {reason}"))
    }
}

/// Returns the user's home folder by the container's passwd file.
fn home(uid: u32) -> String {
    let read = || {
        use std::io::Read;
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
        let mode = rustix::fs::Mode::empty();
        let file = rustix::fs::open("/etc/passwd", flags, mode).ok()?;
        let mut text = String::new();
        let file = std::fs::File::from(file);
        file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        file.take(PASSWD_MAX).read_to_string(&mut text).ok()?;
        text.lines().find_map(|line| {
            let mut fields = line.split(':').skip(2);
            (fields.next()?.parse() == Ok(uid)).then(|| fields.nth(2).map(str::to_string))?
        })
    };
    read()
        .filter(|home| Path::new(home).is_absolute())
        .unwrap_or_else(|| "/".to_string())
}

fn strings(strings: &[String]) -> Result<Vec<CString>> {
    strings.iter().map(|string| c_string(string)).collect()
}

fn c_string(string: &str) -> Result<CString> {
    CString::new(OsStr::new(string).as_bytes()).map_err(|_| {
        let message = format!("{string:?} of the process has a NUL byte");
        Error::new(Kind::InvalidArgument, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(args: &[&str], env: &[&str]) -> Command {
        let mut process = Process::default();
        process.set_args(Some(args.iter().map(ToString::to_string).collect()));
        process.set_env(Some(env.iter().map(ToString::to_string).collect()));
        Command::new(&process, 0).unwrap()
    }

    #[test]
    fn programs_are_searched_for_like_a_shell_does() {
        let found = command(&["sh"], &["PATH=/nowhere:/bin"]).find(0).unwrap();
        assert_eq!(found.path.to_str().unwrap(), "/bin/sh");
        let cases = [
            (
                "frob",
                r#"exec: "frob": executable file not found in $PATH"#,
            ),
            (
                "/frob",
                r#"exec: "/frob": stat /frob: no such file or directory"#,
            ),
            ("/etc", r#"exec: "/etc": is a directory"#),
            ("/etc/passwd", r#"exec: "/etc/passwd": permission denied"#),
            ("", r#"exec: "": executable file not found in $PATH"#),
        ];
        for (program, expected) in cases {
            let error = command(&[program], &["PATH=/bin"]).find(0).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn the_last_value_of_a_variable_counts_and_home_is_added() {
        let command = command(&["/bin/sh"], &["A=1", "B=2", "A=3"]);
        let env = command.find(0).unwrap().env;
        let env: Vec<&str> = env.iter().map(|one| one.to_str().unwrap()).collect();
        assert_eq!(env, ["A=3", "B=2", "HOME=/root"]);
    }
}
