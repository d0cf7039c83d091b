//! Tasks: the running side of containers, each served by a shim of its own or of its pod.
//!
//! | file | what |
//! |---|---|
//! | `task.rs` | what can be done to a task |
//! | `shims.rs` | the table of shims; what happens when one vanishes |
//! | `reload.rs` | finding the shims of an earlier daemon |
//! | `shim.rs` | the connection to one shim |
//! | `command.rs`, `bootstrap.rs` | running a shim's executable; its answer |
//! | `bundle.rs` | the folder of a task |
//! | `resolve.rs` | runtime names |
//! | `limits.rs` | how long shims may take |
//! | `exit.rs` | how a task ends, told exactly once |
//! | `remnants.rs` | what a creation that was cut short leaves |

pub mod bootstrap;
pub mod bundle;
mod checkpoint;
pub mod command;
pub mod config;
pub mod exit;
pub mod limits;
mod log;
mod reload;
mod remnants;
pub mod resolve;
pub mod shim;
pub mod shims;
pub mod task;

use std::future::Future;
use std::sync::Arc;

use api_protos::containerd::task::v3::{CreateTaskRequest, StateResponse};
use api_protos::containerd::types::Metric;
use futures_util::{StreamExt, stream};
use prost_types::Any;
use tokio::sync::oneshot;

use crate::blocking::blocking;
use crate::context::Context;
use crate::diff::Diff;
use crate::error::{Context as _, Error, Kind, Result};
use crate::filter::{self, Fields, Filter};
use crate::metadata::{Container, Containers, Descriptor, Sandboxes};
use crate::trace;
pub use config::Config;
pub use exit::Exit;
pub use limits::Limits;
use shim::Shim;
use shims::{Hold, Shims};
pub use task::Task;

/// How many shims are asked at a time.
const CONCURRENT: usize = 64;

/// The tasks of all namespaces; clones share them.
#[derive(Clone, Debug)]
pub struct Tasks {
    shims: Shims,
    containers: Containers,
    diff: Diff,
}

/// What a client asks a task to be made of.
#[derive(Clone, Debug, Default)]
pub struct Create {
    /// The shim's executable in place of the one that the container's runtime names.
    pub runtime_path: String,
    /// Options in place of the container's.
    pub options: Option<Any>,
    /// The images that it is restored from, in the content store.
    pub images: Option<Descriptor>,
    /// What else the shim is asked for; the id and the bundle are filled in.
    pub request: CreateTaskRequest,
}

impl Tasks {
    /// Returns the tasks that `shims` serve; their checkpoints are archives that `diff` makes and unpacks.
    pub fn new(shims: Shims, containers: Containers, diff: Diff) -> Self {
        Self {
            shims,
            containers,
            diff,
        }
    }

    /// Finds the tasks of an earlier daemon.
    pub async fn reload(&self, sandboxes: &Sandboxes) -> Result<()> {
        self.shims.reload(&self.containers, sandboxes).await
    }

    /// Returns the shims, for the events that they send.
    pub fn shims(&self) -> &Shims {
        &self.shims
    }

    /// Returns a task, or `NotFound` if the container or its task is not there.
    pub async fn get(&self, context: &Context, id: &str) -> Result<Task> {
        match self.shims.get(context.namespace(), id) {
            Ok(shim) => Ok(Task::new(self.shims.clone(), shim)),
            Err(error) => {
                self.container(context, id).await?;
                Err(error)
            }
        }
    }

    /// Creates a task and returns the id of its first process.
    ///
    /// A client that goes away before it learns of the task leaves none behind.
    pub async fn create(&self, context: &Context, id: &str, create: Create) -> Result<u32> {
        let container = self.container(context, id).await?;
        let hold = self.shims.hold(context.namespace(), id)?;
        let (tasks, (answer, answered)) = (self.clone(), oneshot::channel());
        let context = context.clone();
        trace::spawn(async move {
            let created = tasks.make(context, hold, container, create).await;
            if let Err(Ok((_, task))) = answer.send(created) {
                tracing::info!(id = task.id(), "delete a task that nobody waits for");
                if let Err(error) = task.destroy().await {
                    tracing::error!(id = task.id(), "delete a task: {error:#}");
                }
            }
        });
        let (pid, _) = answered.await.map_err(|_| {
            Error::new(
                Kind::Internal,
                format!("task {id} was not created: its maker ended"),
            )
        })??;
        Ok(pid)
    }

