//! Mounts of images: an image's files in a container, read-only, from a view of its snapshot.
//!
//! Each is a snapshot and a mount of the container's own, so that both go with the container. The container's record
//! holds the snapshots by labels; the mounts outlive the daemon and are found again by their number.

use std::path::{Path, PathBuf};

use api_protos::runtime::v1::{ContainerConfig, Mount as Asked};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use sys::mount::mount_all;
use sys::path::Root;

use crate::blocking::blocking;
use crate::context::Context;
use crate::cri::store::ignore_missing;
use crate::cri::{Cri, userns};
use crate::error::{Context as _, Error, Kind, Result, invalid};
use crate::labels::Labels;

/// What the kubelet looks for in the message of a failure.
const FAILED: &str = "ImageVolumeMountFailed";

/// Makes the mounts of images that a container asks for, and returns `asked` with their places on the host; the
/// context's lease holds the snapshots until there is a record.
pub async fn make(
    cri: &Cri,
    context: &Context,
    snapshotter: &str,
    id: &str,
    asked: &[Asked],
) -> Result<Vec<Asked>> {
    let mut mounts = asked.to_vec();
    for (number, mount) in mounts.iter_mut().enumerate() {
        if mount.image.is_some() {
            let made = make_one(cri, context, snapshotter, (id, number), mount).await;
            mount.host_path = made.context(|| FAILED)?.to_string_lossy().into_owned();
            // The files have their owners from the snapshot: they are not to be mapped again.
            mount.uid_mappings.clear();
            mount.gid_mappings.clear();
        }
    }
    Ok(mounts)
}

/// Unmounts the images of a container and removes their snapshots; what is not there is no error.
pub async fn release(
    cri: &Cri,
    snapshotter: &str,
    id: &str,
    config: &ContainerConfig,
) -> Result<()> {
    let numbers = numbers(config);
    if numbers.is_empty() {
        return Ok(());
    }
    let (snapshots, context) = (cri.parts.snapshots.clone(), cri.store.context.clone());
    let (snapshotter, id) = (snapshotter.to_owned(), id.to_owned());
    let folders = cri.folders.clone();
    blocking(move || {
        sys::mount::unmount_all(&folders.image_mounts(&id))?;
        for number in numbers {
            ignore_missing(snapshots.remove(&context, &snapshotter, &key(&id, number)))?;
        }
        Ok(())
    })
    .await
}

/// Returns the labels by which a container's record holds the snapshots of its mounts.
pub fn labels(snapshotter: &str, id: &str, config: &ContainerConfig) -> Labels {
    let numbers = numbers(config).into_iter();
    numbers
        .map(|number| {
            let label = format!("containerd.io/gc.ref.snapshot.{snapshotter}/{number}");
            (label, key(id, number))
        })
        .collect()
}

/// Refuses what an image cannot be mounted as.
pub fn check(config: &ContainerConfig) -> Result<()> {
    for mount in &config.mounts {
        let Some(image) = &mount.image else {
            continue;
        };
        let path = &mount.container_path;
        let refuse = |why: &str| Err(invalid(format!("{FAILED}: mount {path:?}: {why}")));
        if !mount.host_path.is_empty() {
            return refuse("hostpath must be empty while mount image");
        }
        if !mount.readonly {
            return refuse("readonly must be true while mount image");
        }
        if image.image.is_empty() {
            return refuse("image not specified");
        }
    }
    Ok(())
}

fn numbers(config: &ContainerConfig) -> Vec<usize> {
    let mounts = config.mounts.iter().enumerate();
    let of_images = mounts.filter(|(_, mount)| mount.image.is_some());
    of_images.map(|(number, _)| number).collect()
}

fn key(id: &str, number: usize) -> String {
    format!("{id}-image-{number}")
}

async fn make_one(
    cri: &Cri,
    context: &Context,
    snapshotter: &str,
    (id, number): (&str, usize),
    asked: &Asked,
) -> Result<PathBuf> {
    let name = asked.image.clone().unwrap_or_default().image;
    let image = cri.library.find(&name).await;
    let image = image.context(|| format!("failed to resolve image {name:?}"))?;
    let mappings = userns::Mappings::parse(&asked.uid_mappings, &asked.gid_mappings)?;
    let labels = mappings.map(|mappings| mappings.labels());
    let snapshots = cri.parts.snapshots.clone();
    let (context, snapshotter) = (context.clone(), snapshotter.to_owned());
    let (key, chain) = (key(id, number), image.details.chain.clone());
    let target = cri.folders.image_mounts(id).join(number.to_string());
    let sub_path = asked.image_sub_path.clone();
    blocking(move || {
        let labels = labels.unwrap_or_default();
        let mounts = snapshots
            .view(&context, &snapshotter, &key, &chain, labels)
            .context(|| format!("prepare image volume {name:?}"))?;
        std::fs::create_dir_all(&target).context(|| format!("make folder {target:?}"))?;
        mount_all(&sys::mount::read_only(&mounts), &target)?;
        within(&target, &sub_path)
    })
    .await
}

/// Returns the folder `path` of an image that is mounted at `mounted`; its links are followed inside the image only.
fn within(mounted: &Path, path: &str) -> Result<PathBuf> {
    if path.is_empty() {
        return Ok(mounted.to_owned());
    }
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, mounted, flags, Mode::empty())
        .context(|| format!("open {mounted:?}"))?;
    let found = match Root::new(dir).open(Path::new(path), flags) {
        Err(Errno::NOTDIR) => {
            return Err(invalid(format!(
                "only directory subpath is supported, subpath: {path:?}"
            )));
        }
        found => found.context(|| format!("failed to ensure image subpath {path:?}"))?,
    };
    // Nobody can change what is mounted read-only: the path without links stays the folder that was found.
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
    let folder = std::fs::read_link(&link).context(|| format!("read {link:?}"))?;
    match folder.starts_with(mounted) {
        true => Ok(folder),
        false => Err(Error::new(
            Kind::Internal,
            format!("subpath {path:?} is at {folder:?}, outside of the image"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use api_protos::runtime::v1::ImageSpec;

    use super::*;

    #[test]
    fn images_are_mounted_read_only_and_from_nowhere_else() {
        let asked = |readonly, host_path: &str, image: &str| ContainerConfig {
            mounts: vec![
                Asked::default(),
                Asked {
                    readonly,
                    host_path: host_path.into(),
                    image: Some(ImageSpec {
                        image: image.into(),
                        ..ImageSpec::default()
                    }),
                    ..Asked::default()
                },
            ],
            ..ContainerConfig::default()
        };
        let good = asked(true, "", "i");
        check(&good).unwrap();
        let labels = labels("overlayfs", "c", &good);
        let label = "containerd.io/gc.ref.snapshot.overlayfs/1";
        assert_eq!(labels, Labels::from([(label.into(), "c-image-1".into())]));
        for bad in [
            asked(false, "", "i"),
            asked(true, "/h", "i"),
            asked(true, "", ""),
        ] {
            check(&bad).unwrap_err();
        }
    }

    #[test]
    fn a_sub_path_stays_in_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(image.join("etc/deep")).unwrap();
        std::fs::write(image.join("file"), "").unwrap();
        std::os::unix::fs::symlink("/etc", image.join("link")).unwrap();
        for (path, found) in [("", ""), ("link/deep", "etc/deep"), ("../../etc", "etc")] {
            assert_eq!(within(&image, path).unwrap(), image.join(found), "{path}");
        }
        for path in ["file", "none", "link/none"] {
            within(&image, path).unwrap_err();
        }
    }
}
