//! Reading tar archives entry by entry, from a stream: ustar, GNU and PAX, with long names, xattrs and holes.
//!
//! The names, links and numbers of an archive are a stranger's: nothing here trusts them, and nothing here opens a
//! file. Where parsers differ, this one reads what Go's `archive/tar` reads, since containerd's layers are checked by it.

mod pax;

use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::Timespec;

use crate::error::{Context, Error, Kind, Result, invalid};
use pax::Pax;

const BLOCK: usize = 512;
/// The longest extended header; a longer one is an attempt to fill the memory.
const MAX_EXTENDED: u64 = 1 << 20;
/// The most extents that a sparse file may have.
const MAX_EXTENTS: usize = 1 << 16;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Regular,
    Directory,
    Symlink,
    Hardlink,
    Character,
    Block,
    Fifo,
}

/// An entry's header.
#[derive(Clone, Debug)]
pub struct Entry {
    pub kind: Type,
    pub path: Vec<u8>,
    /// The target of a symlink or hardlink.
    pub link: Vec<u8>,
    /// The permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub accessed: Timespec,
    pub modified: Timespec,
    pub device: (u32, u32),
    /// The size of the file once it is unpacked.
    pub size: u64,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data goes, if the file has holes.
    extents: Option<Vec<Extent>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    offset: u64,
    length: u64,
}

/// The entries of an archive.
#[derive(Debug)]
pub struct Entries<R> {
    input: R,
    /// What is left of the present entry's data, and the padding behind it.
    data: u64,
    padding: u64,
}

impl<R: BufRead> Entries<R> {
    /// Returns the entries of the archive that `input` yields.
    pub fn new(input: R) -> Self {
        Self {
            input,
            data: 0,
            padding: 0,
        }
    }

