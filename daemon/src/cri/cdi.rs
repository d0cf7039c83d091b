//! Devices by the Container Device Interface, which a container's settings ask for, or its annotations.

use api_protos::oci::cdi::{Registry, asked_by_annotations};
use api_protos::runtime::v1::ContainerConfig;
use serde_json::Value;

use super::config::Config;
use crate::blocking::blocking;
use crate::error::Result;

/// Returns a container's specification with the devices that are asked for.
pub async fn inject(settings: &Config, config: &ContainerConfig, spec: Value) -> Result<Value> {
    let asked = config.cdi_devices.iter();
    let mut devices: Vec<String> = asked.map(|device| device.name.clone()).collect();
    if settings.cdi.is_none() {
        if !devices.is_empty() {
            tracing::warn!(
                ?devices,
                "enable_cdi is off: a container goes without devices"
            );
        }
        return Ok(spec);
    }
    devices.extend(asked_by_annotations(&config.annotations)?);
    add(settings, devices, spec).await
}

/// Returns a specification with these devices more.
pub async fn add(settings: &Config, devices: Vec<String>, mut spec: Value) -> Result<Value> {
    if devices.is_empty() {
        return Ok(spec);
    }
    let folders = settings.cdi.clone().unwrap_or_default();
    blocking(move || {
        let registry = Registry::read(&folders);
        for problem in registry.problems() {
            tracing::warn!("devices by CDI: {problem}");
        }
        registry.inject(&mut spec, &devices)?;
        Ok(spec)
    })
    .await
}
