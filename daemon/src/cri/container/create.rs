//! CreateContainer: a snapshot, a specification and a record; nothing runs yet.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use api_protos::nri::pkg::api::v1alpha1::{Container as Described, Event};
use api_protos::runtime::v1::{
    ContainerConfig, ContainerEventType, CreateContainerRequest, Mount as Asked, MountPropagation,
    NamespaceMode, PodSandboxConfig, SupplementalGroupsPolicy,
};
use serde_json::Value;

use super::image_mounts;
use crate::blocking::blocking;
use crate::cri::config::Runtime;
use crate::cri::image::Found;
use crate::cri::rootfs::{self, Volume};
use crate::cri::spec::container::{Container as Spec, security};
use crate::cri::spec::mounts::{Bind, clean};
use crate::cri::spec::resources;
use crate::cri::spec::sandbox::namespace_mode;
use crate::cri::spec::user::{self, User};
use crate::cri::store::{Container, ContainerRecord, Pod, Status, Store};
use crate::cri::userns::Mappings;
use crate::cri::{Cri, cdi, host, launch, nanoseconds, new_id, nri, profile};
use crate::error::{Context as _, Error, Kind, Result, invalid};
use crate::labels::Labels;
use crate::metrics::operations::Operation;
use crate::nri::Hold;

/// Creates a container and returns its id.
pub async fn create(cri: &Arc<Cri>, request: CreateContainerRequest) -> Result<String> {
    let begun = Instant::now();
    let pod = cri.store.pod(&request.pod_sandbox_id)?;
    let config = request
        .config
        .ok_or_else(|| invalid("container config is required"))?;
    let metadata = config
        .metadata
        .clone()
        .ok_or_else(|| invalid("container config must include metadata"))?;
    let of_pod = match request.sandbox_config {
        Some(config) => config,
        None => pod.config(),
    };
    let pod_metadata = of_pod
        .metadata
        .clone()
        .ok_or_else(|| invalid("pod sandbox config must include metadata"))?;
    image_mounts::check(&config)?;
    let mappings = mappings(&config, &pod.config())?;
    if !pod.record().ready {
        return Err(not_running(&pod.id));
    }
    let id = new_id()?;
    let name = format!(
        "{}_{}_{}_{}_{}",
        metadata.name,
        pod_metadata.name,
        pod_metadata.namespace,
        pod_metadata.uid,
        metadata.attempt
    );
    let reserved = cri.store.reserve(&name, &id)?;
    let wanted = config.image.clone().unwrap_or_default();
    let image = cri.library.find(&wanted.image).await;
    let image = image.context(|| format!("failed to resolve image {:?}", wanted.image))?;
    let making = Making {
        cri,
        pod: &pod,
        of_pod: &of_pod,
        config: &config,
        image: &image,
        id: &id,
        name: &name,
        mappings,
    };
    match making.make().await {
        // Until it is known to all, no plugin is told what there is.
        Ok((container, _hold)) => {
            reserved.keep();
            cri.store.add_container(container.clone());
            cri.tell(&id, &pod, ContainerEventType::ContainerCreatedEvent);
            nri::tell_after(cri, Event::PostCreateContainer, &container).await;
            cri.done(Operation::CreateContainer, &pod.id, begun);
            Ok(id)
        }
        Err(error) => {
            let snapshotter = making
                .runtime()
                .map(|runtime| cri.config.snapshotter_of(runtime));
            let snapshotter = snapshotter.unwrap_or(&cri.config.snapshotter);
            let released = image_mounts::release(cri, snapshotter, &id, &config).await;
            if let Err(left) = released {
                tracing::warn!(id, "release images of a container: {left:#}");
            }
            if let Err(left) = launch::erase(cri, &id, snapshotter).await {
                tracing::warn!(id, "clean up a container that could not be made: {left:#}");
            }
            let (folders, removed) = (cri.folders.clone(), id.clone());
            if let Err(left) = blocking(move || folders.remove_container(&removed)).await {
                tracing::warn!(id, "clean up a container that could not be made: {left:#}");
            }
            Err(error)
        }
    }
}

/// Returns the error of a pod that has no running sandbox.
pub fn not_running(pod: &str) -> Error {
    let message = format!("sandbox container {pod:?} is not running");
    Error::new(Kind::Unknown, message)
}