    /// Returns the next entry, or nothing at the end of the archive.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let (mut pax, mut name, mut link) = (Pax::default(), None, None);
        loop {
            self.skip(self.data + self.padding)?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            match header.typeflag() {
                b'x' => pax = Pax::parse(&self.extended(&header)?)?,
                b'g' => drop(self.extended(&header)?),
                b'L' => name = Some(until_nul(self.extended(&header)?)),
                b'K' => link = Some(until_nul(self.extended(&header)?)),
                _ => return self.entry(&header, &pax, name, link).map(Some),
            }
        }
    }

    /// Copies the data of `entry`, the one that came last, to `file`, leaving out its holes.
    pub fn copy(&mut self, entry: &Entry, file: &mut std::fs::File) -> Result<()> {
        let Some(extents) = &entry.extents else {
            return self.copy_data(entry.size, |bytes, _| file.write_all(bytes));
        };
        for extent in extents {
            self.copy_data(extent.length, |bytes, done| {
                file.write_all_at(bytes, extent.offset + done)
            })?;
        }
        file.set_len(entry.size).context(|| "set the file's size")
    }

    /// Passes the data of `entry`, the one that came last, to `take` in pieces; a file with holes is refused.
    pub fn read(&mut self, entry: &Entry, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if entry.extents.is_some() {
            return Err(invalid("a sparse file where none can be"));
        }
        let mut failed = Ok(());
        let copied = self.copy_data(entry.size, |bytes, _| match take(bytes) {
            Ok(()) => Ok(()),
            Err(error) => {
                failed = Err(error);
                Err(io::Error::other("stopped"))
            }
        });
        failed.and(copied)
    }

    /// Reads what follows the archive to its end and returns the input.
    pub fn finish(mut self) -> Result<R> {
        io::copy(&mut self.input, &mut io::sink()).context(|| "read to the end of the archive")?;
        Ok(self.input)
    }

    fn copy_data(
        &mut self,
        length: u64,
        mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < length {
            let bytes = self.input.fill_buf().context(|| "read archive")?;
            if bytes.is_empty() {
                return Err(cut_short());
            }
            let count = bytes
                .len()
                .min(usize::try_from(length - done).unwrap_or(usize::MAX));
            write(&bytes[..count], done).context(|| "write file")?;
            self.input.consume(count);
            done += count as u64;
            self.data = self.data.checked_sub(count as u64).ok_or_else(malformed)?;
        }
        Ok(())
    }

    fn skip(&mut self, length: u64) -> Result<()> {
        let skipped = io::copy(&mut (&mut self.input).take(length), &mut io::sink())
            .context(|| "read archive")?;
        if skipped < length {
            return Err(cut_short());
        }
        (self.data, self.padding) = (0, 0);
        Ok(())
    }

    /// Reads a header; two empty blocks or the end of the input are the end of the archive.
    fn header(&mut self) -> Result<Option<Header>> {
        for _ in 0..2 {
            let Some(block) = self.block()? else {
                return Ok(None);
            };
            if block.iter().any(|byte| *byte != 0) {
                let header = Header(block);
                header.verify()?;
                let size = header.number(124, 12)?;
                self.set_data(if header.has_data() { size } else { 0 })?;
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    fn set_data(&mut self, size: u64) -> Result<()> {
        if size > i64::MAX as u64 {
            return Err(malformed());
        }
        self.data = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(cut_short()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context(|| "read archive"),
            }
        }
        Ok(Some(block))
    }

    /// Reads the data of an extended header.
    fn extended(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = header.number(124, 12)?;
        if size > MAX_EXTENDED {
            return Err(malformed());
        }
        let mut bytes = vec![0; size as usize];
        self.input
            .read_exact(&mut bytes)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => cut_short(),
                _ => Error::other("read archive", error),
            })?;
        self.data = 0;
        Ok(bytes)
    }

    fn entry(
        &mut self,
        header: &Header,
        pax: &Pax,
        name: Option<Vec<u8>>,
        link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        let path = match pax.get("GNU.sparse.name").or(pax.get("path")) {
            Some(path) => path.to_vec(),
            None => name.unwrap_or_else(|| header.path()),
        };
        let link = match pax.get("linkpath") {
            Some(link) => link.to_vec(),
            None => link.unwrap_or_else(|| header.text(157, 100)),
        };
        let kind = header.kind(&path)?;
        if path.contains(&0) || link.contains(&0) {
            return Err(malformed());
        }
        if let Some(size) = pax.number("size")?
            && header.has_data()
        {
            self.set_data(size)?;
        }
        let modified = pax.time("mtime")?.unwrap_or(header.time(136)?);
        let accessed = pax.time("atime")?.unwrap_or(modified);
        let mut entry = Entry {
            kind,
            path,
            link,
            mode: header.number(100, 8)? as u32 & 0o7777,
            uid: narrow(pax.number("uid")?.unwrap_or(header.number(108, 8)?))?,
            gid: narrow(pax.number("gid")?.unwrap_or(header.number(116, 8)?))?,
            accessed: bound(later(accessed, modified)),
            modified: bound(modified),
            device: header.device()?,
            size: if kind == Type::Regular { self.data } else { 0 },
            xattrs: pax.xattrs()?,
            extents: None,
        };
        if kind == Type::Regular {
            self.sparse(header, pax, &mut entry)?;
        }
        Ok(entry)
    }

    /// Reads where the data of a sparse file goes: GNU's old form, or one of PAX's three.
    fn sparse(&mut self, header: &Header, pax: &Pax, entry: &mut Entry) -> Result<()> {
        let real = pax
            .number("GNU.sparse.realsize")?
            .or(pax.number("GNU.sparse.size")?);
        let extents = if header.typeflag() == b'S' {
            entry.size = header.number(483, 12)?;
            self.old_gnu_extents(header)?
        } else if pax.get("GNU.sparse.major") == Some(b"1") {
            self.extents_in_data()?
        } else if let Some(map) = pax.get("GNU.sparse.map") {
            pairs(map.split(|byte| *byte == b','))?
        } else if pax.get("GNU.sparse.offset").is_some() {
            let numbers = pax.records.iter().filter_map(|(key, value)| {
                matches!(&key[..], b"GNU.sparse.offset" | b"GNU.sparse.numbytes")
                    .then_some(value.as_slice())
            });
            pairs(numbers)?
        } else {
            return Ok(());
        };
        entry.size = real.unwrap_or(entry.size);
        let mut end = 0;
        for extent in &extents {
            let next = extent.offset.checked_add(extent.length);
            match next {
                Some(next) if extent.offset >= end && next <= entry.size => end = next,
                _ => return Err(malformed()),
            }
        }
        if extents.iter().map(|extent| extent.length).sum::<u64>() > self.data
            || entry.size > i64::MAX as u64
        {
            return Err(malformed());
        }
        entry.extents = Some(extents);
        Ok(())
    }

    fn old_gnu_extents(&mut self, header: &Header) -> Result<Vec<Extent>> {
        let mut extents = header.extents(386, 4)?;
        let mut more = header.0[482] != 0;
        while more {
            let block = Header(self.block()?.ok_or_else(cut_short)?);
            extents.extend(block.extents(0, 21)?);
            more = block.0[504] != 0;
            if extents.len() > MAX_EXTENTS {
                return Err(malformed());
            }
        }
        Ok(extents)
    }

    /// Reads the extents that PAX 1.0 puts before the data: their number, then offset and length of each, in lines.
    fn extents_in_data(&mut self) -> Result<Vec<Extent>> {
        let mut lines = Vec::new();
        let mut wanted = None;
        let mut text = Vec::new();
        loop {
            let block = self.block()?.ok_or_else(cut_short)?;
            self.data = self.data.checked_sub(BLOCK as u64).ok_or_else(malformed)?;
            for byte in block {
                if byte != b'\n' {
                    text.push(byte);
                    continue;
                }
                let number = decimal(&text)?;
                text.clear();
                match wanted {
                    None if number > MAX_EXTENTS as u64 => return Err(malformed()),
                    None => wanted = Some(number as usize * 2),
                    Some(wanted) if lines.len() < wanted => lines.push(number),
                    Some(_) => break,
                }
                if wanted == Some(lines.len()) {
                    break;
                }
            }
            if text.len() > 20 {
                return Err(malformed());
            }
            if wanted == Some(lines.len()) {
                let extents = lines.chunks_exact(2).map(|pair| Extent {
                    offset: pair[0],
                    length: pair[1],
                });
                return Ok(extents.collect());
            }
        }
    }
}

