//! Compression of layers: gzip of any number of members, zstd, none.

use std::fmt;
use std::io::{self, BufRead, Read, Write};

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::error::{Context, Error, Kind, Result};

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// How a layer of some media type is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Plain,
    /// As its first bytes say: media types and what is sent under them differ in practice.
    Detect,
}

const GZIP: &[u8] = &[0x1f, 0x8b, 0x08];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Returns how a layer of `media_type` is to be read; `NotImplemented` if it is not one that we can read.
pub fn encoding(media_type: &str) -> Result<Encoding> {
    let (base, suffixes) = media_type.split_once('+').unwrap_or((media_type, ""));
    let known = match (base, suffixes) {
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "")
        | ("application/vnd.docker.image.rootfs.diff.tar.zstd", "")
        | ("application/vnd.docker.image.rootfs.diff.tar", "" | "gzip" | "zstd")
        | ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "")
        | ("application/vnd.oci.image.layer.v1.tar", "gzip" | "zstd")
        | ("application/vnd.oci.image.layer.nondistributable.v1.tar", "gzip" | "zstd") => {
            Some(Encoding::Detect)
        }
        ("application/vnd.oci.image.layer.v1.tar", "")
        | ("application/vnd.oci.image.layer.nondistributable.v1.tar", "")
        | ("application/vnd.docker.image.rootfs.foreign.diff.tar", "") => Some(Encoding::Plain),
        _ => None,
    };
    known.ok_or_else(|| {
        let message = format!("currently unsupported media type {media_type:?}");
        Error::new(Kind::Unimplemented, message)
    })
}

impl Compression {
    /// Returns the compression that a layer's first bytes tell.
    pub fn detect(start: &[u8]) -> Self {
        match start {
            start if start.starts_with(GZIP) => Self::Gzip,
            start if start.starts_with(ZSTD) => Self::Zstd,
            // A skippable frame may come before the first frame of data.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Reads what `input` holds uncompressed. Its first bytes decide, so that at least four must come with the first read.
pub fn decoder<'a, R: BufRead + 'a>(
    mut input: R,
    encoding: Encoding,
) -> Result<Box<dyn Read + 'a>> {
    let compression = match encoding {
        Encoding::Plain => Compression::None,
        Encoding::Detect => Compression::detect(input.fill_buf().context(|| "read layer")?),
    };
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(MultiGzDecoder::new(input)),
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(input);
            Box::new(decoder.context(|| "read layer")?)
        }
    })
}

/// Compresses what is written.
pub enum Encoder<W: Write> {
    None(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Returns an encoder onto `output`.
    pub fn new(output: W, compression: Compression) -> Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(output),
            Compression::Gzip => Self::Gzip(GzEncoder::new(output, flate2::Compression::default())),
            Compression::Zstd => {
                let encoder = zstd::stream::write::Encoder::new(output, 0);
                Self::Zstd(encoder.context(|| "compress layer")?)
            }
        })
    }

    /// Writes what is left and returns the output.
    pub fn finish(self) -> Result<W> {
        match self {
            Self::None(output) => Ok(output),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
        .context(|| "compress layer")
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(output) => output.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(output) => output.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

impl<W: Write> fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None(_) => "Encoder::None",
            Self::Gzip(_) => "Encoder::Gzip",
            Self::Zstd(_) => "Encoder::Zstd",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compress(bytes: &[u8], compression: Compression) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), compression).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_is_compressed_comes_back_from_several_members_too() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let both = [
                compress(b"one ", compression),
                compress(b"two", compression),
            ]
            .concat();
            let mut text = String::new();
            let mut decoder = decoder(both.as_slice(), Encoding::Detect).unwrap();
            decoder.read_to_string(&mut text).unwrap();
            assert_eq!(text, "one two", "{compression:?}");
        }
    }

    #[test]
    fn what_is_cut_short_is_an_error() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let whole = compress(&[7; 4096], compression);
            let mut decoder = decoder(&whole[..whole.len() - 3], Encoding::Detect).unwrap();
            let read = decoder.read_to_end(&mut Vec::new());
            assert!(read.is_err(), "{compression:?}");
        }
    }

    #[test]
    fn media_types_that_are_no_layers_are_refused() {
        let oci = "application/vnd.oci.image.layer.v1.tar";
        assert_eq!(encoding(oci).unwrap(), Encoding::Plain);
        assert_eq!(encoding(&format!("{oci}+zstd")).unwrap(), Encoding::Detect);
        for other in ["", "text/plain", &format!("{oci}+gzip+encrypted")] {
            let error = encoding(other).unwrap_err();
            assert_eq!(error.kind(), Kind::Unimplemented, "{other}");
        }
    }
}
