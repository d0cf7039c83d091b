//! `start`: finds or makes the shim of a container, and says where it listens.
//!
//! ```text
//! daemon ──exec──▶ start ──bind──▶ socket
//!                    │ ──fork──▶ server: own session, stderr on the bundle's log FIFO, serves until shut down
//!                    ▼
//!                  prints the address and ends
//! ```
//!
//! Nothing is executed for the server: it is a copy of this process, made while that has one thread. Containers of one
//! pod share a shim: they have the same socket, and who finds it taken by a shim that answers prints its address.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use api_protos::containerd::runtime::bootstrap::v1::{BootstrapParams, LogLevel};
use prost::Message;
use prost_types::Any;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};
use sys::{Context, Error, Kind, Result};

use crate::args::Args;
use crate::options::Options;
use crate::runtime::Config;
use crate::{log, server};

/// Where sockets are unless the daemon says otherwise.
const SOCKETS: &str = "/run/containerd/s";
/// The newest version of the task API.
const VERSION: u32 = 3;
/// What the kernel takes as the path of a socket, without its end.
const PATH_MAX: usize = 107;
/// Annotations whose value a group of containers shares, the first that is there counts.
const GROUPS: [&str; 2] = [
    "io.containerd.runc.v2.group",
    "io.kubernetes.cri.sandbox-id",
];

/// What the daemon says about itself and about the container.
#[derive(Debug)]
struct Params {
    /// The socket that takes events.
    ttrpc_address: String,
    options: Options,
    sockets: PathBuf,
    debug: bool,
    /// How the daemon reads the answer: of the newest version, as JSON; `None` for those that read an address.
    version: Option<u32>,
}

/// Starts a shim, or joins one, and prints the answer.
pub fn start(args: &Args) -> Result<()> {
    let mut input = Vec::new();
    std::io::stdin()
        .read_to_end(&mut input)
        .context(|| "read stdin")?;
    let bundle = std::env::current_dir().context(|| "find the bundle")?;
    let params = Params::read(args, &input, |name| std::env::var(name).ok())?;
    let group = group(&bundle, &args.id)?;
    let socket = socket_path(&params.sockets, args, &group)?;
    let address = format!("unix://{}", socket.display());
    match listen(&socket)? {
        None => write(&bundle, "address", &address)?,
        Some(listener) => {
            let launched = launch(args, &bundle, &params, &listener, &socket, &address);
            launched.inspect_err(|_| {
                let _ = std::fs::remove_file(&socket);
            })?;
        }
    }
    let answer = match params.version {
        None => address,
        Some(version) => serde_json::json!({
            "version": version,
            "address": address,
            "protocol": "ttrpc",
        })
        .to_string(),
    };
    std::io::stdout()
        .write_all(answer.as_bytes())
        .context(|| "print the address")
}

impl Params {
    /// Takes what daemons from containerd 2.3 on send as one message, and what older ones spread over flags,
    /// environment and an `Any` of the runtime's options.
    fn read(args: &Args, input: &[u8], env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let message = BootstrapParams::decode(input).ok().filter(|params| {
            // Options may happen to decode as parameters; their "id" is the name of a type then.
            params.instance_id == args.id && params.namespace == args.namespace
        });
        let newest = env("MAX_SHIM_VERSION").map(|text| text.parse().unwrap_or(VERSION));
        let version = match (&message, newest) {
            (Some(_), _) => Some(VERSION),
            (None, newest) => newest.map(|newest| newest.clamp(2, VERSION)),
        };
        let options = match &message {
            Some(params) => params
                .extensions
                .iter()
                .find_map(|extension| extension.value.clone()),
            None => Any::decode(input).ok(),
        };
        let params = message.unwrap_or_default();
        let ttrpc_address = [Some(params.containerd_ttrpc_address), env("TTRPC_ADDRESS")]
            .into_iter()
            .flatten()
            .find(|address| !address.is_empty())
            .unwrap_or_else(|| format!("{}.ttrpc", args.address));
        Ok(Self {
            ttrpc_address,
            options: Options::read(options.as_ref())?,
            sockets: params
                .socket_dir
                .filter(|folder| !folder.is_empty())
                .map_or_else(|| PathBuf::from(SOCKETS), PathBuf::from),
            debug: args.debug || params.log_level < i32::from(LogLevel::Info),
            version,
        })
    }
}