/// One block as a header.
struct Header([u8; BLOCK]);

impl Header {
    fn verify(&self) -> Result<()> {
        let sum = |signed: bool| -> i64 {
            let bytes = self.0.iter().enumerate();
            bytes
                .map(|(at, byte)| match at {
                    148..156 => i64::from(b' '),
                    _ if signed => i64::from(*byte as i8),
                    _ => i64::from(*byte),
                })
                .sum()
        };
        let told = self.number(148, 8)? as i64;
        if told != sum(false) && told != sum(true) {
            return Err(malformed());
        }
        Ok(())
    }

    fn typeflag(&self) -> u8 {
        self.0[156]
    }

    fn has_data(&self) -> bool {
        !matches!(self.typeflag(), b'1'..=b'6')
    }

    fn kind(&self, path: &[u8]) -> Result<Type> {
        Ok(match self.typeflag() {
            0 if path.ends_with(b"/") => Type::Directory,
            0 | b'0' | b'S' => Type::Regular,
            b'1' => Type::Hardlink,
            b'2' => Type::Symlink,
            b'3' => Type::Character,
            b'4' => Type::Block,
            b'5' => Type::Directory,
            b'6' => Type::Fifo,
            other => {
                let message = format!("unhandled tar header type {other}");
                return Err(Error::new(Kind::InvalidArgument, message));
            }
        })
    }

    fn text(&self, at: usize, length: usize) -> Vec<u8> {
        until_nul(self.0[at..at + length].to_vec())
    }

    fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        let ustar = &self.0[257..263] == b"ustar\0";
        let prefix = if ustar {
            self.text(345, 155)
        } else {
            Vec::new()
        };
        if prefix.is_empty() {
            return name;
        }
        [prefix.as_slice(), b"/", &name].concat()
    }

    fn device(&self) -> Result<(u32, u32)> {
        if !matches!(self.typeflag(), b'3' | b'4') {
            return Ok((0, 0));
        }
        Ok((narrow(self.number(329, 8)?)?, narrow(self.number(337, 8)?)?))
    }

    fn time(&self, at: usize) -> Result<Timespec> {
        let seconds = self.number(at, 12)?;
        Ok(Timespec {
            tv_sec: i64::try_from(seconds).unwrap_or(0),
            tv_nsec: 0,
        })
    }

    fn extents(&self, at: usize, count: usize) -> Result<Vec<Extent>> {
        let mut extents = Vec::new();
        for at in (at..).step_by(24).take(count) {
            if self.0[at] == 0 {
                break;
            }
            extents.push(Extent {
                offset: self.number(at, 12)?,
                length: self.number(at + 12, 12)?,
            });
        }
        Ok(extents)
    }

    /// Returns a number that is written in octal, or in base 256 if the first bit says so; an empty field is 0.
    fn number(&self, at: usize, length: usize) -> Result<u64> {
        let field = &self.0[at..at + length];
        if field[0] & 0x80 != 0 {
            if field[0] & 0x40 != 0 {
                return Ok(0); // Negative: only times are, and those count from 1970.
            }
            let mut number = u64::from(field[0] & 0x3f);
            for byte in &field[1..] {
                number = number
                    .checked_mul(256)
                    .ok_or_else(malformed)?
                    .checked_add(u64::from(*byte))
                    .ok_or_else(malformed)?;
            }
            return Ok(number);
        }
        let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| malformed())?.trim();
        if text.is_empty() {
            return Ok(0);
        }
        u64::from_str_radix(text, 8).map_err(|_| malformed())
    }
}

fn decimal(text: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(text).map_err(|_| malformed())?;
    text.parse().map_err(|_| malformed())
}

fn pairs<'a>(numbers: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Extent>> {
    let numbers = numbers.take(2 * MAX_EXTENTS + 1).map(decimal);
    let numbers: Vec<u64> = numbers.collect::<Result<_>>()?;
    if !numbers.len().is_multiple_of(2) || numbers.len() > 2 * MAX_EXTENTS {
        return Err(malformed());
    }
    let extents = numbers.chunks_exact(2).map(|pair| Extent {
        offset: pair[0],
        length: pair[1],
    });
    Ok(extents.collect())
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn narrow(number: u64) -> Result<u32> {
    u32::try_from(number).map_err(|_| malformed())
}

fn later(one: Timespec, other: Timespec) -> Timespec {
    if (one.tv_sec, one.tv_nsec) > (other.tv_sec, other.tv_nsec) {
        one
    } else {
        other
    }
}

/// A time before 1970, or past what a file system can record, is 1970.
fn bound(time: Timespec) -> Timespec {
    const LATEST: i64 = i64::MAX / 1_000_000_000;
    match time.tv_sec {
        0..LATEST => time,
        _ => Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
    }
}

fn malformed() -> Error {
    Error::new(Kind::InvalidArgument, "malformed tar archive")
}

fn cut_short() -> Error {
    Error::new(Kind::DataLoss, "tar archive is cut short")
}

#[cfg(test)]
mod tests;
