//! Checkpoints in the content store: a task's images as an archive, written from its bundle and unpacked there.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use prost::Message;
use prost_types::Any;
use sys::mount::Mount;

use super::{Task, Tasks};
use crate::blocking::blocking;
use crate::context::Context;
use crate::diff::Diff;
use crate::diff::compare::Options;
use crate::error::{Context as _, Error, Kind, Result};
use crate::media;
use crate::metadata::Descriptor;

/// The folder of a bundle that an archive is unpacked into.
const RESTORED: &str = "checkpoint";

impl Tasks {
    /// Has a task write its images, and puts them and its container's specification into the content store.
    pub async fn checkpoint(
        &self,
        context: &Context,
        task: &Task,
        options: Option<Any>,
    ) -> Result<Vec<Descriptor>> {
        let container = self.container(context, task.id()).await?;
        let folder = Folder(
            task.bundle()
                .join(format!("checkpoint-{}", crate::time::unique())),
        );
        task.checkpoint(folder.0.to_string_lossy().into_owned(), options)
            .await?;
        let (diff, context) = (self.diff.clone(), context.clone());
        blocking(move || {
            let archive = archive(&diff, &context, &folder.0)?;
            let spec = container.spec.unwrap_or_default().encode_to_vec();
            let reference = format!("{}/spec", folder.0.display());
            let digest = diff
                .content()
                .put(&context, &reference, &spec, None, Default::default());
            let spec = Descriptor {
                media_type: media::CHECKPOINT_CONFIG.to_owned(),
                digest: digest?.to_string(),
                size: spec.len() as i64,
                annotations: Default::default(),
            };
            Ok(vec![archive, spec])
        })
        .await
    }

    /// Unpacks images into a bundle and returns their folder, which goes with the bundle.
    pub(super) async fn unpack(
        &self,
        context: Context,
        images: Descriptor,
        bundle: &Path,
    ) -> Result<PathBuf> {
        if images.media_type != media::CHECKPOINT {
            let message = format!("unsupported checkpoint type {:?}", images.media_type);
            return Err(Error::new(Kind::InvalidArgument, message));
        }
        let (diff, folder) = (self.diff.clone(), bundle.join(RESTORED));
        blocking(move || {
            DirBuilder::new()
                .mode(0o700)
                .create(&folder)
                .context(|| format!("create {folder:?}"))?;
            let archive = Descriptor {
                media_type: media::OCI_LAYER.to_owned(),
                ..images
            };
            diff.apply(&context, &archive, &[bind(&folder)], false)?;
            Ok(folder)
        })
        .await
    }
}

/// A folder that is removed when this is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays goes with the bundle.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Puts all of a folder into the content store.
fn archive(diff: &Diff, context: &Context, folder: &Path) -> Result<Descriptor> {
    let options = Options {
        media_type: media::OCI_LAYER.to_owned(),
        ..Options::default()
    };
    let archive = diff.compare(context, &[], &[bind(folder)], options)?;
    Ok(Descriptor {
        media_type: media::CHECKPOINT.to_owned(),
        annotations: Default::default(),
        ..archive
    })
}

fn bind(folder: &Path) -> Mount {
    Mount {
        fstype: "bind".to_owned(),
        source: folder.to_string_lossy().into_owned(),
        target: String::new(),
        options: vec!["rbind".to_owned(), "rw".to_owned()],
    }
}
