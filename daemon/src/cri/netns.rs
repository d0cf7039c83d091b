//! Network namespaces of pods: made by a thread that enters a new one, kept by a mount on a file.

use std::fs::{self, OpenOptions};
use std::os::fd::AsFd;
use std::path::Path;

use sys::mount::Mount;

use crate::error::{Context, Error, Kind, Result};

/// The flag of clone(2) that stands for network namespaces.
const CLONE_NEWNET: i32 = 0x4000_0000;

/// Makes a network namespace whose loopback interface is up, and mounts it on the new file `path`.
pub fn create(path: &Path) -> Result<()> {
    let target = path.to_owned();
    // The thread ends with its namespace; only the mount keeps it.
    std::thread::spawn(move || {
        sys::namespace::unshare(CLONE_NEWNET).context(|| "make a network namespace")?;
        sys::namespace::loopback_up()?;
        keep("/proc/thread-self/ns/net", &target)
    })
    .join()
    .unwrap_or_else(|_| Err(Error::new(Kind::Internal, "a thread ended early")))
}

/// Mounts the namespace that the file `namespace` stands for on the new file `path`.
pub fn keep(namespace: &str, path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).context(|| format!("make folder {folder:?}"))?;
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .context(|| format!("create {path:?}"))?;
    let mount = Mount {
        fstype: "bind".into(),
        source: namespace.into(),
        options: vec!["bind".into()],
        ..Mount::default()
    };
    let mounted = mount.mount(path);
    if mounted.is_err() {
        let _ = fs::remove_file(path);
    }
    mounted
}

/// Has the calling thread enter a network namespace, for as long as the thread lives.
pub fn enter(path: &Path) -> Result<()> {
    let file = fs::File::open(path).context(|| format!("open {path:?}"))?;
    sys::namespace::join(file.as_fd(), CLONE_NEWNET).context(|| format!("enter {path:?}"))
}

/// Gives up a network namespace; that it is gone already is no error.
pub fn remove(path: &Path) -> Result<()> {
    sys::mount::unmount_all(path)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(|| format!("remove {path:?}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_namespace_lives_on_its_mount() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: making network namespaces needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netns/n1");
        create(&path).unwrap();
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert_ne!(fs::metadata(&path).unwrap().ino(), own);
        assert!(create(&path).is_err(), "it is there already");
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }
}
