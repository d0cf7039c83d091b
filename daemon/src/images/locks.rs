//! Locks by name: of two who want to make the same thing, the second waits and then finds it made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// Locks that exist while somebody holds or wants them; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Locks {
    turns: Arc<Mutex<HashMap<String, Arc<Turn<()>>>>>,
}

/// A lock that is held until it is dropped.
pub type Held = OwnedMutexGuard<()>;

impl Locks {
    /// Waits for the lock `name`; those who wait get it in the order in which they came.
    pub async fn lock(&self, name: &str) -> Held {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(name.to_owned()).or_default().clone()
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_name_is_held_once_and_forgotten_after() {
        let locks = Locks::default();
        let held = locks.lock("a").await;
        let other = locks.lock("b").await;
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { drop(locks.lock("a").await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop((held, other));
        waiting.await.unwrap();
        drop(locks.lock("c").await);
        assert_eq!(locks.turns.lock().unwrap().len(), 1);
    }
}
