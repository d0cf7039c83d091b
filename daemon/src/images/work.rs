//! Blocking work that outlives whoever waits for it: what is being written is finished or taken back in any case.

use tokio::sync::mpsc;

use crate::blocking::blocking;
use crate::error::Result;

/// Leave to do blocking work; clones share it.
#[derive(Clone, Debug)]
pub struct Work(#[expect(dead_code, reason = "it is held, not used")] mpsc::Sender<()>);

/// Tells when all work has ended.
#[derive(Debug)]
pub struct Ended(mpsc::Receiver<()>);

impl Work {
    /// Returns leave to work, and what tells that nobody has it any more.
    pub fn new() -> (Self, Ended) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), Ended(receiver))
    }

    /// Runs `work` where it may block; it goes on even if nobody waits for the result any more.
    pub async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let leave = self.clone();
        blocking(move || {
            let result = work();
            drop(leave);
            result
        })
        .await
    }
}

impl Ended {
    /// Waits until the last work has ended.
    pub async fn wait(mut self) {
        // Nothing is ever sent.
        while self.0.recv().await.is_some() {}
    }
}