/// Makes the server that serves at `socket`.
fn launch(
    args: &Args,
    bundle: &Path,
    params: &Params,
    listener: &UnixListener,
    socket: &Path,
    address: &str,
) -> Result<()> {
    // Before there is a server: a daemon that was killed meanwhile finds it by this, and its calls wait in the socket.
    write(bundle, "address", address)?;
    let child = fork(args, bundle, params, listener, socket)?;
    if let Err(error) = write(bundle, "shim.pid", &child.pid.to_string()) {
        let _ = sys::process::kill_and_wait(&child);
        return Err(error);
    }
    adjust_oom_score(child.pid);
    if !params.options.shim_cgroup.is_empty() {
        join_cgroup(&params.options.shim_cgroup, child.pid);
    }
    Ok(())
}

/// Returns where the shim of a bundle listens if the daemon left that to us.
pub fn usual_socket(args: &Args, bundle: &Path) -> Result<PathBuf> {
    socket_path(Path::new(SOCKETS), args, &group(bundle, &args.id)?)
}

/// Returns the name under which a container shares a shim, its own if with none.
fn group(bundle: &Path, id: &str) -> Result<String> {
    let annotations = Config::read(bundle)?.annotations;
    let group = GROUPS.iter().find_map(|name| annotations.get(*name));
    Ok(group.map_or_else(|| id.to_owned(), Clone::clone))
}

/// Returns a path that is short, and the same for the same daemon, namespace and group.
fn socket_path(folder: &Path, args: &Args, group: &str) -> Result<PathBuf> {
    let name = format!("{}/{}/{group}", args.address, args.namespace);
    let digest = Sha256::digest(name.as_bytes());
    let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = folder.join(name);
    match path.as_os_str().len() > PATH_MAX {
        true => Err(Error::new(
            Kind::InvalidArgument,
            format!("{path:?}: unix socket path too long (> {PATH_MAX})"),
        )),
        false => Ok(path),
    }
}

/// Listens at `path`; returns nothing if a shim that lives already does.
fn listen(path: &Path) -> Result<Option<UnixListener>> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(folder)
            .context(|| format!("make {folder:?}"))?;
    }
    // A socket is made with all that the mask leaves: nobody but the owner may ever connect.
    let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = listen_or_find(path);
    rustix::process::umask(mask);
    let listener = listener.context(|| format!("listen at {path:?}"))?;
    if listener.is_some() {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .context(|| format!("chmod {path:?}"))?;
    }
    Ok(listener)
}

fn listen_or_find(path: &Path) -> std::io::Result<Option<UnixListener>> {
    for _ in 0..2 {
        match UnixListener::bind(path) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            bound => return bound.map(Some),
        }
        if UnixStream::connect(path).is_ok() {
            return Ok(None);
        }
        // Its shim is dead.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    UnixListener::bind(path).map(Some)
}

/// Makes the server, a copy of this process.
fn fork(
    args: &Args,
    bundle: &Path,
    params: &Params,
    listener: &UnixListener,
    socket: &Path,
) -> Result<sys::process::Child> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open \"/dev/null\"")?;
    let log = open_log(bundle);
    sys::process::spawn(0, None, || {
        if let Err(error) = detach(&null, log.as_ref(), listener) {
            log::error(format_args!("detach: {error:#}"));
            return 1;
        }
        log::set_debug(params.debug);
        let config = server::Config {
            namespace: args.namespace.clone(),
            ttrpc_address: params.ttrpc_address.clone(),
            socket: socket.to_owned(),
        };
        match server::serve(listener, config) {
            Ok(()) => 0,
            Err(error) => {
                log::error(format_args!("serve: {error:#}"));
                1
            }
        }
    })
}

/// Opens the log for reading too, so that it outlives the daemon that reads it.
fn open_log(bundle: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(bundle.join("log"), flags, Mode::empty()).ok()
}

/// Lets go of the daemon: of its pipes, its session, and the bundle that the first container of a pod came in.
fn detach(null: &OwnedFd, log: Option<&OwnedFd>, listener: &UnixListener) -> Result<()> {
    rustix::process::setsid().context(|| "make a session")?;
    rustix::stdio::dup2_stdin(null)
        .and_then(|()| rustix::stdio::dup2_stdout(null))
        .and_then(|()| rustix::stdio::dup2_stderr(log.unwrap_or(null).as_fd()))
        .context(|| "set up stdin, stdout and stderr")?;
    // Whatever else was open belongs to the daemon, or to who started that.
    sys::process::close_all_except(&mut [listener.as_raw_fd()])?;
    rustix::process::chdir("/").context(|| "change to \"/\"")
}

