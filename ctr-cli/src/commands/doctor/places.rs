//! The daemon's folders, socket and programs: whose they are, and how much room there is.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::{Finding, Severity};
use crate::format::bytes;

const AREA: &str = "places";
const OVERLAY_MAGIC: i64 = 0x794c_7630;
const NFS_MAGIC: i64 = 0x6969;
/// Less than this is little, and less than a tenth of it as good as nothing.
const LITTLE: u64 = 2 << 30;
const FEW_INODES: u64 = 20_000;

/// Looks at the daemon's folders, its socket, and the shim.
pub fn findings(root: &Path, state: &Path, socket: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    for folder in [root, state] {
        findings.extend(owner(folder));
    }
    findings.extend(room(root));
    findings.push(self::socket(socket));
    findings.push(shim(std::env::var_os("PATH").as_deref()));
    findings
}

/// Whoever can write to these folders is root.
fn owner(folder: &Path) -> Option<Finding> {
    let stat = match folder.symlink_metadata() {
        Ok(stat) => stat,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            let what = format!("{}: {error}", folder.display());
            return Some(Finding::new(
                Severity::Note,
                AREA,
                what,
                "run `corten doctor` as root",
            ));
        }
    };
    let (mode, uid) = (stat.mode() & 0o7777, stat.uid());
    let folder = folder.display();
    if uid == 0 && mode & 0o022 == 0 {
        return Some(Finding::fine(AREA, format!("{folder} is root's alone")));
    }
    Some(Finding::new(
        Severity::Warning,
        AREA,
        format!("{folder} has the mode {mode:o} and the owner {uid}: others can become root by it"),
        format!("`chown root: {folder} && chmod go-w {folder}`"),
    ))
}

fn room(root: &Path) -> Vec<Finding> {
    let Some(there) = root.ancestors().find(|folder| folder.exists()) else {
        return Vec::new();
    };
    let (Ok(stat), Ok(kind)) = (rustix::fs::statvfs(there), rustix::fs::statfs(there)) else {
        return Vec::new();
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    // File systems that make inodes as they are needed say 0.
    let inodes = (stat.f_files > 0).then_some(stat.f_favail);
    let mut findings = vec![space(there, free, LITTLE, &bytes(free))];
    if let Some(inodes) = inodes {
        findings.push(space(
            there,
            inodes,
            FEW_INODES,
            &format!("{inodes} inodes"),
        ));
    }
    findings.extend(file_system(root, kind.f_type));
    findings
}

fn space(folder: &Path, free: u64, little: u64, shown: &str) -> Finding {
    let what = format!("{shown} are free at {}", folder.display());
    let severity = match free {
        _ if free < little / 10 => Severity::Failure,
        _ if free < little => Severity::Warning,
        _ => return Finding::fine("disk", what),
    };
    Finding::new(
        severity,
        "disk",
        what,
        "`corten images prune --all` removes images that no container uses; `corten content list` shows what is large",
    )
}

fn file_system(root: &Path, kind: i64) -> Option<Finding> {
    let (name, severity) = match kind {
        OVERLAY_MAGIC => ("an overlay", Severity::Failure),
        NFS_MAGIC => ("NFS", Severity::Warning),
        _ => return None,
    };
    Some(Finding::new(
        severity,
        "disk",
        format!(
            "{} is on {name}, upon which overlay cannot write",
            root.display()
        ),
        "mount ext4, xfs or btrfs there, or use the snapshotter native",
    ))
}

fn socket(path: &Path) -> Finding {
    let stat = match path.symlink_metadata() {
        Ok(stat) => stat,
        Err(error) => {
            let what = format!("{}: {error}", path.display());
            return Finding::new(
                Severity::Note,
                "daemon",
                what,
                "it is made when the daemon starts",
            );
        }
    };
    let (mode, shown) = (stat.mode() & 0o777, path.display());
    if !stat.file_type().is_socket() {
        return Finding::new(
            Severity::Failure,
            "daemon",
            format!("{shown} is no socket"),
            "remove it: the daemon cannot listen there",
        );
    }
    if mode & 0o006 != 0 {
        return Finding::new(
            Severity::Warning,
            "daemon",
            format!("{shown} has the mode {mode:o}: everybody who can connect is root"),
            format!("`chmod 660 {shown}`"),
        );
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Finding::new(
            Severity::Warning,
            "daemon",
            format!("{shown} is left of a daemon that did not end by itself"),
            "look into its log; the next daemon replaces the socket",
        ),
        _ => Finding::fine("daemon", format!("{shown} has the mode {mode:o}")),
    }
}

/// Looks for the shim as the daemon does: beside itself, or in the search path.
fn shim(search: Option<&std::ffi::OsStr>) -> Finding {
    const SHIM: &str = "containerd-shim-corten-v2";
    let own = std::env::current_exe().ok();
    let beside = own.and_then(|own| Some(own.parent()?.join(SHIM)));
    let listed = search.map(std::env::split_paths).into_iter().flatten();
    let all: Vec<PathBuf> = beside
        .into_iter()
        .chain(listed.map(|at| at.join(SHIM)))
        .collect();
    match all.iter().find(|path| path.is_file()) {
        Some(path) => Finding::fine(AREA, format!("the shim is {}", path.display())),
        None => Finding::new(
            Severity::Failure,
            AREA,
            format!("no {SHIM} beside this program or in PATH"),
            "install it beside cortend",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_is_judged_by_its_mode_and_by_who_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        assert_eq!(socket(&path).severity, Severity::Note);
        let listener = UnixListener::bind(&path).unwrap();
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o660);
        assert_eq!(socket(&path).severity, Severity::Fine);
        mode(0o666);
        assert_eq!(socket(&path).severity, Severity::Warning);
        mode(0o660);
        drop(listener);
        assert_eq!(socket(&path).severity, Severity::Warning);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(socket(&path).severity, Severity::Failure);
    }

    #[test]
    fn little_room_is_a_warning_and_none_a_failure() {
        let judge = |free| space(Path::new("/"), free, 100, "room").severity;
        assert_eq!(judge(100), Severity::Fine);
        assert_eq!(judge(99), Severity::Warning);
        assert_eq!(judge(9), Severity::Failure);
        assert_eq!(file_system(Path::new("/"), 0xEF53), None);
        assert!(file_system(Path::new("/"), OVERLAY_MAGIC).is_some());
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let found = owner(folder.path()).unwrap();
        assert_eq!(found.severity, Severity::Warning);
        assert_eq!(owner(&folder.path().join("none")), None);
    }
}