/// Returns the user namespace that a container asks for, which must be its pod's.
fn mappings(config: &ContainerConfig, of_pod: &PodSandboxConfig) -> Result<Option<Mappings>> {
    let pods = Mappings::of_pod(of_pod)?;
    let options = security(config).namespace_options.unwrap_or_default();
    match options.userns_options {
        // Clients that know of no user namespaces say nothing of them for containers.
        None => Ok(pods),
        options => match Mappings::asked(options)? {
            own if own == pods => Ok(own),
            own => Err(invalid(format!(
                "user namespace config for sandbox is different from container: {pods:?}, {own:?}"
            ))),
        },
    }
}

/// A container that is being made.
struct Making<'a> {
    cri: &'a Arc<Cri>,
    pod: &'a Pod,
    of_pod: &'a PodSandboxConfig,
    config: &'a ContainerConfig,
    image: &'a Found,
    id: &'a str,
    name: &'a str,
    /// Of the pod's user namespace, if it has one of its own.
    mappings: Option<Mappings>,
}

impl Making<'_> {
    fn runtime(&self) -> Result<&Runtime> {
        self.cri.config.runtime(&self.pod.record().handler)
    }

    async fn make(&self) -> Result<(Arc<Container>, Hold)> {
        let cri = self.cri;
        let runtime = self.runtime()?;
        let snapshotter = cri.config.snapshotter_of(runtime);
        let leases = cri.parts.leases.clone();
        let context = cri.store.context.clone();
        let lease = blocking(move || leases.guard(&context)).await?;
        let chain = &self.image.details.chain;
        let context = lease.context();
        let names = (snapshotter, self.id, chain.as_str());
        let mounts = launch::snapshot(cri, context, names, self.mappings).await?;
        let volumes = self.volumes();
        let files = {
            let (scratch, volumes) = (cri.folders.state().to_owned(), volumes.clone());
            blocking(move || rootfs::inspect(&mounts, &scratch, &volumes)).await?
        };
        let user = self.user(&files)?;
        let binds = {
            let own = self.own_binds(&volumes);
            let mounts = &self.config.mounts;
            let mounts = image_mounts::make(cri, context, snapshotter, self.id, mounts).await?;
            blocking(move || Ok([own, binds(&mounts)?].concat())).await?
        };
        let spec = self.spec(runtime, user, binds)?;
        let spec = cdi::inject(&cri.config, self.config, spec).await?;
        let hold = cri.nri.hold().await;
        let described = self.described();
        let container = match nri::create(cri, self.pod, described.clone(), spec).await {
            Ok(spec) => self.write(runtime, snapshotter, &spec).await,
            Err(error) => Err(error),
        };
        if container.is_err() {
            nri::undo(cri, self.pod, described).await;
        }
        let container = container?;
        blocking(move || {
            drop(lease);
            Ok(())
        })
        .await?;
        Ok((container, hold))
    }

    /// Returns the container as plugins see it, but for what its specification says.
    fn described(&self) -> Described {
        let mut described = nri::describe::new(self.id, &self.pod.id, self.config);
        described.labels.extend(self.labels());
        let image = (self.image.image_ref(), &self.image.details.id);
        described.image = Some(nri::describe::image(self.image_name(), &image.0, image.1));
        described.created_at = nanoseconds();
        described
    }

    fn labels(&self) -> Labels {
        let of_image = &self.image.details.config.labels;
        launch::labels(&self.config.labels, of_image, "container")
    }

    /// Writes down the container.
    async fn write(
        &self,
        runtime: &Runtime,
        snapshotter: &str,
        spec: &Value,
    ) -> Result<Arc<Container>> {
        let cri = self.cri;
        let record = self.record(snapshotter);
        let linux = self.config.linux.clone().unwrap_or_default();
        let mut limits = linux.resources.unwrap_or_default();
        // Plugins may have other limits in mind.
        resources::merge(&mut limits, &nri::describe::asked_by(spec));
        let status = Status {
            resources: limits,
            ..Status::default()
        };
        let mut labels = self.labels();
        labels.extend(image_mounts::labels(snapshotter, self.id, self.config));
        launch::record(
            cri,
            launch::Record {
                id: self.id,
                image: &self.image_name(),
                runtime,
                snapshotter,
                labels,
                extensions: Store::extensions(&record, &status),
                spec,
                sandbox: &self.pod.id,
            },
        )
        .await?;
        let io = cri.io(self.id, &record);
        Ok(Container::new(self.id, record, status, io))
    }

    fn image_name(&self) -> String {
        let tags = self.image.tags();
        tags.first()
            .cloned()
            .unwrap_or_else(|| self.image.image_ref())
    }

    fn record(&self, snapshotter: &str) -> ContainerRecord {
        let (folder, path) = (&self.of_pod.log_directory, &self.config.log_path);
        let log = match folder.is_empty() || path.is_empty() {
            true => PathBuf::new(),
            false => Path::new(folder).join(path),
        };
        ContainerRecord {
            name: self.name.to_owned(),
            pod: self.pod.id.clone(),
            config: Some(self.config.clone()),
            image: self.image.details.id.clone(),
            image_ref: self.image.image_ref(),
            log: log.to_string_lossy().into_owned(),
            stop_signal: self.image.details.config.stop_signal.clone(),
            created_at: nanoseconds(),
            snapshotter: snapshotter.to_owned(),
        }
    }

    /// Returns the volumes of the image that nothing else is mounted on.
    fn volumes(&self) -> Vec<Volume> {
        if self.cri.config.ignore_image_volumes {
            return Vec::new();
        }
        let folder = self.cri.folders.container(self.id).join("volumes");
        let paths = self.image.details.config.volumes.keys();
        paths
            .filter(|path| !self.mounted(path))
            .enumerate()
            .map(|(number, path)| Volume {
                path: clean(path),
                folder: folder.join(number.to_string()),
            })
            .collect()
    }

    fn mounted(&self, path: &str) -> bool {
        let mut mounts = self.config.mounts.iter();
        mounts.any(|mount| clean(&mount.container_path) == clean(path))
    }

    /// Returns the pod's files and the image's volumes, where nothing else is mounted.
    fn own_binds(&self, volumes: &[Volume]) -> Vec<Bind> {
        let pod = self.cri.folders.pod(&self.pod.id);
        let file = |name: &str| pod.join(name).to_string_lossy().into_owned();
        let shm = match namespace_mode(self.of_pod, |options| options.ipc) {
            NamespaceMode::Node => "/dev/shm".into(),
            _ => self
                .cri
                .folders
                .shm(&self.pod.id)
                .to_string_lossy()
                .into_owned(),
        };
        let readonly = security(self.config).readonly_rootfs;
        let own = [
            (file("hostname"), "/etc/hostname", readonly),
            (file("hosts"), "/etc/hosts", readonly),
            (file("resolv.conf"), "/etc/resolv.conf", readonly),
            (shm, "/dev/shm", false),
        ];
        let own = own.into_iter().filter(|(_, path, _)| !self.mounted(path));
        let own = own.map(|(source, path, readonly)| {
            let mut bind = Bind::new(source, path, readonly);
            // Shared memory is empty at first, and older kernels cannot map the owners of a tmpfs.
            if let Some(mappings) = self.mappings.filter(|_| path != "/dev/shm") {
                [bind.uid_mappings, bind.gid_mappings] = mappings.cri();
            }
            bind
        });
        let volumes = volumes
            .iter()
            .map(|volume| Bind::new(volume.folder.to_string_lossy(), &volume.path, false));
        own.chain(volumes).collect()
    }

    fn user(&self, files: &user::Files) -> Result<User> {
        let security = security(self.config);
        let asked = user::requested(
            &security.run_as_username,
            security.run_as_user.map(|id| id.value),
            security.run_as_group.map(|id| id.value),
        )?;
        let asked = match asked.as_str() {
            "" => self.image.details.config.user.as_str(),
            asked => asked,
        };
        let merge = security.supplemental_groups_policy() == SupplementalGroupsPolicy::Merge;
        user::resolve(asked, files, merge, &security.supplemental_groups)
    }

    fn spec(&self, runtime: &Runtime, user: User, binds: Vec<Bind>) -> Result<Value> {
        let security = security(self.config);
        let privileged = security.privileged;
        #[allow(deprecated)]
        let (seccomp_path, apparmor_path) =
            (&security.seccomp_profile_path, &security.apparmor_profile);
        let seccomp = security
            .seccomp
            .clone()
            .or_else(|| profile::from_path(seccomp_path));
        let apparmor = security
            .apparmor
            .clone()
            .or_else(|| profile::from_path(apparmor_path));
        let pod_pid = self.pod.record().pid;
        Spec {
            id: self.id,
            pod_id: &self.pod.id,
            pod_pid,
            mappings: self.mappings,
            target_pid: self.target().map(|target| target.unwrap_or(pod_pid))?,
            config: self.config,
            pod: self.of_pod,
            image: &self.image.details.config,
            image_name: &self.image_name(),
            runtime,
            settings: &self.cri.config,
            host: &self.cri.host,
            devices: self.devices(&user)?,
            user,
            binds,
            seccomp: profile::seccomp(seccomp.as_ref(), privileged)?,
            apparmor: profile::apparmor(apparmor.as_ref(), privileged)?,
        }
        .spec()
    }

    /// Returns the process whose PID namespace is joined, if it is not the pod's.
    fn target(&self) -> Result<Option<u32>> {
        let options = security(self.config).namespace_options.unwrap_or_default();
        if options.pid() != NamespaceMode::Target {
            return Ok(None);
        }
        let target = self.cri.store.container(&options.target_id);
        let target = target.context(|| "invalid target container")?;
        if target.record.pod != self.pod.id {
            return Err(invalid(format!(
                "invalid target container: {:?} belongs to another sandbox",
                target.id
            )));
        }
        match target.state().pid() {
            Some(pid) => Ok(Some(pid)),
            None => Err(invalid(format!(
                "invalid target container: {:?} is not running",
                target.id
            ))),
        }
    }

    fn devices(&self, user: &User) -> Result<Vec<Value>> {
        let mut devices = Vec::new();
        for asked in &self.config.devices {
            let path = Path::new(&asked.host_path);
            devices.extend(host::devices(
                path,
                &asked.container_path,
                &asked.permissions,
            )?);
        }
        if self.cri.config.device_ownership {
            for device in &mut devices {
                device["uid"] = user.uid.into();
                device["gid"] = user.gid.into();
            }
        }
        Ok(devices)
    }
}

