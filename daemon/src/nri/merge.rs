//! What several plugins want, made one: each sees what those before it have changed, and none may change it again
//! unless it says that it removes it first.
//!
//! What is to be removed is marked by a `-` before its key.

use std::collections::{BTreeMap, HashMap, HashSet};

use api_protos::nri::pkg::api::v1alpha1::{
    Container, ContainerAdjustment, ContainerEviction, ContainerUpdate, CreateContainerResponse,
    Field, Hooks, LinuxContainer, LinuxContainerAdjustment, LinuxContainerUpdate, LinuxRdt,
    LinuxResources, OwningPlugins,
};

use super::Changes;
use super::owners::{Claims, Owners};
use crate::error::{Error, Kind, Result};

/// A container that is being created, and what plugins want of it so far.
pub(super) struct Creation {
    /// The container as the next plugin sees it.
    pub container: Container,
    pub adjust: ContainerAdjustment,
    others: Updates,
}

/// A container that is being updated.
pub(super) struct Update {
    /// Its id, and what it is to have; nothing if it has stopped, and only others are updated.
    own: Option<(String, LinuxResources)>,
    /// Whether a plugin wants something else than was asked for.
    changed: bool,
    others: Updates,
}

/// What is wanted of containers that are there.
#[derive(Default)]
struct Updates {
    owners: Owners,
    /// In the order in which they were first asked for.
    order: Vec<String>,
    updates: HashMap<String, ContainerUpdate>,
    evictions: Vec<ContainerEviction>,
}

impl Creation {
    pub fn new(container: Container) -> Self {
        Self {
            container,
            adjust: ContainerAdjustment::default(),
            others: Updates::default(),
        }
    }

    /// Takes up what a plugin wants.
    pub fn apply(&mut self, answer: CreateContainerResponse, plugin: &str) -> Result<()> {
        if let Some(adjust) = answer.adjust {
            self.adjust(adjust, plugin)?;
        }
        let id = &self.container.id;
        if answer
            .update
            .iter()
            .any(|update| update.container_id == *id)
        {
            let message = format!("plugin {plugin:?} asked update of {id:?} during creation");
            return Err(Error::new(Kind::Unknown, message));
        }
        self.others.evictions.extend(answer.evict);
        self.others.apply(answer.update, plugin)
    }

    /// Returns what is wanted of other containers so far.
    pub fn updates(&self) -> Vec<ContainerUpdate> {
        self.others.in_order()
    }

    pub fn owners(&self) -> OwningPlugins {
        self.others.owners.told()
    }

    /// Returns what is wanted of the container, and of others.
    pub fn finish(self) -> (ContainerAdjustment, Changes) {
        (self.adjust, self.others.finish())
    }

    fn adjust(&mut self, wanted: ContainerAdjustment, plugin: &str) -> Result<()> {
        let container = &mut self.container;
        let adjust = &mut self.adjust;
        let id = container.id.clone();
        let claims = &mut Claims {
            owners: &mut self.others.owners,
            container: &id,
            plugin,
        };
        let (own, all) = (&mut container.annotations, &mut adjust.annotations);
        set_entries(claims, Field::Annotations, wanted.annotations, own, all)?;
        let mounts = (&mut container.mounts, &mut adjust.mounts);
        let (own, all) = mounts;
        let key = |mount: &api_protos::nri::pkg::api::v1alpha1::Mount| mount.destination.clone();
        replace(claims, Field::Mounts, wanted.mounts, (own, all), key)?;
        set_env(claims, wanted.env, &mut container.env, &mut adjust.env)?;
        set_args(claims, wanted.args, &mut container.args, &mut adjust.args)?;
        if let Some(hooks) = wanted.hooks {
            add_hooks(claims, &hooks, container.hooks.get_or_insert_default());
            append_hooks(adjust.hooks.get_or_insert_default(), &hooks);
        }
        if let Some(linux) = wanted.linux {
            let own = container.linux.get_or_insert_default();
            let all = adjust.linux.get_or_insert_default();
            adjust_linux(claims, linux, own, all)?;
        }
        for limit in wanted.rlimits {
            claims.claim(Field::Rlimits, &limit.r#type)?;
            container.rlimits.push(limit.clone());
            adjust.rlimits.push(limit);
        }
        // Whose devices these stand for the runtime alone knows: they are added, and never removed.
        for device in wanted.cdi_devices {
            claims.claim(Field::CdiDevices, &device.name)?;
            adjust.cdi_devices.push(device);
        }
        Ok(())
    }
}

impl Update {
    /// Returns the update of a container to these limits.
    pub fn new(id: String, resources: LinuxResources) -> Self {
        Self {
            own: Some((id, resources)),
            changed: false,
            others: Updates::default(),
        }
    }

