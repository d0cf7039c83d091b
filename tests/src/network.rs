//! A network namespace with nothing in it but loopback; with a view of the file system where that is asked for.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A network that lasts until it is dropped, whatever happens to the programs in it.
#[derive(Debug)]
pub struct Network {
    holder: Child,
    /// Whether it has a mount namespace too.
    mounts: bool,
}

impl Network {
    /// Makes a network with loopback up and forwarding on.
    pub fn new() -> Network {
        Network::make(false)
    }

    /// Makes a network whose programs have an empty `/var/lib`: what network plugins keep there goes with it.
    pub fn with_state() -> Network {
        Network::make(true)
    }

    fn make(mounts: bool) -> Network {
        let (view, empty) = match mounts {
            true => (Some("--mount"), "mount -t tmpfs tmpfs /var/lib && "),
            false => (None, ""),
        };
        let make = format!(
            "{empty}ip link set lo up && echo 1 >/proc/sys/net/ipv4/ip_forward && echo up && read _"
        );
        // It ends when we do: its standard input is a pipe of ours.
        let mut holder = Command::new("unshare")
            .arg("--net")
            .args(view)
            .args(["sh", "-c", &make])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("make a network");
        let told = holder.stdout.take().expect("asked for a pipe");
        let mut said = String::new();
        let _ = BufReader::new(told).read_line(&mut said);
        assert_eq!(said, "up\n", "the network is made");
        Network { holder, mounts }
    }

    /// Returns the path of its namespace.
    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// Returns a command that runs `program` in this network.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let holder = self.holder.id();
        command.arg(format!("--net={}", self.path()));
        if self.mounts {
            command.arg(format!("--mount=/proc/{holder}/ns/mnt"));
        }
        command.arg("--").arg(program);
        command
    }
}

impl Default for Network {
    fn default() -> Network {
        Network::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
