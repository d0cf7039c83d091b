//! What containers have left: shims that no daemon knows, bundles without a shim, mounts, sockets.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::{Finding, Severity};

const AREA: &str = "remains";
/// Where all shims have their sockets, whichever daemon they are of.
const SOCKETS: &str = "/run/containerd/s";

/// Looks for what is left of containers of the daemon with this state and socket.
pub fn findings(state: &Path, socket: &Path) -> Vec<Finding> {
    let tasks = state.join("io.containerd.runtime.v2.task");
    let bundles: Vec<PathBuf> = folders(&tasks)
        .iter()
        .flat_map(|one| folders(one))
        .collect();
    let (living, dead): (Vec<_>, Vec<_>) = bundles.into_iter().partition(|bundle| serves(bundle));
    let mut findings = vec![Finding::fine(
        AREA,
        format!("{} tasks have a shim", living.len()),
    )];
    findings.extend(dead.iter().map(|bundle| {
        Finding::new(
            Severity::Warning,
            AREA,
            format!("{} has no shim", bundle.display()),
            "its shim died; the daemon clears it away when it is started again",
        )
    }));
    findings.extend(orphans(&tasks, socket));
    findings.extend(mounts(&tasks, &living.into_iter().collect()));
    findings.extend(sockets(Path::new(SOCKETS)));
    findings
}

/// Returns whether somebody listens where the shim of a bundle should.
fn serves(bundle: &Path) -> bool {
    let written = fs::read(bundle.join("bootstrap.json")).ok();
    let json = written.and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok());
    let address = match json {
        Some(json) => json
            .get("address")
            .and_then(|it| Some(it.as_str()?.to_owned())),
        None => fs::read_to_string(bundle.join("address")).ok(),
    };
    let path = address.as_deref().map(str::trim);
    let path = path.and_then(|address| address.strip_prefix("unix://"));
    path.is_some_and(|path| UnixStream::connect(path).is_ok())
}

/// Finds shims of this daemon whose bundles are gone: nobody will ever ask them to end.
fn orphans(tasks: &Path, socket: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    for process in folders(Path::new("/proc")) {
        let Some(pid) =
            name(&process).filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        else {
            continue;
        };
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let Some(shim) = Shim::of(&line).filter(|shim| Path::new(&shim.address) == socket) else {
            continue;
        };
        if !tasks.join(&shim.namespace).join(&shim.id).exists() {
            found.push(Finding::new(
                Severity::Warning,
                AREA,
                format!(
                    "process {pid} is the shim of {} in namespace {}, which is gone",
                    shim.id, shim.namespace
                ),
                format!("`kill {pid}`"),
            ));
        }
    }
    found
}

/// What a shim says of itself on its command line.
#[derive(Debug, PartialEq, Eq)]
struct Shim {
    namespace: String,
    id: String,
    address: String,
}

impl Shim {
    /// Reads a command line as the kernel has it; nothing if it is not a shim's.
    fn of(line: &[u8]) -> Option<Self> {
        let words: Vec<_> = line
            .split(|byte| *byte == 0)
            .map(String::from_utf8_lossy)
            .collect();
        let program = name(Path::new(&**words.first()?))?;
        let value = |flag: &str| {
            let at = words.iter().position(|word| word == flag)?;
            words.get(at + 1).map(|word| word.to_string())
        };
        let shim = Self {
            namespace: value("-namespace")?,
            id: value("-id")?,
            address: value("-address")?,
        };
        program.starts_with("containerd-shim-").then_some(shim)
    }
}

/// Finds mounts in bundles whose shims are gone.
fn mounts(tasks: &Path, living: &BTreeSet<PathBuf>) -> Vec<Finding> {
    let mounts = sys::mount::entries().unwrap_or_default();
    let inside = mounts
        .iter()
        .filter(|mount| mount.target.starts_with(tasks));
    let left = inside.filter(|mount| !mount.target.ancestors().any(|at| living.contains(at)));
    left.map(|mount| {
        let target = mount.target.display();
        Finding::new(
            Severity::Warning,
            AREA,
            format!("{target} is still mounted"),
            format!("`umount {target}`"),
        )
    })
    .collect()
}

/// Finds sockets that no shim listens at.
fn sockets(folder: &Path) -> Option<Finding> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let refused = |path: &PathBuf| {
        let connected = UnixStream::connect(path);
        connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    };
    let left: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(refused).collect();
    let first = left.first()?;
    Some(Finding::new(
        Severity::Note,
        AREA,
        format!(
            "{} sockets that no shim listens at, such as {}",
            left.len(),
            first.display()
        ),
        "they cost an inode of a tmpfs each, and go with the machine's next start",
    ))
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn shims_are_known_by_their_command_lines() {
        let line = b"/usr/bin/containerd-shim-runc-v2\0-namespace\0ns\0-id\0web\0-address\0/s\0";
        let expected = Shim {
            namespace: "ns".into(),
            id: "web".into(),
            address: "/s".into(),
        };
        assert_eq!(Shim::of(line), Some(expected));
        for line in [
            &b""[..],
            b"/bin/sh\0-namespace\0ns\0-id\0web\0-address\0/s\0",
            b"containerd-shim-x\0-id\0a",
        ] {
            assert_eq!(Shim::of(line), None);
        }
    }

    #[test]
    fn a_bundle_without_a_shim_is_told_and_one_with_a_shim_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let tasks = folder.path().join("io.containerd.runtime.v2.task/ns");
        for id in ["dead", "living"] {
            fs::create_dir_all(tasks.join(id)).unwrap();
        }
        let socket = folder.path().join("s");
        let _shim = UnixListener::bind(&socket).unwrap();
        let address = format!("unix://{}", socket.display());
        fs::write(tasks.join("living/address"), address).unwrap();
        let found = findings(folder.path(), Path::new("/nowhere"));
        let told: Vec<&str> = found.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(told[0], "1 tasks have a shim");
        assert!(told[1].ends_with("ns/dead has no shim"), "{told:?}");
        assert!(!told.iter().any(|what| what.contains("ns/living")));
    }

    #[test]
    fn sockets_of_the_dead_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(sockets(folder.path()), None);
        let _living = UnixListener::bind(folder.path().join("living")).unwrap();
        assert_eq!(sockets(folder.path()), None);
        drop(UnixListener::bind(folder.path().join("dead")).unwrap());
        let found = sockets(folder.path()).unwrap();
        assert!(found.what.starts_with("1 sockets"), "{}", found.what);
    }
}