    /// Returns what may be updated when a container has stopped: all others.
    pub fn of_others() -> Self {
        Self {
            own: None,
            changed: false,
            others: Updates::default(),
        }
    }

    /// Returns what the container is to have so far.
    pub fn resources(&self) -> &LinuxResources {
        static NONE: std::sync::LazyLock<LinuxResources> =
            std::sync::LazyLock::new(LinuxResources::default);
        self.own.as_ref().map_or(&NONE, |(_, resources)| resources)
    }

    /// Takes up what a plugin wants.
    pub fn apply(
        &mut self,
        updates: Vec<ContainerUpdate>,
        evictions: Vec<ContainerEviction>,
        plugin: &str,
    ) -> Result<()> {
        let mut of_others = Vec::new();
        for update in updates {
            match &mut self.own {
                Some((id, resources)) if *id == update.container_id => {
                    let applied = self.others.change(resources, &update, plugin);
                    match applied {
                        Ok(()) => self.changed = true,
                        Err(_) if update.ignore_failure => {}
                        Err(error) => return Err(error),
                    }
                }
                _ => of_others.push(update),
            }
        }
        self.others.evictions.extend(evictions);
        self.others.apply(of_others, plugin)
    }

    /// Returns what the container is to have if that is not what was asked for, and what is wanted of others.
    pub fn finish(self) -> (Option<LinuxResources>, Changes) {
        let own = self.own.filter(|_| self.changed);
        (own.map(|(_, resources)| resources), self.others.finish())
    }
}

impl Updates {
    fn apply(&mut self, updates: Vec<ContainerUpdate>, plugin: &str) -> Result<()> {
        for update in updates {
            let known = self.updates.get(&update.container_id);
            let linux = known.and_then(|known| known.linux.clone());
            let mut resources = linux.unwrap_or_default().resources.unwrap_or_default();
            let ignore = known.is_none_or(|known| known.ignore_failure) && update.ignore_failure;
            match self.change(&mut resources, &update, plugin) {
                Ok(()) => {}
                Err(_) if update.ignore_failure => continue,
                Err(error) => return Err(error),
            }
            let id = update.container_id;
            let resources = Some(resources);
            let changed = ContainerUpdate {
                container_id: id.clone(),
                linux: Some(LinuxContainerUpdate { resources }),
                ignore_failure: ignore,
            };
            if self.updates.insert(id.clone(), changed).is_none() {
                self.order.push(id);
            }
        }
        Ok(())
    }

    /// Changes limits as an update has it; they stay as they are if another plugin has changed them.
    fn change(
        &mut self,
        resources: &mut LinuxResources,
        update: &ContainerUpdate,
        plugin: &str,
    ) -> Result<()> {
        let wanted = update.linux.clone().unwrap_or_default().resources;
        let mut changed = resources.clone();
        let claims = &mut Claims {
            owners: &mut self.owners,
            container: &update.container_id,
            plugin,
        };
        limit(claims, &wanted.unwrap_or_default(), &mut [&mut changed])?;
        *resources = changed;
        Ok(())
    }

    fn in_order(&self) -> Vec<ContainerUpdate> {
        let order = self.order.iter();
        order
            .filter_map(|id| self.updates.get(id).cloned())
            .collect()
    }

