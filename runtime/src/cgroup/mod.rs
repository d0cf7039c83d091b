//! A container's control group: one folder on cgroup v2, one in each hierarchy on v1 and on hybrid hosts.
//!
//! ```text
//! create ─▶ join (or entrance) ─▶ update · stats · pids · freeze · thaw · kill_all · oom_watch ─▶ remove
//! ```
//! A [`Cgroup`] is nothing but where its folders are, so a serialised one is all that a later process needs. What is
//! set, where and in which order follows runc's cgroupfs driver.

mod devices;
mod dir;
mod entrance;
mod freezer;
mod hierarchy;
mod oom;
pub mod stats;
mod systemd;
#[cfg(test)]
mod tests;
mod tree;
mod v1;
mod v2;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};
use serde::{Deserialize, Serialize};
use sys::{Error, Kind, Result};

pub use entrance::Entrance;
pub use oom::OomWatch;

use dir::Dir;
use hierarchy::Host;

/// The name that a hybrid host's v2 hierarchy has among those of v1, as in runc's state.
const UNIFIED: &str = "";

/// Which of the kernel's two interfaces controls resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// A hierarchy for each controller; a hybrid host has one of v2 beside them.
    V1,
    /// One hierarchy.
    V2,
}

/// A container's control group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    version: Version,
    paths: BTreeMap<String, PathBuf>,
    /// The unit of systemd that the group is of, if systemd made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    /// Whether some may be missing, and device rules not set, for want of rights.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    rootless: bool,
}

/// What systemd has to know of a container whose group it is to make.
#[derive(Debug)]
pub struct UnitOptions<'a> {
    /// `cgroupsPath` of the specification: `slice:prefix:name`.
    pub path: Option<&'a Path>,
    /// The container's name.
    pub id: &'a str,
    /// The container's annotations, of which some are properties of its unit.
    pub annotations: &'a HashMap<String, String>,
    /// The limits and device rules.
    pub resources: Option<&'a LinuxResources>,
}

impl Cgroup {
    /// Creates the group that `path` (`cgroupsPath` of the specification) and the container's `id` name, with the
    /// limits and the device rules of `resources`.
    ///
    /// A path that starts with `/` is below the hierarchies' roots, another one below the caller's own group. A group
    /// that has processes is refused: they are another container's.
    ///
    /// A `rootless` caller does without the groups that it has no right to make, unless `path` or a limit asks for them.
    pub fn create(
        path: Option<&Path>,
        id: &str,
        resources: Option<&LinuxResources>,
        rootless: bool,
    ) -> Result<Self> {
        let host = Host::read()?;
        let inner = hierarchy::inner_path(path, id);
        let optional = rootless && path.is_none_or(|path| path.as_os_str().is_empty());
        let mut cgroup = Self {
            version: host.version(),
            paths: host.paths(&inner)?,
            unit: None,
            rootless,
        };
        let none = LinuxResources::default();
        let resources = resources.unwrap_or(&none);
        cgroup.refuse_occupied()?;
        let made = match cgroup.version {
            Version::V1 => v1::create(&mut cgroup.paths, resources, optional),
            Version::V2 => match v2::create(cgroup.folder(UNIFIED)?, host.root(UNIFIED)) {
                Err(error) if optional && dir::is_forbidden(&error) => {
                    v2::refuse_limits(resources, error)?;
                    cgroup.paths.clear();
                    return Ok(cgroup);
                }
                made => made,
            },
        };
        let set = made.and_then(|()| cgroup.set(resources, true));
        if let Err(error) = set {
            // What went wrong is what the caller has to know, not what else did.
            let _ = cgroup.remove();
            return Err(error.context(format!("create control group {inner:?}")));
        }
        Ok(cgroup)
    }

    /// Returns the group at `path`, in all hierarchies, without making or changing it.
    pub fn of_path(path: &Path) -> Result<Self> {
        let host = Host::read()?;
        Ok(Self {
            version: host.version(),
            paths: host.paths(&hierarchy::inner_path(Some(path), ""))?,
            unit: None,
            rootless: false,
        })
    }

    /// Returns the group that a process is in, whoever made it.
    pub fn of_process(pid: i32) -> Result<Self> {
        let host = Host::of_process(pid)?;
        Ok(Self {
            version: host.version(),
            paths: host.own_paths(),
            unit: None,
            rootless: false,
        })
    }

