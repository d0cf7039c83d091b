//! Tasks: containers as clients see them, each owned by one driver that does one thing at a time.
//!
//! | file | what |
//! |---|---|
//! | `state.rs` | the states of a process: what may be done in which |
//! | `driver.rs` | the task that owns a container and carries requests out |
//! | `create.rs` | making a container and its driver |
//! | `announce.rs` | the events of a container |
//! | `process.rs` | what the driver knows of one process |
//! | `table.rs` | the containers of this shim, by id |

mod announce;
mod create;
mod driver;
mod process;
mod state;
mod table;

use std::path::PathBuf;

use ::runtime::cgroup::stats::Stats;
use api_protos::containerd::types::Mount;
use api_protos::containerd::v1::types::Status;
use prost_types::Any;
use tokio::sync::oneshot;

pub use announce::Announcer;
pub use create::Shared;
pub use state::End;
pub use table::Table;

use crate::io::Stdio;
use crate::runtime::Checkpoint;

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<sys::Result<T>>;

/// A container to make.
#[derive(Clone, Debug)]
pub struct Create {
    pub id: String,
    pub bundle: PathBuf,
    /// What to mount as its root file system, if the client has not.
    pub rootfs: Vec<Mount>,
    pub stdio: Stdio,
    pub checkpoint: String,
    pub options: Option<Any>,
}

/// A further process to run in a container.
#[derive(Clone, Debug)]
pub struct Exec {
    pub id: String,
    pub stdio: Stdio,
    /// The process in the form of the OCI specification, as JSON.
    pub spec: Vec<u8>,
}

/// What a client learns of a process.
#[derive(Clone, Debug)]
pub struct View {
    pub bundle: PathBuf,
    pub pid: u32,
    pub status: Status,
    pub end: Option<End>,
    pub stdio: Stdio,
}

/// What a client asks of a container. An empty exec id means its first process.
#[derive(Debug)]
pub enum Request {
    Start {
        exec_id: String,
        reply: Reply<u32>,
    },
    State {
        exec_id: String,
        reply: Reply<View>,
    },
    Wait {
        exec_id: String,
        reply: Reply<End>,
    },
    Kill {
        exec_id: String,
        signal: i32,
        all: bool,
        reply: Reply<()>,
    },
    Exec {
        exec: Exec,
        reply: Reply<()>,
    },
    /// Answers with the process's number and its end.
    Delete {
        exec_id: String,
        reply: Reply<(u32, End)>,
    },
    /// Answers with the number of each process, and its exec id if it has one.
    Pids {
        reply: Reply<Vec<(u32, Option<String>)>>,
    },
    Pause {
        reply: Reply<()>,
    },
    Resume {
        reply: Reply<()>,
    },
    Update {
        resources: Vec<u8>,
        reply: Reply<()>,
    },
    Checkpoint {
        checkpoint: Checkpoint,
        reply: Reply<()>,
    },
    Stats {
        reply: Reply<Stats>,
    },
    Resize {
        exec_id: String,
        width: u32,
        height: u32,
        reply: Reply<()>,
    },
    CloseStdin {
        exec_id: String,
        reply: Reply<()>,
    },
}
