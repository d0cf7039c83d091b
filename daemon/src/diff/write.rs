//! Writing tar archives entry by entry: ustar headers, with PAX records for what does not fit them.

use std::io::{self, Write};

use super::entries::Type;
use crate::error::{Context, Result};

const BLOCK: usize = 512;
/// The largest number that an octal field of eight or twelve bytes holds.
const SEVEN_DIGITS: u64 = 0o777_7777;
const ELEVEN_DIGITS: u64 = 0o777_7777_7777;

/// What an entry is described by.
#[derive(Clone, Debug)]
pub struct Header {
    pub kind: Type,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// The size of a regular file; nothing else has data.
    pub size: u64,
    /// In seconds.
    pub modified: i64,
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            kind: Type::Regular,
            path: Vec::new(),
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            modified: 0,
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }
}

/// An archive that is being written.
#[derive(Debug)]
pub struct Archive<W> {
    output: W,
    /// What the present entry still needs to fill its last block.
    padding: usize,
}

impl<W: Write> Archive<W> {
    /// Returns an archive that goes to `output`.
    pub fn new(output: W) -> Self {
        Self { output, padding: 0 }
    }

    /// Begins an entry; as many bytes as its size says must be written next.
    pub fn entry(&mut self, header: &Header) -> Result<()> {
        self.begin(header).context(|| "write archive")
    }

    fn begin(&mut self, header: &Header) -> io::Result<()> {
        self.pad()?;
        let records = header.records();
        if !records.is_empty() {
            let mut extended = Header {
                path: b"PaxHeaders.0/entry".to_vec(),
                mode: 0o644,
                ..Header::default()
            };
            extended.size = records.len() as u64;
            self.output.write_all(&extended.block(b'x'))?;
            self.output.write_all(&records)?;
            self.padding = padding(records.len() as u64);
            self.pad()?;
        }
        self.output.write_all(&header.block(header.flag()))?;
        self.padding = padding(header.size);
        Ok(())
    }

    /// Writes the end of the archive and returns the output.
    pub fn finish(mut self) -> Result<W> {
        let end = [0; 2 * BLOCK];
        self.pad()
            .and_then(|()| self.output.write_all(&end))
            .context(|| "write archive")?;
        Ok(self.output)
    }

    fn pad(&mut self) -> io::Result<()> {
        let padding = std::mem::take(&mut self.padding);
        self.output.write_all(&[0; BLOCK][..padding])
    }
}

/// Writes the data of the present entry.
impl<W: Write> Write for Archive<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

impl Header {
    fn flag(&self) -> u8 {
        match self.kind {
            Type::Regular => b'0',
            Type::Hardlink => b'1',
            Type::Symlink => b'2',
            Type::Character => b'3',
            Type::Block => b'4',
            Type::Directory => b'5',
            Type::Fifo => b'6',
        }
    }

    /// Returns the PAX records of what the header itself cannot say.
    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let mut add = |key: &[u8], value: &[u8]| record(&mut records, key, value);
        if !fits(&self.path) {
            add(b"path", &self.path);
        }
        if !fits(&self.link) {
            add(b"linkpath", &self.link);
        }
        if self.size > ELEVEN_DIGITS {
            add(b"size", self.size.to_string().as_bytes());
        }
        for (key, number) in [(b"uid", self.uid), (b"gid", self.gid)] {
            if u64::from(number) > SEVEN_DIGITS {
                add(key, number.to_string().as_bytes());
            }
        }
        if !(0..=ELEVEN_DIGITS as i64).contains(&self.modified) {
            add(b"mtime", self.modified.to_string().as_bytes());
        }
        for (name, value) in &self.xattrs {
            add(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        records
    }

    fn block(&self, flag: u8) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
        put(0, &self.path[..self.path.len().min(100)]);
        put(157, &self.link[..self.link.len().min(100)]);
        let octal = |number: u64, digits: usize, most: u64| {
            let number = if number > most { 0 } else { number };
            format!("{number:0digits$o}").into_bytes()
        };
        put(100, &octal(u64::from(self.mode), 7, SEVEN_DIGITS));
        put(108, &octal(u64::from(self.uid), 7, SEVEN_DIGITS));
        put(116, &octal(u64::from(self.gid), 7, SEVEN_DIGITS));
        put(124, &octal(self.size, 11, ELEVEN_DIGITS));
        let modified = u64::try_from(self.modified).unwrap_or(0);
        put(136, &octal(modified, 11, ELEVEN_DIGITS));
        put(156, &[flag]);
        put(257, b"ustar\x0000");
        put(329, &octal(u64::from(self.device.0), 7, SEVEN_DIGITS));
        put(337, &octal(u64::from(self.device.1), 7, SEVEN_DIGITS));
        put(148, b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    }
}

fn fits(text: &[u8]) -> bool {
    text.len() <= 100 && text.is_ascii()
}

fn padding(size: u64) -> usize {
    (size.next_multiple_of(BLOCK as u64) - size) as usize
}

/// Adds a record: its length, which counts its own digits too, key and value.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend(length.to_string().into_bytes());
    records.push(b' ');
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::entries::Entries;

    #[test]
    fn what_is_written_is_read_again() {
        let long = vec![b'n'; 300];
        let headers = [
            Header {
                path: b"short".to_vec(),
                mode: 0o4755,
                size: 5,
                modified: 1,
                ..Header::default()
            },
            Header {
                path: [b"d/", long.as_slice()].concat(),
                link: "umläut".as_bytes().to_vec(),
                kind: Type::Symlink,
                uid: u32::MAX - 1,
                gid: 0o1000_0000,
                modified: 1 << 33,
                xattrs: vec![
                    (b"user.a".to_vec(), b"\n=\0b".to_vec()),
                    (b"user.b".to_vec(), vec![7; 2000]),
                ],
                ..Header::default()
            },
            Header {
                path: b"dev".to_vec(),
                kind: Type::Block,
                device: (8, 17),
                ..Header::default()
            },
        ];
        let mut archive = Archive::new(Vec::new());
        for header in &headers {
            archive.entry(header).unwrap();
            archive
                .write_all(&b"hello"[..header.size as usize])
                .unwrap();
        }
        let bytes = archive.finish().unwrap();
        let mut entries = Entries::new(bytes.as_slice());
        for header in &headers {
            let entry = entries.next_entry().unwrap().unwrap();
            assert_eq!(entry.kind, header.kind);
            assert_eq!(entry.path, header.path);
            assert_eq!(entry.link, header.link);
            assert_eq!(entry.mode, header.mode);
            assert_eq!((entry.uid, entry.gid), (header.uid, header.gid));
            assert_eq!(entry.size, header.size);
            assert_eq!(entry.modified.tv_sec, header.modified);
            assert_eq!(entry.xattrs, header.xattrs);
            if header.kind == Type::Block {
                assert_eq!(entry.device, header.device);
            }
            let mut data = Vec::new();
            entries
                .read(&entry, |bytes| {
                    data.extend_from_slice(bytes);
                    Ok(())
                })
                .unwrap();
            assert_eq!(data.len() as u64, header.size);
        }
        assert!(entries.next_entry().unwrap().is_none());
    }
}