    fn finish(self) -> Changes {
        Changes {
            updates: self.in_order(),
            evictions: self.evictions,
        }
    }
}

/// Sets and removes entries by their keys, in the container and in all that is wanted of it.
fn set_entries<V: Clone + Default>(
    claims: &mut Claims<'_>,
    field: Field,
    wanted: HashMap<String, V>,
    own: &mut HashMap<String, V>,
    all: &mut HashMap<String, V>,
) -> Result<()> {
    let wanted: BTreeMap<String, V> = wanted.into_iter().collect();
    for marked in wanted.keys().filter(|key| key.starts_with('-')) {
        let key = &marked[1..];
        claims.clear(field, key);
        own.remove(key);
        all.remove(key);
        all.insert(marked.clone(), V::default());
    }
    for (key, value) in wanted {
        if !key.starts_with('-') {
            claims.claim(field, &key)?;
            own.insert(key.clone(), value.clone());
            all.insert(key, value);
        }
    }
    Ok(())
}

/// Sets and removes things of a list, of which one has one key, in the container and in all that is wanted of it.
fn replace<T: Clone>(
    claims: &mut Claims<'_>,
    field: Field,
    wanted: Vec<T>,
    (own, all): (&mut Vec<T>, &mut Vec<T>),
    key: impl Fn(&T) -> String,
) -> Result<()> {
    let (removed, added): (Vec<T>, Vec<T>) = {
        let wanted = wanted.into_iter();
        wanted.partition(|thing| key(thing).starts_with('-'))
    };
    let set: HashSet<String> = added.iter().map(&key).collect();
    for thing in removed {
        let marked = key(&thing);
        let name = &marked[1..];
        claims.clear(field, name);
        own.retain(|other| key(other) != name);
        all.retain(|other| key(other) != name);
        if !set.contains(name) {
            all.push(thing);
        }
    }
    for thing in added {
        let name = key(&thing);
        claims.claim(field, &name)?;
        own.retain(|other| key(other) != name);
        own.push(thing.clone());
        all.push(thing);
    }
    Ok(())
}

type Variable = api_protos::nri::pkg::api::v1alpha1::KeyValue;

fn set_env(
    claims: &mut Claims<'_>,
    wanted: Vec<Variable>,
    own: &mut Vec<String>,
    all: &mut Vec<Variable>,
) -> Result<()> {
    let named = own.iter().map(|variable| {
        let (key, value) = variable.split_once('=').unwrap_or((variable, ""));
        let (key, value) = (key.to_owned(), value.to_owned());
        Variable { key, value }
    });
    let mut named: Vec<Variable> = named.collect();
    let key = |variable: &Variable| variable.key.clone();
    replace(claims, Field::Env, wanted, (&mut named, all), key)?;
    let texts = named.iter();
    *own = texts
        .map(|variable| format!("{}={}", variable.key, variable.value))
        .collect();
    Ok(())
}

/// Sets the arguments; an empty one before them says that those of another plugin are removed.
fn set_args(
    claims: &mut Claims<'_>,
    mut wanted: Vec<String>,
    own: &mut Vec<String>,
    all: &mut Vec<String>,
) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    if wanted[0].is_empty() {
        claims.clear(Field::Args, "");
        wanted.remove(0);
    }
    claims.claim(Field::Args, "")?;
    own.clone_from(&wanted);
    *all = wanted;
    Ok(())
}

fn add_hooks(claims: &mut Claims<'_>, hooks: &Hooks, own: &mut Hooks) {
    if *hooks != Hooks::default() {
        claims.join(Field::OciHooks);
    }
    append_hooks(own, hooks);
}

fn append_hooks(into: &mut Hooks, hooks: &Hooks) {
    into.prestart.extend_from_slice(&hooks.prestart);
    into.create_runtime.extend_from_slice(&hooks.create_runtime);
    into.create_container
        .extend_from_slice(&hooks.create_container);
    into.start_container
        .extend_from_slice(&hooks.start_container);
    into.poststart.extend_from_slice(&hooks.poststart);
    into.poststop.extend_from_slice(&hooks.poststop);
}