    /// Returns the states of a namespace's tasks; those of shims that do not answer are left out.
    pub async fn list(&self, context: &Context) -> Vec<StateResponse> {
        self.ask_all(
            context,
            |_| true,
            |task| async move { task.state("").await },
        )
        .await
    }

    /// Returns the metrics of the tasks that one of `filters` asks for; those that cannot be had are left out.
    pub async fn metrics<S: AsRef<str>>(
        &self,
        context: &Context,
        filters: &[S],
    ) -> Result<Vec<Metric>> {
        let filter = Filter::parse(filters)?;
        let wanted = |shim: &Shim| filter.matches(shim);
        let metric = |task: Task| async move {
            let timestamp = Some(crate::time::now());
            Ok(Metric {
                timestamp,
                id: task.id().to_owned(),
                data: task.stats().await?,
            })
        };
        Ok(self.ask_all(context, wanted, metric).await)
    }

    /// Asks the shims of a namespace at once, a bounded number at a time, so that one that hangs holds up nobody.
    async fn ask_all<T, F>(
        &self,
        context: &Context,
        wanted: impl Fn(&Shim) -> bool,
        ask: impl Fn(Task) -> F,
    ) -> Vec<T>
    where
        F: Future<Output = Result<T>>,
    {
        let shims = self.shims.list(context.namespace()).into_iter();
        let asked = shims.filter(|shim| wanted(shim)).map(|shim| {
            let id = shim.bundle.id.clone();
            let answer = ask(Task::new(self.shims.clone(), shim));
            async move { (id, answer.await) }
        });
        let mut answers = Vec::new();
        let mut arriving = stream::iter(asked).buffer_unordered(CONCURRENT);
        while let Some((id, answer)) = arriving.next().await {
            match answer {
                Ok(answer) => answers.push((id, answer)),
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => tracing::warn!(id, "ask a shim: {error:#}"),
            }
        }
        answers.sort_by(|a, b| a.0.cmp(&b.0));
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    async fn container(&self, context: &Context, id: &str) -> Result<Container> {
        let (containers, context, id) = (self.containers.clone(), context.clone(), id.to_owned());
        blocking(move || containers.get(&context, &id)).await
    }

    async fn make(
        &self,
        context: Context,
        hold: Hold,
        container: Container,
        create: Create,
    ) -> Result<(u32, Task)> {
        let given = create.options.filter(|options| !options.value.is_empty());
        let options = given.or(container.runtime_options);
        let runtime = match create.runtime_path.as_str() {
            "" => container.runtime.as_str(),
            path => path,
        };
        let spec = container.spec.unwrap_or_default().value;
        let shim = self
            .shims
            .start(&hold, runtime, spec, options.as_ref())
            .await
            .context(|| "failed to start shim")?;
        let mut request = CreateTaskRequest {
            id: shim.bundle.id.clone(),
            bundle: shim.bundle.path.to_string_lossy().into_owned(),
            options,
            ..create.request
        };
        let unpacked = match create.images {
            None => Ok(()),
            Some(images) => match self.unpack(context, images, &shim.bundle.path).await {
                Ok(folder) => {
                    request.checkpoint = folder.to_string_lossy().into_owned();
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        let created = match unpacked {
            Ok(()) => task::create(&shim, &request).await,
            Err(error) => Err(error),
        };
        match created {
            Ok(pid) => {
                let shim: Arc<Shim> = self.shims.publish(hold, shim);
                Ok((pid, Task::new(self.shims.clone(), shim)))
            }
            Err(error) => {
                self.shims.end(shim).await;
                Err(error.context("failed to create shim task"))
            }
        }
    }
}

impl Fields for Shim {
    fn field(&self, path: &[String]) -> Option<std::borrow::Cow<'_, str>> {
        match path.first()?.as_str() {
            "id" => filter::text(&self.bundle.id),
            "namespace" => filter::text(&self.bundle.namespace),
            _ => None,
        }
    }
}
