//! The events of one container.

use std::path::Path;

use api_protos::containerd::events::{
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIo,
    TaskOom, TaskPaused, TaskResumed, TaskStart,
};
use prost::{Message, Name};

use super::{Create, End};
use crate::events::{EXIT, Publisher};

/// Publishes the events of a container.
#[derive(Clone, Debug)]
pub struct Announcer {
    container_id: String,
    publisher: Publisher,
}

impl Announcer {
    /// Returns an announcer of the container `id`.
    pub fn new(id: &str, publisher: Publisher) -> Self {
        Self {
            container_id: id.to_owned(),
            publisher,
        }
    }

    /// Says that the container was created.
    pub fn created(&self, create: &Create, pid: u32) {
        let event = TaskCreate {
            container_id: self.id(),
            bundle: create.bundle.to_string_lossy().into_owned(),
            rootfs: create.rootfs.clone(),
            io: Some(TaskIo {
                stdin: create.stdio.stdin.clone(),
                stdout: create.stdio.stdout.clone(),
                stderr: create.stdio.stderr.clone(),
                terminal: create.stdio.terminal,
            }),
            checkpoint: create.checkpoint.clone(),
            pid,
        };
        self.publish("/tasks/create", &event);
    }

    /// Says that the first process runs its program.
    pub fn started(&self, pid: u32) {
        let container_id = self.id();
        self.publish("/tasks/start", &TaskStart { container_id, pid });
    }

    /// Says that a further process may be started.
    pub fn exec_added(&self, exec_id: &str) {
        let event = TaskExecAdded {
            container_id: self.id(),
            exec_id: exec_id.to_owned(),
        };
        self.publish("/tasks/exec-added", &event);
    }

    /// Says that a further process runs.
    pub fn exec_started(&self, exec_id: &str, pid: u32) {
        let event = TaskExecStarted {
            container_id: self.id(),
            exec_id: exec_id.to_owned(),
            pid,
        };
        self.publish("/tasks/exec-started", &event);
    }

    /// Says that a process has ended, the first one if `exec_id` is empty.
    pub fn exited(&self, exec_id: &str, pid: u32, end: End) {
        let id = match exec_id {
            "" => self.id(),
            exec_id => exec_id.to_owned(),
        };
        let event = TaskExit {
            container_id: self.id(),
            id,
            pid,
            exit_status: end.status,
            exited_at: Some(end.at),
        };
        self.publish(EXIT, &event);
    }

    /// Says that nothing is left of the container.
    pub fn deleted(&self, pid: u32, end: End) {
        let event = TaskDelete {
            container_id: self.id(),
            pid,
            exit_status: end.status,
            exited_at: Some(end.at),
            ..TaskDelete::default()
        };
        self.publish("/tasks/delete", &event);
    }

    /// Says that all processes are frozen.
    pub fn paused(&self) {
        let container_id = self.id();
        self.publish("/tasks/paused", &TaskPaused { container_id });
    }

    /// Says that all processes go on.
    pub fn resumed(&self) {
        let container_id = self.id();
        self.publish("/tasks/resumed", &TaskResumed { container_id });
    }

    /// Says that the memory of all processes is on disk.
    pub fn checkpointed(&self, image: &Path) {
        let event = TaskCheckpointed {
            container_id: self.id(),
            checkpoint: image.to_string_lossy().into_owned(),
        };
        self.publish("/tasks/checkpointed", &event);
    }

    /// Says that the kernel has killed a process for want of memory.
    pub fn out_of_memory(&self) {
        let container_id = self.id();
        self.publish("/tasks/oom", &TaskOom { container_id });
    }

    fn id(&self) -> String {
        self.container_id.clone()
    }

    fn publish<M: Message + Name>(&self, topic: &str, event: &M) {
        self.publisher.publish(topic, event);
    }
}
