//! Mounting by mount(2): for remounts, and for kernels whose new mount API cannot do what is asked.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount_change, mount_remount};
use rustix::thread::UnshareFlags;

use super::options::{Options, lower_dirs};
use super::owners::Named;
use super::{Mount, entries};
use crate::{Context, Error, Kind, Result};

/// mount(2) silently ignores what does not fit in a page with its final NUL.
const DATA_MAX: usize = 4095;

/// Mounts by mount(2).
pub(super) fn mount(mount: &Mount, options: &Options, target: BorrowedFd<'_>) -> Result<()> {
    if let Some(owners) = &options.owners {
        if mount.fstype != "overlay" {
            let message = "this kernel cannot map the owners of such a mount";
            return Err(Error::new(Kind::Unimplemented, message));
        }
        let (_named, mount) = Named::new(mount, owners)?;
        return self::mount(&mount, &Options::parse(&mount.options), target);
    }
    let target = by_descriptor(target);
    let data = CString::new(options.data.join(","))
        .map_err(|error| Error::other("mount options", error).with_kind(Kind::InvalidArgument))?;
    if options.remount {
        return mount_remount(target.as_str(), options.flags, data.as_c_str())
            .context(|| "remount");
    }
    if options.flags.contains(MountFlags::BIND) {
        return bind(mount, options.flags, &target);
    }
    if data.as_bytes().len() <= DATA_MAX {
        return call(mount, options.flags, &data, &target);
    }
    let (dir, data) = shorten(options)?;
    mount_from(&dir, || call(mount, options.flags, &data, &target))
}

/// Sets the propagation that the options ask for.
pub(super) fn set_propagation(options: &Options, target: BorrowedFd<'_>) -> Result<()> {
    match options.propagation {
        None => Ok(()),
        Some(propagation) => reopened(target, |path| mount_change(path, propagation))
            .context(|| "set mount propagation"),
    }
}

/// Makes mounts read-only on kernels without mount_setattr(2) (before 5.12).
pub(super) fn remount_readonly(target: &Path, recursive: bool) -> Result<()> {
    let target = target
        .canonicalize()
        .context(|| format!("resolve {target:?}"))?;
    for entry in entries()? {
        let path = entry.target;
        if path == target || (recursive && path.starts_with(&target)) {
            let options: Vec<String> = entry.options.split(',').map(str::to_string).collect();
            let kept = Options::parse(&options).flags;
            mount_remount(&path, kept | MountFlags::BIND | MountFlags::RDONLY, c"")
                .context(|| format!("make {path:?} read-only"))?;
        }
    }
    Ok(())
}

/// A descriptor of the folder under a new mount still means that folder; its path means the mount.
fn reopened(
    target: BorrowedFd<'_>,
    change: impl FnOnce(&Path) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let link = by_descriptor(target);
    let path = std::fs::read_link(link)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    change(&path)
}

fn by_descriptor(target: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", target.as_raw_fd())
}

fn bind(mount: &Mount, flags: MountFlags, target: &str) -> Result<()> {
    let source = mount.source.as_str();
    let how = flags & (MountFlags::BIND | MountFlags::REC);
    rustix::mount::mount(source, target, c"", how, None).context(|| format!("bind {source:?}"))?;
    let rest = flags - how;
    if rest.is_empty() {
        return Ok(());
    }
    // The first call ignores every other flag.
    let path = std::fs::read_link(target).context(|| "resolve the bind mount's target")?;
    let remounted = mount_remount(&path, MountFlags::BIND | rest, c"");
    if remounted.is_err() {
        let _ = rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH);
    }
    remounted.context(|| "set mount flags")
}

fn call(mount: &Mount, flags: MountFlags, data: &CString, target: &str) -> Result<()> {
    let (source, fstype) = (mount.source.as_str(), mount.fstype.as_str());
    rustix::mount::mount(source, target, fstype, flags, data.as_c_str())
        .context(|| format!("mount with options {data:?}"))
}

/// Returns a folder above all lower layers, and the options with the layers named from there.
fn shorten(options: &Options) -> Result<(PathBuf, CString)> {
    let too_long = |count: usize| {
        let message = format!("mount options take {count} bytes, {DATA_MAX} fit");
        Error::new(Kind::InvalidArgument, message)
    };
    let whole = options.data.join(",").len();
    let lower = options
        .data
        .iter()
        .find_map(|option| option.strip_prefix("lowerdir="))
        .and_then(lower_dirs)
        .ok_or_else(|| too_long(whole))?;
    let dir = common_ancestor(&lower).ok_or_else(|| too_long(whole))?;
    let names: Vec<String> = lower
        .iter()
        .filter_map(|path| Path::new(path).strip_prefix(&dir).ok()?.to_str())
        .map(escape)
        .collect();
    let data: Vec<String> = options
        .data
        .iter()
        .map(|option| match option.starts_with("lowerdir=") {
            true => format!("lowerdir={}", names.join(":")),
            false => option.clone(),
        })
        .collect();
    let data = data.join(",");
    if data.len() > DATA_MAX {
        return Err(too_long(data.len()));
    }
    let data = CString::new(data).map_err(|error| Error::other("mount options", error))?;
    Ok((dir, data))
}

fn escape(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for char in path.chars() {
        if matches!(char, ':' | '\\' | ',') {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    escaped
}

/// Returns the folder that all paths are in, strictly below it.
fn common_ancestor(paths: &[String]) -> Option<PathBuf> {
    let mut common = Path::new(paths.first()?).parent()?;
    for path in paths {
        while !Path::new(path).parent()?.starts_with(common) {
            common = common.parent()?;
        }
    }
    common.is_absolute().then(|| common.to_path_buf())
}

/// Runs `mount` in a thread whose current folder is `dir`; that of the process stays.
fn mount_from(dir: &Path, mount: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    std::thread::scope(|scope| {
        let mounting = scope.spawn(|| {
            // SAFETY: the flag leaves the file descriptor table shared, which is all that unshare_unsafe asks for.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }
                .context(|| "unshare the current folder")?;
            rustix::process::chdir(dir).context(|| format!("change to folder {dir:?}"))?;
            mount()
        });
        match mounting.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_named_from_their_common_folder() {
        let data = [
            "index=off",
            r"lowerdir=/s/10/fs:/s/9/f\:s",
            "upperdir=/s/11/fs",
        ];
        let options = Options::parse(&data.map(str::to_string));
        let (dir, data) = shorten(&options).unwrap();
        assert_eq!(dir, Path::new("/s"));
        let expected = r"index=off,lowerdir=10/fs:9/f\:s,upperdir=/s/11/fs";
        assert_eq!(data.to_str().unwrap(), expected);
    }

    #[test]
    fn options_that_cannot_be_shortened_are_refused() {
        let options = Options::parse(&["mode=755".to_string()]);
        assert_eq!(shorten(&options).unwrap_err().kind(), Kind::InvalidArgument);
    }
}
