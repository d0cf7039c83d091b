//! The OCI runtime of a container: the library in this process, or another program by its command line.

mod builtin;
mod command;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ::runtime::Io;
use ::runtime::cgroup::{Cgroup, OomWatch};
use api_protos::containerd::runc::v1::CheckpointOptions;
use oci_spec::runtime::LinuxResources;
use serde::Deserialize;
use sys::{Context, Error, Kind, Result};
use tokio::sync::oneshot;

use crate::options::Options;
use crate::reaper::Reaper;
use crate::task::End;

pub use builtin::BuiltIn;
pub use command::Command;

/// Which container it is about.
#[derive(Clone, Debug)]
pub struct Subject {
    pub namespace: String,
    pub id: String,
    pub bundle: PathBuf,
}

/// A process that a runtime has made, a child of the shim.
#[derive(Debug)]
pub struct Made {
    pub pid: i32,
    /// Signals go through this, so that none hits a later process of the same number.
    pub pidfd: Option<OwnedFd>,
    /// The master of its terminal.
    pub console: Option<OwnedFd>,
    /// Completes with its end.
    pub end: oneshot::Receiver<End>,
}

/// A container's OCI runtime.
#[derive(Debug)]
pub enum Runtime {
    BuiltIn(BuiltIn),
    Command(Command),
}

/// What is checkpointed, and how.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// The folder of the image.
    pub image: PathBuf,
    pub options: CheckpointOptions,
}

impl Runtime {
    /// Returns the runtime that the options ask for.
    pub fn new(subject: Subject, options: &Options, reaper: &Reaper) -> Result<Self> {
        match &options.binary {
            None => Ok(Self::BuiltIn(BuiltIn::new(
                subject,
                options,
                reaper.clone(),
            ))),
            Some(binary) => {
                Command::new(binary, subject, options, reaper.clone()).map(Self::Command)
            }
        }
    }

    /// Creates the container and its first process, which waits to be started.
    pub async fn create(&mut self, io: Io) -> Result<Made> {
        let made = match self {
            Self::BuiltIn(runtime) => runtime.create(io),
            Self::Command(runtime) => runtime.create(io).await,
        };
        made.map_err(|error| failed("OCI runtime create failed", &error))
    }

    /// Lets the first process run its program.
    pub async fn start(&mut self) -> Result<()> {
        let started = match self {
            Self::BuiltIn(runtime) => runtime.start(),
            Self::Command(runtime) => runtime.start().await,
        };
        started.map_err(|error| failed("OCI runtime start failed", &error))
    }

    /// Runs a further process, which `spec` describes in JSON.
    pub async fn exec(&mut self, exec_id: &str, spec: &[u8], io: Io) -> Result<Made> {
        let made = match self {
            Self::BuiltIn(runtime) => runtime.exec(spec, io),
            Self::Command(runtime) => runtime.exec(exec_id, spec, io).await,
        };
        made.map_err(|error| failed("OCI runtime exec failed", &error))
    }

    /// Sends a signal to the first process, or to all.
    pub async fn kill(&mut self, signal: i32, all: bool) -> Result<()> {
        let killed = match self {
            Self::BuiltIn(runtime) => runtime.kill(signal, all),
            Self::Command(runtime) => runtime.kill(signal, all).await,
        };
        killed.map_err(|error| kill_failed(&error))
    }

    /// Freezes all processes.
    pub async fn pause(&mut self) -> Result<()> {
        let paused = match self {
            Self::BuiltIn(runtime) => runtime.container()?.pause(),
            Self::Command(runtime) => runtime.pause().await,
        };
        paused.map_err(|error| failed("OCI runtime pause failed", &error))
    }

    /// Thaws all processes.
    pub async fn resume(&mut self) -> Result<()> {
        let resumed = match self {
            Self::BuiltIn(runtime) => runtime.container()?.resume(),
            Self::Command(runtime) => runtime.resume().await,
        };
        resumed.map_err(|error| failed("OCI runtime resume failed", &error))
    }

    /// Changes limits.
    pub async fn update(&mut self, resources: &[u8]) -> Result<()> {
        let updated = match self {
            Self::BuiltIn(runtime) => {
                let resources: LinuxResources = parse("resources", resources)?;
                runtime.container()?.update(&resources)
            }
            Self::Command(runtime) => runtime.update(resources).await,
        };
        updated.map_err(|error| failed("OCI runtime update failed", &error))
    }

    /// Deletes the container, whose processes are killed if `force`; one that is gone is deleted.
    pub async fn delete(&mut self, force: bool) -> Result<()> {
        let deleted = match self {
            Self::BuiltIn(runtime) => runtime.delete(force),
            Self::Command(runtime) => runtime.delete(force).await,
        };
        match deleted {
            Err(error) if text(&error).contains("does not exist") => Ok(()),
            deleted => deleted.map_err(|error| failed("failed to delete task", &error)),
        }
    }

    /// Returns the numbers of all processes.
    pub async fn pids(&mut self) -> Result<Vec<i32>> {
        match self {
            Self::BuiltIn(runtime) => runtime.container()?.pids(),
            Self::Command(runtime) => runtime.pids().await,
        }
    }

