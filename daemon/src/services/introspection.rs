//! containerd.services.introspection.v1: which daemon this is and what it is made of.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use api_protos::containerd::services::introspection::v1::introspection_server::{
    Introspection, IntrospectionServer,
};
use api_protos::containerd::services::introspection::v1::*;
use api_protos::containerd::types::Platform;
use api_protos::google;
use tonic::{Request, Response, Status};

use crate::error::{Context, Error, Kind, Result, not_found, status};
use crate::filter::Filter;
use crate::plugins::{self, Plugins};

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    plugins: Arc<Plugins>,
    uuid: String,
}

/// Returns the service as a server; the daemon's UUID is kept in the file `uuid`.
pub fn server(plugins: Arc<Plugins>, uuid: &Path) -> Result<IntrospectionServer<Service>> {
    let uuid = identity(uuid)?;
    Ok(IntrospectionServer::new(Service { plugins, uuid }))
}

/// Returns the UUID in the file `path`, which is made with a new one if it is missing.
fn identity(path: &Path) -> Result<String> {
    let read = |path: &Path| std::fs::read_to_string(path).map(|text| text.trim().to_owned());
    match read(path) {
        Ok(uuid) if !uuid.is_empty() => return Ok(uuid),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context(|| format!("read {path:?}"));
        }
        _ => {}
    }
    let uuid = read(Path::new("/proc/sys/kernel/random/uuid")).context(|| "make a uuid")?;
    sys::fs::write_atomic(path, uuid.as_bytes(), 0o600)?;
    Ok(uuid)
}

/// Returns what Go calls this machine.
pub fn platform() -> Platform {
    let (architecture, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", ""),
        "aarch64" => ("arm64", "v8"),
        "x86" => ("386", ""),
        "powerpc64" => ("ppc64le", ""),
        other => (other, ""),
    };
    Platform {
        os: "linux".into(),
        architecture: architecture.into(),
        variant: variant.into(),
        ..Default::default()
    }
}

fn encode(plugin: &plugins::Plugin) -> Plugin {
    let plugin = plugin.clone();
    let platforms = plugin.native.then(platform);
    let error = |(code, message)| google::rpc::Status {
        code,
        message,
        ..Default::default()
    };
    Plugin {
        r#type: plugin.kind,
        id: plugin.id,
        requires: plugin.requires,
        platforms: platforms.into_iter().collect(),
        exports: plugin.exports.into_iter().collect(),
        capabilities: plugin.capabilities,
        init_err: plugin.init_error.map(error),
    }
}

/// Returns the number of the pid namespace that the daemon runs in.
fn pid_namespace() -> Result<u64> {
    let path = "/proc/self/ns/pid";
    let found = std::fs::metadata(path).context(|| format!("stat {path:?}"))?;
    Ok(found.ino())
}

#[tonic::async_trait]
impl Introspection for Service {
    async fn plugins(
        &self,
        request: Request<PluginsRequest>,
    ) -> Result<Response<PluginsResponse>, Status> {
        let filter = Filter::parse(&request.into_inner().filters).map_err(status)?;
        let asked = self.plugins.iter().filter(|plugin| filter.matches(*plugin));
        Ok(Response::new(PluginsResponse {
            plugins: asked.map(encode).collect(),
        }))
    }

    async fn server(&self, _: Request<()>) -> Result<Response<ServerResponse>, Status> {
        Ok(Response::new(ServerResponse {
            uuid: self.uuid.clone(),
            pid: std::process::id().into(),
            pidns: pid_namespace().map_err(status)?,
            deprecations: Vec::new(),
        }))
    }

    async fn plugin_info(
        &self,
        request: Request<PluginInfoRequest>,
    ) -> Result<Response<PluginInfoResponse>, Status> {
        let PluginInfoRequest {
            r#type: kind,
            id,
            options,
        } = request.into_inner();
        let found = self
            .plugins
            .iter()
            .find(|plugin| plugin.kind == kind && plugin.id == id)
            .ok_or_else(|| status(not_found("plugin", &format!("{kind}.{id}"))))?;
        if options.is_some() {
            return Err(status(Error::new(
                Kind::Unimplemented,
                format!("plugin {kind}.{id} takes no options"),
            )));
        }
        Ok(Response::new(PluginInfoResponse {
            plugin: Some(encode(found)),
            extra: None,
        }))
    }
}
