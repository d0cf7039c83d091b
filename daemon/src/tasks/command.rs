//! Running a shim's executable: `start` and `delete`, the way every shim of containerd 1.6 and later takes it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use api_protos::containerd::runtime::bootstrap::v1::{BootstrapParams, Extension, LogLevel};
use api_protos::containerd::task::v3::DeleteResponse;
use prost::Message;
use prost_types::Any;
use sys::failpoint;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::bootstrap::Endpoint;
use super::bundle::Bundle;
use super::exit::Exit;
use super::limits::Limits;
use crate::error::{Context, Error, Kind, Result};

/// How long a shim may take to start.
const START: Duration = Duration::from_secs(60);
/// What a shim of containerd 2.4 says when it is started in the way of the versions before 2.3.
const NEEDS_PARAMETERS: &str = "started through the deprecated API";

/// What shims are told of the daemon.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// The path of the gRPC socket.
    pub address: String,
    /// The path of the socket that takes events.
    pub ttrpc_address: String,
    /// More variables for the environment of shims, each as `NAME=value`.
    pub env: Vec<String>,
    /// Whether shims shall log what only a debugger wants to know.
    pub debug: bool,
    /// The daemon's version.
    pub version: &'static str,
    /// How long shims may take.
    pub limits: Limits,
}

impl Caller {
    /// Starts the shim `binary` for `bundle` and returns where it listens.
    ///
    /// Shims up to containerd 2.3 take their options as an `Any` on stdin; those from 2.4 on refuse that before they
    /// have done anything, and are asked again with bootstrap parameters.
    pub async fn start(
        &self,
        binary: &Path,
        bundle: &Bundle,
        options: Option<&Any>,
    ) -> Result<Endpoint> {
        let plain = options.map(Any::encode_to_vec).unwrap_or_default();
        let mut output = self.run(binary, bundle, "start", &plain, START).await?;
        let refused = !output.status.success()
            && String::from_utf8_lossy(&output.stderr).contains(NEEDS_PARAMETERS);
        if refused {
            let parameters = self.parameters(bundle, options).encode_to_vec();
            output = self
                .run(binary, bundle, "start", &parameters, START)
                .await?;
        }
        check(&output)?;
        Endpoint::parse(&output.stdout)
    }

    /// Has the executable of a shim that is gone clean up after it; returns how the task ended.
    pub async fn delete(&self, binary: &Path, bundle: &Bundle) -> Result<Exit> {
        failpoint!("tasks.clean.ask");
        let output = self
            .run(binary, bundle, "delete", &[], self.limits.cleanup)
            .await?;
        failpoint!("tasks.clean.cleaned");
        check(&output)?;
        let response = DeleteResponse::decode(output.stdout.as_slice())
            .map_err(|error| Error::other("read the shim's answer", error))?;
        Ok(Exit {
            pid: response.pid,
            status: response.exit_status,
            at: response.exited_at.unwrap_or_else(crate::time::now),
        })
    }

    async fn run(
        &self,
        binary: &Path,
        bundle: &Bundle,
        action: &str,
        input: &[u8],
        limit: Duration,
    ) -> Result<Output> {
        let run = async {
            let mut child = self
                .command(binary, bundle, action)
                .spawn()
                .context(|| format!("execute {binary:?}"))?;
            if let Some(mut stdin) = child.stdin.take() {
                // A shim that reads nothing has closed its end.
                let _ = stdin.write_all(input).await;
            }
            child
                .wait_with_output()
                .await
                .context(|| format!("wait for {binary:?}"))
        };
        tokio::time::timeout(limit, run).await.unwrap_or_else(|_| {
            let seconds = limit.as_secs();
            Err(Error::new(
                Kind::DeadlineExceeded,
                format!("{binary:?} {action} did not end within {seconds} s"),
            ))
        })
    }

    fn command(&self, binary: &Path, bundle: &Bundle, action: &str) -> Command {
        let mut command = Command::new(binary);
        command.args(["-namespace", &bundle.namespace]);
        command.args(["-address", &self.address]);
        command.arg("-publish-binary").arg(executable());
        command.args(["-id", &bundle.id]);
        if action == "delete" {
            command.arg("-bundle").arg(&bundle.path);
        }
        if self.debug {
            command.arg("-debug");
        }
        command.arg(action).current_dir(&bundle.path);
        command.env("GOMAXPROCS", "2").env("MAX_SHIM_VERSION", "2");
        command.env("TTRPC_ADDRESS", &self.ttrpc_address);
        command.env("GRPC_ADDRESS", &self.address);
        command.env("NAMESPACE", &bundle.namespace);
        for (name, value) in self.env.iter().filter_map(|pair| pair.split_once('=')) {
            command.env(name, value);
        }
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command
    }

