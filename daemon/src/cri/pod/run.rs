//! RunPodSandbox: namespaces, network and the process that holds them.
//!
//! The record comes first, so that whatever is there when the daemon ends is found by the next one. The network is set
//! up while the image of the sandbox is got. What fails is taken down again; what cannot be taken down stays known as
//! a pod that is not ready, for its owner to stop and remove.

use std::sync::Arc;
use std::time::Instant;

use api_protos::nri::pkg::api::v1alpha1::Event;
use api_protos::runtime::v1::{
    ContainerEventType, LinuxSandboxSecurityContext, NamespaceMode, PodSandboxConfig,
    RunPodSandboxRequest, SecurityProfile,
};

use super::files;
use crate::blocking::blocking;
use crate::cri::cni::Attachment;
use crate::cri::config::Runtime;
use crate::cri::image::{self, Found};
use crate::cri::launch::{self, Streams};
use crate::cri::spec::sandbox::{Sandbox, host_network, namespace_mode};
use crate::cri::spec::user;
use crate::cri::store::{Pod, PodRecord, Told};
use crate::cri::userns::Mappings;
use crate::cri::{Cri, nanoseconds, netns, new_id, nri, profile};
use crate::error::{Context as _, Kind, Result, invalid};
use crate::metrics::operations::{NetworkOperation, Operation};
use crate::nri::Hold;
use crate::tasks::Task;

/// Runs a pod and returns its id.
pub async fn run(cri: &Arc<Cri>, request: RunPodSandboxRequest) -> Result<String> {
    let begun = Instant::now();
    let config = request
        .config
        .ok_or_else(|| invalid("sandbox config is required"))?;
    let metadata = config
        .metadata
        .clone()
        .ok_or_else(|| invalid("sandbox config must include metadata"))?;
    Mappings::of_pod(&config)?;
    let runtime = cri.config.runtime(&request.runtime_handler)?.clone();
    let id = new_id()?;
    let name = format!(
        "{}_{}_{}_{}",
        metadata.name, metadata.namespace, metadata.uid, metadata.attempt
    );
    let reserved = cri.store.reserve(&name, &id)?;
    let netns = match host_network(&config) {
        true => String::new(),
        false => {
            let path = cri.folders.netns(&format!("cni-{}", &id[..32]));
            path.to_string_lossy().into_owned()
        }
    };
    let record = PodRecord {
        name,
        config: Some(config),
        handler: request.runtime_handler,
        netns,
        created_at: nanoseconds(),
        image: cri.config.sandbox_image.clone(),
        ..PodRecord::default()
    };
    cri.store
        .create_pod(&id, record.clone(), &runtime.kind)
        .await?;
    let pod = Pod::new(&id, record);
    match set_up(cri, &pod, &runtime).await {
        // Until it is known to all, no plugin is told what there is.
        Ok((task, _hold)) => {
            reserved.keep();
            cri.store.add_pod(pod.clone());
            cri.tell(&id, &pod, ContainerEventType::ContainerCreatedEvent);
            watch(cri, &pod, task);
            cri.tell(&id, &pod, ContainerEventType::ContainerStartedEvent);
            let operations = &cri.operations;
            operations.succeeded(Operation::RunPod, &runtime.kind, begun);
            Ok(id)
        }
        Err(error) => {
            if let Err(left) = super::remove::take_down(cri, &pod).await {
                tracing::warn!(id, "take down a pod that could not be run: {left:#}");
                reserved.keep();
                cri.store.add_pod(pod);
            }
            Err(error)
        }
    }
}

async fn set_up(cri: &Arc<Cri>, pod: &Pod, runtime: &Runtime) -> Result<(Task, Hold)> {
    let (connected, image) = tokio::join!(connect(cri, pod), sandbox_image(cri, runtime));
    connected.context(|| format!("failed to setup network for sandbox {:?}", pod.id))?;
    let image = image.context(|| format!("failed to get sandbox image for {:?}", pod.id))?;
    let task = start(cri, pod, runtime, &image)
        .await
        .context(|| format!("failed to start sandbox {:?}", pod.id))?;
    let pid = task.start("").await;
    let pid = pid.context(|| format!("failed to start sandbox {:?}", pod.id))?;
    let hold = cri.nri.hold().await;
    let idle = cri.nri.is_idle();
    let started = |record: &mut PodRecord| {
        record.set_told(Told::Run);
        (record.ready, record.pid) = (idle, pid);
    };
    cri.store.update_pod(pod, started).await?;
    if !idle {
        let told = nri::tell_of_pod(cri, Event::RunPodSandbox, pod).await;
        told.context(|| "NRI RunPodSandbox failed")?;
        let agreed = |record: &mut PodRecord| record.ready = true;
        cri.store.update_pod(pod, agreed).await?;
    }
    Ok((task, hold))
}

