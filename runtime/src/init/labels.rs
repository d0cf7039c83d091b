//! Labels of security modules, which a process gets as it executes its program: an AppArmor profile, a SELinux label.

use std::path::Path;

use oci_spec::runtime::Process;
use sys::procfs::Procfs;
use sys::{Error, Kind, Result};

const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";
const SELINUX: &str = "/sys/fs/selinux/enforce";

/// The labels that a process asks for.
#[derive(Debug)]
pub(crate) struct Labels {
    apparmor: Option<String>,
    selinux: Option<String>,
}

impl Labels {
    /// Takes the labels from a process; one of a module that this kernel has not is refused, since the container would
    /// run without the confinement that it was to have.
    pub fn new(process: &Process) -> Result<Self> {
        let wanted = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
        let labels = Self {
            apparmor: wanted(process.apparmor_profile()),
            selinux: wanted(process.selinux_label()),
        };
        let refuse = |message: &str| Err(Error::new(Kind::FailedPrecondition, message));
        let has_apparmor =
            || std::fs::read(APPARMOR).is_ok_and(|enabled| enabled.starts_with(b"Y"));
        if labels.apparmor.is_some() && !has_apparmor() {
            return refuse("unable to apply apparmor profile: apparmor is not enabled");
        }
        if labels.selinux.is_some() && !Path::new(SELINUX).exists() {
            return refuse(
                "selinux label is specified in config, but selinux is disabled or not supported",
            );
        }
        Ok(labels)
    }

    /// Has the kernel set them at the next execve(2).
    pub fn set(&self, procfs: &Procfs) -> Result<()> {
        if let Some(profile) = &self.apparmor {
            // Its own folder is there from Linux 5.8 on, and needed where other modules are stacked upon it.
            let own = procfs
                .open_file("self/attr/apparmor", rustix::fs::OFlags::PATH)
                .is_ok();
            let path = if own {
                "self/attr/apparmor/exec"
            } else {
                "self/attr/exec"
            };
            let text = format!("exec {profile}");
            procfs
                .write(path, text.as_bytes())
                .map_err(|error| error.context("unable to apply apparmor profile"))?;
        }
        match &self.selinux {
            Some(label) => procfs
                .write("self/attr/exec", label.as_bytes())
                .map_err(|error| error.context("unable to set the selinux label")),
            None => Ok(()),
        }
    }
}
