//! Version, Status, RuntimeConfig and UpdateRuntimeConfig: what is said of the runtime itself.

use std::collections::HashMap;

use api_protos::runtime::v1::{
    CgroupDriver, LinuxRuntimeConfiguration, RuntimeCondition, RuntimeConfigResponse,
    RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StatusRequest,
    StatusResponse, UpdateRuntimeConfigRequest, VersionResponse,
};
use serde_json::json;

use super::Cri;
use crate::error::Result;

/// The version of the kubelet's own API that asks.
const KUBE_API_VERSION: &str = "0.1.0";
const NAME: &str = "containerd";
const API_VERSION: &str = "v1";

/// Returns which runtime this is.
pub fn version(cri: &Cri) -> VersionResponse {
    VersionResponse {
        version: KUBE_API_VERSION.into(),
        runtime_name: NAME.into(),
        runtime_version: cri.parts.version.into(),
        runtime_api_version: API_VERSION.into(),
    }
}

/// Returns whether pods can be run.
pub async fn status(cri: &Cri, request: StatusRequest) -> StatusResponse {
    let network = cri.cni.status().await;
    let conditions = vec![
        condition("RuntimeReady", Ok(()), ""),
        condition("NetworkReady", network, "NetworkPluginNotReady"),
    ];
    let handler = |name: &str| {
        let runtime = cri.config.runtime(name);
        // The runtimes can; a pod's files need a snapshotter that can too.
        let users = runtime.and_then(|runtime| {
            let snapshotter = cri.config.snapshotter_of(runtime);
            cri.parts.snapshots.remaps_ids(snapshotter)
        });
        RuntimeHandler {
            name: name.to_owned(),
            features: Some(RuntimeHandlerFeatures {
                recursive_read_only_mounts: true,
                user_namespaces: users.unwrap_or(false),
            }),
        }
    };
    let mut handlers = vec![handler("")];
    handlers.extend(cri.config.runtimes.keys().map(|name| handler(name)));
    let mut info = HashMap::new();
    if request.verbose {
        let runtimes = cri.config.runtimes.iter();
        let runtimes: HashMap<_, _> = runtimes
            .map(|(name, runtime)| (name, json!({"runtimeType": runtime.kind})))
            .collect();
        let config = json!({
            "containerd": {
                "defaultRuntimeName": cri.config.default_runtime,
                "runtimes": runtimes,
                "snapshotter": cri.config.snapshotter,
            },
            "cni": {
                "confDir": cri.config.cni.conf_dir,
                "binDirs": cri.config.cni.bin_dirs,
            },
            "stateDir": cri.folders.state(),
            "sandboxImage": cri.config.sandbox_image,
        });
        info.insert("config".to_owned(), config.to_string());
    }
    StatusResponse {
        status: Some(RuntimeStatus { conditions }),
        info,
        runtime_handlers: handlers,
        features: Some(RuntimeFeatures {
            supplemental_groups_policy: true,
            ..RuntimeFeatures::default()
        }),
    }
}

fn condition(name: &str, result: Result<()>, reason: &str) -> RuntimeCondition {
    let (reason, message) = match &result {
        Ok(()) => (String::new(), String::new()),
        Err(error) => (
            reason.to_owned(),
            format!("Network plugin returns error: {error:#}"),
        ),
    };
    RuntimeCondition {
        r#type: name.to_owned(),
        status: result.is_ok(),
        reason,
        message,
    }
}

/// Returns how control groups are driven, which the kubelet has to do the same way.
pub fn config(cri: &Cri) -> RuntimeConfigResponse {
    let systemd = cri
        .config
        .runtime("")
        .is_ok_and(|runtime| runtime.systemd_cgroup);
    let driver = match systemd {
        true => CgroupDriver::Systemd,
        false => CgroupDriver::Cgroupfs,
    };
    RuntimeConfigResponse {
        linux: Some(LinuxRuntimeConfiguration {
            cgroup_driver: driver.into(),
        }),
    }
}

/// Takes the range of addresses of the node's pods, for those who have a template of a network.
pub fn update(cri: &Cri, request: UpdateRuntimeConfigRequest) -> Result<()> {
    let config = request.runtime_config.unwrap_or_default();
    let cidr = config.network_config.unwrap_or_default().pod_cidr;
    cri.cni.write_template(&cidr)
}