/// Makes the kernel kill the shim a little sooner than the daemon, where it lets us.
fn adjust_oom_score(pid: i32) {
    let daemon = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    let score = std::fs::read_to_string(format!("/proc/{daemon}/oom_score_adj"));
    let score = score
        .ok()
        .and_then(|score| score.trim().parse::<i32>().ok());
    if let Some(score) = score {
        let score = (score + 1).min(1000);
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string());
    }
}

/// Moves the shim to the control group that the client wants it in; without it the shim works as well.
fn join_cgroup(path: &str, pid: i32) {
    let joined =
        ::runtime::cgroup::Cgroup::of_path(Path::new(path)).and_then(|found| found.join(pid));
    if let Err(error) = joined {
        log::warn(format_args!("join control group {path:?}: {error:#}"));
    }
}

fn write(bundle: &Path, name: &str, text: &str) -> Result<()> {
    let (path, temporary) = (bundle.join(name), bundle.join(format!(".{name}")));
    std::fs::write(&temporary, text)
        .and_then(|()| std::fs::rename(&temporary, &path))
        .context(|| format!("write {path:?}"))
}

#[cfg(test)]
mod tests {
    use api_protos::any;
    use api_protos::containerd::runc::v1::Options as Wire;
    use api_protos::containerd::runtime::bootstrap::v1::Extension;

    use super::*;

    fn args() -> Args {
        Args {
            namespace: "ns1".into(),
            id: "c1".into(),
            address: "/a.sock".into(),
            ..Args::default()
        }
    }

    fn options() -> Any {
        any::pack(&Wire {
            binary_name: "crun".into(),
            ..Wire::default()
        })
    }

    #[test]
    fn old_and_new_daemons_are_understood() {
        let none = |_: &str| None;
        let params = Params::read(&args(), &[], none).unwrap();
        assert_eq!(params.version, None);
        assert_eq!(params.ttrpc_address, "/a.sock.ttrpc");
        assert_eq!(params.sockets, Path::new(SOCKETS));

        let env = |name: &str| match name {
            "MAX_SHIM_VERSION" => Some("2".to_owned()),
            "TTRPC_ADDRESS" => Some("/t.sock".to_owned()),
            _ => None,
        };
        let params = Params::read(&args(), &options().encode_to_vec(), env).unwrap();
        assert_eq!(params.version, Some(2));
        assert_eq!(params.ttrpc_address, "/t.sock");
        assert_eq!(params.options.binary.as_deref(), Some(Path::new("crun")));

        let message = BootstrapParams {
            instance_id: "c1".into(),
            namespace: "ns1".into(),
            log_level: LogLevel::Debug.into(),
            containerd_ttrpc_address: "/new.sock".into(),
            extensions: vec![Extension {
                value: Some(options()),
            }],
            socket_dir: Some("/run/x".into()),
            ..BootstrapParams::default()
        };
        let params = Params::read(&args(), &message.encode_to_vec(), env).unwrap();
        assert_eq!(params.version, Some(3));
        assert_eq!(params.ttrpc_address, "/new.sock");
        assert_eq!(params.sockets, Path::new("/run/x"));
        assert!(params.debug && params.options.binary.is_some());
    }

    #[test]
    fn containers_of_a_pod_share_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let config = |text: &str| std::fs::write(dir.path().join("config.json"), text).unwrap();
        config(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod1"}}"#);
        assert_eq!(group(dir.path(), "c1").unwrap(), "pod1");
        config(r#"{"ociVersion":"1.0.2"}"#);
        assert_eq!(group(dir.path(), "c1").unwrap(), "c1");
        let path = |group| socket_path(Path::new(SOCKETS), &args(), group).unwrap();
        assert_eq!(path("pod1"), path("pod1"));
        assert_ne!(path("pod1"), path("pod2"));
        let long = PathBuf::from(format!("/{}", "x".repeat(80)));
        assert!(socket_path(&long, &args(), "c1").is_err());
    }

    #[test]
    fn a_socket_is_its_owners_alone_and_a_dead_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s/socket");
        let first = listen(&path).unwrap().unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let folder = dir.path().join("s").metadata().unwrap();
        assert_eq!(folder.permissions().mode() & 0o777, 0o711);
        assert!(listen(&path).unwrap().is_none());
        drop(first);
        assert!(listen(&path).unwrap().is_some());
    }
}
