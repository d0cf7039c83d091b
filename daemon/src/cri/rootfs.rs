//! Looking into an image's file system before it is run: who its users are, what its volumes hold.
//!
//! Every path is resolved inside the file system, and no file is read further than anybody has reason to make it long.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use sys::mount::{Mount, TempMount};
use sys::path::Root;

use super::spec::user::Files;
use crate::error::{Context, Error, Kind, Result, invalid};

/// The longest file of users or groups.
const LONGEST: u64 = 1 << 20;

/// A volume of the image: where it is in the image, and the folder of the host that it is copied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub path: String,
    pub folder: PathBuf,
}

/// Reads the users and groups of a file system, and copies what its volumes hold.
pub fn inspect(mounts: &[Mount], scratch: &Path, volumes: &[Volume]) -> Result<Files> {
    let mounted = TempMount::new_in(scratch, &sys::mount::read_only(mounts))?;
    let inspected = look(mounted.path(), volumes);
    mounted.close()?;
    inspected
}

fn look(path: &Path, volumes: &[Volume]) -> Result<Files> {
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, path, flags, Mode::empty())
        .context(|| format!("open root {path:?}"))?;
    let root = Root::new(dir);
    for volume in volumes {
        copy(&root, volume).context(|| format!("copy volume {:?}", volume.path))?;
    }
    Ok(Files {
        passwd: text(&root, "/etc/passwd")?,
        group: text(&root, "/etc/group")?,
    })
}

/// Returns the text of a file, nothing if it is not there.
fn text(root: &Root, path: &str) -> Result<String> {
    // Without NONBLOCK, opening a pipe would wait for somebody to write to it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match root.open(Path::new(path), flags) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(String::new()),
        file => File::from(file.context(|| format!("open {path:?}"))?),
    };
    let found = file.metadata().context(|| format!("look at {path:?}"))?;
    if !found.is_file() {
        return Err(invalid(format!("{path:?} is no regular file")));
    }
    if found.len() > LONGEST {
        return Err(invalid(format!(
            "{path:?} has {} bytes, {LONGEST} are allowed",
            found.len()
        )));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST)
        .read_to_end(&mut bytes)
        .context(|| format!("read {path:?}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Copies what is in the image at a volume's place; that there is nothing is an empty volume.
fn copy(root: &Root, volume: &Volume) -> Result<()> {
    std::fs::create_dir_all(&volume.folder)
        .context(|| format!("make folder {:?}", volume.folder))?;
    let source = match root.open(Path::new(&volume.path), OFlags::DIRECTORY | OFlags::RDONLY) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        source => File::from(source.context(|| "open it")?),
    };
    let found = source.metadata().context(|| "look at it")?;
    std::os::unix::fs::chown(&volume.folder, Some(found.uid()), Some(found.gid()))
        .context(|| "give it to its owner")?;
    let mode = std::fs::Permissions::from_mode(found.mode() & 0o7777);
    std::fs::set_permissions(&volume.folder, mode).context(|| "set its mode")?;
    // cp(1) stands in the folder that was opened: no link of the image can lead it elsewhere.
    let from = "/proc/self/fd/0/.";
    let output = Command::new("cp")
        .args(["-a", "--", from])
        .arg(&volume.folder)
        .stdin(source)
        .output()
        .context(|| "run cp")?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Unknown,
            format!("cp: {}", String::from_utf8_lossy(&output.stderr).trim()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_that_is_not_the_images() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        std::os::unix::fs::symlink("/proc/self/status", etc.join("passwd")).unwrap();
        std::fs::write(etc.join("group"), "g:x:5:\n").unwrap();
        let files = look(dir.path(), &[]).unwrap();
        assert_eq!(
            (files.passwd.as_str(), files.group.as_str()),
            ("", "g:x:5:\n")
        );
        let long = File::create(etc.join("group")).unwrap();
        long.set_len(10 << 30).unwrap();
        assert!(look(dir.path(), &[]).is_err());
    }

    #[test]
    fn a_volume_has_what_the_image_has_there() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::create_dir_all(image.join("data/deep")).unwrap();
        std::fs::write(image.join("data/deep/file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", image.join("link")).unwrap();
        let volume = |path: &str| Volume {
            path: path.into(),
            folder: dir.path().join("volumes").join(path.trim_matches('/')),
        };
        let volumes = [volume("/data"), volume("/none"), volume("/link")];
        look(&image, &volumes).unwrap();
        let copied = std::fs::read_to_string(volumes[0].folder.join("deep/file")).unwrap();
        assert_eq!(copied, "x");
        for empty in &volumes[1..] {
            assert_eq!(std::fs::read_dir(&empty.folder).unwrap().count(), 0);
        }
    }
}
