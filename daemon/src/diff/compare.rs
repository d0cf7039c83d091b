//! Comparing: what one set of mounts shows otherwise than another becomes a layer in the content store.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use sys::mount::{Mount, TempMount, read_only};

use super::Diff;
use super::codec::{Compression, Encoder};
use super::target;
use super::walk::{self, Compared, View};
use crate::content::{Content, Digest, Hasher, Writer, WriterOptions};
use crate::context::Context;
use crate::digest::Algorithm;
use crate::error::{Context as _, Error, Kind, Result};
use crate::labels::Labels;
use crate::media;
use crate::metadata::Descriptor;

/// What a layer is to be.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Empty for a gzip layer.
    pub media_type: String,
    /// The name of the ingest; empty for one that nobody else uses.
    pub reference: String,
    pub labels: Labels,
    /// No time in the archive is later than this.
    pub source_date_epoch: Option<i64>,
}

/// A file system that is looked at.
struct Side {
    root: OwnedFd,
    _mount: Option<TempMount>,
}

impl Diff {
    /// Writes what `right` has otherwise than `left` to the content store and returns its descriptor.
    pub fn compare(
        &self,
        context: &Context,
        left: &[Mount],
        right: &[Mount],
        options: Options,
    ) -> Result<Descriptor> {
        let media_type = match options.media_type.as_str() {
            "" => media::OCI_LAYER_GZIP,
            given => given,
        };
        let compression = match media_type {
            media::OCI_LAYER => Compression::None,
            media::OCI_LAYER_GZIP => Compression::Gzip,
            media::OCI_LAYER_ZSTD => Compression::Zstd,
            other => {
                let message = format!("unsupported diff media type: {other}");
                return Err(Error::new(Kind::Unimplemented, message));
            }
        };
        let own = options.reference.is_empty();
        let reference = match own {
            true => format!("diff-{}", crate::time::unique()),
            false => options.reference.clone(),
        };
        let written = self.write(context, &reference, compression, |output, fast| {
            layer(left, right, fast, options.source_date_epoch, output)
        });
        let written = written.and_then(|(writer, uncompressed)| {
            commit(
                &self.content,
                context,
                writer,
                &uncompressed,
                options.labels,
            )
        });
        if written.is_err() && own {
            let _ = self.content.abort(context, &reference);
        }
        let (digest, size) = written?;
        Ok(Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.to_string(),
            size,
            annotations: Labels::new(),
        })
    }

    /// Opens an ingest for an archive and returns it with the archive's digest when `fill` has written that.
    ///
    /// What `fill` does the fast way, and says is not whole, is done once more the other way.
    fn write(
        &self,
        context: &Context,
        reference: &str,
        compression: Compression,
        fill: impl Fn(&mut Output, bool) -> Result<bool>,
    ) -> Result<(Writer, Digest)> {
        let ingest = WriterOptions {
            reference: reference.to_owned(),
            ..WriterOptions::default()
        };
        let mut writer = self.content.writer(context, ingest)?;
        for fast in [true, false] {
            writer.truncate(0)?;
            let mut output = Output {
                encoder: Encoder::new(writer, compression)?,
                hasher: Hasher::new(Algorithm::Sha256),
            };
            let whole = fill(&mut output, fast)?;
            writer = output.encoder.finish()?;
            if whole {
                return Ok((writer, output.hasher.finish()));
            }
        }
        Err(Error::new(Kind::Internal, "the layer could not be written"))
    }
}

fn commit(
    content: &Content,
    context: &Context,
    writer: Writer,
    uncompressed: &Digest,
    mut labels: Labels,
) -> Result<(Digest, i64)> {
    let (digest, size) = (writer.digest(), writer.status().offset);
    let key = super::UNCOMPRESSED.to_owned();
    labels.insert(key.clone(), uncompressed.to_string());
    match writer.commit(size, Some(&digest), labels.clone()) {
        Err(error) if error.kind() == Kind::AlreadyExists => {
            let paths = vec![format!("labels.{key}")];
            content.update(context, &digest, labels, paths)?;
        }
        other => drop(other?),
    }
    Ok((digest, size))
}

/// Where an archive goes: it is hashed, compressed and stored.
struct Output {
    encoder: Encoder<Writer>,
    hasher: Hasher,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.encoder.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the layer to `output`, and returns `false` if it has to be done once more, and not `fast`.
///
/// Where `right` is an overlay upon what `left` shows, its upper folder has all that may differ, and it is enough to
/// look at that.
pub(super) fn layer(
    left: &[Mount],
    right: &[Mount],
    fast: bool,
    latest: Option<i64>,
    output: impl Write,
) -> Result<bool> {
    let lower = match left {
        [] => None,
        mounts => Some(Side::open(mounts)?),
    };
    let below = lower.as_ref().map(|side| side.root.as_fd());
    if fast && let Some(upper) = upper_of(left, right)? {
        let compared = walk::compare(below, upper.as_fd(), View::Upper, latest, output)?;
        return Ok(matches!(compared, Compared::Written(_)));
    }
    let upper = Side::open(right)?;
    walk::compare(below, upper.root.as_fd(), View::Whole, latest, output)?;
    Ok(true)
}

/// Returns the upper folder of `right` if that is an overlay upon the very folders that `left` shows.
fn upper_of(left: &[Mount], right: &[Mount]) -> Result<Option<OwnedFd>> {
    let [right] = right else {
        return Ok(None);
    };
    let plain = right.options.iter().all(|option| option != "userxattr");
    let (Some(upper), Some(lowers)) = (option(right, "upperdir"), option(right, "lowerdir")) else {
        return Ok(None);
    };
    let shown = match left {
        [left] if left.fstype == "overlay" && option(left, "upperdir").is_none() => {
            option(left, "lowerdir")
        }
        [left] if left.fstype == "bind" => Some(left.source.as_str()),
        _ => None,
    };
    if right.fstype != "overlay" || !plain || shown != Some(lowers) {
        return Ok(None);
    }
    open(upper).map(Some)
}

fn option<'a>(mount: &'a Mount, key: &str) -> Option<&'a str> {
    let options = mount.options.iter();
    let mut found = options.filter_map(|option| option.strip_prefix(key)?.strip_prefix('='));
    found.next()
}

impl Side {
    /// Opens what `mounts` show, for reading.
    fn open(mounts: &[Mount]) -> Result<Self> {
        if let [mount] = mounts {
            if mount.fstype == "bind" && mount.target.is_empty() {
                let (root, _mount) = (open(&mount.source)?, None);
                return Ok(Self { root, _mount });
            }
            if mount.fstype == "overlay"
                && let Some(root) = detached(mount)?
            {
                let _mount = None;
                return Ok(Self { root, _mount });
            }
        }
        let mount = TempMount::new(&read_only(mounts))?;
        let path = mount.path().to_string_lossy().into_owned();
        Ok(Self {
            root: open(&path)?,
            _mount: Some(mount),
        })
    }
}

/// Returns an overlay that cannot be written to, attached nowhere; nothing if the kernel has no such mounts.
fn detached(mount: &Mount) -> Result<Option<OwnedFd>> {
    let mounts = read_only(std::slice::from_ref(mount));
    match target::open_lower(&mounts[0]) {
        Err(error) if error.kind() == Kind::Unimplemented => Ok(None),
        other => other,
    }
}

fn open(path: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).context(|| format!("open {path:?}"))
}

#[cfg(test)]
mod tests;