fn adjust_linux(
    claims: &mut Claims<'_>,
    wanted: LinuxContainerAdjustment,
    own: &mut LinuxContainer,
    all: &mut LinuxContainerAdjustment,
) -> Result<()> {
    let key = |device: &api_protos::nri::pkg::api::v1alpha1::LinuxDevice| device.path.clone();
    let lists = (&mut own.devices, &mut all.devices);
    replace(claims, Field::Devices, wanted.devices, lists, key)?;
    if let Some(resources) = &wanted.resources {
        let own = own.resources.get_or_insert_default();
        let all = all.resources.get_or_insert_default();
        own.devices.extend_from_slice(&resources.devices);
        all.devices.extend_from_slice(&resources.devices);
        limit(claims, resources, &mut [own, all])?;
    }
    if !wanted.cgroups_path.is_empty() {
        claims.claim(Field::CgroupsPath, "")?;
        own.cgroups_path.clone_from(&wanted.cgroups_path);
        all.cgroups_path = wanted.cgroups_path;
    }
    macro_rules! whole {
        ($($field:ident => $name:ident),*) => {
            $(if wanted.$field.is_some() {
                claims.claim(Field::$name, "")?;
                own.$field.clone_from(&wanted.$field);
                all.$field = wanted.$field;
            })*
        };
    }
    whole!(
        oom_score_adj => OomScoreAdj,
        io_priority => IoPriority,
        seccomp_policy => SeccompPolicy,
        scheduler => LinuxSched
    );
    if wanted.memory_policy.is_some() {
        claims.claim(Field::MemoryPolicy, "")?;
        all.memory_policy = wanted.memory_policy;
    }
    for namespace in wanted.namespaces {
        let marked = namespace.r#type.starts_with('-');
        let kind = namespace.r#type.trim_start_matches('-').to_owned();
        claims.claim(Field::Namespace, &kind)?;
        own.namespaces.retain(|other| other.r#type != kind);
        if !marked {
            own.namespaces.push(namespace.clone());
        }
        all.namespaces.push(namespace);
    }
    let (of_own, of_all) = (&mut own.sysctl, &mut all.sysctl);
    set_entries(claims, Field::Sysctl, wanted.sysctl, of_own, of_all)?;
    let (of_own, of_all) = (&mut own.net_devices, &mut all.net_devices);
    let field = Field::LinuxNetDevices;
    set_entries(claims, field, wanted.net_devices, of_own, of_all)?;
    match wanted.rdt {
        Some(rdt) => adjust_rdt(claims, rdt, &mut all.rdt),
        None => Ok(()),
    }
}

fn adjust_rdt(claims: &mut Claims<'_>, wanted: LinuxRdt, all: &mut Option<LinuxRdt>) -> Result<()> {
    if wanted.remove {
        for field in [
            Field::RdtClosId,
            Field::RdtSchemata,
            Field::RdtEnableMonitoring,
        ] {
            claims.clear(field, "");
        }
        *all = Some(LinuxRdt {
            remove: true,
            ..LinuxRdt::default()
        });
    }
    let all = all.get_or_insert_default();
    macro_rules! set {
        ($($field:ident => $name:ident),*) => {
            $(if wanted.$field.is_some() {
                claims.claim(Field::$name, "")?;
                all.$field = wanted.$field;
                all.remove = false;
            })*
        };
    }
    set!(
        clos_id => RdtClosId,
        schemata => RdtSchemata,
        enable_monitoring => RdtEnableMonitoring
    );
    Ok(())
}

/// Sets limits in each of `targets`.
fn limit(
    claims: &mut Claims<'_>,
    wanted: &LinuxResources,
    targets: &mut [&mut LinuxResources],
) -> Result<()> {
    macro_rules! set {
        ($part:ident: $($field:ident => $name:ident),*) => {
            if let Some(part) = &wanted.$part {
                $(if part.$field.is_some() {
                    claims.claim(Field::$name, "")?;
                    for target in targets.iter_mut() {
                        target.$part.get_or_insert_default().$field = part.$field;
                    }
                })*
            }
        };
    }
    set!(memory: limit => MemLimit, reservation => MemReservation, swap => MemSwapLimit,
        kernel => MemKernelLimit, kernel_tcp => MemTcpLimit, swappiness => MemSwappiness,
        disable_oom_killer => MemDisableOomKiller, use_hierarchy => MemUseHierarchy);
    set!(cpu: shares => CpuShares, quota => CpuQuota, period => CpuPeriod,
        realtime_runtime => CpuRealtimeRuntime, realtime_period => CpuRealtimePeriod);
    let cpu = wanted.cpu.clone().unwrap_or_default();
    macro_rules! list {
        ($($field:ident => $name:ident),*) => {
            $(if !cpu.$field.is_empty() {
                claims.claim(Field::$name, "")?;
                for target in targets.iter_mut() {
                    target.cpu.get_or_insert_default().$field.clone_from(&cpu.$field);
                }
            })*
        };
    }
    list!(cpus => CpuSetCpUs, mems => CpuSetMems);
    for pages in &wanted.hugepage_limits {
        claims.claim(Field::HugepageLimits, &pages.page_size)?;
        for target in targets.iter_mut() {
            let limits = &mut target.hugepage_limits;
            limits.retain(|other| other.page_size != pages.page_size);
            limits.push(pages.clone());
        }
    }
    for (key, value) in &wanted.unified {
        claims.claim(Field::CgroupsUnified, key)?;
        for target in targets.iter_mut() {
            target.unified.insert(key.clone(), value.clone());
        }
    }
    macro_rules! whole {
        ($($field:ident => $name:ident),*) => {
            $(if wanted.$field.is_some() {
                claims.claim(Field::$name, "")?;
                for target in targets.iter_mut() {
                    target.$field.clone_from(&wanted.$field);
                }
            })*
        };
    }
    whole!(blockio_class => BlockioClass, rdt_class => RdtClass, pids => PidsLimit);
    Ok(())
}

#[cfg(test)]
mod tests;