    /// Returns the group that systemd is to make; it is not there before [`start_unit`](Self::start_unit).
    pub fn of_unit(options: &UnitOptions<'_>) -> Result<Self> {
        let host = Host::read()?;
        let unit = systemd::Unit::parse(options.path, options.id)?;
        let cgroup = Self {
            version: host.version(),
            paths: host.paths(&Path::new("/").join(&unit.path))?,
            unit: Some(unit.name),
            rootless: false,
        };
        cgroup.refuse_occupied()?;
        Ok(cgroup)
    }

    /// Has systemd make the group with the process `pid` in it, and sets its limits.
    pub fn start_unit(&self, options: &UnitOptions<'_>, pid: i32) -> Result<()> {
        let unit = systemd::Unit::parse(options.path, options.id)?;
        let mut resources = options.resources.cloned().unwrap_or_default();
        if resources.devices().is_none() {
            // Without rules systemd would allow all.
            resources.set_devices(Some(Vec::new()));
        }
        let (id, annotations) = (options.id, options.annotations);
        systemd::start(&unit, id, pid, self.version, &resources, annotations)?;
        match self.version {
            Version::V1 => v1::create(&mut self.paths.clone(), &resources, false),
            Version::V2 => v2::create(self.folder(UNIFIED)?, Host::read()?.root(UNIFIED)),
        }
        .and_then(|()| self.join(pid))
        .and_then(|()| self.set(&resources, true))
        .map_err(|error| error.context(format!("set up control group of unit {:?}", unit.name)))
    }

    /// Moves a process into the group.
    pub fn join(&self, pid: i32) -> Result<()> {
        let mut joined: Vec<&Path> = Vec::with_capacity(self.paths.len());
        for path in self.paths.values() {
            // Controllers that are mounted together share a folder.
            if !joined.contains(&path.as_path()) {
                Dir::open(path)?.join(pid)?;
                joined.push(path);
            }
        }
        Ok(())
    }

    /// Moves a process into a group below this one.
    pub fn join_below(&self, child: &Path, pid: i32) -> Result<()> {
        let below = hierarchy::relative(child);
        let paths = self.paths.iter();
        Self {
            version: self.version,
            paths: paths
                .map(|(name, path)| (name.clone(), path.join(&below)))
                .collect(),
            unit: None,
            rootless: false,
        }
        .join(pid)
    }

    /// Opens the ways by which a new process gets into the group without waiting for the rest of the machine.
    pub fn entrance(&self) -> Result<Entrance> {
        Entrance::open(&self.paths)
    }

    /// Like [`entrance`](Self::entrance), but into groups below this one: for each controller, or for all if it has the
    /// empty name, at its path.
    pub fn entrance_below(&self, below: &[(String, PathBuf)]) -> Result<Entrance> {
        let refuse = |message| Err(Error::new(Kind::InvalidArgument, message));
        let mut paths = self.paths.clone();
        for (controller, child) in below {
            let Some(child) = hierarchy::below(child) else {
                return refuse(format!("bad sub cgroup path: {}", child.display()));
            };
            if controller.is_empty() {
                paths.values_mut().for_each(|path| path.push(&child));
            } else if let Some(path) = paths.get_mut(controller) {
                path.push(&child);
            } else {
                return refuse(format!("unknown controller {controller} of a sub cgroup"));
            }
        }
        Entrance::open(&paths)
    }

    /// Like [`entrance`](Self::entrance), but version 2 is entered where the process `pid` is, somewhere below.
    pub fn entrance_beside(&self, pid: i32) -> Result<Entrance> {
        let mut paths = self.paths.clone();
        let theirs = Self::of_process(pid)?.paths.remove(UNIFIED);
        let own = paths.get_mut(UNIFIED);
        if let (Some(own), Some(theirs)) = (own, theirs) {
            if !theirs.starts_with(&*own) {
                let message = format!("process {pid} of the container is outside its group");
                return Err(Error::new(Kind::FailedPrecondition, message));
            }
            *own = theirs;
        }
        Entrance::open(&paths)
    }