/// Returns what CRI asks to mount, with every source found, or made if it is missing.
fn binds(asked: &[Asked]) -> Result<Vec<Bind>> {
    let mut binds = Vec::new();
    for mount in asked {
        let source = Path::new(&mount.host_path);
        if !source.exists() {
            std::fs::create_dir_all(source).context(|| format!("failed to mkdir {source:?}"))?;
        }
        let source = source
            .canonicalize()
            .context(|| format!("failed to resolve symlink {source:?}"))?;
        let propagation = mount.propagation();
        shared_enough(&source, propagation)?;
        binds.push(Bind {
            source: source.to_string_lossy().into_owned(),
            destination: mount.container_path.clone(),
            readonly: mount.readonly,
            recursive_readonly: mount.recursive_read_only,
            propagation,
            uid_mappings: mount.uid_mappings.clone(),
            gid_mappings: mount.gid_mappings.clone(),
        });
    }
    Ok(binds)
}

/// Refuses a propagation that the mount under `source` cannot have.
fn shared_enough(source: &Path, propagation: MountPropagation) -> Result<()> {
    if propagation == MountPropagation::PropagationPrivate {
        return Ok(());
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").context(|| "read the mounts")?;
    let (target, fields) = table
        .lines()
        .filter_map(propagation_of)
        .filter(|(target, _)| source.starts_with(target))
        .max_by_key(|(target, _)| target.components().count())
        .unwrap_or_default();
    let shared = fields.iter().any(|field| field.starts_with("shared:"));
    let slave = fields.iter().any(|field| field.starts_with("master:"));
    let wanted = match propagation {
        MountPropagation::PropagationBidirectional => ("a shared", shared),
        _ => ("a shared or slave", shared || slave),
    };
    match wanted {
        (_, true) => Ok(()),
        (what, false) => Err(invalid(format!(
            "path {source:?} is mounted on {target:?} but it is not {what} mount"
        ))),
    }
}

/// Returns the target and the optional fields of a line of the mount table.
fn propagation_of(line: &str) -> Option<(PathBuf, Vec<&str>)> {
    let mut fields = line.split(' ');
    let target = fields.nth(4)?.replace("\\040", " ");
    let optional = fields.skip(1).take_while(|field| *field != "-");
    Some((target.into(), optional.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_tells_who_shares() {
        let line = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime shared:1 master:2 - ext3 /dev/root rw";
        let (target, fields) = propagation_of(line).unwrap();
        assert_eq!(target, Path::new("/mnt 2"));
        assert_eq!(fields, ["shared:1", "master:2"]);
        let (_, fields) = propagation_of("1 0 0:1 / / rw - tmpfs x rw").unwrap();
        assert!(fields.is_empty());
    }
}
