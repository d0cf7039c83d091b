//! Control groups that systemd makes: a transient scope for each container, which systemd is told the limits of too.
//!
//! ```text
//! Unit::parse ─▶ start (StartTransientUnit with the first process) ─▶ update (SetUnitProperties) ─▶ stop (StopUnit)
//! ```
//! systemd makes the group and keeps the limits that it knows of over its own reloads; all limits are set in the
//! group's files as well, since it does not know them all. This follows runc's systemd driver.

mod bus;
mod message;
mod properties;
mod unit;

use std::collections::HashMap;

use oci_spec::runtime::LinuxResources;
use sys::Result;

use super::Version;
use bus::Bus;
pub(super) use unit::Unit;

/// What systemd answers when a unit of that name is there, or is not.
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// Has systemd make the unit with the process `pid` in it.
pub(super) fn start(
    unit: &Unit,
    id: &str,
    pid: i32,
    version: Version,
    resources: &LinuxResources,
    annotations: &HashMap<String, String>,
) -> Result<()> {
    let mut wanted = properties::of_unit(unit, id, pid, version);
    wanted.extend(properties::of_resources(resources, version)?);
    wanted.extend(properties::of_annotations(annotations)?);
    let mut bus = Bus::connect()?;
    let started = bus.start_transient(&unit.name, &wanted)?;
    match started {
        Err(error) if error.name == UNIT_EXISTS => {
            // One that failed keeps its name until it is reset; one that lives is another container's.
            let _ = bus.reset_failed(&unit.name)?;
            bus.start_transient(&unit.name, &wanted)?
        }
        started => started,
    }
    .map_err(|error| error.context(&format!("start unit {:?}", unit.name)))
}

/// Tells systemd of changed limits, until the unit ends.
pub(super) fn update(name: &str, version: Version, resources: &LinuxResources) -> Result<()> {
    let wanted = properties::of_resources(resources, version)?;
    if wanted.is_empty() {
        return Ok(());
    }
    Bus::connect()?
        .set_properties(name, &wanted)?
        .map_err(|error| error.context(&format!("set properties of unit {name:?}")))
}

/// Ends the unit; it is no error if it is gone.
pub(super) fn stop(name: &str) -> Result<()> {
    let mut bus = Bus::connect()?;
    match bus.stop(name)? {
        Err(error) if error.name != NO_SUCH_UNIT => {
            return Err(error.context(&format!("stop unit {name:?}")));
        }
        _ => {}
    }
    // It is not known to systemd any more unless it failed.
    let _ = bus.reset_failed(name)?;
    Ok(())
}
