//! A program on a pseudo-terminal of ours, as a person at a keyboard would run it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::{command, eventually};

/// A running program with its terminal; dropping it kills the program.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    master: File,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts the program on a new terminal of this size.
    pub fn start(program: &Command, columns: u16, rows: u16) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("open a terminal");
        grantpt(&master)
            .and_then(|()| unlockpt(&master))
            .expect("unlock the terminal");
        let name = ptsname(&master, Vec::new()).expect("name the terminal");
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .open(std::ffi::OsStr::from_bytes(name.as_bytes()))
            .expect("open the terminal's other side");
        resize(&master, columns, rows);
        // setsid(1) makes the terminal the controlling one, which std's Command cannot do in safe code.
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "--wait"])
            .arg(program.get_program())
            .args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let end = || slave.try_clone().expect("duplicate a descriptor");
        let child = command
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("start on a terminal");
        drop(slave);
        let master = File::from(master);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, into) = (
            master.try_clone().expect("duplicate a descriptor"),
            Arc::clone(&seen),
        );
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The read fails when the last process leaves the terminal.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                into.lock()
                    .expect("no panic while held")
                    .extend_from_slice(&buffer[..count]);
            }
        });
        Terminal {
            child,
            master,
            seen,
        }
    }

    /// Types.
    pub fn send(&mut self, text: &str) {
        self.master
            .write_all(text.as_bytes())
            .expect("write to the terminal");
    }

    /// Changes the size of the window.
    pub fn resize(&self, columns: u16, rows: u16) {
        resize(&self.master, columns, rows);
    }

    /// Returns everything the program has shown.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().expect("no panic while held")).into_owned()
    }

    /// Waits until the program has shown `text`.
    pub fn expect(&self, text: &str) {
        let shown = || self.seen().contains(text).then_some(());
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("the text is shown", Duration::from_secs(20), shown);
        }));
        assert!(found.is_ok(), "{text:?} is not in {:?}", self.seen());
    }

    /// Waits for the program's end and returns its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.wait_for(Duration::from_secs(20))
    }

    /// Waits for the program's end for at most `limit` and returns its exit code.
    pub fn wait_for(&mut self, limit: Duration) -> Option<i32> {
        command::wait(&mut self.child, limit)
    }

    /// Returns the pid of the program's parent, which forwards its exit code.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(master: impl AsFd, columns: u16, rows: u16) {
    let size = Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master, size).expect("set the size of a terminal");
}
