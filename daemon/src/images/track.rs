//! How far the blobs of an image have come: written by those who bring them, read by whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::walk::Descriptor;

/// What is being done with a blob, in the order in which it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Waiting,
    /// On its way, so many bytes.
    Moving(u64),
    /// It was where it is to be.
    Exists,
    Complete,
    /// So many of its bytes have become files.
    Extracting(u64),
    Extracted,
}

/// A blob that is followed.
#[derive(Debug)]
pub struct Job {
    pub descriptor: Descriptor,
    /// The references of what refers to it.
    pub parents: Vec<String>,
    stage: Mutex<Stage>,
    moved: AtomicU64,
}

/// The blobs of an image; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Track {
    jobs: Arc<Mutex<Vec<Arc<Job>>>>,
}

impl Track {
    /// Follows a blob that `parent` refers to, if anything does; one that is followed already is returned again.
    pub fn job(&self, descriptor: &Descriptor, parent: Option<&Descriptor>) -> Arc<Job> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let known = jobs
            .iter()
            .find(|job| job.descriptor.digest == descriptor.digest);
        if let Some(job) = known {
            return job.clone();
        }
        let job = Arc::new(Job {
            descriptor: descriptor.clone(),
            parents: parent.map(Descriptor::reference).into_iter().collect(),
            stage: Mutex::new(Stage::Waiting),
            moved: AtomicU64::new(0),
        });
        jobs.push(job.clone());
        job
    }

    /// Returns all blobs in the order in which they became known.
    pub fn jobs(&self) -> Vec<Arc<Job>> {
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Job {
    /// Sets what is being done.
    pub fn set(&self, stage: Stage) {
        if let Stage::Moving(bytes) = stage {
            self.moved.store(bytes, Ordering::Relaxed);
        }
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    /// Counts bytes that have moved, since [`Stage::Moving`] was set.
    pub fn moved(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns what is being done.
    pub fn stage(&self) -> Stage {
        match *self.stage.lock().unwrap_or_else(PoisonError::into_inner) {
            Stage::Moving(_) => Stage::Moving(self.moved.load(Ordering::Relaxed)),
            stage => stage,
        }
    }
}
