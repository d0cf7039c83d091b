//! UpdateContainerResources.

use std::sync::Arc;

use api_protos::containerd::task::v3::UpdateTaskRequest;
use api_protos::nri::pkg::api::v1alpha1::Event;
use api_protos::runtime::v1::UpdateContainerResourcesRequest;
use prost_types::Any;
use serde_json::{Value, json};

use crate::blocking::blocking;
use crate::cri::spec::resources;
use crate::cri::{Cri, launch, nri};
use crate::error::{Context as _, Error, Kind, Result};
use crate::metadata;

const RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// Changes a container's limits to those that are asked for, or to what plugins make of them.
pub async fn update(cri: &Arc<Cri>, mut request: UpdateContainerResourcesRequest) -> Result<()> {
    let container = cri.store.container(&request.container_id)?;
    let _hold = cri.nri.hold().await;
    let asked = request.linux.take().unwrap_or_default();
    request.linux = Some(nri::update(cri, &container, asked).await?);
    apply(cri, request).await?;
    nri::tell_after(cri, Event::PostUpdateContainer, &container).await;
    Ok(())
}

/// Changes a container's limits: in its record, and in its task if it has one.
pub async fn apply(cri: &Arc<Cri>, request: UpdateContainerResourcesRequest) -> Result<()> {
    let container = cri.store.container(&request.container_id)?;
    let _turn = container.turn.lock().await;
    let asked = request.linux.unwrap_or_default();
    let status = container.status();
    if status.state.end().is_some() {
        return Err(Error::new(
            Kind::Unknown,
            format!(
                "container {:?} is in {} state",
                container.id,
                status.state.name()
            ),
        ));
    }
    let mut merged = status.resources;
    resources::merge(&mut merged, &asked);
    let huge_pages = !cri.config.disable_hugetlb;
    let limits = Value::from(resources::limits(&merged, &cri.host, huge_pages));

    let spec = launch::spec(cri, &container.id).await?;
    let changed = with_limits(spec.clone(), &limits);
    write(cri, &container.id, &changed).await?;
    if status.state.pid().is_some() {
        let task = cri
            .parts
            .tasks
            .get(&cri.store.context, &container.id)
            .await?;
        let update = UpdateTaskRequest {
            resources: Some(Any {
                type_url: RESOURCES.into(),
                value: limits.to_string().into_bytes(),
            }),
            annotations: request.annotations,
            ..UpdateTaskRequest::default()
        };
        if let Err(error) = task.update(update).await {
            write(cri, &container.id, &spec).await?;
            return Err(error).context(|| "failed to update resources");
        }
    }
    cri.store.set_resources(&container, merged).await
}

/// Returns a specification with other limits; the rules for devices stay.
fn with_limits(mut spec: Value, limits: &Value) -> Value {
    let mut own = limits.clone();
    own["devices"] = spec["linux"]["resources"]["devices"].clone();
    if own["devices"].is_null() {
        own["devices"] = json!([]);
    }
    spec["linux"]["resources"] = own;
    spec
}

async fn write(cri: &Cri, id: &str, spec: &Value) -> Result<()> {
    let (containers, context) = (cri.parts.containers.clone(), cri.store.context.clone());
    let record = metadata::Container {
        id: id.to_owned(),
        spec: Some(Any {
            type_url: launch::SPEC.into(),
            value: spec.to_string().into_bytes(),
        }),
        ..metadata::Container::default()
    };
    blocking(move || {
        containers
            .update(&context, record, vec!["spec".into()])
            .map(drop)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_for_devices_stay() {
        let spec = json!({"linux": {"resources": {"devices": [1], "memory": {"limit": 1}}}});
        let changed = with_limits(spec, &json!({"cpu": {"shares": 3}}));
        assert_eq!(
            changed["linux"]["resources"],
            json!({"devices": [1], "cpu": {"shares": 3}})
        );
    }
}