    /// Writes all processes to disk; of a failure the log is left in `bundle`.
    pub async fn checkpoint(&mut self, bundle: &Path, checkpoint: &Checkpoint) -> Result<()> {
        let given = Path::new(&checkpoint.options.work_path);
        let own = bundle.join("criu-work");
        let work = match given.as_os_str().is_empty() {
            true => &own,
            false => given,
        };
        let written = match self {
            Self::BuiltIn(runtime) => runtime.checkpoint(checkpoint, work).await,
            Self::Command(runtime) => runtime.checkpoint(checkpoint, work).await,
        };
        let written = written.map_err(|error| {
            let log = bundle.join("criu-dump.log");
            // Where there is none, the error says all.
            let _ = std::fs::copy(work.join("dump.log"), &log);
            Error::new(
                Kind::Unknown,
                format!("{} path= {}", text(&error), log.display()),
            )
        });
        if work == own {
            let _ = std::fs::remove_dir_all(&own);
        }
        written
    }

    /// Makes the container of an image on disk; its first process runs.
    pub async fn restore(&mut self, image: &Path, io: Io) -> Result<Made> {
        let made = match self {
            Self::BuiltIn(runtime) => runtime.restore(image, io),
            Self::Command(runtime) => runtime.restore(image, io).await,
        };
        made.map_err(|error| failed("OCI runtime restore failed", &error))
    }

    /// Returns the container's control group.
    pub fn cgroup(&self) -> Result<Cgroup> {
        match self {
            Self::BuiltIn(runtime) => runtime.cgroup(),
            Self::Command(runtime) => runtime.cgroup(),
        }
    }

    /// Returns a watch that tells when the kernel kills for want of memory.
    pub fn oom_watch(&self) -> Result<OomWatch> {
        self.cgroup()?.oom_watch()
    }
}

/// What the shim itself has to know of a container's configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    linux: LinuxConfig,
    /// Notes of the client, by which shims are grouped.
    pub annotations: std::collections::HashMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LinuxConfig {
    namespaces: Option<Vec<NamespaceConfig>>,
}

#[derive(Debug, Deserialize)]
struct NamespaceConfig {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

impl Config {
    /// Reads the configuration in `bundle`.
    pub fn read(bundle: &Path) -> Result<Self> {
        let path = bundle.join("config.json");
        let text = std::fs::read(&path).context(|| format!("read {path:?}"))?;
        parse("config.json", &text)
    }

    /// Tells whether other processes than the container's are in its pid namespace, so that the end of the first one
    /// does not end them all.
    pub fn shares_pids(&self) -> bool {
        let namespaces = self.linux.namespaces.iter().flatten();
        !namespaces
            .into_iter()
            .any(|namespace| namespace.kind == "pid" && namespace.path.is_empty())
    }
}

/// Returns the specification of a process with `terminal` as the client asks for it in its request.
pub fn with_terminal(spec: &[u8], terminal: bool) -> Result<Vec<u8>> {
    let mut spec: serde_json::Map<String, serde_json::Value> = parse("process", spec)?;
    spec.insert("terminal".to_owned(), terminal.into());
    serde_json::to_vec(&spec).map_err(|error| Error::other("encode process", error))
}

fn parse<T: for<'a> Deserialize<'a>>(what: &str, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|error| {
        Error::other(format!("parse {what}"), error).with_kind(Kind::InvalidArgument)
    })
}

/// Returns an error's chain as runc would print it.
fn text(error: &Error) -> String {
    ::runtime::render(error)
}

/// Clients take the class of a runtime's failure from its words, so that it is sent without one.
fn failed(what: &str, error: &Error) -> Error {
    let kind = match error.kind() {
        kind @ (Kind::Unimplemented | Kind::DeadlineExceeded) => kind,
        _ => Kind::Unknown,
    };
    Error::new(kind, format!("{what}: {}", text(error)))
}

fn kill_failed(error: &Error) -> Error {
    let text = text(error);
    let gone = [
        "process already finished",
        "container not running",
        "no such process",
    ];
    if gone.iter().any(|words| text.contains(words)) {
        return Error::new(Kind::NotFound, "process already finished");
    }
    if text.contains("does not exist") {
        return Error::new(Kind::NotFound, "no such container");
    }
    Error::new(Kind::Unknown, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_namespace_is_shared_unless_it_is_new() {
        let cases = [
            (r#"{}"#, true),
            (r#"{"linux":{"namespaces":[{"type":"mount"}]}}"#, true),
            (
                r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#,
                true,
            ),
            (r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#, false),
        ];
        for (text, shared) in cases {
            let config: Config = parse("config.json", text.as_bytes()).unwrap();
            assert_eq!(config.shares_pids(), shared, "{text}");
        }
    }

    #[test]
    fn a_kill_that_comes_too_late_finds_nothing() {
        for words in ["container not running", "os: process already finished"] {
            let error = kill_failed(&Error::new(Kind::Unknown, words));
            assert_eq!(error.kind(), Kind::NotFound);
            assert_eq!(error.to_string(), "process already finished");
        }
    }
}