/// Makes the pod's network namespace and connects it.
async fn connect(cri: &Cri, pod: &Pod) -> Result<()> {
    let record = pod.record();
    let mappings = Mappings::of_pod(&pod.config())?;
    let userns = cri.folders.userns(&pod.id);
    if record.netns.is_empty() {
        return match mappings {
            Some(mappings) => blocking(move || mappings.create(&userns, None)).await,
            None => Ok(()),
        };
    }
    let path = std::path::PathBuf::from(&record.netns);
    let made = path.clone();
    blocking(move || match mappings {
        Some(mappings) => mappings.create(&userns, Some(&made)),
        None => netns::create(&made),
    })
    .await?;
    let config = record.config.unwrap_or_default();
    let attachment = Attachment::new(&pod.id, &path, &config)?;
    let begun = Instant::now();
    let connected = cri.cni.connect(&attachment).await;
    let (set_up, succeeded) = (NetworkOperation::SetUp, connected.is_ok());
    cri.operations.asked_network(set_up, begun, succeeded);
    let connected = connected?;
    cri.operations.succeeded(Operation::ConnectPod, "", begun);
    let change = |record: &mut PodRecord| {
        record.ips = connected.ips;
        record.networks = connected.results;
    };
    cri.store.update_pod(pod, change).await
}

/// Returns the image of sandboxes, and pulls it if it is not there.
async fn sandbox_image(cri: &Cri, runtime: &Runtime) -> Result<Found> {
    let name = &cri.config.sandbox_image;
    match cri.library.find(name).await {
        Err(error) if error.kind() == Kind::NotFound => {
            let snapshotter = cri.config.snapshotter_of(runtime).to_owned();
            image::pull::image(cri, name, None, snapshotter).await?;
            cri.library.find(name).await
        }
        found => found,
    }
}

/// Returns the part of a pod's settings that says what its sandbox may do.
fn security(config: &PodSandboxConfig) -> LinuxSandboxSecurityContext {
    let linux = config.linux.clone().unwrap_or_default();
    linux.security_context.unwrap_or_default()
}

/// Makes the sandbox's task.
async fn start(cri: &Arc<Cri>, pod: &Pod, runtime: &Runtime, image: &Found) -> Result<Task> {
    let record = pod.record();
    let config = record.config.clone().unwrap_or_default();
    {
        let (cri, id, config) = (cri.clone(), pod.id.clone(), config.clone());
        blocking(move || files::create(&cri, &id, &config)).await?;
    }
    let leases = cri.parts.leases.clone();
    let context = cri.store.context.clone();
    let lease = blocking(move || leases.guard(&context)).await?;
    let snapshotter = cri.config.snapshotter_of(runtime);
    let chain = &image.details.chain;
    let mappings = Mappings::of_pod(&config)?;
    let names = (snapshotter, pod.id.as_str(), chain.as_str());
    launch::snapshot(cri, lease.context(), names, mappings).await?;
    let security = security(&config);
    let seccomp = profile::seccomp(
        security.seccomp.as_ref().or(unset(&security).as_ref()),
        security.privileged,
    )?;
    let asked = user::requested(
        "",
        security.run_as_user.map(|id| id.value),
        security.run_as_group.map(|id| id.value),
    )?;
    let asked = match asked.as_str() {
        "" => image.details.config.user.clone(),
        _ => asked,
    };
    // The image of a sandbox has no users, only numbers.
    let none = user::Files::default();
    let user = user::resolve(&asked, &none, false, &security.supplemental_groups)?;
    let shm = match namespace_mode(&config, |options| options.ipc) {
        NamespaceMode::Node => "/dev/shm".into(),
        _ => cri.folders.shm(&pod.id).to_string_lossy().into_owned(),
    };
    let resolv = cri.folders.pod(&pod.id).join("resolv.conf");
    let userns = cri.folders.userns(&pod.id).to_string_lossy().into_owned();
    let spec = Sandbox {
        id: &pod.id,
        config: &config,
        image: &image.details.config,
        image_name: &record.image,
        runtime,
        settings: &cri.config,
        host: &cri.host,
        user,
        netns: &record.netns,
        userns: mappings.map(|mappings| (mappings, userns.as_str())),
        shm: &shm,
        resolv: &resolv.to_string_lossy(),
        seccomp,
    }
    .spec()?;
    let labels = launch::labels(&config.labels, &image.details.config.labels, "sandbox");
    launch::record(
        cri,
        launch::Record {
            id: &pod.id,
            image: &record.image,
            runtime,
            snapshotter,
            labels,
            extensions: Default::default(),
            spec: &spec,
            sandbox: "",
        },
    )
    .await?;
    blocking(move || {
        drop(lease);
        Ok(())
    })
    .await?;
    launch::task(cri, &pod.id, snapshotter, Streams::default()).await
}

/// Returns the profile that the deprecated field asks for.
fn unset(security: &LinuxSandboxSecurityContext) -> Option<SecurityProfile> {
    #[allow(deprecated)]
    profile::from_path(&security.seccomp_profile_path)
}

/// Notes the end of the sandbox when it comes.
pub fn watch(cri: &Arc<Cri>, pod: &Arc<Pod>, task: Task) {
    let (cri, pod) = (cri.clone(), pod.clone());
    tokio::spawn(async move {
        if let Err(error) = task.wait("").await {
            tracing::warn!(id = pod.id, "wait for a sandbox: {error:#}");
        }
        let _ = task.delete().await;
        ended(&cri, &pod).await;
    });
}

/// Notes that a sandbox has ended.
pub async fn ended(cri: &Arc<Cri>, pod: &Arc<Pod>) {
    if !pod.record().ready {
        return;
    }
    let change = |record: &mut PodRecord| (record.ready, record.pid) = (false, 0);
    if let Err(error) = cri.store.update_pod(pod, change).await
        && error.kind() != Kind::NotFound
    {
        tracing::warn!(id = pod.id, "note the end of a sandbox: {error:#}");
    }
    cri.tell(&pod.id, pod, ContainerEventType::ContainerStoppedEvent);
}