    /// Changes limits; what `resources` leaves out stays as it is, device rules too.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let told = match &self.unit {
            Some(unit) => systemd::update(unit, self.version, resources),
            None => Ok(()),
        };
        told.and_then(|()| self.set(resources, false))
            .map_err(|error| error.context("update control group"))
    }

    /// Returns what the group uses.
    pub fn stats(&self) -> Result<stats::Stats> {
        stats::read(self)
    }

    /// Returns the processes of the group and of those below it.
    pub fn pids(&self) -> Result<Vec<i32>> {
        tree::pids(self.processes()?)
    }

    /// Stops all processes of the group until [`thaw`](Self::thaw); after an error they run.
    pub fn freeze(&self) -> Result<()> {
        freezer::freeze(self.version, &self.freezer()?)
    }

    /// Lets all processes of the group go on.
    pub fn thaw(&self) -> Result<()> {
        freezer::thaw(self.version, &self.freezer()?)
    }

    /// Reports whether the group is frozen by [`freeze`](Self::freeze).
    pub fn is_frozen(&self) -> Result<bool> {
        freezer::is_frozen(self.version, &self.freezer()?)
    }

    /// Sends a signal to all processes of the group and of those below it; none escapes by forking.
    pub fn kill_all(&self, signal: i32) -> Result<()> {
        tree::kill_all(self, signal)
    }

    /// Returns a watch that tells when the kernel kills a process of the group for want of memory.
    pub fn oom_watch(&self) -> Result<OomWatch> {
        OomWatch::new(self.version, self.folder("memory")?)
    }

    /// Returns how many processes of the group the kernel has killed for want of memory, as far as it tells.
    pub fn oom_kills(&self) -> u64 {
        let folder = self.folder("memory").and_then(Dir::open);
        folder.map_or(0, |dir| oom::count(self.version, &dir))
    }

    /// Removes the group and those below it; it is no error if they are gone.
    pub fn remove(&self) -> Result<()> {
        let stopped = match &self.unit {
            Some(unit) => systemd::stop(unit),
            None => Ok(()),
        };
        let mut failed = stopped.err();
        for path in self.paths.values() {
            failed = failed.or(tree::remove(path).err());
        }
        failed.map_or(Ok(()), Err)
    }

    /// Reports whether the container has a group in any hierarchy, which it may do without if an ordinary user made it.
    pub fn is_made(&self) -> bool {
        !self.paths.is_empty()
    }

    /// Reports whether the group is there.
    pub fn exists(&self) -> bool {
        self.processes().is_ok_and(Path::exists)
    }

    /// Returns which interface the group is of.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the group's folders by controller; that of v2 has the empty name.
    pub fn paths(&self) -> &BTreeMap<String, PathBuf> {
        &self.paths
    }

    /// Returns the folder by which the group is frozen, if it has one.
    pub fn freezer_path(&self) -> Option<&Path> {
        self.folder("freezer").ok()
    }

    fn set(&self, resources: &LinuxResources, created: bool) -> Result<()> {
        let rules = resources.devices().as_deref();
        if created || rules.is_some() {
            match self.set_devices(rules.unwrap_or_default()) {
                // Who has no right to set rules has none to a device that they could keep from the container.
                Err(_) if self.rootless => {}
                set => set?,
            }
        }
        match self.version {
            Version::V1 => v1::set(&self.paths, resources),
            Version::V2 => v2::set(self.folder(UNIFIED)?, resources),
        }
    }

    fn set_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<()> {
        let dir = Dir::open(self.folder("devices")?)?;
        match self.version {
            Version::V1 => devices::apply_v1(&dir, rules),
            Version::V2 => devices::apply_v2(&dir, rules),
        }
    }

    /// Returns the folder of a controller; v2 has all in one.
    fn folder(&self, controller: &str) -> Result<&Path> {
        let name = match self.version {
            Version::V1 => controller,
            Version::V2 => UNIFIED,
        };
        self.paths.get(name).map(PathBuf::as_path).ok_or_else(|| {
            Error::new(
                Kind::FailedPrecondition,
                format!("the container has no control group of {controller:?}"),
            )
        })
    }

    /// Returns the folder by which the container's processes are known: on v1 that of devices, which no container can
    /// do without that was not made by an ordinary user.
    fn processes(&self) -> Result<&Path> {
        let any = || self.paths.values().next().map(PathBuf::as_path);
        self.folder("devices").or_else(|error| any().ok_or(error))
    }

    fn freezer(&self) -> Result<Dir> {
        Dir::open(self.folder("freezer")?)
    }

    /// Joining a group that is not empty would mix two containers, and a frozen one would stop the new one for ever.
    fn refuse_occupied(&self) -> Result<()> {
        // On v1 the group may be there in some hierarchies only.
        let pids = self.pids()?;
        if !pids.is_empty() {
            return Err(Error::new(
                Kind::FailedPrecondition,
                format!(
                    "container's cgroup is not empty: {} process(es) found",
                    pids.len()
                ),
            ));
        }
        if self
            .freezer()
            .is_ok_and(|dir| freezer::is_frozen(self.version, &dir).unwrap_or_default())
        {
            return Err(Error::new(
                Kind::FailedPrecondition,
                "container's cgroup unexpectedly frozen",
            ));
        }
        Ok(())
    }
}
