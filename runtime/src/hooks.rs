//! Hooks: programs of the host that are run at points of a container's life, with its state on their stdin.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Hooks, Spec};
use sys::{Context, Error, Kind, Result};

use crate::init::InitPlan;

/// How much of a failed hook's output goes into the error.
const OUTPUT_MAX: u64 = 4096;

/// Tells whether hooks of the host run between mounting and pivoting.
pub(crate) fn before_pivot(spec: &Spec) -> Vec<&Hook> {
    let hooks = spec.hooks().as_ref();
    let prestart = hooks.and_then(prestart);
    let create = hooks.and_then(|hooks| hooks.create_runtime().as_ref());
    prestart.into_iter().chain(create).flatten().collect()
}

#[allow(deprecated)]
fn prestart(hooks: &Hooks) -> Option<&Vec<Hook>> {
    hooks.prestart().as_ref()
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
    pub(crate) fn run_hooks_before_pivot(&self) -> Result<()> {
        let spec = self.plan.spec;
        if !before_pivot(spec).is_empty() {
            self.plan.sync.mounted()?;
        }
        let hooks = spec.hooks().as_ref();
        let create = hooks.and_then(|hooks| hooks.create_container().as_ref());
        run(create.into_iter().flatten(), "createContainer", &self.state)
    }

    /// Runs the hooks that precede the program, in the container.
    pub(crate) fn run_start_hooks(&self) -> Result<()> {
        let hooks = self.plan.spec.hooks().as_ref();
        let start = hooks.and_then(|hooks| hooks.start_container().as_ref());
        run(start.into_iter().flatten(), "startContainer", &self.state)
    }
}

/// Runs hooks one after the other until one fails.
pub(crate) fn run<'a>(
    hooks: impl IntoIterator<Item = &'a Hook>,
    kind: &str,
    state: &str,
) -> Result<()> {
    for (number, hook) in hooks.into_iter().enumerate() {
        run_one(hook, state).context(|| format!("error running {kind} hook #{number}"))?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &str) -> Result<()> {
    let path = hook.path();
    let mut command = Command::new(path);
    if let Some((name, args)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(args);
    }
    let env = hook
        .env()
        .iter()
        .flatten()
        .filter_map(|variable| variable.split_once('='));
    command
        .env_clear()
        .envs(env)
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
    let message = format!("{path:?}: {status}, stderr: {}", output.trim_end());
    Err(Error::new(Kind::Unknown, message))
}
