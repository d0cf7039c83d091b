//! ImageFsInfo.

use std::collections::HashSet;

use api_protos::runtime::v1::{FilesystemIdentifier, FilesystemUsage, ImageFsInfoResponse};
use snapshotter::{Kind as State, Usage};

use crate::blocking::blocking;
use crate::cri::container::stats::value;
use crate::cri::{Cri, nanoseconds};
use crate::error::{Kind, Result};

/// Returns what images and containers take of the disk.
pub async fn fs_info(cri: &Cri) -> Result<ImageFsInfoResponse> {
    let snapshotter = cri.config.snapshotter.clone();
    let (active, mut sum) = written_and_whole(cri, snapshotter.clone()).await?;
    cri.usages.keep(
        &snapshotter,
        &active.iter().map(String::as_str).collect::<HashSet<_>>(),
    );
    for key in active {
        match cri.usages.of((snapshotter.clone(), key)).await {
            Ok(measured) => sum += measured.usage,
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
        used_bytes: value(sum.size.max(0) as u64),
        inodes_used: value(sum.inodes.max(0) as u64),
    };
    Ok(ImageFsInfoResponse {
        image_filesystems: vec![usage.clone()],
        container_filesystems: vec![usage],
    })
}

/// Returns the keys of the snapshots that are written to, and what all others take, which is known.
async fn written_and_whole(cri: &Cri, snapshotter: String) -> Result<(Vec<String>, Usage)> {
    let (snapshots, context) = (cri.parts.snapshots.clone(), cri.store.context.clone());
    blocking(move || {
        let (mut written, mut sum) = (Vec::new(), Usage::default());
        for snapshot in snapshots.list::<&str>(&context, &snapshotter, &[])? {
            if snapshot.kind == State::Active {
                written.push(snapshot.name);
                continue;
            }
            match snapshots.usage(&context, &snapshotter, &snapshot.name) {
                Ok(usage) => sum += usage,
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok((written, sum))
    })
    .await
}
