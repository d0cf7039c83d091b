//! The containers of this shim by id, and how requests get to their drivers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sys::{Error, Kind, Result};
use tokio::sync::{mpsc, oneshot};

use super::{Reply, Request};

/// The containers; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Table {
    tasks: Arc<Mutex<BTreeMap<String, Slot>>>,
}

#[derive(Clone, Debug)]
enum Slot {
    /// It is being made.
    Held,
    Live(Task),
}

/// The way to a container's driver.
#[derive(Clone, Debug)]
pub struct Task {
    pub pid: u32,
    pub requests: mpsc::UnboundedSender<Request>,
}

/// Keeps an id for a container that is being made.
#[derive(Debug)]
pub struct Hold {
    table: Table,
    id: String,
}

impl Table {
    /// Holds the id of a container to come.
    pub fn hold(&self, id: &str) -> Result<Hold> {
        let mut tasks = self.lock();
        if tasks.contains_key(id) {
            let message = format!("container {id}");
            return Err(Error::new(Kind::AlreadyExists, message));
        }
        tasks.insert(id.to_owned(), Slot::Held);
        Ok(Hold {
            table: self.clone(),
            id: id.to_owned(),
        })
    }

    /// Returns a container.
    pub fn get(&self, id: &str) -> Result<Task> {
        match self.lock().get(id) {
            Some(Slot::Live(task)) => Ok(task.clone()),
            _ => Err(not_created()),
        }
    }

    /// Takes a deleted container off the table.
    pub fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Tells whether there is no container.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    /// Puts the container that was made in the place that was held for it.
    pub fn fill(mut self, task: Task) {
        let id = std::mem::take(&mut self.id);
        self.table.lock().insert(id, Slot::Live(task));
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.id.is_empty() {
            self.table.remove(&self.id);
        }
    }
}

impl Task {
    /// Sends a request to the driver and waits for its answer.
    pub async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        // A driver that is gone drops the request with its reply.
        let _ = self.requests.send(request(reply));
        answer.await.unwrap_or_else(|_| Err(not_created()))
    }
}

fn not_created() -> Error {
    Error::new(Kind::NotFound, "container not created")
}
