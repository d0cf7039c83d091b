//! Hooks: programs of the host that are run at points of a container's life, with its state on their stdin.

use std::ffi::{CString, OsStr};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Hooks, Spec};
use sys::path::Root;
use sys::{Context, Error, Kind, Result};

use crate::init::{Found, InitPlan};
use crate::state::{State, Status};

/// The signal that ends a hook which makes a system call that the seccomp profile forbids.
const SYS: i32 = 31;

/// How much of a failed hook's output goes into the error.
const OUTPUT_MAX: u64 = 4096;

/// Returns the hooks that run outside between mounting and pivoting: the old kind first, as the specification has it.
fn outside(spec: &Spec) -> [(&'static str, &[Hook]); 2] {
    let hooks = spec.hooks().as_ref();
    let prestart = hooks.and_then(prestart).map(Vec::as_slice);
    let create = hooks.and_then(|hooks| hooks.create_runtime().as_deref());
    [
        ("prestart", prestart.unwrap_or_default()),
        ("createRuntime", create.unwrap_or_default()),
    ]
}

#[allow(deprecated)]
fn prestart(hooks: &Hooks) -> Option<&Vec<Hook>> {
    hooks.prestart().as_ref()
}

/// Runs the hooks that are due once everything is mounted.
pub(crate) fn run_outside(spec: &Spec, state: &State) -> Result<()> {
    let state = state.text()?;
    for (kind, hooks) in outside(spec) {
        run(hooks, kind, &state)?;
    }
    Ok(())
}

/// Returns the hooks that run after the program was started.
pub(crate) fn poststart(spec: &Spec) -> Vec<&Hook> {
    let hooks = spec.hooks().as_ref();
    hooks
        .and_then(|hooks| hooks.poststart().as_ref())
        .into_iter()
        .flatten()
        .collect()
}

/// Returns the hooks that run after the container was deleted.
pub(crate) fn poststop(spec: &Spec) -> Vec<&Hook> {
    let hooks = spec.hooks().as_ref();
    hooks
        .and_then(|hooks| hooks.poststop().as_ref())
        .into_iter()
        .flatten()
        .collect()
}

impl InitPlan<'_> {
    /// Has the host's hooks run outside, then runs the container's own with the host's files still in sight.
    pub(crate) fn run_hooks_before_pivot(&self, root: &Root) -> Result<()> {
        let spec = self.plan.spec;
        if outside(spec).iter().any(|(_, hooks)| !hooks.is_empty()) {
            self.plan.sync.mounted()?;
        }
        let hooks = spec.hooks().as_ref();
        let create = hooks.and_then(|hooks| hooks.create_container().as_ref());
        rustix::process::fchdir(root.dir()).context(|| "change to the root file system")?;
        self.run_hooks(create, "createContainer", Status::Creating, &[])
    }

    /// Runs the hooks that precede the program, in the container.
    pub(crate) fn run_start_hooks(&self, found: &Found) -> Result<()> {
        let hooks = self.plan.spec.hooks().as_ref();
        let start = hooks.and_then(|hooks| hooks.start_container().as_ref());
        self.run_hooks(start, "startContainer", Status::Created, found.env())
    }

    /// Runs hooks that see the process's number as the container does.
    fn run_hooks(
        &self,
        hooks: Option<&Vec<Hook>>,
        kind: &str,
        status: Status,
        env: &[CString],
    ) -> Result<()> {
        let Some(hooks) = hooks.filter(|hooks| !hooks.is_empty()) else {
            return Ok(());
        };
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let state = State {
            status,
            pid,
            ..self.state.clone()
        };
        run_in(hooks, kind, &state.text()?, env)
    }
}

/// Runs hooks one after the other until one fails.
pub(crate) fn run<'a>(
    hooks: impl IntoIterator<Item = &'a Hook>,
    kind: &str,
    state: &str,
) -> Result<()> {
    run_in(hooks, kind, state, &[])
}

/// Runs hooks of which those that name no environment have this one.
fn run_in<'a>(
    hooks: impl IntoIterator<Item = &'a Hook>,
    kind: &str,
    state: &str,
    env: &[CString],
) -> Result<()> {
    for (number, hook) in hooks.into_iter().enumerate() {
        run_one(hook, state, env).context(|| format!("error running {kind} hook #{number}"))?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &str, default_env: &[CString]) -> Result<()> {
    let path = hook.path();
    let mut command = Command::new(path);
    if let Some((name, args)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(args);
    }
    let named = hook.env().iter().flatten().map(|one| one.as_bytes());
    let default = default_env.iter().map(|one| one.as_bytes());
    let env: Vec<&[u8]> = match hook.env() {
        Some(_) => named.collect(),
        None => default.collect(),
    };
    command
        .env_clear()
        .envs(env.into_iter().filter_map(variable))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context(|| format!("execute {path:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read its stdin.
        let _ = stdin.write_all(state.as_bytes());
    }
    let seconds = hook
        .timeout()
        .and_then(|seconds| u64::try_from(seconds).ok());
    let deadline = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let status = loop {
        let Some(deadline) = deadline else {
            break child.wait().context(|| format!("wait for {path:?}"))?;
        };
        match child.try_wait().context(|| format!("wait for {path:?}"))? {
            Some(status) => break status,
            None if Instant::now() >= deadline => {
                let _ = child.kill();
                let _ = child.wait();
                let message = format!(
                    "hook {path:?} ran past timeout of {}s",
                    seconds.unwrap_or(0)
                );
                return Err(Error::new(Kind::DeadlineExceeded, message));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut output = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(OUTPUT_MAX).read_to_end(&mut output);
    }
    let output = String::from_utf8_lossy(&output);
    let status = match status.signal() {
        Some(SYS) => "signal: bad system call".to_string(),
        _ => status.to_string(),
    };
    let message = format!("{path:?}: {status}, stderr: {}", output.trim_end());
    Err(Error::new(Kind::Unknown, message))
}

/// Splits a variable at its first `=`.
fn variable(text: &[u8]) -> Option<(&OsStr, &OsStr)> {
    let at = text.iter().position(|byte| *byte == b'=')?;
    Some((
        OsStr::from_bytes(&text[..at]),
        OsStr::from_bytes(&text[at + 1..]),
    ))
}
