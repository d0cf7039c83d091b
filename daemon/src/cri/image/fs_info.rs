//! ImageFsInfo.

use api_protos::runtime::v1::{
    FilesystemIdentifier, FilesystemUsage, ImageFsInfoResponse, UInt64Value,
};

use crate::blocking::blocking;
use crate::cri::{Cri, nanoseconds};
use crate::error::{Kind, Result};

/// Returns what images and containers take of the disk.
pub async fn fs_info(cri: &Cri) -> Result<ImageFsInfoResponse> {
    let (snapshots, context) = (cri.parts.snapshots.clone(), cri.store.context.clone());
    let snapshotter = cri.config.snapshotter.clone();
    let (mut bytes, mut inodes) = (0, 0);
    for snapshot in blocking({
        let (snapshots, context, snapshotter) =
            (snapshots.clone(), context.clone(), snapshotter.clone());
        move || snapshots.list::<&str>(&context, &snapshotter, &[])
    })
    .await?
    {
        let (snapshots, context, snapshotter) =
            (snapshots.clone(), context.clone(), snapshotter.clone());
        let usage = blocking(move || snapshots.usage(&context, &snapshotter, &snapshot.name)).await;
        match usage {
            Ok(usage) => {
                bytes += usage.size.max(0) as u64;
                inodes += usage.inodes.max(0) as u64;
            }
            // It was removed meanwhile.
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let mountpoint = cri.folders.snapshotter(&snapshotter);
    let usage = FilesystemUsage {
        timestamp: nanoseconds(),
        fs_id: Some(FilesystemIdentifier {
            mountpoint: mountpoint.to_string_lossy().into_owned(),
        }),
        used_bytes: Some(UInt64Value { value: bytes }),
        inodes_used: Some(UInt64Value { value: inodes }),
    };
    Ok(ImageFsInfoResponse {
        image_filesystems: vec![usage.clone()],
        container_filesystems: vec![usage],
    })
}
