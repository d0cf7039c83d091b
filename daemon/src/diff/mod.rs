//! Layers: archives applied to file systems, and file systems compared to make archives.

pub mod apply;
pub mod codec;
pub mod compare;
pub mod entries;
pub mod pipeline;
pub mod target;
pub mod tree;
pub mod walk;
pub mod write;

use std::io::BufReader;

use sys::mount::Mount;

use crate::content::{Content, Digest};
use crate::context::Context;
use crate::error::{Context as _, Error, Kind, Result};
use crate::media;
use crate::metadata::Descriptor;
use target::Target;

/// Set on a layer's blob: the digest of what it holds, uncompressed.
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// Applies layers of the content store, and makes layers there.
#[derive(Clone, Debug)]
pub struct Diff {
    content: Content,
}

impl Diff {
    /// Returns the part that works with `content`.
    pub fn new(content: Content) -> Self {
        Self { content }
    }

    /// Returns the store of layers.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Applies a layer to what `mounts` show and returns the descriptor of its archive, uncompressed.
    pub fn apply(
        &self,
        context: &Context,
        layer: &Descriptor,
        mounts: &[Mount],
        sync: bool,
    ) -> Result<Descriptor> {
        let encoding = codec::encoding(&layer.media_type)?;
        let digest = Digest::parse(&layer.digest)?;
        let file = self.content.reader(context, &digest)?.into_file();
        let target = Target::open(mounts)?;
        let input = BufReader::with_capacity(256 << 10, file);
        let unpacked = pipeline::unpack(&target, input, encoding)
            .context(|| format!("apply layer {digest}"))?;
        if unpacked.implied.is_none() {
            let message = format!("layer {digest} links to a file that is not there");
            return Err(Error::new(Kind::InvalidArgument, message));
        }
        if sync {
            target.sync()?;
        }
        target.close()?;
        Ok(Descriptor {
            media_type: media::OCI_LAYER.to_owned(),
            digest: unpacked.digest.to_string(),
            size: unpacked.size as i64,
            annotations: Default::default(),
        })
    }
}
