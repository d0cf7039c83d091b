//! All shims: started, connected to, found again after a restart, and cleaned up after when they vanish.
//!
//! ```text
//!             start                    delete
//!  (nothing) ───────▶ Held ───▶ Live ────────▶ Held ───▶ (nothing)
//!                                 │ connection lost          ▲
//!                                 └──▶ `shim delete`, exit and delete events
//! ```
//!
//! A name is held while a shim is being started or ended, so that nothing else is made of it meanwhile. The table is
//! locked for a look or a change, never while a shim is being talked to.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_protos::containerd::types::Envelope;
use prost_types::Any;

use super::bundle::{Bundle, Folders};
use super::command::Caller;
use super::exit::{self, Exit, Last};
use super::limits::Limits;
use super::log;
use super::remnants;
use super::resolve::Resolver;
use super::shim::{Shim, not_found};
use super::task;
use crate::blocking::blocking;
use crate::error::{Context, Error, Kind, Result};
use crate::events::Exchange;
use crate::trace;
use sys::failpoint;

type Name = (String, String);

/// The shims of all tasks; clones share them.
#[derive(Clone, Debug)]
pub struct Shims {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folders: Folders,
    resolver: Resolver,
    caller: Caller,
    events: Arc<Exchange>,
    table: Mutex<HashMap<Name, Slot>>,
}

#[derive(Clone, Debug)]
enum Slot {
    Held,
    Live(Arc<Shim>),
}

/// Keeps a name from being used until it is dropped.
#[derive(Debug)]
pub struct Hold {
    inner: Arc<Inner>,
    name: Name,
}

