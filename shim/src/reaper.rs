//! The reaper: takes in the ends of all children, those that the shim made and those that it inherited.
//!
//! The shim is a subreaper, so whatever a container's processes leave behind becomes its child too. One task waits for
//! SIGCHLD and collects; since the shim has one thread, nothing can end between being made and being
//! [watched](Reaper::watch). Only processes that another program makes for the shim, as runc does, may end before
//! their number is known: while such a program runs, an [`Adoption`] keeps the ends that nobody asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus};
use sys::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::clock;
use crate::task::End;

/// Knows who waits for which child; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Reaper {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    waiting: HashMap<i32, oneshot::Sender<End>>,
    /// Ends of children that were not watched when they ended.
    strays: HashMap<i32, End>,
    adoptions: usize,
}

/// Keeps the ends of unknown children as long as it lives.
#[derive(Debug)]
pub struct Adoption(Arc<Mutex<Table>>);

impl Reaper {
    /// Returns what completes with the end of the child `pid`.
    pub fn watch(&self, pid: i32) -> oneshot::Receiver<End> {
        let (send, receive) = oneshot::channel();
        let mut table = lock(&self.table);
        match table.strays.remove(&pid) {
            Some(end) => drop(send.send(end)),
            None => drop(table.waiting.insert(pid, send)),
        }
        receive
    }

    /// Keeps the ends of children that nobody watches yet.
    pub fn adopt(&self) -> Adoption {
        lock(&self.table).adoptions += 1;
        Adoption(self.table.clone())
    }

    /// Returns the stream of SIGCHLD, which must exist before the first child.
    pub fn signals() -> Result<Signal> {
        signal(SignalKind::child()).context(|| "watch for SIGCHLD")
    }

    /// Collects the ends of children for ever.
    pub async fn run(self, mut children: Signal) {
        loop {
            self.collect();
            children.recv().await;
        }
    }

    fn collect(&self) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => self.ended(pid.as_raw_nonzero().get(), status),
                Err(Errno::INTR) => {}
                // None has ended, or there is none.
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn ended(&self, pid: i32, status: WaitStatus) {
        let signal = || status.terminating_signal().map_or(0, |signal| 128 + signal);
        let end = End {
            status: status.exit_status().unwrap_or_else(signal) as u32,
            at: clock::now(),
        };
        let mut table = lock(&self.table);
        match table.waiting.remove(&pid) {
            Some(waiting) => drop(waiting.send(end)),
            None if table.adoptions > 0 => drop(table.strays.insert(pid, end)),
            None => {}
        }
    }
}

impl Drop for Adoption {
    fn drop(&mut self) {
        let mut table = lock(&self.0);
        table.adoptions -= 1;
        if table.adoptions == 0 {
            table.strays.clear();
        }
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