    fn parameters(&self, bundle: &Bundle, options: Option<&Any>) -> BootstrapParams {
        let level = match self.debug {
            true => LogLevel::Debug,
            false => LogLevel::Info,
        };
        BootstrapParams {
            instance_id: bundle.id.clone(),
            namespace: bundle.namespace.clone(),
            log_level: level.into(),
            containerd_version: self.version.to_owned(),
            containerd_ttrpc_address: self.ttrpc_address.clone(),
            containerd_grpc_address: self.address.clone(),
            containerd_binary: executable().to_string_lossy().into_owned(),
            extensions: options
                .map(|options| Extension {
                    value: Some(options.clone()),
                })
                .into_iter()
                .collect(),
            socket_dir: None,
        }
    }
}

/// Returns the daemon's executable, which old shims run to publish events.
fn executable() -> PathBuf {
    std::env::current_exe().unwrap_or_default()
}

/// Returns what a shim that failed has said.
fn check(output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let said = String::from_utf8_lossy(&said);
    let status = output.status;
    Err(Error::new(
        Kind::Unknown,
        match said.trim() {
            "" => status.to_string(),
            said => format!("{said}: {status}"),
        },
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tasks::bundle::Folders;

    /// Installs a shim that is a shell script.
    ///
    /// Another process writes it: a test that forks while this one has it open for writing would make it busy.
    fn shim(dir: &Path, script: &str) -> (PathBuf, Bundle) {
        let path = dir.join("containerd-shim-test-v1");
        let written = std::process::Command::new("sh")
            .args([
                "-c",
                "printf '%s\\n' '#!/bin/sh' \"$1\" > \"$0\" && chmod 755 \"$0\"",
            ])
            .arg(&path)
            .arg(script)
            .status();
        assert!(written.unwrap().success());
        let folders = Folders::open(&dir.join("root"), &dir.join("state")).unwrap();
        (path, folders.create("ns1", "c1", b"{}").unwrap())
    }

    fn caller() -> Caller {
        Caller {
            address: "/run/a.sock".into(),
            ttrpc_address: "/run/a.sock.ttrpc".into(),
            env: vec!["SCHED_CORE=1".into()],
            ..Caller::default()
        }
    }

    #[tokio::test]
    async fn a_shim_is_told_all_that_it_may_ask_for() {
        let dir = tempfile::tempdir().unwrap();
        let script = r#"cat > stdin; echo "$@" > args; pwd > cwd
            echo "$TTRPC_ADDRESS $GRPC_ADDRESS $NAMESPACE $MAX_SHIM_VERSION $GOMAXPROCS $SCHED_CORE" > env
            echo noise >&2; printf unix:///s"#;
        let (binary, bundle) = shim(dir.path(), script);
        let options = Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: vec![1, 2],
        };
        let endpoint = caller()
            .start(&binary, &bundle, Some(&options))
            .await
            .unwrap();
        assert_eq!(endpoint.path().unwrap(), "/s");
        let read = |name: &str| fs::read(bundle.path.join(name)).unwrap();
        assert_eq!(Any::decode(read("stdin").as_slice()).unwrap(), options);
        let args = String::from_utf8(read("args")).unwrap();
        assert!(
            args.starts_with("-namespace ns1 -address /run/a.sock -publish-binary /"),
            "{args}"
        );
        assert!(args.ends_with(" -id c1 start\n"), "{args}");
        assert_eq!(read("env"), b"/run/a.sock.ttrpc /run/a.sock ns1 2 2 1\n");
        let cwd = bundle.path.canonicalize().unwrap();
        assert_eq!(
            String::from_utf8(read("cwd")).unwrap().trim(),
            cwd.to_str().unwrap()
        );
    }

    #[tokio::test]
    async fn a_shim_that_wants_parameters_gets_them() {
        let dir = tempfile::tempdir().unwrap();
        let script = r#"cat > stdin; if grep -q ns1 stdin; then printf unix:///s; exit; fi
            echo "shim was started through the deprecated API" >&2; exit 1"#;
        let (binary, bundle) = shim(dir.path(), script);
        caller().start(&binary, &bundle, None).await.unwrap();
        let sent = fs::read(bundle.path.join("stdin")).unwrap();
        let parameters = BootstrapParams::decode(sent.as_slice()).unwrap();
        assert_eq!(
            (
                parameters.instance_id.as_str(),
                parameters.namespace.as_str()
            ),
            ("c1", "ns1")
        );
    }

    #[tokio::test]
    async fn a_shim_that_fails_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let (binary, bundle) = shim(dir.path(), "echo no luck >&2; exit 3");
        let error = caller().start(&binary, &bundle, None).await.unwrap_err();
        assert_eq!(error.to_string(), "no luck: exit status: 3");
    }

    #[tokio::test]
    async fn delete_tells_how_the_task_ended() {
        let dir = tempfile::tempdir().unwrap();
        // Field 1 is the pid, field 2 the exit status.
        let (binary, bundle) = shim(
            dir.path(),
            r#"echo "$@" > args; printf '\010\007\020\211\001'"#,
        );
        let exit = caller().delete(&binary, &bundle).await.unwrap();
        assert_eq!((exit.pid, exit.status), (7, 137));
        let args = fs::read_to_string(bundle.path.join("args")).unwrap();
        let path = bundle.path.display();
        assert!(
            args.ends_with(&format!(" -id c1 -bundle {path} delete\n")),
            "{args}"
        );
    }
}
