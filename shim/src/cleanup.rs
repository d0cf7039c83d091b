//! `delete`: cleans up after a shim that is gone, and says how its container ended.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use api_protos::containerd::task::v3::DeleteResponse;
use prost::Message;
use sys::process::Stat;
use sys::{Context, Result};

use crate::args::Args;
use crate::options::Options;
use crate::reaper::Reaper;
use crate::runtime::{Runtime, Subject};
use crate::{bootstrap, clock, log};

/// What is said of a container that was killed because its shim was gone: 128 and SIGKILL.
const KILLED: u32 = 137;
/// What is said of one that had ended before, which nobody saw.
const UNSEEN: u32 = 255;

/// Kills and deletes the container of the bundle, unmounts its root file system, and prints a `DeleteResponse`.
pub fn delete(args: &Args) -> Result<()> {
    let bundle = match args.bundle.as_os_str().is_empty() {
        true => std::env::current_dir().context(|| "find the bundle")?,
        false => args.bundle.clone(),
    };
    let pid = std::fs::read_to_string(bundle.join("init.pid"));
    let pid: Option<u32> = pid.ok().and_then(|pid| pid.trim().parse().ok());
    let first = pid.and_then(|pid| Stat::read(pid as i32));
    let status = match first.is_some_and(|first| first.is_alive()) {
        true => KILLED,
        false => UNSEEN,
    };
    if let Err(error) = end(args, bundle.clone()) {
        log::warn(format_args!("delete {}: {error:#}", args.id));
    }
    sys::mount::unmount_all(&bundle.join("rootfs"))?;
    remove_socket(args, &bundle);
    let response = DeleteResponse {
        pid: pid.unwrap_or(0),
        exit_status: status,
        exited_at: Some(clock::now()),
    };
    std::io::stdout()
        .write_all(&response.encode_to_vec())
        .context(|| "print the answer")
}

/// Removes the socket of the bundle's shim, unless a shim still listens there for other containers of a pod.
fn remove_socket(args: &Args, bundle: &Path) {
    let named = std::fs::read_to_string(bundle.join("address")).ok();
    let named =
        named.and_then(|address| Some(PathBuf::from(address.trim().strip_prefix("unix://")?)));
    // A `start` that was killed may have listened without having said where.
    let Some(path) = named.or_else(|| bootstrap::usual_socket(args, bundle).ok()) else {
        return;
    };
    if UnixStream::connect(&path).is_err() {
        let _ = std::fs::remove_file(&path);
    }
}

fn end(args: &Args, bundle: PathBuf) -> Result<()> {
    // Without them no container was ever made.
    let options = Options::load(&bundle)?;
    let subject = Subject {
        namespace: args.namespace.clone(),
        id: args.id.clone(),
        bundle,
    };
    // As in the server, which would have done this.
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context(|| "start the runtime")?;
    executor.block_on(async {
        let reaper = Reaper::default();
        tokio::spawn(reaper.clone().run(Reaper::signals()?));
        let mut runtime = Runtime::new(subject, &options, &reaper)?;
        if let Runtime::BuiltIn(builtin) = &mut runtime {
            match builtin.load() {
                Err(error) if error.kind() == sys::Kind::NotFound => return Ok(()),
                loaded => loaded?,
            }
        }
        runtime.delete(true).await
    })
}
