//! Reading a bolt database, as containerd's metadata is one. Nothing is written, and no byte of the file is trusted.
//!
//! ```text
//!  page    id u64 · flags u16 · count u16 · overflow u32, then `count` elements, then what they point at
//!  meta    in pages 0 and 1, in turn: magic, version, page size, root bucket, ..., transaction, checksum
//!  branch  elements: position u32 · key size u32 · page u64
//!  leaf    elements: flags u32 · position u32 · key size u32 · value size u32
//!  bucket  a leaf's value: root page u64 · sequence u64; with root page 0 its one leaf page follows in the value
//! ```
//!
//! A transaction writes pages that the newest meta page does not reach, and its own meta page last. So what the newest
//! meta page reaches is whole in a copy of the file, if it is still the newest when the copy is done.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Context, Error, Kind, Result};

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const PAGE_HEADER: usize = 16;
const ELEMENT: usize = 16;
const BUCKET_HEADER: usize = 16;
/// Where the checksum of a meta page begins, and so what it is of.
const CHECKSUMMED: usize = 56;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const IS_BUCKET: u32 = 0x01;
/// The sizes of page that bolt can have been built for.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 9..=16;
/// How often a file is read again that its owner writes meanwhile.
const ATTEMPTS: usize = 20;

/// A database as it was at one moment.
pub struct Database {
    bytes: Vec<u8>,
    page_size: usize,
    meta: Meta,
}

/// What a valid meta page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meta {
    page_size: usize,
    root: u64,
    transaction: u64,
}

/// A bucket: keys, each with a value or another bucket.
#[derive(Clone, Copy)]
pub struct Bucket<'a> {
    database: &'a Database,
    root: Root<'a>,
}

#[derive(Clone, Copy)]
enum Root<'a> {
    Page(u64),
    /// The page of a bucket that is small enough to be in its parent's value.
    Inline(&'a [u8]),
}

/// What is at a key.
#[derive(Clone, Copy)]
pub enum Item<'a> {
    Value(&'a [u8]),
    Bucket(Bucket<'a>),
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Database").field(&self.meta).finish()
    }
}

impl Database {
    /// Reads the file `path`, whose owner may be writing it.
    pub fn read(path: &Path) -> Result<Self> {
        let context = || format!("read database {path:?}");
        for _ in 0..ATTEMPTS {
            let bytes = std::fs::read(path).context(context)?;
            let database = Self::parse(bytes);
            // What was read of a page that was being written is no damage.
            if newest(path).context(context)? == database.as_ref().ok().map(|found| found.meta) {
                return database.context(context);
            }
        }
        Err(Error::new(
            Kind::Unavailable,
            format!("{path:?} is written to all the time"),
        ))
    }

    /// Returns the database that these bytes are.
    pub fn parse(bytes: Vec<u8>) -> Result<Self> {
        let meta = newest_of(&bytes).ok_or_else(|| damaged("no valid meta page"))?;
        Ok(Self {
            bytes,
            page_size: meta.page_size,
            meta,
        })
    }

    /// Returns the bucket that all others are in.
    pub fn root(&self) -> Bucket<'_> {
        Bucket {
            database: self,
            root: Root::Page(self.meta.root),
        }
    }

    /// Returns a page, with the pages that it overflows into.
    fn page(&self, id: u64) -> Result<&[u8]> {
        let from = usize::try_from(id)
            .ok()
            .and_then(|id| id.checked_mul(self.page_size))
            .ok_or_else(|| damaged(format!("page {id}")))?;
        let rest = self
            .bytes
            .get(from..)
            .filter(|rest| rest.len() >= PAGE_HEADER)
            .ok_or_else(|| damaged(format!("page {id} is beyond the end")))?;
        if u64_at(rest, 0) != Some(id) {
            return Err(damaged(format!("page {id} is another one")));
        }
        let pages = u32_at(rest, 12).unwrap_or_default() as usize + 1;
        let length = pages.saturating_mul(self.page_size);
        rest.get(..length)
            .ok_or_else(|| damaged(format!("page {id} is cut short")))
    }
}

/// Returns the newest meta page of the file `path`, if it has a valid one.
fn newest(path: &Path) -> Result<Option<Meta>> {
    let mut start = Vec::new();
    let most = 2 << PAGE_SIZES.end();
    File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut start))
        .context(|| "read meta pages")?;
    Ok(newest_of(&start))
}

fn newest_of(bytes: &[u8]) -> Option<Meta> {
    // The second page is at the size that it says itself, so that the first may be damaged.
    let second = PAGE_SIZES.filter_map(|power| {
        let size = 1 << power;
        meta(bytes.get(size..)?).filter(|found| found.page_size == size)
    });
    meta(bytes)
        .into_iter()
        .chain(second)
        .max_by_key(|meta| meta.transaction)
}