impl Shims {
    /// Returns shims without any; [`Shims::reload`] finds those of an earlier daemon.
    pub fn new(
        folders: Folders,
        resolver: Resolver,
        caller: Caller,
        events: Arc<Exchange>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                folders,
                resolver,
                caller,
                events,
                table: Mutex::default(),
            }),
        }
    }

    /// Returns what knows where the executables are.
    pub fn resolver(&self) -> &Resolver {
        &self.inner.resolver
    }

    /// Returns how long shims may take.
    pub fn limits(&self) -> Limits {
        self.inner.caller.limits
    }

    /// Returns where the bundles are.
    pub fn folders(&self) -> &Folders {
        &self.inner.folders
    }

    /// Returns the shim of a task.
    pub fn get(&self, namespace: &str, id: &str) -> Result<Arc<Shim>> {
        match self.inner.lock().get(&name(namespace, id)) {
            Some(Slot::Live(shim)) => Ok(shim.clone()),
            _ => Err(not_found(id)),
        }
    }

    /// Returns the shims of a namespace, by id.
    pub fn list(&self, namespace: &str) -> Vec<Arc<Shim>> {
        let mut shims: Vec<Arc<Shim>> = self
            .inner
            .lock()
            .iter()
            .filter(|(name, _)| name.0 == namespace)
            .filter_map(|(_, slot)| match slot {
                Slot::Live(shim) => Some(shim.clone()),
                Slot::Held => None,
            })
            .collect();
        shims.sort_by(|a, b| a.bundle.id.cmp(&b.bundle.id));
        shims
    }

    /// Holds the name of a task to come, or fails with `AlreadyExists`.
    pub fn hold(&self, namespace: &str, id: &str) -> Result<Hold> {
        let name = name(namespace, id);
        let mut table = self.inner.lock();
        if table.contains_key(&name) {
            return Err(Error::new(Kind::AlreadyExists, format!("task {id}")));
        }
        table.insert(name.clone(), Slot::Held);
        drop(table);
        Ok(Hold {
            inner: self.inner.clone(),
            name,
        })
    }

    /// Starts a shim in a new bundle; whatever fails leaves nothing.
    pub async fn start(
        &self,
        hold: &Hold,
        runtime: &str,
        spec: Vec<u8>,
        options: Option<&Any>,
    ) -> Result<Shim> {
        let binary = self
            .inner
            .resolver
            .resolve(runtime)
            .context(|| "failed to resolve runtime path")?;
        let (inner, (namespace, id)) = (self.inner.clone(), hold.name.clone());
        let path = binary.clone();
        let span = trace::span("write the bundle");
        let bundle = blocking(move || {
            let bundle = inner.folders.create(&namespace, &id, &spec)?;
            let written = bundle.write_binary(&path);
            if written.is_err() {
                let _ = bundle.delete();
            }
            written.map(|()| bundle)
        })
        .await?;
        drop(span);
        let started = self.launch(&bundle, &binary, options).await;
        if started.is_err() {
            // It may run, though nothing came of it here.
            self.kill(&bundle).await;
            self.clean(&bundle, &binary).await;
        }
        started.context(|| "start failed")
    }

    async fn launch(&self, bundle: &Bundle, binary: &Path, options: Option<&Any>) -> Result<Shim> {
        let log = log::follow(bundle)?;
        failpoint!("tasks.create.launch");
        let span = trace::span("start the shim");
        let endpoint = self.inner.caller.start(binary, bundle, options).await?;
        drop(span);
        failpoint!("tasks.create.launched");
        let (written, address) = (bundle.clone(), endpoint.clone());
        blocking(move || written.write_endpoint(&address)).await?;
        failpoint!("tasks.create.connect");
        let _span = trace::span("connect to the shim");
        let limits = self.limits();
        Shim::connect(
            bundle.clone(),
            binary.to_owned(),
            &endpoint,
            limits,
            Some(log),
        )
        .await
    }

    /// Makes a shim known by the name that was held for it, and cleans up after it should it vanish.
    pub fn publish(&self, hold: Hold, shim: Shim) -> Arc<Shim> {
        let shim = Arc::new(shim);
        let name = hold.keep();
        self.inner.lock().insert(name, Slot::Live(shim.clone()));
        let (shims, watched) = (self.clone(), shim.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = watched.closed() => shims.vanished(&watched).await,
                // The task was deleted: whoever did that cleans up.
                _ = watched.gone() => {}
            }
        });
        shim
    }

    /// Takes a shim off the table, if it is still there, and holds its name.
    pub fn retire(&self, shim: &Arc<Shim>) -> Option<Hold> {
        let name = name(&shim.bundle.namespace, &shim.bundle.id);
        let mut table = self.inner.lock();
        match table.get_mut(&name) {
            Some(slot @ Slot::Live(_)) if slot.is(shim) => *slot = Slot::Held,
            _ => return None,
        }
        drop(table);
        Some(Hold {
            inner: self.inner.clone(),
            name,
        })
    }

    /// Returns whether the shim's task is there, and not yet [retired](Self::retire).
    pub fn is_live(&self, shim: &Arc<Shim>) -> bool {
        let name = name(&shim.bundle.namespace, &shim.bundle.id);
        matches!(self.inner.lock().get(&name), Some(slot) if slot.is(shim))
    }

    /// Hands an event that a shim published to the subscribers.
    pub fn forward(&self, envelope: Envelope) -> Result<()> {
        if let Some((id, last)) = Last::of(&envelope)
            && let Ok(shim) = self.get(&envelope.namespace, &id)
        {
            shim.told.note(last);
        }
        self.inner.events.forward(envelope)
    }

    /// Has a shim's executable clean up, then removes the bundle.
    pub async fn clean(&self, bundle: &Bundle, binary: &Path) {
        self.end_task(bundle, binary).await;
        self.remove(bundle).await;
    }

    /// Has a shim's executable end its task and clean up; returns how the task ended.
    ///
    /// The bundle stays until that has been told: a daemon that dies before it has would not know of the task any more.
    async fn end_task(&self, bundle: &Bundle, binary: &Path) -> Exit {
        let exit = match self.inner.caller.delete(binary, bundle).await {
            Ok(exit) => exit,
            Err(error) => {
                tracing::warn!(id = bundle.id, "clean up after a shim: {error:#}");
                Exit::unseen()
            }
        };
        let (cut_short, address) = (bundle.clone(), self.inner.caller.address.clone());
        let ended = blocking(move || {
            remnants::end(&cut_short, &address);
            Ok(())
        });
        if let Err(error) = ended.await {
            tracing::warn!(id = bundle.id, "end what is left of a container: {error:#}");
        }
        exit
    }

    /// Ends a shim that has no task, or none worth keeping, and removes the bundle.
    pub async fn end(&self, shim: Shim) {
        // Without a task there is nothing to delete, which is no failure here.
        let _ = task::delete(&shim, "", shim.limits.cleanup).await;
        match shim.is_closed() {
            // It died with the task half made.
            true => self.clean(&shim.bundle, &shim.binary).await,
            false => self.end_deleted(&shim).await,
        }
    }

    /// Ends a shim whose task is deleted, and removes the bundle. A shim with other tasks stays.
    pub async fn end_deleted(&self, shim: &Shim) {
        match task::shutdown(shim).await {
            Ok(()) => self.remove(&shim.bundle).await,
            Err(error) => {
                tracing::warn!(id = shim.bundle.id, "end a shim: {error:#}");
                self.kill_unless_shared(shim).await;
                self.clean(&shim.bundle, &shim.binary).await;
            }
        }
    }

    /// Cleans up after the shim of an earlier daemon that is gone, and tells how its task ended.
    pub async fn lost(&self, bundle: &Bundle, binary: &Path) {
        let never_asked = matches!(bundle.endpoint(), Ok(None));
        if never_asked {
            // It was started, or was being started, when the daemon died, and may run.
            self.kill(bundle).await;
        }
        let exit = self.end_task(bundle, binary).await;
        // A shim that did its part of a deletion is not there to be asked for the exit any more. One that was not yet
        // asked for a task has none that could have ended.
        if !bundle.is_being_deleted()
            && !never_asked
            && let Err(error) = exit::recall_end(bundle, exit, &self.inner.events)
        {
            tracing::error!(id = bundle.id, "publish the end of a task: {error:#}");
        }
        self.remove(bundle).await;
    }

    /// Ends a shim that has no task: it may have been killed in the midst of making one.
    pub async fn give_up(&self, shim: &Shim) {
        if let Err(error) = task::shutdown(shim).await {
            tracing::warn!(id = shim.bundle.id, "end a shim: {error:#}");
            self.kill_unless_shared(shim).await;
        }
        self.clean(&shim.bundle, &shim.binary).await;
    }

    /// Kills a shim that would not end, unless other tasks have it too.
    async fn kill_unless_shared(&self, shim: &Shim) {
        let own = (&shim.bundle.namespace, &shim.bundle.id);
        let shared = self.inner.lock().iter().any(|(name, slot)| {
            let other = (&name.0, &name.1) != own;
            matches!(slot, Slot::Live(live) if other && live.endpoint() == shim.endpoint())
        });
        if !shared {
            self.kill(&shim.bundle).await;
        }
    }

    /// Kills the shim that was started for a bundle, if it runs.
    async fn kill(&self, bundle: &Bundle) {
        let (killed, address) = (bundle.clone(), self.inner.caller.address.clone());
        let ended = blocking(move || {
            remnants::end_shim(&killed, &address);
            Ok(())
        });
        if let Err(error) = ended.await {
            tracing::warn!(id = bundle.id, "kill a shim: {error:#}");
        }
    }

    /// Tells of a task that was found again and whose first process has ended.
    pub fn ended(&self, bundle: &Bundle, exit: Exit) {
        if let Err(error) = exit::recall_exit(bundle, exit, &self.inner.events) {
            tracing::error!(id = bundle.id, "publish the exit of a task: {error:#}");
        }
    }

    /// Has those who subscribe late not told of a task that a client has deleted.
    pub fn forget(&self, bundle: &Bundle) {
        self.inner.events.forget(&bundle.namespace, &bundle.id);
    }

    /// Removes a bundle; what cannot be removed is tried again at the next start of the daemon.
    pub async fn remove(&self, bundle: &Bundle) {
        let removed = bundle.clone();
        if let Err(error) = blocking(move || removed.delete()).await {
            tracing::warn!(id = bundle.id, "remove a bundle: {error:#}");
        }
    }

    /// Cleans up after a shim whose connection was lost though nobody had ended it.
    async fn vanished(&self, shim: &Arc<Shim>) {
        if !self.is_live(shim) {
            return;
        }
        tracing::info!(
            ns = shim.bundle.namespace,
            id = shim.bundle.id,
            "shim disconnected"
        );
        let found = self.end_task(&shim.bundle, &shim.binary).await;
        let exit = shim.told.end(found);
        let told = shim.told.finish(&shim.bundle, exit, &self.inner.events);
        if let Err(error) = told {
            tracing::error!(id = shim.bundle.id, "publish the end of a task: {error:#}");
        }
        self.remove(&shim.bundle).await;
        drop(self.retire(shim));
        shim.set_gone(exit);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Slot>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn is(&self, shim: &Arc<Shim>) -> bool {
        matches!(self, Self::Live(known) if Arc::ptr_eq(known, shim))
    }
}

impl Hold {
    /// Returns the namespace and id that are held.
    pub fn name(&self) -> (&str, &str) {
        (&self.name.0, &self.name.1)
    }

    /// Gives the name to who asks instead of setting it free.
    fn keep(mut self) -> Name {
        std::mem::take(&mut self.name)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut table = self.inner.lock();
        if let Some(Slot::Held) = table.get(&self.name) {
            table.remove(&self.name);
        }
    }
}

fn name(namespace: &str, id: &str) -> Name {
    (namespace.to_owned(), id.to_owned())
}