/// Returns what a meta page says, if it is one and whole.
fn meta(page: &[u8]) -> Option<Meta> {
    let flags = u16_at(page, 8)?;
    let body = page.get(PAGE_HEADER..PAGE_HEADER + CHECKSUMMED + 8)?;
    let page_size = u32_at(body, 8)?;
    let valid = flags & META != 0
        && u32_at(body, 0)? == MAGIC
        && u32_at(body, 4)? == VERSION
        && page_size.is_power_of_two()
        && PAGE_SIZES.contains(&page_size.trailing_zeros())
        && u64_at(body, CHECKSUMMED)? == fnv(&body[..CHECKSUMMED]);
    valid.then_some(Meta {
        page_size: page_size as usize,
        root: u64_at(body, 16)?,
        transaction: u64_at(body, 48)?,
    })
}

impl<'a> Bucket<'a> {
    /// Returns all keys with what is at them, in the order of the keys.
    pub fn entries(&self) -> Result<Vec<(&'a [u8], Item<'a>)>> {
        let mut entries = Vec::new();
        match self.root {
            Root::Inline(page) => self.leaf(page, &mut entries)?,
            Root::Page(root) => {
                let mut seen = HashSet::new();
                let mut waiting = vec![root];
                while let Some(id) = waiting.pop() {
                    if !seen.insert(id) {
                        return Err(damaged(format!("page {id} is in a tree twice")));
                    }
                    let page = self.database.page(id)?;
                    match u16_at(page, 8).unwrap_or_default() {
                        LEAF => self.leaf(page, &mut entries)?,
                        BRANCH => {
                            let children = branch(page)?;
                            waiting.extend(children.into_iter().rev());
                        }
                        flags => return Err(damaged(format!("page {id} has flags {flags:#x}"))),
                    }
                }
            }
        }
        Ok(entries)
    }

    /// Returns the bucket at `key`, if there is one.
    pub fn bucket(&self, key: &str) -> Result<Option<Bucket<'a>>> {
        let found = self.find(key)?;
        Ok(found.and_then(|item| match item {
            Item::Bucket(bucket) => Some(bucket),
            Item::Value(_) => None,
        }))
    }

    /// Returns what is at `key`, if there is something. All keys are read: this is for buckets with few.
    pub fn find(&self, key: &str) -> Result<Option<Item<'a>>> {
        let entries = self.entries()?;
        let found = entries
            .into_iter()
            .find(|(name, _)| *name == key.as_bytes());
        Ok(found.map(|(_, item)| item))
    }

    fn leaf(&self, page: &'a [u8], entries: &mut Vec<(&'a [u8], Item<'a>)>) -> Result<()> {
        for (at, element) in elements(page)? {
            let place = || {
                let from = at.checked_add(u32_at(element, 4)? as usize)?;
                let (key, value) = (u32_at(element, 8)? as usize, u32_at(element, 12)? as usize);
                let key = from..from.checked_add(key)?;
                let value = key.end..key.end.checked_add(value)?;
                Some((page.get(key)?, page.get(value)?))
            };
            let (key, value) = place().ok_or_else(|| damaged("an entry is beyond its page"))?;
            let is_bucket = u32_at(element, 0).unwrap_or_default() & IS_BUCKET != 0;
            let item = match is_bucket {
                true => Item::Bucket(self.nested(value)?),
                false => Item::Value(value),
            };
            entries.push((key, item));
        }
        Ok(())
    }

    fn nested(&self, value: &'a [u8]) -> Result<Bucket<'a>> {
        let root = u64_at(value, 0).ok_or_else(|| damaged("a bucket is cut short"))?;
        let inline = || {
            let page = value.get(BUCKET_HEADER..)?;
            (u16_at(page, 8)? == LEAF).then_some(Root::Inline(page))
        };
        let root = match root {
            0 => inline().ok_or_else(|| damaged("a small bucket has no leaf"))?,
            page => Root::Page(page),
        };
        Ok(Bucket {
            database: self.database,
            root,
        })
    }
}

/// Returns the pages that a branch page points at, in the order of their keys.
fn branch(page: &[u8]) -> Result<Vec<u64>> {
    let children = elements(page)?;
    Ok(children.filter_map(|(_, child)| u64_at(child, 8)).collect())
}

/// Returns the elements of a page, and where in it they are.
fn elements(page: &[u8]) -> Result<impl Iterator<Item = (usize, &[u8])>> {
    let count = usize::from(u16_at(page, 10).unwrap_or_default());
    let all = page
        .get(PAGE_HEADER..PAGE_HEADER + count * ELEMENT)
        .ok_or_else(|| damaged("a page has more entries than room"))?;
    let places = (PAGE_HEADER..).step_by(ELEMENT);
    Ok(places.zip(all.chunks_exact(ELEMENT)))
}

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::DataLoss, format!("damaged database: {what}"))
}

/// bolt writes numbers as the machine has them; those that containerd runs on are little endian.
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

/// The 64 bits FNV-1a hash.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
